//! Serves any [`Ingest`] over HTTP, and describes that in an OpenAPI document.

use crate::error::IngestError;
use crate::service::Ingest;
use crate::wire::{
    DeadLetterPage, DeadLetterQuery, DeadLetterSummary, DiscardRequest, FixReceipt, FixRequest, HandledReceipt,
    PauseRequest, PushReceipt, PushRequest, ReplayRequest, SeekReceipt, SeekRequest, SourceStatus,
};
use axum::Router;
use axum::extract::{FromRequest, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::header;
use ondol_wire::body::read_body;
use ondol_wire::responses::{BadRequest, Conflict, Internal, NotFound, TooManyRequests, Unavailable};
use ondol_wire::{ContractError, JsonBody, Problem, Query, Segment, answer, problem};
use serde_json::value::RawValue;
use std::sync::Arc;
use utoipa::OpenApi;

/// The media type of events as one JSON object a line.
pub const NDJSON: &str = "application/x-ndjson";

type Service = Arc<dyn Ingest>;
type Name = Segment<IngestError>;
type Body<T> = JsonBody<T, IngestError>;

/// The routes of `ingest`.
pub fn router(ingest: Service) -> Router {
    Router::new()
        .route("/v1/sources", get(status))
        .route("/v1/sources/{source}/events", post(push))
        .route("/v1/sources/{source}/reading:pause", post(pause))
        .route("/v1/sources/{source}/reading:resume", post(resume))
        .route("/v1/sources/{source}/reading:seek", post(seek))
        .route("/v1/sources/{source}/dead-letters", get(dead_letters))
        .route("/v1/sources/{source}/dead-letters:summary", get(summary))
        .route("/v1/sources/{source}/dead-letters:fix", post(fix))
        .route("/v1/sources/{source}/dead-letters:replay", post(replay))
        .route("/v1/sources/{source}/dead-letters:discard", post(discard))
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
    tags(
        (name = "events", description = "Events pushed over HTTP."),
        (name = "streams", description = "Where each stream stands, and what operators ask of it."),
        (name = "dead-letters", description = "Events that could not be taken: listed, corrected, replayed, given up.")
    ),
    paths(push, status, pause, resume, seek, dead_letters, summary, fix, replay, discard),
    components(schemas(Problem))
)]
struct Document;

/// Push events to a source's stream
///
/// Each event is appended to the source's topic as it is, byte for byte, and goes the way of every other event of that
/// topic. When this answers, the stream has the events durably; a bad one becomes a dead letter further on. The body
/// is `{"events": […]}`, or one JSON object a line; `{"records": […]}` gives messages keys, headers and times of their own.
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
    if request.events.is_empty() && request.records.is_empty() {
        let detail = "the request has neither `events` nor `records`: send at least one";
        let error = IngestError::invalid(detail.to_owned());
        return Err(problem::respond(&error));
    }
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
        records: Vec::new(),
    })
}

/// Where each stream source stands
///
/// Per partition: what is delivered and durable, how far behind, how fast, and which worker reads it. Any worker answers
/// for all of its group: its own partitions as they are, the others' as their workers reported them a few seconds ago.
#[utoipa::path(
    get, path = "/v1/sources", tag = "streams", operation_id = "sourceStatus",
    responses(
        (status = 200, description = "One per stream source.", body = Vec<SourceStatus>, example = json!([{"source": "transactions", "topic": "transactions", "partitions": [{"partition": 0, "delivered": 42500, "durable": 42000, "end": 42600, "lag_events": 100, "lag_seconds": 0.4, "watermark": "2026-11-21T09:00:00Z", "events_per_second_10s": 850.0, "events_per_second_60s": 840.0, "dead_letters": 3, "dead_letters_60s": 1, "owner": "host-1/4711"}], "events": 42500, "dead_letters": 3, "late_events": 0, "skipped_events": 0, "watermark": "2026-11-21T09:00:00Z", "lag_events": 100, "lag_seconds": 0.4, "events_per_second_10s": 850.0, "events_per_second_60s": 840.0, "dead_letters_60s": 1, "paused": null, "fetch": {"stopped": false, "queued_bytes": 0, "in_flight_bytes": 20000}, "error": null}])),
        Internal, Unavailable
    )
)]
async fn status(State(ingest): State<Service>) -> Response {
    answer(ingest.status().await)
}

/// Pause a source
///
/// Every worker stops fetching, delivers what it had taken in, and keeps its partitions. It lasts, through restarts,
/// until the source is resumed.
#[utoipa::path(
    post, path = "/v1/sources/{source}/reading:pause", tag = "streams", operation_id = "pauseSource",
    params(("source" = String, Path, description = "The source's name.", example = "transactions")),
    request_body(content = PauseRequest, example = json!({"reason": "the store is being moved"})),
    responses((status = 200, description = "Asked for, durably; workers follow within a second."), BadRequest, NotFound, Internal, Unavailable)
)]
async fn pause(State(ingest): State<Service>, Segment(source, _): Name, request: Body<PauseRequest>) -> Response {
    answer(ingest.pause(&source, request.0).await)
}

/// Resume a paused source
#[utoipa::path(
    post, path = "/v1/sources/{source}/reading:resume", tag = "streams", operation_id = "resumeSource",
    params(("source" = String, Path, description = "The source's name.", example = "transactions")),
    responses((status = 200, description = "Asked for, durably; workers follow within a second."), NotFound, Internal, Unavailable)
)]
async fn resume(State(ingest): State<Service>, Segment(source, _): Name) -> Response {
    answer(ingest.resume(&source).await)
}

