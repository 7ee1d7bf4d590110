//! The service: the parts of the feature store under one roof, with their tasks and their life.

use crate::bootstrap;
use crate::config::FeatureStoreConfig;
use crate::offline::{EventLog, Extent, VacuumConfig};
use crate::online::{self, Continuity, OnlineStore};
use crate::read::Reader;
use crate::registry::{Registry, WorkLock};
use crate::upkeep::{TableUpkeep, Upkeep, tidying};
use crate::views::CompiledViews;
use crate::write::{Writer, WriterLimits, known_source};
use async_trait::async_trait;
use ondol_feature_store_api::maintenance::{Compaction, Vacuum, VacuumOptions};
use ondol_feature_store_api::provisioning::Provisioning;
use ondol_feature_store_api::uses::{ConsumerUses, ModelUse};
use ondol_feature_store_api::wire::{
    Applied, DefinitionFiles, DefinitionHistory, Delivery, FeatureBatch, OfflineTable, PartitionPosition, Plan,
    ReadRequest, Rebuild, RebuildRequest, WriteReceipt,
};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_runtime::{Clock, ReadyHandle, Shutdown};
use ondol_vocabulary::Snapshot;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often due commits are looked for. A commit is due at the configured age give or take this.
const COMMIT_POLL: Duration = Duration::from_millis(50);

/// How long to wait after a commit failed.
const COMMIT_PAUSE: Duration = Duration::from_secs(1);

/// How often readiness is checked.
const HEALTH_POLL: Duration = Duration::from_secs(1);

/// The longest a caller may wait for the next snapshot in one call.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The feature store.
pub struct FeatureStoreService {
    registry: Registry,
    online: Arc<dyn OnlineStore>,
    continuity: Arc<Continuity>,
    log: EventLog,
    writer: Arc<Writer>,
    reader: Reader,
    config: FeatureStoreConfig,
    stopping: CancellationToken,
}

impl FeatureStoreService {
    /// Opens every part and starts the tasks: commits, bootstraps, and following the registry. They end with
    /// `shutdown`, after a last commit of everything written.
    pub async fn open(
        config: &FeatureStoreConfig,
        clock: Arc<dyn Clock>,
        shutdown: &Shutdown,
    ) -> Result<Arc<Self>, FeatureStoreError> {
        tokio::fs::create_dir_all(&config.data_dir)
            .await
            .map_err(|error| FeatureStoreError::Unavailable {
                detail: format!("can't create the data folder `{}`: {error}", config.data_dir.display()),
            })?;
        let registry = Registry::open(&config.registry_url()).await?;
        let online = online::open(&config.online_config()).await?;
        let log = EventLog::open(&config.offline_root(), config.log_config())?;
        log.check_writable().await?;
        let rows = log.clone();
        registry.count_rows_with(Arc::new(move |source| rows.rows(source)));
        let continuity = Arc::new(Continuity::new(registry.clone(), Arc::clone(&online)));
        let views = Arc::new(CompiledViews::default());
        let limits = WriterLimits {
            max_pending_deliveries: config.max_pending_deliveries,
            max_uncommitted_rows: config.max_uncommitted_rows,
        };
        let writer = Arc::new(Writer::new(
            registry.clone(),
            Arc::clone(&views),
            Arc::clone(&online),
            Arc::clone(&continuity),
            log.clone(),
            limits,
            shutdown.clone(),
        ));
        let reader = Reader::new(
            registry.clone(),
            views,
            Arc::clone(&online),
            Arc::clone(&continuity),
            clock,
            config.max_read_rows,
            config.serve_lost_rows,
        );
        let service = Arc::new(Self {
            registry,
            online,
            continuity,
            log,
            writer,
            reader,
            config: config.clone(),
            stopping: shutdown.token(),
        });
        service.start(config, shutdown);
        Ok(service)
    }

    /// Keeps `ready` in step with whether the online store answers. Looks at the store's life, too, so that a failover is
    /// noticed when nothing is written.
    pub fn report_health(self: &Arc<Self>, ready: ReadyHandle, shutdown: &Shutdown) {
        let service = Arc::clone(self);
        shutdown.spawn("feature-store-health", async move {
            loop {
                match service.continuity.life().await {
                    Ok(_) => ready.ready(),
                    Err(error) => ready.not_ready(error.to_string()),
                }
                if service
                    .stopping
                    .run_until_cancelled(tokio::time::sleep(HEALTH_POLL))
                    .await
                    .is_none()
                {
                    ready.not_ready("shutting down");
                    return;
                }
            }
        });
    }

