//! Serves any [`Ingest`] over HTTP, and describes that in an OpenAPI document.

use crate::error::IngestError;
use crate::service::Ingest;
use crate::wire::{DeadLetter, DeadLetterQuery, PushReceipt, PushRequest, SourceStatus};
use axum::Router;
use axum::extract::{FromRequest, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::header;
use ondol_wire::body::read_body;
use ondol_wire::responses::{BadRequest, Internal, NotFound, TooManyRequests, Unavailable};
use ondol_wire::{ContractError, JsonBody, Problem, Query, Segment, answer, problem};
use serde_json::value::RawValue;
use std::sync::Arc;
use utoipa::OpenApi;

/// The media type of events as one JSON object a line.
pub const NDJSON: &str = "application/x-ndjson";

type Service = Arc<dyn Ingest>;
type Name = Segment<IngestError>;

/// The routes of `ingest`.
pub fn router(ingest: Service) -> Router {
    Router::new()
        .route("/v1/sources", get(status))
        .route("/v1/sources/{source}/events", post(push))
        .route("/v1/sources/{source}/dead-letters", get(dead_letters))
        .with_state(ingest)
}

/// The OpenAPI 3.1 document of [`router`].
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ondol ingest",
        description = "Brings events of stream sources into the feature store.\n\nErrors are RFC 9457 problems with a \
                       stable `code`; `retryable` says whether the same call may succeed later.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        version = env!("CARGO_PKG_VERSION")
    ),
    tags((name = "events", description = "Events pushed over HTTP, where each stream stands, and dead letters.")),
    paths(push, status, dead_letters),
    components(schemas(Problem))
)]
struct Document;

/// Push events to a source's stream
///
/// Each event is appended to the source's topic as it is, byte for byte, and goes the way of every other event of that
/// topic. When this answers, the stream has the events durably; a bad one becomes a dead letter further on. The body
/// is `{"events": […]}`, or one JSON object a line.
#[utoipa::path(
    post, path = "/v1/sources/{source}/events", tag = "events", operation_id = "pushEvents",
    params(("source" = String, Path, description = "The source's name.", example = "transactions")),
    request_body(content(
        (PushRequest = "application/json", example = json!({"events": [{"txn_id": "t1", "card_id": "c1", "merchant_id": "m9", "amount": 120.0, "declined": false, "ts": "2026-11-21T09:00:00Z"}]})),
        (String = "application/x-ndjson", example = "{\"txn_id\": \"t1\", \"card_id\": \"c1\", \"amount\": 120.0, \"ts\": \"2026-11-21T09:00:00Z\"}\n{\"txn_id\": \"t2\", \"card_id\": \"c2\", \"amount\": 7.5, \"ts\": \"2026-11-21T09:00:01Z\"}\n")
    )),
    responses(
        (status = 200, description = "The last position written in each partition that took events.", body = PushReceipt, example = json!({"positions": [{"partition": 0, "offset": 42}]})),
        BadRequest, NotFound, TooManyRequests, Internal, Unavailable
    )
)]
async fn push(State(ingest): State<Service>, Segment(source, _): Name, request: Request) -> Response {
    match events_of(request).await {
        Ok(request) => answer(ingest.push(&source, request).await),
        Err(refused) => refused,
    }
}

async fn events_of(request: Request) -> Result<PushRequest, Response> {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    if content_type.is_some_and(|value| value.starts_with(NDJSON)) {
        let bytes = read_body::<IngestError, ()>(request, &()).await?;
        return lines(&bytes).map_err(|error| problem::respond(&error));
    }
    let JsonBody(request, _) = JsonBody::<PushRequest, IngestError>::from_request(request, &()).await?;
    Ok(request)
}

/// One event a line; blank lines are nothing.
fn lines(bytes: &[u8]) -> Result<PushRequest, IngestError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| IngestError::invalid(format!("the request body is not UTF-8: {error}")))?;
    let event = |(index, line): (usize, &str)| {
        serde_json::from_str::<Box<RawValue>>(line)
            .map_err(|error| IngestError::invalid(format!("line {} is not one JSON value: {error}", index + 1)))
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    Ok(PushRequest {
        events: lines.map(event).collect::<Result<_, _>>()?,
    })
}

/// Where each stream source stands
///
/// Positions per partition, counts since the worker started, and what stops a source, if anything does.
#[utoipa::path(
    get, path = "/v1/sources", tag = "events", operation_id = "sourceStatus",
    responses(
        (status = 200, description = "One per stream source.", body = Vec<SourceStatus>, example = json!([{"source": "transactions", "topic": "transactions", "partitions": [{"partition": 0, "delivered": 42500, "durable": 42000, "end": 42500}], "events": 42500, "dead_letters": 3, "watermark": "2026-11-21T09:00:00Z", "error": null}])),
        Internal, Unavailable
    )
)]
async fn status(State(ingest): State<Service>) -> Response {
    answer(ingest.status().await)
}

/// The newest dead letters of a source
///
/// Events that could not be taken, newest first, with the reason and the original bytes.
#[utoipa::path(
    get, path = "/v1/sources/{source}/dead-letters", tag = "events", operation_id = "deadLetters",
    params(("source" = String, Path, description = "The source's name.", example = "transactions"), DeadLetterQuery),
    responses(
        (status = 200, description = "Newest first.", body = Vec<DeadLetter>, example = json!([{"source": "transactions", "position": {"partition": 0, "offset": 17}, "reason": "wrong-type", "detail": "`amount` is \"12,5\", not an f64", "at": "2026-11-21T09:00:00Z", "payload_base64": "eyJhbW91bnQiOiIxMiw1In0="}])),
        BadRequest, NotFound, Internal, Unavailable
    )
)]
async fn dead_letters(
    State(ingest): State<Service>,
    Segment(source, _): Name,
    Query(query, _): Query<DeadLetterQuery, IngestError>,
) -> Response {
    answer(ingest.dead_letters(&source, query).await)
}
