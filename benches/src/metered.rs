//! A feature store that notes when it was called and how far it has come, and passes every call on.
//!
//! Or, to compare with, one that passes every event on as a delivery of its own: the same guarantees, without batches.

use crate::subject::Written;
use anyhow::{Context as _, Result};
use arrow::array::{AsArray as _, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Int32Type, Int64Type};
use async_trait::async_trait;
use ondol_feature_store_api::wire::{
    Applied, DefinitionFiles, DefinitionHistory, Delivery, DeliveryHeader, FeatureBatch, OfflineTable,
    PartitionPosition, Plan, ReadRequest, WriteReceipt, columns,
};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_vocabulary::{PartitionRange, Snapshot};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

tokio::task_local! {
    /// How long the reads of the task that asks took.
    pub(crate) static READING: Cell<Duration>;
}

/// Passes calls on to `store`.
pub(crate) struct Metered {
    store: Arc<dyn FeatureStore>,
    one_by_one: bool,
    first_write: OnceLock<Instant>,
    written: AtomicI64,
    deliveries: AtomicU64,
    /// From the first write to the end of the last, microseconds.
    took_us: AtomicU64,
}

impl Metered {
    pub(crate) fn new(store: Arc<dyn FeatureStore>, one_by_one: bool) -> Arc<Self> {
        Arc::new(Self {
            store,
            one_by_one,
            first_write: OnceLock::new(),
            written: AtomicI64::new(0),
            deliveries: AtomicU64::new(0),
            took_us: AtomicU64::new(0),
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

    /// How far it is.
    pub(crate) fn progress(&self) -> Written {
        Written {
            events: self.written(),
            deliveries: self.deliveries.load(Ordering::Relaxed),
            seconds: self.took_us.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }

    async fn pass(&self, delivery: Delivery) -> Result<WriteReceipt, FeatureStoreError> {
        let begun = *self.first_write.get_or_init(Instant::now);
        let receipt = self.store.write(delivery).await?;
        let written: i64 = receipt.written.iter().map(|position| position.next_offset).sum();
        self.written.fetch_max(written, Ordering::Relaxed);
        self.deliveries.fetch_add(1, Ordering::Relaxed);
        let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.took_us.fetch_max(took_us, Ordering::Relaxed);
        Ok(receipt)
    }
}

/// The events of `delivery`, each as a delivery of its own that covers what lies before it too.
fn each(delivery: &Delivery) -> Result<Vec<Delivery>> {
    let column = |name: &str| delivery.events.column_by_name(name).context("no positions");
    let partitions = column(columns::PARTITION)?.as_primitive::<Int32Type>().clone();
    let offsets = column(columns::OFFSET)?.as_primitive::<Int64Type>().clone();
    let mut left = delivery.header.ranges.clone();
    let mut deliveries = Vec::with_capacity(offsets.len());
    for row in 0..offsets.len() {
        let partition = partitions.value(row);
        let range = left
            .iter_mut()
            .find(|range| range.partition == partition)
            .context("no range")?;
        let to = offsets.value(row) + 1;
        let from = std::mem::replace(&mut range.from, to);
        let header = DeliveryHeader {
            ranges: vec![PartitionRange { partition, from, to }],
            table: None,
            ..delivery.header.clone()
        };
        // Copied: a slice would keep the memory of all of them.
        let row = UInt32Array::from_value(u32::try_from(row)?, 1);
        let events = take_record_batch(&delivery.events, &row)?;
        deliveries.push(Delivery { header, events });
    }
    Ok(deliveries)
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
        if !self.one_by_one {
            return self.pass(delivery).await;
        }
        let deliveries = each(&delivery).map_err(|error| FeatureStoreError::Internal {
            detail: error.to_string(),
        })?;
        let mut receipt = WriteReceipt::default();
        for delivery in deliveries {
            receipt = self.pass(delivery).await?;
        }
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
