//! The fault harness: everything Ondol is made of, in processes of its own, struck at random moments while events flow;
//! then every store compared with a brute-force oracle, element by element.
//!
//! In the order of a run:
//! 1. [`estate`] starts three Kafka brokers, Redis ([`redis`]), feature store replicas and ingest workers ([`target`]),
//!    with a proxy between any two and a [`disk`] below that can be full;
//! 2. [`producer`] sends what [`event`] makes: most of it good, some bad in a known way;
//! 3. [`fault`] draws what breaks and when, [`strike`] breaks and heals it, [`watch`] looks on;
//! 4. once everything is drained, [`topic`] reads the topic again: it is the truth;
//! 5. [`oracle`] computes what every store must hold by brute force (with [`exact`] sums), for the [`views`];
//! 6. [`check`] compares, [`report`] tells; [`run`] holds all of it together.
//!
//! The oracle shares no code with the engine. Contracts are used where the harness is a client like any other.

mod check;
mod disk;
mod estate;
mod event;
mod exact;
mod fault;
mod oracle;
mod producer;
mod redis;
mod report;
mod run;
mod strike;
mod target;
mod topic;
mod views;
mod watch;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

/// Kills, pauses, cuts and fills what it can while events flow; then compares every store with an oracle.
#[derive(Clone, Debug, Parser)]
#[command(name = "ondol-faults")]
pub(crate) struct Options {
    /// The `ondol` program under test.
    #[arg(long, env = "ONDOL_BINARY")]
    binary: PathBuf,
    /// How many faults.
    #[arg(long, default_value_t = 12)]
    faults: usize,
    /// Draws the faults and the events.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these kinds of faults, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<fault::Kind>,
    /// What Redis is.
    #[arg(long, value_enum, default_value_t = RedisKind::Single)]
    redis: RedisKind,
    /// Ingest workers that are there from the beginning.
    #[arg(long, default_value_t = 3)]
    workers: usize,
    /// Feature store replicas.
    #[arg(long, default_value_t = 2, value_parser = at_least_one)]
    stores: usize,
    /// Replicas of each Redis primary that must confirm rows before their events are committed. Without, rows that a
    /// failover loses are built again from the log.
    #[arg(long, default_value_t = 0)]
    wait_replicas: u32,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 6)]
    partitions: i32,
    /// Messages a second.
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// Where data and logs go; a folder below it is made for the run.
    #[arg(long, default_value = "/tmp/ondol-faults")]
    work: PathBuf,
    /// Keeps the run's folder even if nothing is wrong.
    #[arg(long)]
    keep: bool,
    /// Where the report goes, as JSON.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Where the report goes, as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// What Redis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RedisKind {
    /// One server.
    Single,
    /// Three primaries with a replica each.
    Cluster,
}

impl RedisKind {
    const fn is_cluster(self) -> bool {
        matches!(self, Self::Cluster)
    }
}

impl fmt::Display for RedisKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_cluster() { "cluster" } else { "single" })
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("`{text}` is no number of at least 1")),
        Ok(number) => Ok(number),
    }
}

#[tokio::main(worker_threads = 4)]
async fn main() -> Result<ExitCode> {
    let mut options = Options::parse();
    options.binary = std::path::absolute(&options.binary)?;
    let folder = options.work.join(format!("{}-{}", options.redis, std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("can't make `{}`", folder.display()))?;
    let folder = folder.canonicalize()?;
    run::say(&format!(
        "{} faults, seed {}, redis {}, in {}",
        options.faults,
        options.seed,
        options.redis,
        folder.display()
    ));
    let running = run::run(&options, &folder);
    // Dropped, a run ends its processes.
    let report = tokio::select! {
        report = running => report?,
        _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(130)),
    };
    write(&options, &report)?;
    if report.is_clean() {
        run::say("no differences");
        if !options.keep {
            std::fs::remove_dir_all(&folder)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    run::say(&format!(
        "something is wrong: logs and data are in {}",
        folder.display()
    ));
    Ok(ExitCode::FAILURE)
}

#[allow(clippy::print_stdout, reason = "the report is what the tool is for")]
fn write(options: &Options, report: &report::Report) -> Result<()> {
    if let Some(path) = &options.output {
        std::fs::write(path, serde_json::to_vec_pretty(report)?)?;
    }
    let markdown = report.markdown();
    if let Some(path) = &options.markdown {
        std::fs::write(path, &markdown)?;
    }
    println!("{markdown}");
    Ok(())
}
