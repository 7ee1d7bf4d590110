//! The routes of jobs.

use super::{Id, MAX_WAIT, Service};
use crate::error::PipelinesError;
use crate::server::key::Key;
use crate::wire::{Job, JobPage, JobQuery, JobRequest, MaterializeRequest};
use axum::extract::State;
use axum::response::Response;
use ondol_wire::responses::{BadRequest, Conflict, Internal, NotFound, TooManyRequests, Unavailable, Unprocessable};
use ondol_wire::{JsonBody, Query, Segment, answer};
use serde::Deserialize;
use std::time::Duration;
use utoipa::IntoParams;

/// Start a job
///
/// Of any kind but a training set, which has a route of its own.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs", operation_id = "submitJob",
    params(Key),
    request_body(content = JobRequest, example = json!({"kind": "materialize", "source": "merchants"})),
    responses(
        (status = 200, description = "The job.", body = Job),
        BadRequest, NotFound, Unprocessable, TooManyRequests, Internal, Unavailable
    )
)]
pub(super) async fn submit(
    State(pipelines): State<Service>,
    key: Key,
    JsonBody(request, _): JsonBody<JobRequest, PipelinesError>,
) -> Response {
    answer(pipelines.submit(request, key.0).await)
}

/// Start bringing a batch source's latest rows online
#[utoipa::path(
    post, path = "/v1/materializations", tag = "jobs", operation_id = "startMaterialization",
    params(Key),
    request_body(content = MaterializeRequest, example = json!({"source": "merchants"})),
    responses(
        (status = 200, description = "The job.", body = Job),
        BadRequest, NotFound, Unprocessable, TooManyRequests, Internal, Unavailable
    )
)]
pub(super) async fn materialize(
    State(pipelines): State<Service>,
    key: Key,
    JsonBody(request, _): JsonBody<MaterializeRequest, PipelinesError>,
) -> Response {
    answer(pipelines.submit(JobRequest::Materialize(request), key.0).await)
}

/// Jobs, newest first
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs", operation_id = "jobs",
    params(JobQuery),
    responses(
        (status = 200, description = "One page, newest first.", body = JobPage),
        BadRequest, Internal, Unavailable
    )
)]
pub(super) async fn list(
    State(pipelines): State<Service>,
    Query(query, _): Query<JobQuery, PipelinesError>,
) -> Response {
    answer(pipelines.jobs(query).await)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wait {
    /// Wait until the job's revision differs from this one. Without it any wait ends with the next change.
    seen_revision: Option<u64>,
    /// Wait at most this long, in milliseconds; at most 60,000. Without it the answer comes at once.
    #[serde(default)]
    wait_ms: u64,
}

/// One job
///
/// With `wait_ms` a long poll: answers when state or progress has changed since `seen_revision`, or when the wait is
/// over.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "job",
    params(("id" = String, Path, description = "The job's id.", example = "01JD6Z0S8N6J2V4Y7T3Q5W9XKB"), Wait),
    responses((status = 200, description = "Where it stands.", body = Job), BadRequest, NotFound, Internal, Unavailable)
)]
pub(super) async fn job(
    State(pipelines): State<Service>,
    Segment(id, _): Id,
    Query(query, _): Query<Wait, PipelinesError>,
) -> Response {
    let wait = Duration::from_millis(query.wait_ms).min(MAX_WAIT);
    answer(pipelines.job(&id, query.seen_revision, wait).await)
}

/// Operations on a job: its verbs share a route.
pub(super) async fn verb(state: State<Service>, segment: Id, key: Key) -> Response {
    match segment.verb(&["cancel", "retry"]) {
        Ok((id, "retry")) => retry(state, id, key).await,
        Ok((id, _)) => cancel(state, id).await,
        Err(unknown) => unknown,
    }
}

/// Ask a job to stop
///
/// It ends as `cancelled` at its next batch. One that has ended stays as it is. Of a backfill the feature store holds the
/// view version back until the job is retried; one that is being handed over to the stream can't be cancelled any more.
#[utoipa::path(
    post, path = "/v1/jobs/{id}:cancel", tag = "jobs", operation_id = "cancelJob",
    params(("id" = String, Path, description = "The job's id.", example = "01JD6Z0S8N6J2V4Y7T3Q5W9XKB")),
    responses((status = 200, description = "Where it stands.", body = Job), BadRequest, NotFound, Internal, Unavailable)
)]
async fn cancel(State(pipelines): State<Service>, id: &str) -> Response {
    answer(pipelines.cancel(id).await)
}

/// Submit the request of a job that has ended once more
///
/// The new job names the old one in `retry_of`. The spine of a training set is kept for 24 hours after the job's end
/// unless configured otherwise.
#[utoipa::path(
    post, path = "/v1/jobs/{id}:retry", tag = "jobs", operation_id = "retryJob",
    params(("id" = String, Path, description = "The job's id.", example = "01JD6Z0S8N6J2V4Y7T3Q5W9XKB"), Key),
    responses(
        (status = 200, description = "The new job.", body = Job),
        BadRequest, NotFound, Conflict, Unprocessable, TooManyRequests, Internal, Unavailable
    )
)]
async fn retry(State(pipelines): State<Service>, id: &str, key: Key) -> Response {
    answer(pipelines.retry(id, key.0).await)
}
