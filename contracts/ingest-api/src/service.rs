//! What ingest promises.

use crate::error::IngestError;
use crate::wire::{DeadLetter, DeadLetterQuery, PushReceipt, PushRequest, SourceStatus};
use async_trait::async_trait;

/// Ingest: brings events of stream sources into the feature store.
#[async_trait]
pub trait Ingest: Send + Sync + 'static {
    /// Appends events to the source's topic. When it returns, the stream has them durably; they reach the feature
    /// store by the same way as every other event of the topic, and a bad one becomes a dead letter there.
    async fn push(&self, source: &str, request: PushRequest) -> Result<PushReceipt, IngestError>;

    /// Where each stream source stands.
    async fn status(&self) -> Result<Vec<SourceStatus>, IngestError>;

    /// The newest dead letters of a source, newest first.
    async fn dead_letters(&self, source: &str, query: DeadLetterQuery) -> Result<Vec<DeadLetter>, IngestError>;
}
