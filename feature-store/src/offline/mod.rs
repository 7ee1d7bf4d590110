//! The event log: one Delta table per stream source, with source positions committed together with the files.

use arrow::array::RecordBatch;
use futures::stream::BoxStream;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::{DeliveryHeader, OfflineTable, PartitionPosition};
use ondol_vocabulary::SourceDefinition;
use std::time::Duration;

/// When the log commits, and how much it holds before it must.
#[derive(Clone, Debug)]
pub struct EventLogConfig {
    /// Rows of a source that make a commit due.
    pub commit_rows: usize,
    /// Age of the oldest uncommitted row that makes a commit due.
    pub commit_interval: Duration,
    /// Rows of a source beyond which [`EventLog::append`] commits before it returns.
    pub max_buffered_rows: usize,
}

impl Default for EventLogConfig {
    fn default() -> Self {
        Self { commit_rows: 50_000, commit_interval: Duration::from_secs(5), max_buffered_rows: 200_000 }
    }
}

/// The event logs of all stream sources under one root.
#[derive(Clone)]
pub struct EventLog;

impl EventLog {
    /// Opens the logs under `root`: a path or a `file://` URL.
    pub fn open(root: &str, _config: EventLogConfig) -> Result<Self, FeatureStoreError> {
        Err(FeatureStoreError::Internal { detail: format!("not written yet: {root}") })
    }

    /// Refuses a delivery that would leave a gap after what is held. Call it before anything absorbs the delivery:
    /// a row's fence must never pass events the log has not seen.
    pub async fn admit(&self, _header: &DeliveryHeader) -> Result<(), FeatureStoreError> {
        Ok(())
    }

    /// Buffers a delivery's rows; those already held are dropped.
    pub async fn append(
        &self,
        _source: &SourceDefinition,
        _header: &DeliveryHeader,
        _events: &RecordBatch,
    ) -> Result<(), FeatureStoreError> {
        Ok(())
    }

    /// Committed positions of one generation.
    pub async fn positions(
        &self,
        _source: &str,
        _generation: &str,
    ) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        Ok(Vec::new())
    }

    /// Positions held, committed or buffered, of the generation delivered last.
    pub async fn written(&self, _source: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        Ok(Vec::new())
    }

    /// Committed positions of the generation delivered last.
    pub async fn durable(&self, _source: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        Ok(Vec::new())
    }

    /// Sources whose buffers are full or old enough to commit.
    pub fn due(&self) -> Vec<String> {
        Vec::new()
    }

    /// Commits a source's buffer and returns [`Self::durable`].
    pub async fn commit(&self, source: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        self.durable(source).await
    }

    /// The tables that exist.
    pub async fn tables(&self) -> Result<Vec<OfflineTable>, FeatureStoreError> {
        Ok(Vec::new())
    }

    /// Rows committed for `source`, without I/O; none before its table was opened.
    pub fn rows(&self, _source: &str) -> Option<u64> {
        None
    }

    /// The committed rows of `source`, in commit order.
    pub async fn read(
        &self,
        _source: &str,
        _columns: &[String],
    ) -> Result<BoxStream<'static, Result<RecordBatch, FeatureStoreError>>, FeatureStoreError> {
        Ok(Box::pin(futures::stream::empty()))
    }
}
