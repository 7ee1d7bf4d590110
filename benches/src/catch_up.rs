//! Catching up: a backlog taken in batches, against the same backlog taken event by event with the same guarantees, and
//! against a steady arrival.
//!
//! Event by event means: every event is a delivery of its own to the feature store (its fences, its place in the log,
//! its receipt), and the next one goes once it is written. Decoding stays batched, so the comparison flatters it.

use crate::measure::median;
use crate::payments::eight_features;
use crate::redis_server::RedisServer;
use crate::report::{Report, Row};
use crate::services::{Services, Setting};
use crate::topic::Topic;
use anyhow::Result;
use std::time::Duration;

const LONGEST: Duration = Duration::from_secs(900);

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Events of the backlog.
    #[arg(long, default_value_t = 500_000)]
    events: u64,
    /// Events of the backlog that is taken one by one.
    #[arg(long, default_value_t = 30_000)]
    single_events: u64,
    /// Cards.
    #[arg(long, default_value_t = 100_000)]
    cards: u32,
    /// Partitions of the topics.
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// Seconds of steady arrival, at a tenth of what the backlog was taken at.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Times that everything is measured; results are medians.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Leave Redis out.
    #[arg(long)]
    no_redis: bool,
}

#[derive(Default)]
struct Taken {
    events_per_s: f64,
    cpu_us_per_event: f64,
    events_per_delivery: f64,
}

/// Runs it.
pub(crate) async fn run(args: &Args) -> Result<Report> {
    let parameters = Row::default()
        .with("events", args.events)
        .with("single_events", args.single_events)
        .with("entities", args.cards)
        .with("features", 8)
        .with("partitions", args.partitions)
        .with("repetitions", args.repetitions);
    let mut report = Report::new("catch-up", parameters);
    let redis = if args.no_redis {
        None
    } else {
        Some(RedisServer::start().await?)
    };
    let urls = std::iter::once(None).chain(redis.as_ref().map(|redis| Some(redis.url.clone())));
    for url in urls {
        let name = if url.is_some() { "redis" } else { "embedded" };
        let batched = Setting {
            redis: url.clone(),
            ..Setting::default()
        };
        let single = Setting {
            one_by_one: true,
            ..batched.clone()
        };
        let mut runs = Vec::new();
        for _ in 0..args.repetitions {
            let backlog = backlog(args, &batched, args.events).await?;
            let single = self::backlog(args, &single, args.single_events).await?;
            let steady = steady(args, &batched, backlog.events_per_s / 10.0).await?;
            runs.push([backlog, steady, single]);
            if let Some(redis) = &redis {
                redis.clear().await?;
            }
        }
        for (place, way) in ["backlog", "steady", "backlog, one by one"].into_iter().enumerate() {
            let mid = |of: &dyn Fn(&[Taken; 3]) -> f64| median(runs.iter().map(of));
            let faster = mid(&|run| run[place].events_per_s / run[2].events_per_s);
            let row = Row::default().with("store", name).with("way", way);
            let row = row.figure("events_per_s", mid(&|run| run[place].events_per_s));
            // What arrives at a steady rate is taken at that rate: only its CPU compares.
            let row = if place == 1 {
                row
            } else {
                row.figure("times_one_by_one", faster)
            };
            let row = row.figure("cpu_us_per_event", mid(&|run| run[place].cpu_us_per_event));
            let less = mid(&|run| run[2].cpu_us_per_event / run[place].cpu_us_per_event);
            let row = row.figure("cpu_times_less", less);
            report.row(row.figure("events_per_delivery", mid(&|run| run[place].events_per_delivery)));
        }
    }
    report.note("cpu: of the services' process; times less: than one by one");
    Ok(report)
}

async fn backlog(args: &Args, setting: &Setting, events: u64) -> Result<Taken> {
    let topic = Topic::produce(events, args.cards, args.partitions).await?;
    let mut services = Services::start(setting, &topic.bootstrap, eight_features(&topic.name)).await?;
    let cpu = services.cpu_seconds()?;
    let written = services.wait_for(events, LONGEST).await?;
    services.flush().await?;
    let cpu = services.cpu_seconds()? - cpu;
    services.stop().await?;
    topic.delete().await?;
    let events = written.events as f64;
    Ok(Taken {
        events_per_s: events / written.seconds,
        cpu_us_per_event: cpu * 1e6 / events,
        events_per_delivery: events / written.deliveries as f64,
    })
}

async fn steady(args: &Args, setting: &Setting, rate: f64) -> Result<Taken> {
    let topic = Topic::create(args.partitions).await?;
    let mut services = Services::start(setting, &topic.bootstrap, eight_features(&topic.name)).await?;
    let load = topic.load(rate, args.cards);
    services.wait_for(1, LONGEST).await?;
    let (cpu, before) = (services.cpu_seconds()?, services.written().await?);
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let (cpu, after) = (services.cpu_seconds()? - cpu, services.written().await?);
    load.stop().await?;
    services.stop().await?;
    topic.delete().await?;
    let events = (after.events - before.events) as f64;
    Ok(Taken {
        events_per_s: events / (after.seconds - before.seconds),
        cpu_us_per_event: cpu * 1e6 / events,
        events_per_delivery: events / (after.deliveries - before.deliveries) as f64,
    })
}
