//! Memory of the services, second by second: under a steady load, and while they drain a backlog.
//!
//! The services run in a process of their own. *Anonymous* memory is what no file backs: heap, stacks and the caches
//! they keep themselves, the embedded online store's page cache among them; that cache grows to its configured size and
//! no further. What the kernel caches of their files is no memory of theirs; the online store's file is shown apart.
//!
//! *Slope* is the least-squares growth of anonymous memory after the warm-up: the first third.

use crate::payments::eight_features;
use crate::redis_server::RedisServer;
use crate::report::{Report, Row};
use crate::services::{Services, Setting, Weight};
use crate::topic::Topic;
use anyhow::Result;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(7_200);

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Minutes of steady load, for each store; 0 leaves it out.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Events per second of the steady load.
    #[arg(long, default_value_t = 10_000.0)]
    rate: f64,
    /// Events of the backlog; 0 leaves it out.
    #[arg(long, default_value_t = 10_000_000)]
    backlog: u64,
    /// Cards.
    #[arg(long, default_value_t = 100_000)]
    cards: u32,
    /// Partitions of the topics.
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// Page cache of the embedded online store, MiB; absent: the default.
    #[arg(long)]
    cache_mib: Option<usize>,
    /// Leave Redis out.
    #[arg(long)]
    no_redis: bool,
    /// Leave the embedded store out.
    #[arg(long)]
    no_embedded: bool,
}

/// Weights by seconds since the beginning.
type Series = Vec<(f64, i64, Weight)>;

/// Runs it; the samples go to `results`.
pub(crate) async fn run(args: &Args, results: &Path) -> Result<Report> {
    let parameters = Row::default()
        .with("minutes", args.minutes)
        .with("rate_per_s", args.rate)
        .with("backlog", args.backlog)
        .with("entities", args.cards)
        .with("features", 8)
        .with("cache_mib", args.cache_mib.unwrap_or(256));
    let mut report = Report::new("memory", parameters);
    let redis = if args.no_redis {
        None
    } else {
        Some(RedisServer::start().await?)
    };
    let embedded = (!args.no_embedded).then_some(None);
    let urls = embedded
        .into_iter()
        .chain(redis.as_ref().map(|redis| Some(redis.url.clone())));
    let mut samples = "store,case,second,events,resident_mib,anonymous_mib,online_file_mib\n".to_owned();
    for url in urls {
        let name = if url.is_some() { "redis" } else { "embedded" };
        let setting = Setting {
            redis: url,
            cache_mib: args.cache_mib,
            ..Setting::default()
        };
        if args.backlog > 0 {
            let series = backlog(args, &setting).await?;
            note(&mut report, &mut samples, name, "backlog", &series)?;
        }
        if args.minutes > 0.0 {
            let series = steady(args, &setting).await?;
            note(&mut report, &mut samples, name, "steady", &series)?;
        }
        if let Some(redis) = &redis {
            redis.clear().await?;
        }
    }
    report.note("anonymous: heap, stacks and own caches; slope: its growth after the first third");
    report.note("embedded: the page cache of the online store (cache_mib) is part of it, and fills as the file grows");
    std::fs::create_dir_all(results)?;
    std::fs::write(results.join("memory.csv"), samples)?;
    Ok(report)
}

async fn backlog(args: &Args, setting: &Setting) -> Result<Series> {
    let topic = Topic::produce(args.backlog, args.cards, args.partitions).await?;
    let mut services = Services::start(setting, &topic.bootstrap, eight_features(&topic.name)).await?;
    let target = i64::try_from(args.backlog)?;
    let series = watch(&mut services, |_, events| events >= target).await?;
    services.stop().await?;
    topic.delete().await?;
    Ok(series)
}

async fn steady(args: &Args, setting: &Setting) -> Result<Series> {
    let topic = Topic::create(args.partitions).await?;
    let mut services = Services::start(setting, &topic.bootstrap, eight_features(&topic.name)).await?;
    let load = topic.load(args.rate, args.cards);
    let series = watch(&mut services, |seconds, _| seconds >= args.minutes * 60.0).await?;
    let sent = load.sent();
    load.stop().await?;
    let behind = i64::try_from(sent)? - series.last().map_or(0, |(_, events, _)| *events);
    anyhow::ensure!(
        (behind as f64) < 5.0 * args.rate,
        "the services are {behind} events behind: lower --rate"
    );
    services.stop().await?;
    topic.delete().await?;
    Ok(series)
}

/// Weighs every second until `done`, by seconds and events.
async fn watch(services: &mut Services, done: impl Fn(f64, i64) -> bool) -> Result<Series> {
    let begun = Instant::now();
    let mut series = Vec::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let events = services.written().await?.events;
        let seconds = begun.elapsed().as_secs_f64();
        series.push((seconds, events, services.weight()?));
        anyhow::ensure!(begun.elapsed() < LONGEST, "{events} events after {seconds} s");
        if done(seconds, events) {
            return Ok(series);
        }
    }
}

fn note(
    report: &mut Report,
    samples: &mut String,
    store: &'static str,
    case: &'static str,
    series: &Series,
) -> Result<()> {
    for (second, events, weight) in series {
        let Weight {
            resident_mib,
            anonymous_mib,
            online_file_mib,
        } = weight;
        writeln!(
            samples,
            "{store},{case},{second:.0},{events},{resident_mib:.1},{anonymous_mib:.1},{online_file_mib:.1}"
        )?;
    }
    let settled = &series[series.len() / 3..];
    let anonymous = |of: &Series| of.iter().map(|(_, _, weight)| weight.anonymous_mib).fold(0.0, f64::max);
    let third = settled.len() / 2;
    let (seconds, events) = series
        .last()
        .map_or((0.0, 0), |(seconds, events, _)| (*seconds, *events));
    report.row(
        Row::default()
            .with("store", store)
            .with("case", case)
            .figure("seconds", seconds)
            .with("events", events)
            .figure(
                "most_resident_mib",
                series
                    .iter()
                    .map(|(_, _, weight)| weight.resident_mib)
                    .fold(0.0, f64::max),
            )
            .figure("most_anonymous_mib", anonymous(series))
            .figure("most_mib_2nd_third", anonymous(&settled[..third].to_vec()))
            .figure("most_mib_3rd_third", anonymous(&settled[third..].to_vec()))
            .figure("slope_mib_per_min", slope(settled) * 60.0)
            .figure(
                "online_file_mib",
                series.last().map_or(0.0, |(_, _, weight)| weight.online_file_mib),
            ),
    );
    Ok(())
}

/// Growth of anonymous memory, MiB per second.
fn slope(series: &[(f64, i64, Weight)]) -> f64 {
    let count = series.len().max(1) as f64;
    let mean = |of: &dyn Fn(&(f64, i64, Weight)) -> f64| series.iter().map(of).sum::<f64>() / count;
    let (time, memory) = (mean(&|at| at.0), mean(&|at| at.2.anonymous_mib));
    let covariance: f64 = series
        .iter()
        .map(|at| (at.0 - time) * (at.2.anonymous_mib - memory))
        .sum();
    let variance: f64 = series.iter().map(|at| (at.0 - time).powi(2)).sum();
    if variance > 0.0 { covariance / variance } else { 0.0 }
}
