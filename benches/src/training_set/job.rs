//! Our side: a job of the pipelines' service, from a spine in a file to a finished training set on disk.

use super::data::{TABLES, write_parquet};
use super::{Outcome, Work};
use crate::measure::{cpu_seconds, memory_mib};
use crate::payments::twelve_windows;
use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use ondol_feature_store::offline::{EventLog, EventLogConfig};
use ondol_feature_store_api::wire::{
    Applied, DefinitionFile, DefinitionFiles, DefinitionHistory, Delivery, FeatureBatch, OfflineTable,
    PartitionPosition, Plan, ReadRequest, WriteReceipt,
};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_jobs::{PipelinesConfig, PipelinesService};
use ondol_pipelines_api::Pipelines as _;
use ondol_pipelines_api::wire::{AsOf, JobState, TrainingSetOptions, TrainingSetRequest};
use ondol_runtime::{Health, Shutdown, SystemClock};
use ondol_vocabulary::{ModelVersion, Snapshot, SourceVersion, ViewState, ViewVersion};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Our side's process.
#[derive(Debug, clap::Args)]
pub(crate) struct JobArgs {
    work: Work,
    folder: PathBuf,
    event_memory_mib: u64,
}

/// From a spine in a file to a finished training set on disk.
pub(crate) async fn job(args: &JobArgs) -> Result<()> {
    let root = args.folder.join("offline").display().to_string();
    let log = EventLog::open(&root, EventLogConfig::default())?;
    let store: Arc<dyn FeatureStore> = Arc::new(Definitions {
        snapshot: Arc::new(definitions(args.work, &args.folder)?),
        log,
    });
    let data = tempfile::tempdir_in(&args.folder)?;
    let config = PipelinesConfig {
        reconcile: false,
        event_memory_mib: args.event_memory_mib,
        ..PipelinesConfig::embedded(data.path())
    };
    let shutdown = Shutdown::new();
    // On this thread: its future is not one to be sent.
    let (clock, health) = (Arc::new(SystemClock), Health::new());
    let open = PipelinesService::open(config, store, clock, &shutdown, &health);
    let service = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(open))?;

    let (begun, cpu) = (Instant::now(), cpu_seconds(None)?);
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(args.folder.join("spine.parquet"))?)?;
    let reader = reader.with_batch_size(65_536).build()?;
    let spine = reader.collect::<Result<Vec<_>, _>>()?;
    let spine_schema = spine.first().context("the spine is empty")?.schema();
    let options = TrainingSetOptions {
        model: "bench".to_owned(),
        time_column: Some("ts".to_owned()),
        as_of: AsOf::KnownAt,
        exact_status: false,
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
pub(super) fn definitions(work: Work, folder: &Path) -> Result<Snapshot> {
    let files = match work {
        Work::Windows => twelve_windows()?,
        Work::Latest => thirty_columns(folder)?,
    };
    let definitions = ondol_transform::definition::compile(&files)
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

/// A view of ten columns of each table, with a time to live, and a model of them all.
fn thirty_columns(folder: &Path) -> Result<DefinitionFiles> {
    let mut text = String::new();
    let columns = || (0..10).map(|number| (number, if number < 8 { "f64" } else { "i64" }));
    for (table, key) in TABLES {
        let path = folder.join(format!("{table}.parquet"));
        writeln!(
            text,
            "[source.{table}]\nparquet = \"{}\"\ntime = \"ts\"",
            path.display()
        )?;
        write!(text, "schema = {{ {key} = \"i64\", ts = \"timestamp\"")?;
        for (number, data_type) in columns() {
            write!(text, ", f{number} = \"{data_type}\"")?;
        }
        writeln!(
            text,
            " }}\n[view.{table}]\nfrom = \"{table}\"\nkey = \"{key}\"\nttl = \"30d\""
        )?;
        for (number, _) in columns() {
            writeln!(text, "features.f{number} = \"f{number}\"")?;
        }
    }
    let keys: Vec<String> = TABLES.iter().map(|(_, key)| format!("{key} = \"i64\"")).collect();
    let views: Vec<String> = TABLES.iter().map(|(table, _)| format!("\"{table}.*\"")).collect();
    writeln!(
        text,
        "[model.bench]\ninputs = {{ {} }}\nfeatures = [{}]",
        keys.join(", "),
        views.join(", ")
    )?;
    Ok(DefinitionFiles {
        files: vec![DefinitionFile {
            path: "bench.toml".to_owned(),
            text,
        }],
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
