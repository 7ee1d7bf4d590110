//! Training sets: count, sum, mean and max over 1 h, 24 h and 7 d as of each spine row, from an event log as the store
//! writes it (a Delta table, several commits, a file per commit and event date).
//!
//! The peer is DuckDB on the same Parquet files, with the same rule (known before the moment, windows with the same
//! hops), its result written to a file as ours is. Each runs in a process of its own, so that peak memory is its own;
//! afterwards all values are compared.

use crate::measure::{cpu_seconds, median, memory_mib};
use crate::payments::{Payments, SOURCE, card, delivery, twelve_windows};
use crate::report::{Report, Row};
use anyhow::{Context as _, Result, bail, ensure};
use arrow::array::{BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use async_trait::async_trait;
use ondol_feature_store::offline::{EventLog, EventLogConfig};
use ondol_feature_store_api::wire::{
    Applied, DefinitionFiles, DefinitionHistory, Delivery, FeatureBatch, OfflineTable, PartitionPosition, Plan,
    ReadRequest, WriteReceipt,
};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_jobs::{PipelinesConfig, PipelinesService};
use ondol_pipelines_api::Pipelines as _;
use ondol_pipelines_api::wire::{AsOf, JobState, TrainingSetOptions, TrainingSetRequest};
use ondol_runtime::{Health, Shutdown, SystemClock};
use ondol_vocabulary::{ModelVersion, Snapshot, SourceVersion, ViewState, ViewVersion};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const DAY_US: i64 = 86_400_000_000;
/// 2026-01-01T00:00:00Z.
const START_US: i64 = 1_767_225_600_000_000;
/// Events of one commit of the log.
const COMMIT_ROWS: u64 = 250_000;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Spine rows.
    #[arg(long, default_value_t = 1_000_000)]
    spine: u32,
    /// Events in the log.
    #[arg(long, default_value_t = 10_000_000)]
    events: u64,
    /// Cards: entities of events and spine.
    #[arg(long, default_value_t = 100_000)]
    cards: u32,
    /// Days that the events cover; the spine's rows lie after the first 7.
    #[arg(long, default_value_t = 30)]
    days: i64,
    /// Times that each side runs, by turns; results are medians.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// The Python that has DuckDB; without it there is no peer.
    #[arg(long, env = "ONDOL_TEST_PYTHON")]
    python: Option<PathBuf>,
    /// The peer.
    #[arg(long, default_value = "benches/peers/duckdb_windows.py")]
    peer: PathBuf,
}

/// Our side's process.
#[derive(Debug, clap::Args)]
pub(crate) struct JobArgs {
    folder: PathBuf,
}

/// What a side says of its run.
#[derive(Serialize, Deserialize)]
struct Outcome {
    seconds: f64,
    cpu_seconds: f64,
    peak_mib: f64,
}

/// Runs it.
pub(crate) async fn run(args: &Args) -> Result<Report> {
    let parameters = Row::default()
        .with("spine_rows", args.spine)
        .with("events", args.events)
        .with("entities", args.cards)
        .with("days", args.days)
        .with("windows", "count, sum, mean, max over 1h, 24h, 7d")
        .with("repetitions", args.repetitions);
    let mut report = Report::new("training-set", parameters);
    let folder = tempfile::tempdir()?;
    write_log(args, folder.path()).await?;
    write_spine(args, folder.path())?;

    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..args.repetitions {
        own.push(
            outcome(
                std::env::current_exe()?.as_ref(),
                &[Path::new("training-set-job"), folder.path()],
            )
            .await?,
        );
        if let Some(python) = &args.python {
            peer.push(outcome(python, &[&args.peer, Path::new("run"), folder.path()]).await?);
        }
    }
    let mid = |of: fn(&Outcome) -> f64, runs: &[Outcome]| median(runs.iter().map(of));
    for (name, runs) in [("ondol", &own), ("duckdb", &peer)] {
        if runs.is_empty() {
            continue;
        }
        let row = Row::default()
            .with("engine", name)
            .figure(
                "times_faster",
                mid(|run| run.seconds, &peer) / mid(|run| run.seconds, runs),
            )
            .figure(
                "memory_share",
                mid(|run| run.peak_mib, runs) / mid(|run| run.peak_mib, &peer),
            )
            .figure("seconds", mid(|run| run.seconds, runs))
            .figure("cpu_seconds", mid(|run| run.cpu_seconds, runs))
            .figure("rows_per_s", f64::from(args.spine) / mid(|run| run.seconds, runs))
            .figure("peak_mib", mid(|run| run.peak_mib, runs));
        report.row(row);
    }
    if let Some(python) = &args.python {
        let text = output(python, &[&args.peer, Path::new("compare"), folder.path()]).await?;
        report.note(text.trim().to_owned());
    }
    report.note("times_faster = the peer's seconds / seconds; memory_share = peak resident memory / the peer's");
    Ok(report)
}

