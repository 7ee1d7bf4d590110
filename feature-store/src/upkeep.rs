//! What the store does for itself in the background: repairs after a loss, and the deletion of rows that nobody reads.
//!
//! Both are the work of one replica at a time, and harmless if two do it.

use crate::config::FeatureStoreConfig;
use crate::online::OnlineStore;
use crate::registry::Registry;
use crate::service::FeatureStoreService;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::RebuildState;
use ondol_vocabulary::EventTime;
use std::sync::Arc;
use std::time::Duration;

/// How often there is a look at what is to be done.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
