//! The routes of a model's routing. A revision travels as an entity tag: `ETag` of an answer, `If-Match` of a change.

use crate::error::ModelGatewayError;
use crate::service::ModelGateway;
use crate::wire::{
    AccessMode, CallerIdentity, PromoteRequest, Remark, RollbackRequest, Routing, RoutingChange, RoutingReport,
    RoutingRevision,
};
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use http::{HeaderMap, HeaderValue, header};
use ondol_wire::responses::{
    BadGateway, BadRequest, Conflict, GatewayTimeout, InsufficientStorage, Internal, NotFound, Unavailable,
};
use ondol_wire::{ContractError as _, JsonBody, Query, Segment, answer, problem};
use std::sync::Arc;
use utoipa::OpenApi;

type Service = Arc<dyn ModelGateway>;
type Name = Segment<ModelGatewayError>;
type Body<T> = JsonBody<T, ModelGatewayError>;

/// The routes that have a path of their own; `:promote` and `:rollback` are among the model's verbs.
pub(crate) fn routes() -> Router<Service> {
    Router::new()
        .route("/v1/models/{model}/routing", get(routing).put(set_routing))
        .route("/v1/models/{model}/routing/history", get(history))
        .route("/v1/models/{model}/shadow", get(report))
}

/// Their part of the OpenAPI document.
pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[derive(OpenApi)]
#[openapi(paths(routing, history, set_routing, promote, rollback, report))]
struct Document;

/// Who changes something: what authentication says, or else what the caller says of itself.
fn author(caller: Option<&CallerIdentity>, said: Option<String>) -> Option<String> {
    let known = caller.filter(|caller| caller.access != AccessMode::Off);
    known.map(|caller| caller.who.clone()).or(said)
}

fn tagged(outcome: Result<RoutingRevision, ModelGatewayError>) -> Response {
    let revision = outcome.as_ref().ok().map(|found| found.revision);
    let mut response = answer(outcome);
    if let Some(tag) = revision.and_then(|revision| HeaderValue::from_str(&format!("\"{revision}\"")).ok()) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// The revision that `If-Match` names; `*` and no header name none.
fn expected(headers: &HeaderMap) -> Result<Option<u64>, ModelGatewayError> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    text.trim_matches('"').parse().map(Some).map_err(|_| {
        let detail = format!("header `If-Match` is `{text}`: send the revision that was read, such as `\"3\"`");
        ModelGatewayError::invalid(detail)
    })
}

/// How a model's requests find their version
///
/// The routing in force, its revision (also as `ETag`) and where requests go by it.
#[utoipa::path(
    get, path = "/v1/models/{model}/routing", tag = "routing", operation_id = "routing",
    params(("model" = String, Path, description = "The model's name.", example = "fraud")),
    responses(
        (status = 200, description = "The routing in force; revision 0 when nothing has been set.", body = RoutingRevision),
        NotFound, Internal, Unavailable
    )
)]
async fn routing(State(gateway): State<Service>, name: Name) -> Response {
    tagged(gateway.routing(&name.0).await)
}

/// Every revision of a model's routing, newest first
#[utoipa::path(
    get, path = "/v1/models/{model}/routing/history", tag = "routing", operation_id = "routingHistory",
    params(("model" = String, Path, description = "The model's name.", example = "fraud")),
    responses(
        (status = 200, description = "Who changed what, when and why.", body = Vec<RoutingRevision>),
        NotFound, Internal, Unavailable
    )
)]
async fn history(State(gateway): State<Service>, name: Name) -> Response {
    answer(gateway.routing_history(&name.0).await)
}

