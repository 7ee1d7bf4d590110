//! A feature store that notes when it was called and how far it has come, and passes every call on.

use async_trait::async_trait;
use ondol_feature_store_api::wire::{
    Applied, DefinitionFiles, DefinitionHistory, Delivery, FeatureBatch, OfflineTable, PartitionPosition, Plan,
    ReadRequest, WriteReceipt,
};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_vocabulary::Snapshot;
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

tokio::task_local! {
    /// How long the reads of the task that asks took.
    pub(crate) static READING: Cell<Duration>;
}

/// Passes calls on to `store`.
pub(crate) struct Metered {
    store: Arc<dyn FeatureStore>,
    first_write: OnceLock<Instant>,
    written: AtomicI64,
}

impl Metered {
    pub(crate) fn new(store: Arc<dyn FeatureStore>) -> Arc<Self> {
        Arc::new(Self {
            store,
            first_write: OnceLock::new(),
            written: AtomicI64::new(0),
        })
    }

    /// When the first delivery came.
    pub(crate) fn first_write(&self) -> Option<Instant> {
        self.first_write.get().copied()
    }

    /// Events held, over all partitions.
    pub(crate) fn written(&self) -> i64 {
        self.written.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl FeatureStore for Metered {
    async fn plan(&self, files: DefinitionFiles) -> Result<Plan, FeatureStoreError> {
        self.store.plan(files).await
    }

    async fn apply(&self, files: DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        self.store.apply(files).await
    }

    async fn snapshot(&self) -> Result<Arc<Snapshot>, FeatureStoreError> {
        self.store.snapshot().await
    }

    async fn next_snapshot(&self, after: u64, wait: Duration) -> Result<Arc<Snapshot>, FeatureStoreError> {
        self.store.next_snapshot(after, wait).await
    }

    async fn history(&self, name: &str) -> Result<DefinitionHistory, FeatureStoreError> {
        self.store.history(name).await
    }

    async fn activate(&self, view_id: u32) -> Result<(), FeatureStoreError> {
        self.store.activate(view_id).await
    }

    async fn resume(&self, source: &str, generation: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        self.store.resume(source, generation).await
    }

    async fn write(&self, delivery: Delivery) -> Result<WriteReceipt, FeatureStoreError> {
        self.first_write.get_or_init(Instant::now);
        let receipt = self.store.write(delivery).await?;
        let written: i64 = receipt.written.iter().map(|position| position.next_offset).sum();
        self.written.fetch_max(written, Ordering::Relaxed);
        Ok(receipt)
    }

    async fn flush(&self, source: &str) -> Result<WriteReceipt, FeatureStoreError> {
        self.store.flush(source).await
    }

    async fn read(&self, request: ReadRequest) -> Result<FeatureBatch, FeatureStoreError> {
        let begun = Instant::now();
        let batch = self.store.read(request).await;
        let took = begun.elapsed();
        // Absent over HTTP, where the handler's task is not the caller's.
        let _outside = READING.try_with(|reading| reading.set(reading.get() + took));
        batch
    }

    async fn tables(&self) -> Result<Vec<OfflineTable>, FeatureStoreError> {
        self.store.tables().await
    }
}