    /// The online rows, for tests and repair.
    pub fn online(&self) -> &Arc<dyn OnlineStore> {
        &self.online
    }

    /// The write path, for whoever must hold a source's deliveries back.
    pub const fn writer(&self) -> &Arc<Writer> {
        &self.writer
    }

    /// The event log, for jobs that run in this process.
    pub const fn log(&self) -> &EventLog {
        &self.log
    }

    /// The registry, which replicas share.
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    fn start(self: &Arc<Self>, config: &FeatureStoreConfig, shutdown: &Shutdown) {
        let service = Arc::clone(self);
        shutdown.spawn("feature-store-commits", async move { service.commit_when_due().await });

        let (registry, stopping) = (self.registry.clone(), self.stopping.clone());
        let every = Duration::from_millis(config.registry_poll_ms.max(10));
        shutdown.spawn("feature-store-registry", async move {
            stopping.run_until_cancelled(registry.follow(every)).await;
        });

        let (registry, log, stopping) = (self.registry.clone(), self.log.clone(), self.stopping.clone());
        let writer = Arc::clone(&self.writer);
        shutdown.spawn("feature-store-bootstrap", async move {
            stopping
                .run_until_cancelled(bootstrap::run(registry, log, writer))
                .await;
        });

        let (service, stopping) = (Arc::clone(self), self.stopping.clone());
        shutdown.spawn("feature-store-adoption", async move {
            stopping.run_until_cancelled(service.adopt_what_begins_to_serve()).await;
        });

        let (upkeep, stopping) = (Upkeep::new(self, config), self.stopping.clone());
        shutdown.spawn("feature-store-upkeep", async move {
            stopping.run_until_cancelled(upkeep.run()).await;
        });

        let (upkeep, stopping) = (TableUpkeep::new(self, config), self.stopping.clone());
        shutdown.spawn("feature-store-tables", async move {
            stopping.run_until_cancelled(upkeep.run()).await;
        });
    }

    /// A version that another replica has handed over lacks the events that this one holds: until it has them, reads
    /// through that version do.
    async fn adopt_what_begins_to_serve(&self) {
        let mut snapshots = self.registry.subscribe();
        while snapshots.changed().await.is_ok() {
            for source in self.streams() {
                if let Err(error) = self.writer.adopt_active(&source).await {
                    // The next write or commit does it, or refuses.
                    tracing::warn!(source, %error, "what is held could not be absorbed into a new version yet");
                }
            }
        }
    }

    /// Commits sources as they come due, and all of them at the end. Each failure is logged and tried again: the rows
    /// stay in the log's buffer, and the writer's bound holds further ones back.
    async fn commit_when_due(&self) {
        let mut pause = COMMIT_POLL;
        loop {
            let stopped = self
                .stopping
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none();
            pause = COMMIT_POLL;
            let due = if stopped { self.streams() } else { self.log.due() };
            for source in due {
                if let Err(error) = self.writer.commit(&source).await {
                    pause = COMMIT_PAUSE;
                    metrics::counter!("ondol_feature_store_commit_failures_total", "source" => source.clone())
                        .increment(1);
                    tracing::error!(source, %error, "a commit failed: its events stay in memory and it is tried again");
                }
            }
            if stopped {
                return;
            }
        }
    }

    /// Refuses what has no offline table.
    fn known_stream(&self, source: &str) -> Result<(), FeatureStoreError> {
        if known_source(&self.registry.snapshot(), source)?.definition.is_stream() {
            return Ok(());
        }
        Err(FeatureStoreError::InvalidRequest {
            detail: format!("source `{source}` is a table of somebody else's: the store keeps no offline table of it"),
        })
    }

    /// The right to rewrite and delete files of a table, among replicas.
    async fn tidying(&self, source: &str) -> Result<WorkLock, FeatureStoreError> {
        let lock = self.registry.lock(&tidying(source)).await?;
        lock.ok_or_else(|| FeatureStoreError::Unavailable {
            detail: format!("another replica is at work on the files of `{source}`: try again shortly"),
        })
    }

    fn streams(&self) -> Vec<String> {
        let snapshot = self.registry.snapshot();
        let streams = snapshot.sources.iter().filter(|source| source.definition.is_stream());
        streams.map(|source| source.definition.name.clone()).collect()
    }
}

