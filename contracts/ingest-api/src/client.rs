//! The [`Ingest`] that calls a [`router`](crate::server::router).

use crate::error::IngestError;
use crate::service::Ingest;
use crate::wire::{DeadLetter, DeadLetterQuery, PushReceipt, PushRequest, SourceStatus};
use async_trait::async_trait;
use http::Method;
use ondol_wire::Caller;
use ondol_wire::path::encode_segment;
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
        Ok(Self {
            caller: Caller::new(base)?,
        })
    }
}

#[async_trait]
impl Ingest for IngestClient {
    async fn push(&self, source: &str, request: PushRequest) -> Result<PushReceipt, IngestError> {
        self.caller
            .post(&format!("/v1/sources/{}/events", encode_segment(source)), &request)
            .await
    }

    async fn status(&self) -> Result<Vec<SourceStatus>, IngestError> {
        self.caller.get("/v1/sources").await
    }

    async fn dead_letters(&self, source: &str, query: DeadLetterQuery) -> Result<Vec<DeadLetter>, IngestError> {
        let path = format!("/v1/sources/{}/dead-letters", encode_segment(source));
        self.caller
            .json(self.caller.request(Method::GET, &path).query(&query))
            .await
    }
}
