//! The programs of a cluster: `ondol-cluster scheduler` and `ondol-cluster executor`.

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use ondol_cluster::cluster::executor::{self, ExecutorOptions};
use ondol_cluster::cluster::scheduler::{self, SchedulerOptions};
use ondol_runtime::{ConfigLayers, LogFormat, ObjectStores, S3Config};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A cluster that training sets are built on.
#[derive(Debug, Parser)]
#[command(
    name = "ondol-cluster",
    version,
    arg_required_else_help = true,
    propagate_version = true
)]
struct Cli {
    #[command(subcommand)]
    program: Program,
    /// How logs are written.
    #[arg(long, global = true, env = "ONDOL_LOG_FORMAT", default_value = "json", value_parser = log_format)]
    log_format: LogFormat,
    /// Which logs are written, as a `tracing` filter.
    #[arg(
        long,
        global = true,
        env = "ONDOL_LOG_FILTER",
        default_value = "info,ballista_scheduler=warn,ballista_executor=warn"
    )]
    log_filter: String,
}

#[derive(Debug, Subcommand)]
enum Program {
    /// Take plans and give their tasks to executors. One a cluster.
    Scheduler(SchedulerArgs),
    /// Run tasks. As many as there are machines.
    Executor(ExecutorArgs),
}

#[derive(Debug, Args)]
struct SchedulerArgs {
    /// The address to listen on (port 0 takes a free one).
    #[arg(long, default_value = "127.0.0.1:50050", value_name = "ADDRESS")]
    listen: String,
    /// The host by which the others reach it, if not the one it listens on.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// How long an executor may be silent before its tasks run elsewhere, in seconds.
    #[arg(long, default_value_t = 30)]
    executor_timeout_s: u64,
}

#[derive(Debug, Args)]
struct ExecutorArgs {
    /// The scheduler.
    #[arg(long, default_value = "127.0.0.1:50050", value_name = "HOST:PORT")]
    scheduler: String,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    listen: String,
    /// The host by which the others reach it, if not the address they see.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// The port from which others fetch what its tasks wrote.
    #[arg(long, default_value_t = 50051)]
    port: u16,
    /// The port at which it takes tasks.
    #[arg(long, default_value_t = 50052)]
    task_port: u16,
    /// Tasks at the same time. 0: one per core.
    #[arg(long, default_value_t = 0)]
    cores: usize,
    /// Memory for all tasks, in MiB; a task has its share.
    #[arg(long, default_value_t = 2_048)]
    memory_mib: u64,
    /// The folder for what tasks write for each other.
    #[arg(long, default_value = "ondol-cluster", value_name = "FOLDER")]
    work_dir: PathBuf,
    /// How often it tells the scheduler that it lives, in seconds.
    #[arg(long, default_value_t = 5)]
    heartbeat_s: u64,
    /// A file with the section `[s3]`, as in the services' configuration. The AWS_… variables serve too.
    #[arg(long, env = "ONDOL_CLUSTER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The executor's configuration file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FileConfig {
    /// How to reach S3.
    s3: S3Config,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    ondol_runtime::telemetry::init(cli.log_format, &cli.log_filter)?;
    match cli.program {
        Program::Scheduler(args) => run_scheduler(args).await,
        Program::Executor(args) => run_executor(args).await,
    }
}

async fn run_scheduler(args: SchedulerArgs) -> Result<()> {
    let listener = TcpListener::bind(&args.listen).await.with_context(|| {
        format!(
            "can't listen on `{}`: choose another address with --listen",
            args.listen
        )
    })?;
    tracing::info!(address = %listener.local_addr()?, "scheduler is ready");
    let options = SchedulerOptions {
        host: args.host,
        executor_timeout: Duration::from_secs(args.executor_timeout_s),
    };
    tokio::select! {
        served = scheduler::run(listener, options) => Ok(served?),
        stopped = tokio::signal::ctrl_c() => Ok(stopped?),
    }
}

async fn run_executor(args: ExecutorArgs) -> Result<()> {
    let (scheduler_host, port) = args
        .scheduler
        .rsplit_once(':')
        .with_context(|| format!("`--scheduler {}` lacks a port: write host:port", args.scheduler))?;
    let scheduler_port = port
        .parse()
        .with_context(|| format!("`--scheduler {}` ends in no port", args.scheduler))?;
    let config: FileConfig = match &args.config {
        Some(file) => ConfigLayers::new().file(file).load()?,
        None => FileConfig::default(),
    };
    let options = ExecutorOptions {
        scheduler_host: scheduler_host.to_owned(),
        scheduler_port,
        bind_host: args.listen,
        host: args.host,
        port: args.port,
        task_port: args.task_port,
        cores: args.cores,
        memory_mib: args.memory_mib,
        work_dir: args.work_dir,
        heartbeat: Duration::from_secs(args.heartbeat_s),
    };
    Ok(executor::run(options, ObjectStores::new(config.s3)).await?)
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| format!("`{text}`: write text or json"))
}