/// Runs one side and reads the line it prints.
async fn outcome(program: &Path, arguments: &[&Path]) -> Result<Outcome> {
    let text = output(program, arguments).await?;
    let line = text.lines().last().context("a side printed nothing")?;
    serde_json::from_str(line).with_context(|| format!("a side printed: {line}"))
}

async fn output(program: &Path, arguments: &[&Path]) -> Result<String> {
    let run = tokio::process::Command::new(program).args(arguments).output().await?;
    let said = String::from_utf8_lossy(&run.stderr);
    ensure!(
        run.status.success(),
        "`{}` failed: {}\n{said}",
        program.display(),
        run.status
    );
    Ok(String::from_utf8(run.stdout)?)
}

/// The log, by the store's own code.
async fn write_log(args: &Args, folder: &Path) -> Result<()> {
    let source = definitions()?.sources.first().context("no source")?.definition.clone();
    let root = folder.join("offline").display().to_string();
    let log = EventLog::open(
        &root,
        EventLogConfig {
            max_buffered_rows: usize::MAX,
            ..EventLogConfig::default()
        },
    )?;
    let mut payments = Payments::new(args.events, args.cards, 1_000, START_US, START_US + args.days * DAY_US);
    let mut left = args.events;
    while left > 0 {
        let rows = left.min(COMMIT_ROWS);
        let batch: Vec<_> = (0..rows).map(|_| payments.next()).collect();
        let Delivery { header, events } = delivery(&source, &batch)?;
        log.append(&source, &header, &events).await?;
        log.commit(SOURCE).await?;
        left -= rows;
    }
    Ok(())
}

fn write_spine(args: &Args, folder: &Path) -> Result<()> {
    let mut random = StdRng::seed_from_u64(11);
    let (from, to) = (
        START_US + 7 * DAY_US.min(args.days * DAY_US / 8),
        START_US + args.days * DAY_US,
    );
    let cards = (0..args.spine).map(|_| card(random.random_range(0..args.cards)));
    let cards = StringArray::from_iter_values(cards);
    let times = (0..args.spine).map(|_| random.random_range(from..to));
    let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
    let labels: BooleanArray = (0..args.spine).map(|_| Some(random.random_ratio(1, 20))).collect();
    let batch = RecordBatch::try_from_iter([
        (
            "row",
            Arc::new(Int64Array::from_iter_values((0..args.spine).map(i64::from))) as _,
        ),
        ("card", Arc::new(cards) as _),
        ("ts", Arc::new(times) as _),
        ("label", Arc::new(labels) as _),
    ])?;
    write_parquet(&folder.join("spine.parquet"), &[batch])
}

fn write_parquet(path: &Path, batches: &[RecordBatch]) -> Result<()> {
    let first = batches.first().context("no rows")?;
    let mut writer = ArrowWriter::try_new(File::create(path)?, first.schema(), None)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.close()?;
    Ok(())
}

