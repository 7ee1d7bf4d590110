//! Serves any [`Pipelines`] over HTTP, and describes that in an OpenAPI document.

use crate::error::PipelinesError;
use crate::service::Pipelines;
use crate::wire::{Job, Manifest, MaterializeRequest, TrainingSetOptions, TrainingSetRequest};
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use ondol_vocabulary::batch;
use ondol_wire::responses::{
    BadRequest, Conflict, Internal, NotFound, Octets, TooManyRequests, Unavailable, Unprocessable,
};
use ondol_wire::{ArrowBody, ArrowStream, JsonBody, Problem, Query, Segment, answer, problem};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::{IntoParams, OpenApi};

/// The longest a long poll is held; a caller that wants more polls again.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// How large a spine may be.
pub const SPINE_LIMIT_BYTES: usize = 1 << 30;

type Service = Arc<dyn Pipelines>;
type Id = Segment<PipelinesError>;

/// The routes of `pipelines`.
pub fn router(pipelines: Service) -> Router {
    Router::new()
        .route(
            "/v1/training-sets",
            post(training_set).layer(DefaultBodyLimit::max(SPINE_LIMIT_BYTES)),
        )
        .route("/v1/materializations", post(materialize))
        .route("/v1/jobs", get(jobs))
        .route("/v1/jobs/{id}", get(job).post(job_verb))
        .route("/v1/jobs/{id}/result", get(result))
        .with_state(pipelines)
}

/// The OpenAPI 3.1 document of [`router`].
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ondol pipelines",
        description = "Jobs over history: training sets and materialization.\n\nErrors are RFC 9457 problems with a \
                       stable `code`; `retryable` says whether the same call may succeed later.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        version = env!("CARGO_PKG_VERSION")
    ),
    tags((name = "jobs", description = "Training sets, materialization, and the jobs that make them.")),
    paths(training_set, materialize, jobs, job, result, cancel),
    components(schemas(Problem, Manifest))
)]
struct Document;

/// Start a training set
///
/// The body is the spine as an Arrow IPC stream: a row per training row, with the model's inputs, the time column and
/// any extra columns such as the label. Columns, types and the model are checked before this answers; the job then
/// runs on. By default a row at `t` sees what had been ingested by `t` (`known-at`): what the model would have been
/// served.
#[utoipa::path(
    post, path = "/v1/training-sets", tag = "jobs", operation_id = "startTrainingSet",
    params(TrainingSetOptions),
    request_body(content = Octets, content_type = "application/vnd.apache.arrow.stream"),
    responses(
        (status = 200, description = "The job.", body = Job, example = json!({"id": "01JD6Z0S8N6J2V4Y7T3Q5W9XKB", "kind": "training-set", "subject": "fraud", "state": "queued", "revision": 0, "stage": "waiting", "rows_done": 0, "rows_total": 1000000, "created_at": "2026-11-21T09:00:00Z", "ended_at": null, "error": null, "manifest": null})),
        BadRequest, NotFound, Unprocessable, TooManyRequests, Internal, Unavailable
    )
)]
async fn training_set(
    State(pipelines): State<Service>,
    Query(options, _): Query<TrainingSetOptions, PipelinesError>,
    ArrowBody(spine_schema, spine, _): ArrowBody<PipelinesError>,
) -> Response {
    answer(
        pipelines
            .training_set(TrainingSetRequest {
                options,
                spine_schema,
                spine,
            })
            .await,
    )
}

/// Start bringing a batch source's latest rows online
#[utoipa::path(
    post, path = "/v1/materializations", tag = "jobs", operation_id = "startMaterialization",
    request_body(content = MaterializeRequest, example = json!({"source": "merchants"})),
    responses(
        (status = 200, description = "The job.", body = Job),
        BadRequest, NotFound, TooManyRequests, Internal, Unavailable
    )
)]
async fn materialize(
    State(pipelines): State<Service>,
    JsonBody(request, _): JsonBody<MaterializeRequest, PipelinesError>,
) -> Response {
    answer(pipelines.materialize(request).await)
}

/// Jobs, newest first
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs", operation_id = "jobs",
    responses((status = 200, description = "Newest first.", body = Vec<Job>), Internal, Unavailable)
)]
async fn jobs(State(pipelines): State<Service>) -> Response {
    answer(pipelines.jobs().await)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct JobQuery {
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
    params(("id" = String, Path, description = "The job's id.", example = "01JD6Z0S8N6J2V4Y7T3Q5W9XKB"), JobQuery),
    responses((status = 200, description = "Where it stands.", body = Job), BadRequest, NotFound, Internal, Unavailable)
)]
async fn job(
    State(pipelines): State<Service>,
    Segment(id, _): Id,
    Query(query, _): Query<JobQuery, PipelinesError>,
) -> Response {
    let wait = Duration::from_millis(query.wait_ms).min(MAX_WAIT);
    answer(pipelines.job(&id, query.seen_revision, wait).await)
}

/// The rows of a finished training set
///
/// An Arrow IPC stream: the spine's columns, then the feature vector, in the spine's order. Kept for an hour after the
/// job's end.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/result", tag = "jobs", operation_id = "jobResult",
    params(("id" = String, Path, description = "The job's id.", example = "01JD6Z0S8N6J2V4Y7T3Q5W9XKB")),
    responses(
        (status = 200, description = "The rows.", body = Octets, content_type = "application/vnd.apache.arrow.stream"),
        NotFound, Conflict, Internal, Unavailable
    )
)]
async fn result(State(pipelines): State<Service>, Segment(id, _): Id) -> Response {
    let rows = match pipelines.result(&id).await {
        Ok(rows) => rows,
        Err(error) => return problem::respond(&error),
    };
    match batch::encode(&rows.schema, &rows.batches) {
        Ok(bytes) => ArrowStream(bytes).into_response(),
        Err(error) => problem::respond(&PipelinesError::Internal {
            detail: error.to_string(),
        }),
    }
}

/// Operations on a job: its verbs share a route.
async fn job_verb(state: State<Service>, segment: Id) -> Response {
    match segment.verb(&["cancel"]) {
        Ok((id, _)) => cancel(state, id).await,
        Err(unknown) => unknown,
    }
}

/// Ask a job to stop
///
/// It ends as `cancelled` at its next batch.
#[utoipa::path(
    post, path = "/v1/jobs/{id}:cancel", tag = "jobs", operation_id = "cancelJob",
    params(("id" = String, Path, description = "The job's id.", example = "01JD6Z0S8N6J2V4Y7T3Q5W9XKB")),
    responses((status = 200, description = "Where it stands.", body = Job), NotFound, Internal, Unavailable)
)]
async fn cancel(State(pipelines): State<Service>, id: &str) -> Response {
    answer(pipelines.cancel(id).await)
}
