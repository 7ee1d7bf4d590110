//! What the store does for itself in the background: repairs after a loss, the deletion of rows that nobody reads, and
//! the merging and deletion of files of the offline tables.
//!
//! Each is the work of one replica at a time, and harmless if two do it.

use crate::config::FeatureStoreConfig;
use crate::offline::{CompactionConfig, EventLog, Extent};
use crate::online::OnlineStore;
use crate::registry::Registry;
use crate::service::FeatureStoreService;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::RebuildState;
use ondol_vocabulary::EventTime;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often there is a look at what is to be done.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long to wait after a merge or a vacuum failed.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// Between two batches of deletions.
const PAUSE: Duration = Duration::from_millis(20);

/// The background work of one replica.
pub struct Upkeep {
    registry: Registry,
    online: Arc<dyn OnlineStore>,
    rebuild_after_loss: bool,
    keep_discarded: Duration,
}

impl Upkeep {
    /// For `service`, as configured.
    pub fn new(service: &FeatureStoreService, config: &FeatureStoreConfig) -> Self {
        Self {
            registry: service.registry().clone(),
            online: Arc::clone(service.online()),
            rebuild_after_loss: config.rebuild_after_loss,
            keep_discarded: Duration::from_millis(config.keep_discarded_rows_ms),
        }
    }

    /// Works for ever: the service drops the future to stop it.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            for outcome in [self.repair().await, self.delete_discarded().await] {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "upkeep is tried again");
                }
            }
        }
    }

    /// Counts the views whose rows were lost, and has them built anew if it may.
    async fn repair(&self) -> Result<(), FeatureStoreError> {
        let rebuilds = self.registry.rebuilds().await?;
        let damaged = rebuilds.iter().filter(|rebuild| rebuild.state != RebuildState::Done);
        metrics::gauge!("ondol_feature_store_views_to_rebuild").set(damaged.count() as f64);
        let advised = rebuilds
            .into_iter()
            .filter(|rebuild| rebuild.state == RebuildState::Advised);
        let names: Vec<String> = advised.map(|rebuild| rebuild.view).collect();
        if names.is_empty() || !self.rebuild_after_loss {
            return Ok(());
        }
        tracing::warn!(feature_views = ?names, "online rows were lost: they are built anew from the log");
        self.registry.rebuild(&names).await.map(drop)
    }

    async fn delete_discarded(&self) -> Result<(), FeatureStoreError> {
        let before = EventTime::now().micros() - i64::try_from(self.keep_discarded.as_micros()).unwrap_or(i64::MAX);
        let discarded = self.registry.discarded_rows(EventTime::from_micros(before)).await?;
        if discarded.is_empty() {
            return Ok(());
        }
        let Some(_lock) = self.registry.lock("delete-discarded").await? else {
            return Ok(());
        };
        for view_id in discarded {
            self.online.delete_view(view_id, PAUSE).await?;
            self.registry.forget_discarded(view_id).await?;
            tracing::info!(view_id, "discarded online rows are deleted");
        }
        Ok(())
    }
}

/// The background work on the offline tables of one replica.
pub struct TableUpkeep {
    registry: Registry,
    log: EventLog,
    config: FeatureStoreConfig,
    compaction: CompactionConfig,
    /// When each table is to be cleaned up next.
    vacuums: BTreeMap<String, Instant>,
}

impl TableUpkeep {
    /// For `service`, as configured.
    pub fn new(service: &FeatureStoreService, config: &FeatureStoreConfig) -> Self {
        Self {
            registry: service.registry().clone(),
            log: service.log().clone(),
            config: config.clone(),
            compaction: config.compaction_config(),
            vacuums: BTreeMap::new(),
        }
    }

    /// Works for ever: the service drops the future to stop it.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let snapshot = self.registry.snapshot();
            for source in snapshot.sources.iter().filter(|source| source.definition.is_stream()) {
                let source = &source.definition.name;
                if let Err(error) = self.tidy(source).await {
                    metrics::counter!("ondol_log_tidying_failures_total", "source" => source.clone()).increment(1);
                    tracing::warn!(source, %error, "files could not be merged or deleted: it is tried again");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn tidy(&mut self, source: &str) -> Result<(), FeatureStoreError> {
        let merge = self.config.compact && self.log.compaction_due(source, self.compaction).await;
        let vacuum = self.vacuum_due(source);
        if !merge && !vacuum {
            return Ok(());
        }
        let Some(_lock) = self.registry.lock(&tidying(source)).await? else {
            return Ok(());
        };
        if merge {
            self.log.compact(source, self.compaction, Extent::Due).await?;
        }
        if vacuum {
            let config = self.config.vacuum_config(source);
            self.log.vacuum(source, config).await?;
            self.vacuums.insert(source.to_owned(), Instant::now());
        }
        Ok(())
    }

    /// A table that this process has just met is not cleaned up at once: a store that starts has other things to do.
    fn vacuum_due(&mut self, source: &str) -> bool {
        let interval = Duration::from_millis(self.config.vacuum_interval_ms);
        let last = *self.vacuums.entry(source.to_owned()).or_insert_with(Instant::now);
        !interval.is_zero() && last.elapsed() >= interval
    }
}

/// The name of the right to rewrite and delete files of `source`'s table.
pub(crate) fn tidying(source: &str) -> String {
    format!("offline/{source}")
}
