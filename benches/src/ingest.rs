//! Ingest: JSON payments from real Kafka into the online rows of one view and the event log.
//!
//! The floor is a bare consumer of the same topic that decodes the same JSON to the same Arrow columns with ingest's own
//! decoder, and drops them. Both are timed from the first event in hand; ingest until every event is visible online,
//! and until everything is durable in both stores.

use crate::measure::{cpu_seconds, median};
use crate::metered::Metered;
use crate::payments::{SOURCE, eight_features};
use crate::redis_server::{Done, RedisServer};
use crate::report::{Report, Row};
use crate::store::Store;
use crate::topic::Topic;
use anyhow::{Context as _, Result, bail, ensure};
use ondol_feature_store_api::FeatureStore;
use ondol_ingest::IngestService;
use ondol_ingest::batch::decode;
use ondol_ingest::config::{IngestConfig, KafkaConfig, Limits, StreamConfig};
use ondol_ingest::decode::formats::Formats;
use ondol_ingest::plan::SourcePlan;
use ondol_ingest::source::Records;
use ondol_runtime::{Health, Shutdown, SystemClock};
use ondol_vocabulary::EventTime;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one run may take.
const LONGEST: Duration = Duration::from_secs(900);

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Events in the topic.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Cards: the view's entities.
    #[arg(long, default_value_t = 100_000)]
    cards: u32,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// Times that everything is measured; results are medians.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Leave Redis out.
    #[arg(long)]
    no_redis: bool,
}

/// One run.
struct Outcome {
    visible_s: f64,
    durable_s: f64,
    cpu_s: f64,
    deliveries: u64,
    /// What Redis did for it.
    redis: Done,
}

/// Runs it.
pub(crate) async fn run(args: &Args) -> Result<Report> {
    let parameters = Row::default()
        .with("events", args.events)
        .with("entities", args.cards)
        .with("features", 8)
        .with("windows", 3)
        .with("partitions", args.partitions)
        .with("repetitions", args.repetitions);
    let mut report = Report::new("ingest", parameters);
    let topic = Topic::produce(args.events, args.cards, args.partitions).await?;
    let redis = if args.no_redis {
        None
    } else {
        Some(RedisServer::start().await?)
    };
    let mut runs: Vec<[Option<Outcome>; 3]> = Vec::new();
    for _ in 0..args.repetitions {
        let floor = floor(&topic, args.events).await?;
        let embedded = ingest(&topic, args.events, None).await?;
        let redis = match &redis {
            Some(server) => Some(ingest(&topic, args.events, Some(server)).await?),
            None => None,
        };
        runs.push([Some(floor), Some(embedded), redis]);
    }
    let events = args.events as f64;
    for (place, name) in ["bare consumer", "embedded + delta", "redis + delta"]
        .into_iter()
        .enumerate()
    {
        let mid = |of: &dyn Fn(&Outcome, &Outcome) -> f64| {
            median(
                runs.iter()
                    .filter_map(|run| Some(of(run[0].as_ref()?, run[place].as_ref()?))),
            )
        };
        if runs.iter().all(|run| run[place].is_none()) {
            continue;
        }
        let row = Row::default()
            .with("into", name)
            .figure("ratio", mid(&|floor, run| floor.durable_s / run.durable_s))
            .figure("cpu_ratio", mid(&|floor, run| floor.cpu_s / run.cpu_s))
            .figure("events_per_s", mid(&|_, run| events / run.durable_s))
            .figure("visible_events_per_s", mid(&|_, run| events / run.visible_s))
            .figure("cpu_us_per_event", mid(&|_, run| run.cpu_s * 1e6 / events));
        let row = if place == 0 {
            row
        } else {
            row.figure("events_per_delivery", mid(&|_, run| events / run.deliveries as f64))
        };
        let row = if place < 2 {
            row
        } else {
            row.figure("redis_cpu_us_per_event", mid(&|_, run| run.redis.cpu_s * 1e6 / events))
                .figure(
                    "rows_per_delivery",
                    mid(&|_, run| run.redis.rows_set / run.deliveries as f64),
                )
                .figure(
                    "write_commands_per_row",
                    mid(&|_, run| run.redis.scripts / run.redis.rows_set),
                )
                .figure(
                    "read_commands_per_row",
                    mid(&|_, run| run.redis.reads / run.redis.rows_set),
                )
        };
        report.row(row);
    }
    report.note(format!(
        "{} bytes a message; ratio = events per second / those of the bare consumer",
        topic.message_bytes
    ));
    report
        .note("cpu: of this process, without Kafka and Redis; the bare consumer waits for the broker most of the time");
    report.note(
        "commands per row: sent to Redis (INFO commandstats), for each row written; a script takes up to 256 rows",
    );
    topic.delete().await?;
    Ok(report)
}

