//! The routes of decisions looked back on: old vectors scored anew, and outcomes.

use crate::error::ModelGatewayError;
use crate::service::ModelGateway;
use crate::wire::{OutcomeReceipt, OutcomeRequest, ScoreRequest, VectorScores};
use axum::extract::State;
use axum::response::Response;
use ondol_wire::responses::{
    BadGateway, BadRequest, GatewayTimeout, InsufficientStorage, Internal, NotFound, TooManyRequests, Unavailable,
};
use ondol_wire::{JsonBody, answer};
use std::sync::Arc;
use utoipa::OpenApi;

type Service = Arc<dyn ModelGateway>;
type Body<T> = JsonBody<T, ModelGatewayError>;

/// The part of the OpenAPI document that is here.
pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[derive(OpenApi)]
#[openapi(
    tags((name = "decisions", description = "What was predicted, looked back on: replay and outcomes.")),
    paths(score, outcome)
)]
struct Document;

/// Score vectors as they are
///
/// Looks nothing up and records nothing: for the replay of a recorded decision, whose exact vector is in the decision log,
/// by the version that made it or by another.
#[utoipa::path(
    post, path = "/v1/models/{model}:score", tag = "decisions", operation_id = "scoreVectors",
    params(("model" = String, Path, description = "`fraud@3` for a version, `fraud` for the one that serves.", example = "fraud@3")),
    request_body(content = ScoreRequest, example = json!({"vectors": [{"card.n_1h": 7, "amount": 120, "derived.ratio": null}]})),
    responses(
        (status = 200, description = "One prediction per vector, in their order.", body = VectorScores),
        BadRequest, NotFound, TooManyRequests, Internal, BadGateway, Unavailable, GatewayTimeout, InsufficientStorage
    )
)]
pub(crate) async fn score(
    State(gateway): State<Service>,
    model: &str,
    JsonBody(request, _): Body<ScoreRequest>,
) -> Response {
    answer(gateway.score(model, request).await)
}

/// Record what became of a prediction
///
/// Joined with its decision by request id, in the offline table `outcomes`. Durable when it is answered; sent again, it is
/// recorded again, and the latest counts.
#[utoipa::path(
    post, path = "/v1/models/{model}:outcome", tag = "decisions", operation_id = "recordOutcome",
    params(("model" = String, Path, description = "The model's name.", example = "fraud")),
    request_body(content = OutcomeRequest, example = json!({"request_id": "01JD6Z0S8N6J2V4Y7T3Q5W9XKB", "outcome": true, "at": "2026-11-28T09:00:00Z"})),
    responses(
        (status = 200, description = "Recorded.", body = OutcomeReceipt),
        BadRequest, NotFound, Internal, Unavailable
    )
)]
pub(crate) async fn outcome(
    State(gateway): State<Service>,
    model: &str,
    JsonBody(request, _): Body<OutcomeRequest>,
) -> Response {
    answer(gateway.outcome(model, request).await)
}