/// Our side: from a spine in a file to a finished training set on disk.
pub(crate) async fn job(args: &JobArgs) -> Result<()> {
    let root = args.folder.join("offline").display().to_string();
    let log = EventLog::open(&root, EventLogConfig::default())?;
    let store: Arc<dyn FeatureStore> = Arc::new(Definitions {
        snapshot: Arc::new(definitions()?),
        log,
    });
    let data = tempfile::tempdir_in(&args.folder)?;
    let config = PipelinesConfig {
        reconcile: false,
        ..PipelinesConfig::embedded(data.path())
    };
    let shutdown = Shutdown::new();
    let service = PipelinesService::open(config, store, Arc::new(SystemClock), &shutdown, &Health::new()).await?;

    let (begun, cpu) = (Instant::now(), cpu_seconds(None)?);
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(args.folder.join("spine.parquet"))?)?;
    let reader = reader.with_batch_size(65_536).build()?;
    let spine = reader.collect::<Result<Vec<_>, _>>()?;
    let spine_schema = spine.first().context("the spine is empty")?.schema();
    let options = TrainingSetOptions {
        model: "bench".to_owned(),
        time_column: Some("ts".to_owned()),
        as_of: AsOf::KnownAt,
    };
    let job = service
        .training_set(TrainingSetRequest {
            options,
            spine_schema,
            spine,
        })
        .await?;
    let mut state = job;
    while !state.state.is_final() {
        state = service
            .job(&state.id, Some(state.revision), Duration::from_secs(10))
            .await?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    if state.state != JobState::Succeeded {
        bail!("the job ended as {:?}: {:?}", state.state, state.error);
    }
    let outcome = Outcome {
        seconds,
        cpu_seconds: cpu_seconds(None)? - cpu,
        peak_mib: memory_mib(None, "VmHWM")?,
    };
    let result = service.result(&state.id).await?;
    write_parquet(&args.folder.join("ondol.parquet"), &result.batches)?;
    shutdown.drain(Duration::from_secs(30)).await;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// The definitions as if they had been applied.
fn definitions() -> Result<Snapshot> {
    let definitions = ondol_transform::definition::compile(&twelve_windows()?)
        .map_err(|problems| anyhow::anyhow!("the benchmark's definitions: {problems:?}"))?;
    let source = |definition| SourceVersion { version: 1, definition };
    let view = |(definition, id)| ViewVersion {
        id,
        version: 1,
        state: ViewState::Active,
        definition,
    };
    let model = |definition| ModelVersion { version: 1, definition };
    Ok(Snapshot {
        version: 1,
        sources: definitions.sources.into_iter().map(source).collect(),
        views: definitions.views.into_iter().zip(1..).map(view).collect(),
        models: definitions.models.into_iter().map(model).collect(),
    })
}

/// A feature store of which a training set needs only the definitions and the log.
struct Definitions {
    snapshot: Arc<Snapshot>,
    log: EventLog,
}

fn unused<T>() -> Result<T, FeatureStoreError> {
    Err(FeatureStoreError::Internal {
        detail: "a training set does not ask for this".to_owned(),
    })
}

#[async_trait]
impl FeatureStore for Definitions {
    async fn plan(&self, _: DefinitionFiles) -> Result<Plan, FeatureStoreError> {
        unused()
    }

    async fn apply(&self, _: DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        unused()
    }

    async fn snapshot(&self) -> Result<Arc<Snapshot>, FeatureStoreError> {
        Ok(Arc::clone(&self.snapshot))
    }

    async fn next_snapshot(&self, _: u64, wait: Duration) -> Result<Arc<Snapshot>, FeatureStoreError> {
        tokio::time::sleep(wait).await;
        self.snapshot().await
    }

    async fn history(&self, _: &str) -> Result<DefinitionHistory, FeatureStoreError> {
        unused()
    }

    async fn activate(&self, _: u32) -> Result<(), FeatureStoreError> {
        unused()
    }

    async fn resume(&self, _: &str, _: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        unused()
    }

    async fn write(&self, _: Delivery) -> Result<WriteReceipt, FeatureStoreError> {
        unused()
    }

    async fn flush(&self, _: &str) -> Result<WriteReceipt, FeatureStoreError> {
        Ok(WriteReceipt::default())
    }

    async fn read(&self, _: ReadRequest) -> Result<FeatureBatch, FeatureStoreError> {
        unused()
    }

    async fn tables(&self) -> Result<Vec<OfflineTable>, FeatureStoreError> {
        self.log.tables().await
    }
}
