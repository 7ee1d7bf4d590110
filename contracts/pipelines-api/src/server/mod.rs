//! Serves any [`Pipelines`] over HTTP, and describes that in an OpenAPI document.

mod events;
mod jobs;
mod key;
mod schedules;
mod statistics;

use crate::error::PipelinesError;
use crate::rows;
use crate::service::Pipelines;
use crate::wire::{
    BackfillOutcome, Job, Manifest, MaterializeOutcome, StatisticsOutcome, TrainingSetOptions, TrainingSetRequest,
};
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::Response;
use axum::routing::{get, post};
use key::Key;
use ondol_wire::responses::{
    BadRequest, Conflict, Internal, NotFound, Octets, TooManyRequests, Unavailable, Unprocessable,
};
use ondol_wire::{ArrowBody, Problem, Query, Segment, answer, problem};
use std::sync::Arc;
use std::time::Duration;
use utoipa::OpenApi;

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
        .route("/v1/materializations", post(jobs::materialize))
        .route("/v1/jobs", get(jobs::list).post(jobs::submit))
        .route("/v1/jobs/{id}", get(jobs::job).post(jobs::verb))
        .route("/v1/jobs/{id}/events", get(events::events))
        .route("/v1/jobs/{id}/result", get(result))
        .route("/v1/schedules", get(schedules::list).post(schedules::create))
        .route(
            "/v1/schedules/{name}",
            get(schedules::schedule).post(schedules::verb).delete(schedules::remove),
        )
        .route("/v1/jobs/{id}/statistics", get(statistics::of_result))
        .route("/v1/sources/{source}/statistics", get(statistics::statistics))
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
        description = "Jobs over history: training sets, materialization and upkeep, now or on a schedule.\n\nErrors are RFC 9457 problems with a \
                       stable `code`; `retryable` says whether the same call may succeed later.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        version = env!("CARGO_PKG_VERSION")
    ),
    tags(
        (name = "jobs", description = "Training sets, materialization and upkeep, and the jobs that do them."),
        (name = "schedules", description = "Jobs that are submitted again and again."),
        (name = "statistics", description = "What the columns of a source come to."),
        (name = "sql", description = "Queries over the offline tables.")
    ),
    paths(
        training_set, result, jobs::submit, jobs::materialize, jobs::list, jobs::job, jobs::cancel, jobs::retry,
        events::events, schedules::create, schedules::list, schedules::schedule, schedules::pause, schedules::resume,
        schedules::remove, statistics::statistics, crate::sql::server::sql
    ),
    components(schemas(Problem, Manifest, MaterializeOutcome, StatisticsOutcome, BackfillOutcome))
)]
struct Document;

/// Start a training set
///
/// The body is the spine as an Arrow IPC stream: a row per training row, with the model's inputs, the time column and
/// any extra columns such as the label. Columns, types and the model are checked before this answers; the job then
/// runs on. By default a row at `t` sees what had been ingested by `t` (`known-at`): what the model would have been
/// served.
///
/// With a manifest (JSON) in the schema's metadata under `ondol.manifest`, the training set it describes is made again
/// from the same spine: the same definitions, the same versions of the tables, the same rows. `time_column` and `as_of`
/// are then the manifest's.
#[utoipa::path(
    post, path = "/v1/training-sets", tag = "jobs", operation_id = "startTrainingSet",
    params(TrainingSetOptions, Key),
    request_body(content = Octets, content_type = "application/vnd.apache.arrow.stream"),
    responses(
        (status = 200, description = "The job.", body = Job, example = json!({"id": "01JD6Z0S8N6J2V4Y7T3Q5W9XKB", "kind": "training-set", "subject": "fraud", "state": "queued", "revision": 0, "attempt": 0, "stage": "waiting for its turn", "rows_done": 0, "rows_total": null, "rows_per_second": null, "eta_seconds": null, "created_at": "2026-11-21T09:00:00Z", "started_at": null, "ended_at": null, "error": null, "retry_of": null, "schedule": null, "outcome": null, "manifest": null})),
        BadRequest, NotFound, Unprocessable, TooManyRequests, Internal, Unavailable
    )
)]
async fn training_set(
    State(pipelines): State<Service>,
    Query(options, _): Query<TrainingSetOptions, PipelinesError>,
    key: Key,
    ArrowBody(spine_schema, spine, _): ArrowBody<PipelinesError>,
) -> Response {
    let request = TrainingSetRequest {
        options,
        spine_schema,
        spine,
    };
    answer(pipelines.submit_training_set(request, key.0).await)
}

/// The rows of a finished training set
///
/// An Arrow IPC stream, sent as it is read: the spine's columns, then the feature vector, in the spine's order. Kept for
/// an hour after the job's end. A body that ends before the stream's end mark is incomplete.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/result", tag = "jobs", operation_id = "jobResult",
    params(("id" = String, Path, description = "The job's id.", example = "01JD6Z0S8N6J2V4Y7T3Q5W9XKB")),
    responses(
        (status = 200, description = "The rows.", body = Octets, content_type = "application/vnd.apache.arrow.stream"),
        NotFound, Conflict, Internal, Unavailable
    )
)]
async fn result(State(pipelines): State<Service>, Segment(id, _): Id) -> Response {
    match pipelines.rows(&id).await {
        Ok(rows) => rows::respond(rows),
        Err(error) => problem::respond(&error),
    }
}