#[async_trait]
impl FeatureStore for FeatureStoreService {
    async fn plan(&self, files: DefinitionFiles) -> Result<Plan, FeatureStoreError> {
        self.registry.plan(&files).await
    }

    async fn apply(&self, files: DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        self.registry.apply(&files).await
    }

    async fn apply_forced(&self, files: DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        self.registry.apply_forced(&files).await
    }

    async fn publish_uses(&self, consumer: &str, models: Vec<ModelUse>) -> Result<ConsumerUses, FeatureStoreError> {
        self.registry.publish_uses(consumer, models).await
    }

    async fn uses(&self) -> Result<Vec<ConsumerUses>, FeatureStoreError> {
        self.registry.uses().await
    }

    async fn snapshot(&self) -> Result<Arc<Snapshot>, FeatureStoreError> {
        Ok(self.registry.snapshot())
    }

    async fn next_snapshot(&self, after: u64, wait: Duration) -> Result<Arc<Snapshot>, FeatureStoreError> {
        let mut snapshots = self.registry.subscribe();
        let newer = snapshots.wait_for(|snapshot| snapshot.version > after);
        // No change in time, or no time left: the present snapshot answers both.
        let waited = tokio::time::timeout(wait.min(LONGEST_WAIT), newer);
        if let Some(Ok(Ok(snapshot))) = self.stopping.run_until_cancelled(waited).await {
            return Ok(Arc::clone(&snapshot));
        }
        Ok(self.registry.snapshot())
    }

    async fn history(&self, name: &str) -> Result<DefinitionHistory, FeatureStoreError> {
        self.registry.history(name).await
    }

    async fn activate(&self, view_id: u32) -> Result<(), FeatureStoreError> {
        // A view that serves must not lose rows to a crash: no log brings a table's rows back.
        let life = self.continuity.sync().await?;
        if !self.registry.rows_began_in(view_id, &life.0).await? {
            return Err(FeatureStoreError::Unavailable {
                detail: "the online store began a new life while the view's rows were delivered: deliver them again, \
                         from the beginning"
                    .to_owned(),
            });
        }
        self.registry.activate(view_id).await
    }

    async fn resume(&self, source: &str, generation: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        let snapshot = self.registry.snapshot();
        if !known_source(&snapshot, source)?.definition.is_stream() {
            return Ok(Vec::new());
        }
        self.log.positions(source, generation).await
    }

    async fn write(&self, delivery: Delivery) -> Result<WriteReceipt, FeatureStoreError> {
        self.writer.write(delivery).await
    }

    async fn flush(&self, source: &str) -> Result<WriteReceipt, FeatureStoreError> {
        self.writer.flush(source).await
    }

    async fn read(&self, request: ReadRequest) -> Result<FeatureBatch, FeatureStoreError> {
        self.reader.read(request).await
    }

    async fn tables(&self) -> Result<Vec<OfflineTable>, FeatureStoreError> {
        self.log.tables().await
    }

    async fn rebuild(&self, request: RebuildRequest) -> Result<Vec<Rebuild>, FeatureStoreError> {
        self.registry.rebuild(&request.names).await
    }

    async fn rebuilds(&self) -> Result<Vec<Rebuild>, FeatureStoreError> {
        self.registry.rebuilds().await
    }

    async fn provisionings(&self) -> Result<Vec<Provisioning>, FeatureStoreError> {
        self.registry.provisionings().await
    }

    async fn hold(&self, view_id: u32) -> Result<Provisioning, FeatureStoreError> {
        self.registry.hold(view_id).await
    }

    async fn release(&self, view_id: u32) -> Result<Provisioning, FeatureStoreError> {
        self.registry.release(view_id).await
    }

    async fn compact(&self, source: &str) -> Result<Compaction, FeatureStoreError> {
        self.known_stream(source)?;
        let _lock = self.tidying(source).await?;
        let config = self.config.compaction_config();
        self.log.compact(source, config, Extent::Everything).await
    }

    async fn vacuum(&self, source: &str, options: VacuumOptions) -> Result<Vacuum, FeatureStoreError> {
        self.known_stream(source)?;
        let configured = self.config.vacuum_config(source);
        let config = VacuumConfig {
            retention: options.retention_ms.map_or(configured.retention, Duration::from_millis),
            keep: options.keep_ms.map(Duration::from_millis).or(configured.keep),
            dry_run: options.dry_run,
        };
        let _lock = self.tidying(source).await?;
        self.log.vacuum(source, config).await
    }
}
