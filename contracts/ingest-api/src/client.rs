//! The [`Ingest`] that calls a [`router`](crate::server::router).

use crate::error::IngestError;
use crate::service::Ingest;
use crate::wire::{
    DeadLetterPage, DeadLetterQuery, DeadLetterSummary, DiscardRequest, FixReceipt, FixRequest, HandledReceipt,
    PauseRequest, PushReceipt, PushRequest, ReplayRequest, SeekReceipt, SeekRequest, SourceStatus,
};
use async_trait::async_trait;
use http::Method;
use ondol_wire::path::encode_segment;
use ondol_wire::{Caller, Credentials};
use url::Url;

/// Ingest somewhere else. Cheap to clone; connections are pooled.
#[derive(Clone, Debug)]
pub struct IngestClient {
    caller: Caller,
}

impl IngestClient {
    /// For ingest at `base`, for example `http://localhost:8082`. Connects when first used.
    ///
    /// # Errors
    /// When the HTTP client can't be built.
    pub fn new(base: Url) -> Result<Self, reqwest::Error> {
        Self::with(base, &Credentials::default())
    }

    /// As [`Self::new`], for a service that is shown `credentials`.
    ///
    /// # Errors
    /// When the HTTP client can't be built.
    pub fn with(base: Url, credentials: &Credentials) -> Result<Self, reqwest::Error> {
        Ok(Self {
            caller: Caller::with(base, credentials)?,
        })
    }
}

fn path(source: &str, rest: &str) -> String {
    format!("/v1/sources/{}/{rest}", encode_segment(source))
}

#[async_trait]
impl Ingest for IngestClient {
    async fn push(&self, source: &str, request: PushRequest) -> Result<PushReceipt, IngestError> {
        self.caller.post(&path(source, "events"), &request).await
    }

    async fn status(&self) -> Result<Vec<SourceStatus>, IngestError> {
        self.caller.get("/v1/sources").await
    }

    async fn pause(&self, source: &str, request: PauseRequest) -> Result<(), IngestError> {
        self.caller.post(&path(source, "reading:pause"), &request).await
    }

    async fn resume(&self, source: &str) -> Result<(), IngestError> {
        let request = self.caller.request(Method::POST, &path(source, "reading:resume"));
        self.caller.json(request).await
    }

    async fn seek(&self, source: &str, request: SeekRequest) -> Result<SeekReceipt, IngestError> {
        self.caller.post(&path(source, "reading:seek"), &request).await
    }

    async fn dead_letters(&self, source: &str, query: DeadLetterQuery) -> Result<DeadLetterPage, IngestError> {
        let request = self.caller.request(Method::GET, &path(source, "dead-letters"));
        self.caller.json(request.query(&query)).await
    }

    async fn dead_letter_summary(&self, source: &str) -> Result<DeadLetterSummary, IngestError> {
        self.caller.get(&path(source, "dead-letters:summary")).await
    }

    async fn fix(&self, source: &str, request: FixRequest) -> Result<FixReceipt, IngestError> {
        self.caller.post(&path(source, "dead-letters:fix"), &request).await
    }

    async fn replay(&self, source: &str, request: ReplayRequest) -> Result<HandledReceipt, IngestError> {
        self.caller.post(&path(source, "dead-letters:replay"), &request).await
    }

    async fn discard(&self, source: &str, request: DiscardRequest) -> Result<HandledReceipt, IngestError> {
        self.caller.post(&path(source, "dead-letters:discard"), &request).await
    }
}