/// Skip events
///
/// Reading goes on further ahead, and what lies between is never delivered; it is recorded among the dead letters as a
/// skipped range. With `dry_run` only the ranges are told. Going back is a conflict: absorbed events stay absorbed.
#[utoipa::path(
    post, path = "/v1/sources/{source}/reading:seek", tag = "streams", operation_id = "seekSource",
    params(("source" = String, Path, description = "The source's name.", example = "transactions")),
    request_body(content = SeekRequest, example = json!({"to": {"kind": "offset", "partition": 0, "offset": 42600}, "reason": "poison events", "dry_run": true})),
    responses(
        (status = 200, description = "What is skipped.", body = SeekReceipt, example = json!({"skipped": [{"partition": 0, "from": 42500, "to": 42600}], "dry_run": true})),
        BadRequest, NotFound, Conflict, Internal, Unavailable
    )
)]
async fn seek(State(ingest): State<Service>, Segment(source, _): Name, request: Body<SeekRequest>) -> Response {
    answer(ingest.seek(&source, request.0).await)
}

/// The dead letters of a source
///
/// Events that could not be taken, newest first, with the reason and the original bytes. Those that were replayed or
/// discarded are listed with `all`.
#[utoipa::path(
    get, path = "/v1/sources/{source}/dead-letters", tag = "dead-letters", operation_id = "deadLetters",
    params(("source" = String, Path, description = "The source's name.", example = "transactions"), DeadLetterQuery),
    responses(
        (status = 200, description = "Newest first.", body = DeadLetterPage, example = json!({"letters": [{"source": "transactions", "position": {"partition": 0, "offset": 17}, "reason": "wrong-type", "detail": "`amount` is \"12,5\", not an f64", "at": "2026-11-21T09:00:00Z", "payload_base64": "eyJhbW91bnQiOiIxMiw1In0=", "state": "open"}], "next": null})),
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

/// How many dead letters a source has
///
/// By reason and by what has become of them, with the ranges that were skipped on purpose.
#[utoipa::path(
    get, path = "/v1/sources/{source}/dead-letters:summary", tag = "dead-letters", operation_id = "deadLetterSummary",
    params(("source" = String, Path, description = "The source's name.", example = "transactions")),
    responses(
        (status = 200, description = "Counts.", body = DeadLetterSummary, example = json!({"source": "transactions", "open": {"wrong-type": 2}, "states": {"open": 2, "replayed": 5}, "not_counted": 0, "skipped": []})),
        NotFound, Internal, Unavailable
    )
)]
async fn summary(State(ingest): State<Service>, Segment(source, _): Name) -> Response {
    answer(ingest.dead_letter_summary(&source).await)
}

/// Correct a dead letter
///
/// Keeps the corrected bytes beside the letter, to be replayed; tells whether they would be taken by the definitions in
/// force.
#[utoipa::path(
    post, path = "/v1/sources/{source}/dead-letters:fix", tag = "dead-letters", operation_id = "fixDeadLetter",
    params(("source" = String, Path, description = "The source's name.", example = "transactions")),
    request_body(content = FixRequest, example = json!({"position": "0:17", "payload_base64": "eyJhbW91bnQiOjEyLjV9"})),
    responses(
        (status = 200, description = "Kept.", body = FixReceipt, example = json!({"still_bad": null})),
        BadRequest, NotFound, Internal, Unavailable
    )
)]
async fn fix(State(ingest): State<Service>, Segment(source, _): Name, request: Body<FixRequest>) -> Response {
    answer(ingest.fix(&source, request.0).await)
}

/// Replay dead letters
///
/// Appends their events, as corrected, to the source's topic with the header `ondol-replay-of`, each at most once. One
/// that would be refused again is left unless `unchecked`.
#[utoipa::path(
    post, path = "/v1/sources/{source}/dead-letters:replay", tag = "dead-letters", operation_id = "replayDeadLetters",
    params(("source" = String, Path, description = "The source's name.", example = "transactions")),
    request_body(content = ReplayRequest, example = json!({"positions": ["0:17", "1:4"]})),
    responses(
        (status = 200, description = "What became of each.", body = HandledReceipt, example = json!({"handled": ["0:17"], "refused": [{"position": "1:4", "code": "wrong-type", "detail": "field `amount` is \"x\""}]})),
        BadRequest, NotFound, TooManyRequests, Internal, Unavailable
    )
)]
async fn replay(State(ingest): State<Service>, Segment(source, _): Name, request: Body<ReplayRequest>) -> Response {
    answer(ingest.replay(&source, request.0).await)
}

/// Give dead letters up
#[utoipa::path(
    post, path = "/v1/sources/{source}/dead-letters:discard", tag = "dead-letters", operation_id = "discardDeadLetters",
    params(("source" = String, Path, description = "The source's name.", example = "transactions")),
    request_body(content = DiscardRequest, example = json!({"positions": ["0:17"], "reason": "test data"})),
    responses(
        (status = 200, description = "What became of each.", body = HandledReceipt, example = json!({"handled": ["0:17"], "refused": []})),
        BadRequest, NotFound, Internal, Unavailable
    )
)]
async fn discard(State(ingest): State<Service>, Segment(source, _): Name, request: Body<DiscardRequest>) -> Response {
    answer(ingest.discard(&source, request.0).await)
}