/// Replace a model's routing
///
/// Takes effect at once, on other replicas within `catalog_refresh_ms`. With `If-Match` it is refused when another
/// revision has come between.
#[utoipa::path(
    put, path = "/v1/models/{model}/routing", tag = "routing", operation_id = "setRouting",
    params(
        ("model" = String, Path, description = "The model's name.", example = "fraud"),
        ("If-Match" = Option<String>, Header, description = "The revision the change was made from."),
        ("by" = Option<String>, Query, description = "Who changes it."),
        ("note" = Option<String>, Query, description = "Why."),
    ),
    request_body(content = Routing, example = json!({"aliases": {"champion": 3, "canary": 4}, "split": [{"to": "champion", "percent": 95}, {"to": "canary", "percent": 5}], "rules": [{"name": "large", "when": "amount > 1000", "to": "champion"}], "shadow": [{"version": 5, "flip_at": 0.5}], "limits": {"min_requests": 1000, "max_error_rate": 0.001, "max_p99_ms": 5, "max_flip_rate": 0.01}})),
    responses(
        (status = 200, description = "The new revision.", body = RoutingRevision),
        BadRequest, NotFound, Conflict, Internal, BadGateway, Unavailable, GatewayTimeout, InsufficientStorage
    )
)]
async fn set_routing(
    State(gateway): State<Service>,
    name: Name,
    headers: HeaderMap,
    remark: Query<Remark, ModelGatewayError>,
    caller: Option<Extension<CallerIdentity>>,
    JsonBody(routing, _): Body<Routing>,
) -> Response {
    let expected_revision = match expected(&headers) {
        Ok(expected) => expected,
        Err(error) => return problem::respond(&error),
    };
    let change = RoutingChange {
        routing,
        expected_revision,
        remark: Remark {
            by: author(caller.as_deref(), remark.0.by),
            note: remark.0.note,
        },
    };
    tagged(gateway.set_routing(&name.0, change).await)
}

/// Make a version the champion
///
/// It must have been measured, as a canary or as a shadow, to keep the limits of the routing; what is not met is
/// answered with 409, a line each. `force` promotes all the same and is recorded.
#[utoipa::path(
    post, path = "/v1/models/{model}:promote", tag = "routing", operation_id = "promote",
    params(("model" = String, Path, description = "The model's name.", example = "fraud")),
    request_body(content = PromoteRequest, example = json!({"version": 4, "note": "a week without a flip"})),
    responses(
        (status = 200, description = "The new revision.", body = RoutingRevision),
        BadRequest, NotFound, Conflict, Internal, BadGateway, Unavailable, GatewayTimeout, InsufficientStorage
    )
)]
pub(crate) async fn promote(
    State(gateway): State<Service>,
    model: &str,
    caller: Option<CallerIdentity>,
    JsonBody(request, _): Body<PromoteRequest>,
) -> Response {
    let by = author(caller.as_ref(), request.by.clone());
    tagged(gateway.promote(model, PromoteRequest { by, ..request }).await)
}

/// Bring an earlier routing back
///
/// At once: versions stay loaded. Without `to_revision` the one before; repeated, further back.
#[utoipa::path(
    post, path = "/v1/models/{model}:rollback", tag = "routing", operation_id = "rollback",
    params(("model" = String, Path, description = "The model's name.", example = "fraud")),
    request_body(content = RollbackRequest, example = json!({"note": "too many declines"})),
    responses(
        (status = 200, description = "The new revision.", body = RoutingRevision),
        BadRequest, NotFound, Conflict, Internal, BadGateway, Unavailable, GatewayTimeout, InsufficientStorage
    )
)]
pub(crate) async fn rollback(
    State(gateway): State<Service>,
    model: &str,
    caller: Option<CallerIdentity>,
    JsonBody(request, _): Body<RollbackRequest>,
) -> Response {
    let by = author(caller.as_ref(), request.by.clone());
    tagged(gateway.rollback(model, RollbackRequest { by, ..request }).await)
}

/// What was measured of a model's versions
///
/// Of those that serve: requests, errors, latency. Of shadows: how far their scores are from the served ones, how many
/// decisions they would turn, errors, latency.
#[utoipa::path(
    get, path = "/v1/models/{model}/shadow", tag = "routing", operation_id = "shadow",
    params(("model" = String, Path, description = "The model's name.", example = "fraud")),
    responses(
        (status = 200, description = "The measurements since the routing made the versions run.", body = RoutingReport),
        NotFound, Internal, Unavailable
    )
)]
async fn report(State(gateway): State<Service>, name: Name) -> Response {
    answer(gateway.routing_report(&name.0).await)
}
