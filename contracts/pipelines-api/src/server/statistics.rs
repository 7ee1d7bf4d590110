//! The route of statistics.

use super::{Id, Service};
use crate::error::PipelinesError;
use crate::wire::{ColumnStatistics, SourceStatistics, StatisticsQuery};
use axum::extract::State;
use axum::response::Response;
use ondol_wire::responses::{BadRequest, Conflict, Internal, NotFound, Unavailable};
use ondol_wire::{Query, Segment, answer};

/// Statistics of a source
///
/// What its columns come to over a range of event dates, as a `statistics` job last computed them: merged from a part for
/// each date, so that any range is as exact as one pass over its rows. `no-result` until a job has.
#[utoipa::path(
    get, path = "/v1/sources/{source}/statistics", tag = "statistics", operation_id = "sourceStatistics",
    params(("source" = String, Path, description = "The source's name.", example = "transactions"), StatisticsQuery),
    responses(
        (status = 200, description = "The statistics.", body = SourceStatistics),
        BadRequest, NotFound, Conflict, Internal, Unavailable
    )
)]
pub(super) async fn statistics(
    State(pipelines): State<Service>,
    Segment(name, _): Id,
    Query(query, _): Query<StatisticsQuery, PipelinesError>,
) -> Response {
    answer(pipelines.statistics(&name, query).await)
}

/// Statistics of a training set
///
/// What the columns of a finished training set come to, the spine's and the features': to compare with what is served
/// later. Kept as long as its rows are.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/statistics", tag = "statistics", operation_id = "jobStatistics",
    params(("id" = String, Path, description = "The job's id.", example = "01JD6Z0S8N6J2V4Y7T3Q5W9XKB")),
    responses(
        (status = 200, description = "By column, in the rows' order.", body = Vec<ColumnStatistics>),
        NotFound, Conflict, Internal, Unavailable
    )
)]
pub(super) async fn of_result(State(pipelines): State<Service>, Segment(id, _): Id) -> Response {
    answer(pipelines.result_statistics(&id).await)
}
