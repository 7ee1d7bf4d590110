//! Freshness: from an event's acknowledgement by Kafka to its being in the answer of an online read over HTTP.
//!
//! The services run as they would, in a process or two of their own, under a steady load of a tenth of what they can
//! take (measured just before, on a backlog). Probes are events of cards of their own, sent on the clock whatever
//! became of the ones before, so that a stall is seen by every probe that it holds up. One poller reads all cards that
//! are not visible yet in one request after another; so a figure includes the read, and up to one pause of the poller.

use crate::measure::{Samples, median};
use crate::payments::{eight_features, payment_of};
use crate::redis_server::RedisServer;
use crate::report::{Report, Row};
use crate::services::{Services, Setting};
use crate::topic::Topic;
use anyhow::{Context as _, Result, ensure};
use ondol_feature_store_api::wire::{EntityColumn, ReadRequest};
use ondol_feature_store_api::{FeatureStore, FeatureStoreClient};
use ondol_vocabulary::{EventTime, FeatureRef, FeatureStatus, Value};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The poller's pause between two reads.
const POLL_EVERY: Duration = Duration::from_millis(1);
/// How long a probe may stay invisible.
const LONGEST: Duration = Duration::from_secs(30);
/// Before probes begin: consumers join, caches fill.
const WARM_UP: Duration = Duration::from_secs(5);
const BACKLOG_LONGEST: Duration = Duration::from_secs(600);

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Events of the backlog that shows the peak rate.
    #[arg(long, default_value_t = 500_000)]
    events: u64,
    /// Cards of the load.
    #[arg(long, default_value_t = 100_000)]
    cards: u32,
    /// Partitions of the topics.
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// Events per second of the load; absent: a tenth of the peak rate.
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds of probing, for each way.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Probes per second.
    #[arg(long, default_value_t = 50.0)]
    probes: f64,
    /// Times that everything is measured; results are medians.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Leave Redis out.
    #[arg(long)]
    no_redis: bool,
}

/// One run of one way.
struct Outcome {
    rate: f64,
    samples: Samples,
    probes: u64,
    cpu_us_per_event: f64,
    events_per_delivery: f64,
}

/// A probe that was acknowledged and is not visible yet.
struct Sent {
    card: String,
    acknowledged: Instant,
}

/// Runs it.
pub(crate) async fn run(args: &Args) -> Result<Report> {
    let parameters = Row::default()
        .with("entities", args.cards)
        .with("features", 8)
        .with("windows", 3)
        .with("partitions", args.partitions)
        .with("seconds", args.seconds)
        .with("probes_per_s", args.probes)
        .with("repetitions", args.repetitions);
    let mut report = Report::new("freshness", parameters);
    let redis = if args.no_redis {
        None
    } else {
        Some(RedisServer::start().await?)
    };
    let mut settings = Vec::new();
    for url in [None, redis.as_ref().map(|redis| redis.url.clone())] {
        if url.is_none() && !settings.is_empty() {
            continue;
        }
        for separate in [false, true] {
            settings.push(Setting {
                redis: url.clone(),
                separate,
                ..Setting::default()
            });
        }
    }
    let mut outcomes: Vec<Vec<Outcome>> = settings.iter().map(|_| Vec::new()).collect();
    for _ in 0..args.repetitions {
        for (setting, outcomes) in settings.iter().zip(&mut outcomes) {
            outcomes.push(measure(args, setting).await?);
            if let Some(redis) = &redis {
                redis.clear().await?;
            }
        }
    }
    for (setting, outcomes) in settings.iter().zip(&outcomes) {
        let mid = |of: fn(&Outcome) -> f64| median(outcomes.iter().map(of));
        report.row(
            Row::default()
                .with("way", setting.name())
                .figure("rate_per_s", mid(|run| run.rate))
                .figure("p50_ms", mid(|run| run.samples.us(0.5) / 1e3))
                .figure("p90_ms", mid(|run| run.samples.us(0.9) / 1e3))
                .figure("p99_ms", mid(|run| run.samples.us(0.99) / 1e3))
                .figure("p999_ms", mid(|run| run.samples.us(0.999) / 1e3))
                .with("probes", outcomes.iter().map(|run| run.probes).sum::<u64>())
                .figure("cpu_us_per_event", mid(|run| run.cpu_us_per_event))
                .figure("events_per_delivery", mid(|run| run.events_per_delivery)),
        );
    }
    report.note("from acknowledged (acks=all) to read over HTTP; medians of the repetitions' quantiles");
    report.note("rate: a tenth of what the same services took of a backlog just before; cpu: of the services");
    Ok(report)
}

