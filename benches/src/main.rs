//! Benchmarks, each with its floor in the same run: the least work that could do the job, measured on the same machine,
//! over the same bytes, minutes or microseconds apart. So ratios mean something on a shared machine, where times don't.
//!
//! - [`online_read`]: features of entities, against a raw multi-get of the same rows;
//! - [`ingest`]: events from Kafka into both stores, against a consumer that only decodes them;
//! - [`catch_up`]: a backlog in batches, against the same event by event;
//! - [`freshness`]: from an event's acknowledgement to its being read;
//! - [`memory`]: of the services, under steady load and draining a backlog;
//! - [`bytes_per_key`]: what an online row weighs, against a Redis hash;
//! - [`training_set`]: windows and latest rows as of each spine row, against DuckDB and Polars on the same files;
//! - [`gateway`]: what a prediction costs beside its feature read and its model;
//! - [`serving`]: predictions and inference per server CPU second, against Python servers and a bare handler;
//! - [`process`]: what the `ondol` binary weighs, and how fast it is ready.
//!
//! [`measure`] takes samples, [`report`] prints them and writes `results/<name>.json`, [`store`], [`services`]
//! and [`payments`] set up what is measured.

#![allow(clippy::print_stdout, reason = "a benchmark's table is its output")]

mod bytes_per_key;
mod catch_up;
mod freshness;
mod gateway;
#[path = "../../ondol/src/heap.rs"]
mod heap;
mod http;
mod ingest;
mod measure;
mod memory;
mod metered;
mod online_read;
mod payments;
mod process;
mod redis_server;
mod report;
mod services;
mod serving;
mod store;
mod subject;
mod topic;
mod training_set;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Ondol's benchmarks, each with its floor in the same run.
#[derive(Debug, Parser)]
#[command(name = "ondol-bench")]
struct Cli {
    /// Where results are written.
    #[arg(long, global = true, default_value = "benches/results")]
    results: PathBuf,
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// 1, 10 and 100 entities × 50 features, embedded and Redis, against a raw multi-get of the same rows.
    OnlineRead(online_read::Args),
    /// Events per second from Kafka through both stores, against a consumer that only decodes them.
    Ingest(ingest::Args),
    /// A backlog in batches, against the same event by event, and against a steady arrival.
    CatchUp(catch_up::Args),
    /// From an event's acknowledgement to its being in an online read over HTTP, at a tenth of the peak rate.
    Freshness(freshness::Args),
    /// Memory of the services, under a steady load and draining a backlog.
    Memory(memory::Args),
    /// Bytes of an online row, against a Redis hash with a field per feature.
    BytesPerKey(bytes_per_key::Args),
    /// Windows and latest rows as of each spine row, against DuckDB and Polars on the same files.
    TrainingSet(training_set::Args),
    /// What a prediction costs beside its feature read and its model.
    Gateway(gateway::Args),
    /// Requests per server CPU second and latency, against FastAPI, Feast, MLServer and a bare handler.
    Serving(serving::Args),
    /// Size, start time and idle memory of the `ondol` binary.
    Process(process::Args),
    /// The part of `training-set` that runs in a process of its own.
    #[command(hide = true)]
    TrainingSetJob(training_set::JobArgs),
    /// The bare handler that `serving` is measured against, in a process of its own.
    #[command(hide = true)]
    ServingFloor(serving::FloorArgs),
    /// The services that other benchmarks measure, in a process of their own.
    #[command(hide = true)]
    Subject(subject::Args),
}

fn main() -> Result<()> {
    // As in the `ondol` binary.
    heap::give_back_soon();
    let cli = Cli::parse();
    ondol_runtime::telemetry::init(ondol_runtime::LogFormat::Text, "error").context("logs can't be set up")?;
    ondol_runtime::metrics::install().context("metrics can't be set up")?;
    let runtime = ondol_runtime::threads::runtime()?;
    // On a worker, as a request in a server is: the main thread would pay a hop for every wake.
    runtime.block_on(async { tokio::spawn(run(cli)).await? })
}

async fn run(cli: Cli) -> Result<()> {
    let report = match cli.benchmark {
        Benchmark::OnlineRead(args) => online_read::run(&args).await?,
        Benchmark::Ingest(args) => ingest::run(&args).await?,
        Benchmark::CatchUp(args) => catch_up::run(&args).await?,
        Benchmark::Freshness(args) => freshness::run(&args).await?,
        Benchmark::Memory(args) => memory::run(&args, &cli.results).await?,
        Benchmark::BytesPerKey(args) => bytes_per_key::run(&args).await?,
        Benchmark::TrainingSet(args) => training_set::run(&args).await?,
        Benchmark::Gateway(args) => gateway::run(&args).await?,
        Benchmark::Serving(args) => serving::run(&args).await?,
        Benchmark::Process(args) => process::run(&args).await?,
        Benchmark::TrainingSetJob(args) => return training_set::job(&args).await,
        Benchmark::ServingFloor(args) => return serving::floor(&args).await,
        Benchmark::Subject(args) => return subject::run(&args).await,
    };
    report.print();
    report.write(&cli.results)
}
