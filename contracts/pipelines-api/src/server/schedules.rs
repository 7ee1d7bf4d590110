//! The routes of schedules.

use super::{Id, Service};
use crate::error::PipelinesError;
use crate::wire::{Schedule, ScheduleRequest};
use axum::extract::State;
use axum::response::Response;
use ondol_wire::responses::{BadRequest, Conflict, Internal, NotFound, Unavailable};
use ondol_wire::{JsonBody, Segment, answer};

/// Keep a schedule
///
/// A run that is missed (because nothing ran, or the job before it had not ended) is made up for once, however many were
/// missed. Two jobs of one schedule never run at once.
#[utoipa::path(
    post, path = "/v1/schedules", tag = "schedules", operation_id = "createSchedule",
    request_body(content = ScheduleRequest, example = json!({"name": "nightly", "cron": "30 3 * * *", "zone": "Asia/Seoul", "request": {"kind": "materialize", "source": "merchants"}})),
    responses(
        (status = 200, description = "The schedule.", body = Schedule),
        BadRequest, NotFound, Conflict, Internal, Unavailable
    )
)]
pub(super) async fn create(
    State(pipelines): State<Service>,
    JsonBody(request, _): JsonBody<ScheduleRequest, PipelinesError>,
) -> Response {
    answer(pipelines.create_schedule(request).await)
}

/// Schedules, by name
#[utoipa::path(
    get, path = "/v1/schedules", tag = "schedules", operation_id = "schedules",
    responses((status = 200, description = "All of them.", body = Vec<Schedule>), Internal, Unavailable)
)]
pub(super) async fn list(State(pipelines): State<Service>) -> Response {
    answer(pipelines.schedules().await)
}

/// One schedule
#[utoipa::path(
    get, path = "/v1/schedules/{name}", tag = "schedules", operation_id = "schedule",
    params(("name" = String, Path, description = "The schedule's name.", example = "nightly")),
    responses((status = 200, description = "Where it stands.", body = Schedule), NotFound, Internal, Unavailable)
)]
pub(super) async fn schedule(State(pipelines): State<Service>, Segment(name, _): Id) -> Response {
    answer(pipelines.schedule(&name).await)
}

/// Operations on a schedule: its verbs share a route.
pub(super) async fn verb(state: State<Service>, segment: Id) -> Response {
    match segment.verb(&["pause", "resume"]) {
        Ok((name, "pause")) => pause(state, name).await,
        Ok((name, _)) => resume(state, name).await,
        Err(unknown) => unknown,
    }
}

/// Let a schedule rest
#[utoipa::path(
    post, path = "/v1/schedules/{name}:pause", tag = "schedules", operation_id = "pauseSchedule",
    params(("name" = String, Path, description = "The schedule's name.", example = "nightly")),
    responses((status = 200, description = "Where it stands.", body = Schedule), NotFound, Internal, Unavailable)
)]
async fn pause(State(pipelines): State<Service>, name: &str) -> Response {
    answer(pipelines.pause_schedule(name, true).await)
}

/// Let a schedule go on
///
/// What fell due while it rested is not made up for.
#[utoipa::path(
    post, path = "/v1/schedules/{name}:resume", tag = "schedules", operation_id = "resumeSchedule",
    params(("name" = String, Path, description = "The schedule's name.", example = "nightly")),
    responses((status = 200, description = "Where it stands.", body = Schedule), NotFound, Internal, Unavailable)
)]
async fn resume(State(pipelines): State<Service>, name: &str) -> Response {
    answer(pipelines.pause_schedule(name, false).await)
}

/// Remove a schedule
///
/// Its jobs stay.
#[utoipa::path(
    delete, path = "/v1/schedules/{name}", tag = "schedules", operation_id = "removeSchedule",
    params(("name" = String, Path, description = "The schedule's name.", example = "nightly")),
    responses((status = 200, description = "The schedule as it was.", body = Schedule), NotFound, Internal, Unavailable)
)]
pub(super) async fn remove(State(pipelines): State<Service>, Segment(name, _): Id) -> Response {
    answer(pipelines.remove_schedule(&name).await)
}
