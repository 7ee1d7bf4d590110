//! What ingest promises.

use crate::error::IngestError;
use crate::wire::{
    DeadLetterPage, DeadLetterQuery, DeadLetterSummary, DiscardRequest, FixReceipt, FixRequest, HandledReceipt,
    PauseRequest, PushReceipt, PushRequest, ReplayRequest, SeekReceipt, SeekRequest, SourceStatus,
};
use async_trait::async_trait;

/// Ingest: brings events of stream sources into the feature store.
///
/// What operators ask for has a default that refuses, so that something that only takes events need not name it all.
#[async_trait]
pub trait Ingest: Send + Sync + 'static {
    /// Appends events to the source's topic. When it returns, the stream has them durably; they reach the feature
    /// store by the same way as every other event of the topic, and a bad one becomes a dead letter there.
    async fn push(&self, source: &str, request: PushRequest) -> Result<PushReceipt, IngestError>;

    /// Where each stream source stands, over all workers.
    async fn status(&self) -> Result<Vec<SourceStatus>, IngestError>;

    /// Stops fetching a source in every worker: what was taken in is delivered, partitions are kept. Durable: it lasts,
    /// through restarts, until [`Self::resume`].
    async fn pause(&self, source: &str, request: PauseRequest) -> Result<(), IngestError> {
        let _ = (source, request);
        Err(IngestError::Unavailable {
            detail: "this operation is not served here".to_owned(),
        })
    }

    /// Ends a pause; nothing changes when there is none.
    async fn resume(&self, source: &str) -> Result<(), IngestError> {
        let _ = source;
        Err(IngestError::Unavailable {
            detail: "this operation is not served here".to_owned(),
        })
    }

    /// Skips events on purpose: reading goes on further ahead. What is skipped is recorded among the dead letters.
    /// Going back is refused with [`IngestError::SeekBackward`]. Returns when the order is durable, which is before
    /// the workers have followed it.
    async fn seek(&self, source: &str, request: SeekRequest) -> Result<SeekReceipt, IngestError> {
        let _ = (source, request);
        Err(IngestError::Unavailable {
            detail: "this operation is not served here".to_owned(),
        })
    }

    /// Dead letters of a source, newest first, page by page.
    async fn dead_letters(&self, source: &str, query: DeadLetterQuery) -> Result<DeadLetterPage, IngestError> {
        let _ = (source, query);
        Err(IngestError::Unavailable {
            detail: "this operation is not served here".to_owned(),
        })
    }

    /// How many dead letters a source has, by reason and by what has become of them.
    async fn dead_letter_summary(&self, source: &str) -> Result<DeadLetterSummary, IngestError> {
        let _ = source;
        Err(IngestError::Unavailable {
            detail: "this operation is not served here".to_owned(),
        })
    }

    /// Corrects a dead letter's payload and tells whether it would be taken now.
    async fn fix(&self, source: &str, request: FixRequest) -> Result<FixReceipt, IngestError> {
        let _ = (source, request);
        Err(IngestError::Unavailable {
            detail: "this operation is not served here".to_owned(),
        })
    }

    /// Appends dead letters' events to the source's topic again, each at most once unless asked otherwise.
    async fn replay(&self, source: &str, request: ReplayRequest) -> Result<HandledReceipt, IngestError> {
        let _ = (source, request);
        Err(IngestError::Unavailable {
            detail: "this operation is not served here".to_owned(),
        })
    }

    /// Gives dead letters up on purpose.
    async fn discard(&self, source: &str, request: DiscardRequest) -> Result<HandledReceipt, IngestError> {
        let _ = (source, request);
        Err(IngestError::Unavailable {
            detail: "this operation is not served here".to_owned(),
        })
    }
}
