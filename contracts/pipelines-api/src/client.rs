//! The [`Pipelines`] that calls a [`router`](crate::server::router).

use crate::error::PipelinesError;
use crate::rows::{self, Rows};
use crate::server::MAX_WAIT;
use crate::service::Pipelines;
use crate::wire::{
    ColumnStatistics, IdempotencyKey, Job, JobPage, JobQuery, JobRequest, Schedule, ScheduleRequest, SourceStatistics,
    StatisticsQuery, TrainingSetRequest,
};
use async_trait::async_trait;
use http::{Method, header};
use ondol_vocabulary::batch;
use ondol_wire::path::encode_segment;
use ondol_wire::{Caller, ContractError, Credentials};
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

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// A call of `verb` on one of a collection.
    fn verb(&self, collection: &str, name: &str, verb: &str) -> reqwest::RequestBuilder {
        let path = format!("/v1/{collection}/{}:{verb}", encode_segment(name));
        self.caller.request(Method::POST, &path)
    }
}

#[async_trait]
impl Pipelines for PipelinesClient {
    async fn submit_training_set(
        &self,
        request: TrainingSetRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Job, PipelinesError> {
        let spine = batch::encode(&request.spine_schema, &request.spine)
            .map_err(|error| PipelinesError::invalid(format!("the spine can't be sent: {error}")))?;
        let call = self
            .caller
            .request(Method::POST, "/v1/training-sets")
            .timeout(BULK_TIMEOUT)
            .query(&request.options)
            .header(header::CONTENT_TYPE, batch::MEDIA_TYPE)
            .body(spine);
        self.caller.json(keyed(call, key)).await
    }

    async fn submit(&self, request: JobRequest, key: Option<IdempotencyKey>) -> Result<Job, PipelinesError> {
        let call = self.caller.request(Method::POST, "/v1/jobs").json(&request);
        self.caller.json(keyed(call, key)).await
    }

    async fn jobs(&self, query: JobQuery) -> Result<JobPage, PipelinesError> {
        let call = self.caller.request(Method::GET, "/v1/jobs").query(&query);
        self.caller.json(call).await
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

    async fn rows(&self, id: &str) -> Result<Rows, PipelinesError> {
        let path = format!("/v1/jobs/{}/result", encode_segment(id));
        let call = self.caller.request(Method::GET, &path).timeout(BULK_TIMEOUT);
        let response = self.caller.response::<PipelinesError>(call).await?;
        rows::receive(response, self.caller.base().to_string()).await
    }

    async fn cancel(&self, id: &str) -> Result<Job, PipelinesError> {
        self.caller.json(self.verb("jobs", id, "cancel")).await
    }

    async fn retry(&self, id: &str, key: Option<IdempotencyKey>) -> Result<Job, PipelinesError> {
        self.caller.json(keyed(self.verb("jobs", id, "retry"), key)).await
    }

    async fn create_schedule(&self, request: ScheduleRequest) -> Result<Schedule, PipelinesError> {
        self.caller.post("/v1/schedules", &request).await
    }

    async fn schedules(&self) -> Result<Vec<Schedule>, PipelinesError> {
        self.caller.get("/v1/schedules").await
    }

    async fn schedule(&self, name: &str) -> Result<Schedule, PipelinesError> {
        self.caller
            .get(&format!("/v1/schedules/{}", encode_segment(name)))
            .await
    }

    async fn pause_schedule(&self, name: &str, paused: bool) -> Result<Schedule, PipelinesError> {
        let verb = if paused { "pause" } else { "resume" };
        self.caller.json(self.verb("schedules", name, verb)).await
    }

    async fn remove_schedule(&self, name: &str) -> Result<Schedule, PipelinesError> {
        let path = format!("/v1/schedules/{}", encode_segment(name));
        self.caller.json(self.caller.request(Method::DELETE, &path)).await
    }

    async fn statistics(&self, source: &str, query: StatisticsQuery) -> Result<SourceStatistics, PipelinesError> {
        let path = format!("/v1/sources/{}/statistics", encode_segment(source));
        self.caller
            .json(self.caller.request(Method::GET, &path).query(&query))
            .await
    }

    async fn result_statistics(&self, id: &str) -> Result<Vec<ColumnStatistics>, PipelinesError> {
        let path = format!("/v1/jobs/{}/statistics", encode_segment(id));
        let call = self.caller.request(Method::GET, &path).timeout(BULK_TIMEOUT);
        self.caller.json(call).await
    }
}

/// `call` under `key`, if there is one.
fn keyed(call: reqwest::RequestBuilder, key: Option<IdempotencyKey>) -> reqwest::RequestBuilder {
    match key {
        Some(key) => call.header(IdempotencyKey::HEADER, key.as_str()),
        None => call,
    }
}
