//! The [`Pipelines`] that calls a [`router`](crate::server::router).

use crate::error::PipelinesError;
use crate::server::MAX_WAIT;
use crate::service::Pipelines;
use crate::wire::{Job, JobResult, MaterializeRequest, TrainingSetRequest};
use async_trait::async_trait;
use http::{Method, header};
use ondol_vocabulary::batch;
use ondol_wire::path::encode_segment;
use ondol_wire::{Caller, ContractError};
use std::time::Duration;
use url::Url;

/// How much longer than the wait a long poll may take: the way there and back, and a busy server.
const POLL_MARGIN: Duration = Duration::from_secs(15);

/// How long a spine or a training set may travel.
const BULK_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Pipelines somewhere else. Cheap to clone; connections are pooled.
#[derive(Clone, Debug)]
pub struct PipelinesClient {
    caller: Caller,
}

impl PipelinesClient {
    /// For the pipelines at `base`, for example `http://localhost:8083`. Connects when first used.
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
impl Pipelines for PipelinesClient {
    async fn training_set(&self, request: TrainingSetRequest) -> Result<Job, PipelinesError> {
        let spine = batch::encode(&request.spine_schema, &request.spine)
            .map_err(|error| PipelinesError::invalid(format!("the spine can't be sent: {error}")))?;
        let call = self
            .caller
            .request(Method::POST, "/v1/training-sets")
            .timeout(BULK_TIMEOUT)
            .query(&request.options)
            .header(header::CONTENT_TYPE, batch::MEDIA_TYPE)
            .body(spine);
        self.caller.json(call).await
    }

    async fn materialize(&self, request: MaterializeRequest) -> Result<Job, PipelinesError> {
        self.caller.post("/v1/materializations", &request).await
    }

    async fn jobs(&self) -> Result<Vec<Job>, PipelinesError> {
        self.caller.get("/v1/jobs").await
    }

    async fn job(&self, id: &str, seen_revision: Option<u64>, wait: Duration) -> Result<Job, PipelinesError> {
        let wait = wait.min(MAX_WAIT);
        let mut query = vec![("wait_ms", wait.as_millis().to_string())];
        query.extend(seen_revision.map(|revision| ("seen_revision", revision.to_string())));
        let call = self
            .caller
            .request(Method::GET, &format!("/v1/jobs/{}", encode_segment(id)))
            .query(&query);
        self.caller.json(call.timeout(wait.saturating_add(POLL_MARGIN))).await
    }

    async fn result(&self, id: &str) -> Result<JobResult, PipelinesError> {
        let path = format!("/v1/jobs/{}/result", encode_segment(id));
        let bytes = self
            .caller
            .bytes(self.caller.request(Method::GET, &path).timeout(BULK_TIMEOUT))
            .await?;
        let (schema, batches) = batch::decode(&bytes).map_err(|error| {
            PipelinesError::unavailable(format!("{} answered outside its contract: {error}", self.caller.base()))
        })?;
        Ok(JobResult { schema, batches })
    }

    async fn cancel(&self, id: &str) -> Result<Job, PipelinesError> {
        self.caller
            .json(
                self.caller
                    .request(Method::POST, &format!("/v1/jobs/{}:cancel", encode_segment(id))),
            )
            .await
    }
}
