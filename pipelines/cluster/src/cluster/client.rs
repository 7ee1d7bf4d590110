//! The service's end: the spine goes to the exchange folder, the plan to the scheduler, rows come back from executors.

use super::MESSAGE_BYTES;
use super::submission::Scheduler;
use crate::codec::JoinCodec;
use crate::config::EngineConfig;
use crate::fault::EngineError;
use crate::listing::{ListedFile, Listing};
use crate::point_in_time::OF_DATA;
use crate::provider::ListedTable;
use crate::spine;
use arrow::array::RecordBatch;
use ballista_core::config::BallistaConfig;
use ballista_core::extension::{SessionConfigExt, SessionConfigHelperExt};
use datafusion::catalog::TableProvider;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use object_store::{ObjectStoreExt, PutPayload};
use ondol_jobs::engine::{JoinRequest, Stop};
use ondol_runtime::objects::{Location, ObjectStores};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::sync::Arc;
use url::Url;

/// How often a plan is given to the cluster before its failure counts.
const ATTEMPTS: usize = 3;

/// A cluster by its scheduler.
pub(crate) struct Cluster {
    scheduler: String,
    exchange: Location,
}

/// A spine in the exchange folder.
pub(crate) struct SentSpine {
    listing: Listing,
    store: Arc<dyn object_store::ObjectStore>,
}

/// Settings of plans for a cluster.
pub(crate) fn session_config() -> SessionConfig {
    SessionConfig::new_with_ballista()
        .ballista_restricted_configuration()
        .with_ballista_grpc_client_max_message_size(MESSAGE_BYTES)
}

impl Cluster {
    /// The one that `config` names.
    pub(crate) fn new(config: &EngineConfig, objects: &ObjectStores) -> Result<Self, EngineError> {
        let wrong = |detail: &str| {
            EngineError::Configuration(format!(
                "`engine` is `{}`: {detail}; write `embedded`, or a scheduler as `ballista://host:port`",
                config.engine
            ))
        };
        let url = Url::parse(&config.engine).map_err(|cause| wrong(&cause.to_string()))?;
        if url.scheme() != "ballista" {
            return Err(wrong("it is no engine that is known"));
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port()) else {
            return Err(wrong("it lacks a host or a port"));
        };
        Ok(Self {
            scheduler: format!("http://{host}:{port}"),
            exchange: objects.at(&config.exchange)?.created()?,
        })
    }

    /// Puts the spine of `request` where executors find it, in a file for each partition.
    pub(crate) async fn send_spine(&self, request: &JoinRequest, partitions: usize) -> Result<SentSpine, EngineError> {
        let batch = spine::batch(request)?;
        let id = ulid::Ulid::new();
        let store = self.exchange.root();
        let mut files = Vec::new();
        for (number, piece) in spine::pieces(&batch, partitions).enumerate() {
            let bytes = parquet(&piece)?;
            let path = self
                .exchange
                .path()
                .clone()
                .join(format!("spine-{id}-{number}.parquet"));
            let size = bytes.len() as u64;
            store
                .put(&path, PutPayload::from(bytes))
                .await
                .map_err(|cause| self.exchange.explain("writing", &cause))?;
            files.push(ListedFile {
                path: path.to_string(),
                size,
                modified_ms: 0,
                partition_values: Vec::new(),
                statistics: None,
            });
        }
        Ok(SentSpine {
            listing: Listing::of_files(&self.exchange, files, batch.schema()),
            store,
        })
    }

    /// Runs `plan` to its end, or until `stop`: then it is taken back. A cluster that lost more than it makes good by itself
    /// (the executor that held the result) is given the plan again.
    pub(crate) async fn run(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: &SessionContext,
        mut stop: Stop<'_>,
    ) -> Result<Vec<RecordBatch>, EngineError> {
        let mut attempt = 1;
        loop {
            match self.run_once(Arc::clone(&plan), context, &mut stop).await {
                Ok(Some(rows)) => return Ok(rows),
                Ok(None) => return Err(EngineError::Stopped),
                Err(error) if attempt < ATTEMPTS && !is_of_data(&error) => {
                    tracing::warn!(%error, attempt, "a plan failed on the cluster, giving it again");
                    attempt += 1;
                }
                Err(error) => {
                    let text = error.to_string();
                    if let Some((_, cause)) = text.split_once(OF_DATA) {
                        // Says of the table what the embedded engine says.
                        return Err(EngineError::Events(cause.trim_end_matches(['"', ')']).to_owned()));
                    }
                    return Err(EngineError::Cluster {
                        address: self.scheduler.clone(),
                        detail: format!(
                            "{error} (after {attempt} attempts; is `ondol-cluster scheduler` running there, with executors?)"
                        ),
                    });
                }
            }
        }
    }

    async fn run_once(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: &SessionContext,
        stop: &mut Stop<'_>,
    ) -> Result<Option<Vec<RecordBatch>>, datafusion::error::DataFusionError> {
        let config = context.copied_config();
        let ballista: BallistaConfig = config.ballista_config();
        let mut scheduler = Scheduler::connect(&self.scheduler, &ballista).await?;
        // Sessions of a scheduler are kept: a name for each plan would fill it.
        let session = ("ondol-pipelines".to_owned(), &config);
        // Not given up half way: a plan whose name nobody knows can't be taken back.
        let submission = scheduler.submit(plan, &JoinCodec::default(), session).await?;
        let results = tokio::select! {
            results = scheduler.done(&submission) => Some(results?),
            () = &mut *stop => None,
        };
        let Some(results) = results else {
            scheduler.cancel(&submission).await;
            return Ok(None);
        };
        tokio::select! {
            rows = scheduler.rows(results) => rows.map(Some),
            () = stop => Ok(None),
        }
    }
}

impl SentSpine {
    /// As a table.
    pub(crate) fn table(&self) -> Arc<dyn TableProvider> {
        Arc::new(ListedTable::new(self.listing.clone()))
    }

    /// Removes its files. What can't be removed is left and told.
    pub(crate) async fn remove(self) {
        for file in &self.listing.files {
            if let Err(error) = self
                .store
                .delete(&object_store::path::Path::from(file.path.as_str()))
                .await
            {
                tracing::warn!(path = file.path, %error, "a file of a finished training set stays in the exchange folder");
            }
        }
    }
}

/// Whether trying again would fail again: the events themselves are wrong.
fn is_of_data(error: &datafusion::error::DataFusionError) -> bool {
    error.to_string().contains(OF_DATA)
}

fn parquet(rows: &RecordBatch) -> Result<Vec<u8>, EngineError> {
    let internal = |cause: parquet::errors::ParquetError| EngineError::Internal(cause.to_string());
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).map_err(internal)?;
    writer.write(rows).map_err(internal)?;
    writer.into_inner().map_err(internal)
}