async fn measure(args: &Args, setting: &Setting) -> Result<Outcome> {
    let rate = match args.rate {
        Some(rate) => rate,
        None => peak(args, setting).await? / 10.0,
    };
    let topic = Topic::create(args.partitions).await?;
    let mut services = Services::start(setting, &topic.bootstrap, eight_features(&topic.name)).await?;
    let load = topic.load(rate, args.cards);
    tokio::time::sleep(WARM_UP).await;
    services.wait_for(1, LONGEST).await?;
    let (cpu, before) = (services.cpu_seconds()?, services.written().await?);
    let samples = probe(args, &topic, services.client.clone()).await?;
    let (cpu, after) = (services.cpu_seconds()? - cpu, services.written().await?);
    let sent = load.stop().await?;
    ensure!(sent > 0, "there was no load");
    services.stop().await?;
    topic.delete().await?;
    let events = (after.events - before.events) as f64;
    Ok(Outcome {
        rate,
        probes: samples.1,
        samples: samples.0,
        cpu_us_per_event: cpu * 1e6 / events,
        events_per_delivery: events / (after.deliveries - before.deliveries) as f64,
    })
}

/// Events per second that the services take of a backlog.
async fn peak(args: &Args, setting: &Setting) -> Result<f64> {
    let topic = Topic::produce(args.events, args.cards, args.partitions).await?;
    let mut services = Services::start(setting, &topic.bootstrap, eight_features(&topic.name)).await?;
    let written = services.wait_for(args.events, BACKLOG_LONGEST).await?;
    services.stop().await?;
    topic.delete().await?;
    Ok(written.events as f64 / written.seconds)
}

async fn probe(args: &Args, topic: &Topic, client: FeatureStoreClient) -> Result<(Samples, u64)> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &topic.bootstrap)
        .set("linger.ms", "0")
        .set("acks", "all")
        .create()?;
    let count = (args.seconds as f64 * args.probes) as u64;
    let waiting: Arc<Mutex<Vec<Sent>>> = Arc::default();
    let poller = tokio::spawn(poll(client, Arc::clone(&waiting), count));
    let begun = Instant::now();
    for number in 0..count {
        let due = Duration::from_secs_f64(number as f64 / args.probes);
        tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        let (producer, name, waiting) = (producer.clone(), topic.name.clone(), Arc::clone(&waiting));
        tokio::spawn(async move {
            let card = format!("probe-{number}");
            let payment = payment_of(card.clone(), i64::try_from(number)?, EventTime::now().micros());
            let json = payment.json();
            let record = FutureRecord::to(&name).key(card.as_str()).payload(&json);
            producer.send(record, LONGEST).await.map_err(|(error, _)| error)?;
            let acknowledged = Instant::now();
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(Sent { card, acknowledged });
            anyhow::Ok(())
        });
    }
    Ok((poller.await??, count))
}

/// Reads the probes that are waiting until all have been seen.
async fn poll(client: FeatureStoreClient, waiting: Arc<Mutex<Vec<Sent>>>, count: u64) -> Result<Samples> {
    let mut samples = Samples::new()?;
    let mut seen = 0;
    let mut last = Instant::now();
    let mut open: Vec<Sent> = Vec::new();
    while seen < count {
        open.append(&mut waiting.lock().unwrap_or_else(PoisonError::into_inner));
        ensure!(
            last.elapsed() < LONGEST,
            "{} of {count} probes were never seen",
            count - seen
        );
        if open.is_empty() {
            tokio::time::sleep(POLL_EVERY).await;
            continue;
        }
        let cards = open.iter().map(|sent| Value::String(sent.card.clone())).collect();
        let request = ReadRequest {
            features: [FeatureRef::new("card", "n_7d")].into(),
            entities: vec![EntityColumn {
                name: "card".to_owned(),
                values: cards,
            }],
            as_of: None,
        };
        let batch = client.read(request).await?;
        let now = Instant::now();
        let status = &batch.columns.first().context("no column")?.status;
        let mut fresh = status.iter().map(|status| *status == FeatureStatus::Fresh);
        open.retain(|sent| {
            let visible = fresh.next().unwrap_or(false);
            if visible {
                samples.add(now.duration_since(sent.acknowledged));
                seen += 1;
                last = now;
            }
            !visible
        });
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(samples)
}