/// Consumes and decodes every event, and drops it.
async fn floor(topic: &Topic, events: u64) -> Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(folder.path(), None).await?;
    let snapshot = store.apply(eight_features(&topic.name)).await?;
    let source = snapshot.source(SOURCE).context("no source")?;
    let plan = SourcePlan::compile(&snapshot, source, &Formats::default())
        .map_err(anyhow::Error::msg)?
        .context("no stream")?;
    store.close().await?;

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &topic.bootstrap)
        .set("group.id", format!("{}-floor", topic.name))
        .set("enable.auto.commit", "false")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..topic.partitions {
        assignment.add_partition_offset(&topic.name, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    tokio::task::spawn_blocking(move || drain(&consumer, &plan, events)).await?
}

fn drain(consumer: &BaseConsumer, plan: &SourcePlan, events: u64) -> Result<Outcome> {
    let limits = Limits::default();
    let mut left = events;
    let mut rows = 0;
    let mut runs: Vec<Records> = Vec::new();
    let mut begun = None;
    while left > 0 {
        let message = consumer.poll(Duration::from_secs(30)).context("no event for 30 s")??;
        begun.get_or_insert_with(|| (Instant::now(), cpu_seconds(None)));
        let time = EventTime::from_micros(message.timestamp().to_millis().unwrap_or_default() * 1_000);
        let run = match runs.iter_mut().position(|run| run.partition == message.partition()) {
            Some(place) => &mut runs[place],
            None => {
                runs.push(Records::starting(message.partition(), message.offset()));
                let last = runs.len() - 1;
                &mut runs[last]
            }
        };
        run.push(message.offset(), time, message.payload());
        rows += 1;
        left -= 1;
        if rows == limits.max_batch_rows || left == 0 {
            let decoded = decode(plan, "floor", &runs, EventTime::now(), limits.max_event_bytes)?;
            ensure!(
                decoded.dead_letters.is_empty(),
                "an event was refused: {:?}",
                decoded.dead_letters.first()
            );
            black_box(decoded);
            runs.clear();
            rows = 0;
        }
    }
    let (begun, cpu) = begun.context("no events")?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Outcome {
        visible_s: seconds,
        durable_s: seconds,
        cpu_s: cpu_seconds(None)? - cpu?,
        deliveries: 0,
        redis: Done::default(),
    })
}

/// Ingests every event into new, empty stores.
async fn ingest(topic: &Topic, events: u64, redis: Option<&RedisServer>) -> Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(folder.path(), redis.map(|server| server.url.as_str())).await?;
    let snapshot = store.apply(eight_features(&topic.name)).await?;
    let metered = Metered::new(Arc::clone(&store.service) as Arc<dyn FeatureStore>, false);
    let kafka = KafkaConfig {
        bootstrap: topic.bootstrap.clone(),
        group: format!("{}-{:08x}", topic.name, rand::random::<u32>()),
        ..KafkaConfig::default()
    };
    let config = IngestConfig {
        stream: StreamConfig::Kafka(kafka),
        ..IngestConfig::default()
    };
    let before = done(redis).await?;
    let shutdown = Shutdown::new();
    let local = Arc::clone(&metered) as Arc<dyn FeatureStore>;
    let started = Instant::now();
    let _service = IngestService::start(&config, local, Arc::new(SystemClock), &shutdown, &Health::new())?;
    let mut cpu = cpu_seconds(None)?;
    let total = i64::try_from(events)?;
    while metered.written() < total {
        if metered.first_write().is_none() {
            cpu = cpu_seconds(None)?;
        }
        if started.elapsed() > LONGEST {
            bail!("{} of {events} events after {} s", metered.written(), LONGEST.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let begun = metered.first_write().context("no delivery")?;
    let visible_s = begun.elapsed().as_secs_f64();
    store.service.flush(SOURCE).await?;
    let outcome = Outcome {
        visible_s,
        durable_s: begun.elapsed().as_secs_f64(),
        cpu_s: cpu_seconds(None)? - cpu,
        deliveries: metered.progress().deliveries,
        redis: done(redis).await?.since(before),
    };
    ensure!(shutdown.drain(Duration::from_secs(60)).await, "ingest did not stop");
    check(&store, &snapshot, events).await?;
    store.close().await?;
    Ok(outcome)
}

async fn done(redis: Option<&RedisServer>) -> Result<Done> {
    match redis {
        Some(server) => server.done().await,
        None => Ok(Done::default()),
    }
}

/// Nothing counts that was not kept: the log and the rows hold every event.
async fn check(store: &Store, snapshot: &ondol_vocabulary::Snapshot, events: u64) -> Result<()> {
    let log = store.service.log().tables().await?;
    let rows = log
        .iter()
        .find(|table| table.source == SOURCE)
        .and_then(|table| table.rows);
    ensure!(rows == Some(events), "the log holds {rows:?} of {events} events");
    let view = snapshot.active_view("card").context("no view")?;
    let held = store.service.online().scan(view.id).await?.len();
    ensure!(held > 0, "no online rows");
    Ok(())
}
