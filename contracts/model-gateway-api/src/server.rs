//! Serves any [`ModelGateway`] over HTTP, and describes that in an OpenAPI document.

use crate::artifact::ArtifactEnvelope;
use crate::decision_server as decisions;
use crate::error::ModelGatewayError;
use crate::routing_server as routing;
use crate::service::ModelGateway;
use crate::wire::{
    BatchPredictRequest, BatchPrediction, CallerIdentity, ModelSummary, PredictRequest, Prediction, RegisterRequest,
    RegisteredModel,
};
use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::{HeaderMap, header};
use ondol_wire::body::read_body;
use ondol_wire::responses::{
    BadGateway, BadRequest, GatewayTimeout, InsufficientStorage, Internal, NotFound, Octets, TooManyRequests,
    Unavailable, Unprocessable,
};
use ondol_wire::{ContractError as _, JsonBody, Problem, Segment, answer, problem};
use std::sync::Arc;
use utoipa::OpenApi;

/// How large the body that registers an artifact may be.
pub const ARTIFACT_LIMIT_BYTES: usize = 256 << 20;

/// The media type of a bare artifact.
const OCTETS: &str = "application/octet-stream";

type Service = Arc<dyn ModelGateway>;
type Name = Segment<ModelGatewayError>;
type Body<T> = JsonBody<T, ModelGatewayError>;

/// The routes of `gateway`.
pub fn router(gateway: Service) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", post(model_verb))
        .merge(routing::routes())
        .route(
            "/v1/models/{model}/versions",
            post(register).layer(DefaultBodyLimit::max(ARTIFACT_LIMIT_BYTES)),
        )
        .with_state(gateway)
}

/// The OpenAPI 3.1 document of [`router`].
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
        .merge_from(routing::openapi())
        .merge_from(decisions::openapi())
        .merge_from(crate::access::server::openapi())
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ondol model gateway",
        description = "One API for all models: feature lookup, derived features, inference, decision log.\n\nErrors \
                       are RFC 9457 problems with a stable `code`; `retryable` says whether the same call may succeed \
                       later. The gateway also speaks the Open Inference Protocol V2 under `/v2`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        version = env!("CARGO_PKG_VERSION")
    ),
    tags(
        (name = "predictions", description = "Scores by entity key."),
        (name = "models", description = "Artifacts and their versions."),
        (name = "routing", description = "Which version serves whom; shadows, promotion and rollback."),
    ),
    paths(predict, batch_predict, register, models),
    components(schemas(Problem))
)]
struct Document;

/// Operations on a model: its verbs share a route.
async fn model_verb(state: State<Service>, segment: Name, mut request: Request) -> Response {
    let (model, verb) = match segment.verb(&["predict", "batchPredict", "promote", "rollback", "score", "outcome"]) {
        Ok(found) => found,
        Err(unknown) => return unknown,
    };
    let headers = std::mem::take(request.headers_mut());
    let caller = request.extensions_mut().remove::<CallerIdentity>();
    let explain = match explain(&request) {
        Ok(explain) => explain,
        Err(refused) => return problem::respond(&refused),
    };
    match verb {
        "predict" => match Body::<PredictRequest>::from_request(request, &()).await {
            Ok(JsonBody(body, _)) => {
                predict(
                    state,
                    model,
                    headers,
                    PredictRequest {
                        explain: body.explain.or(explain),
                        ..body
                    },
                )
                .await
            }
            Err(refused) => refused,
        },
        "batchPredict" => match Body::<BatchPredictRequest>::from_request(request, &()).await {
            Ok(JsonBody(body, _)) => {
                batch_predict(
                    state,
                    model,
                    headers,
                    BatchPredictRequest {
                        explain: body.explain.or(explain),
                        ..body
                    },
                )
                .await
            }
            Err(refused) => refused,
        },
        "score" => match Body::from_request(request, &()).await {
            Ok(body) => decisions::score(state, model, body).await,
            Err(refused) => refused,
        },
        "outcome" => match Body::from_request(request, &()).await {
            Ok(body) => decisions::outcome(state, model, body).await,
            Err(refused) => refused,
        },
        "promote" => match Body::from_request(request, &()).await {
            Ok(body) => routing::promote(state, model, caller, body).await,
            Err(refused) => refused,
        },
        _ => match Body::from_request(request, &()).await {
            Ok(body) => routing::rollback(state, model, caller, body).await,
            Err(refused) => refused,
        },
    }
}

/// `explain` of the query, which stands in for the body's where that has none.
fn explain(request: &Request) -> Result<Option<bool>, ModelGatewayError> {
    let pairs = request.uri().query().unwrap_or_default().split('&');
    let mut found = pairs.filter_map(|pair| match pair.split_once('=').unwrap_or((pair, "true")) {
        ("explain", value) => Some(value),
        _ => None,
    });
    match found.next() {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(other) => Err(ModelGatewayError::invalid(format!(
            "`explain={other}` in the query: say `explain=true` or `explain=false`"
        ))),
    }
}

/// Score one request
///
/// Looks up the model's features by entity key, computes the derived ones, runs the model, and answers with the
/// prediction; with `explain`, also with every value it was made from: its age, its status and the view version it came from.
#[utoipa::path(
    post, path = "/v1/models/{model}:predict", tag = "predictions", operation_id = "predict",
    params(("model" = String, Path, description = "`fraud` as its routing says, `fraud@3` for a pinned version, `fraud@canary` for an alias.", example = "fraud"),
        ("explain" = Option<bool>, Query, description = "As `explain` of the body, where that has none.")),
    request_body(content = PredictRequest, example = json!({"inputs": {"card_id": "c1", "merchant_id": "m9", "amount": 120}, "explain": true})),
    responses(
        (status = 200, description = "The prediction, and with `explain` the vector it was made from.", body = Prediction, example = json!({"prediction": 0.83, "model": "fraud@4", "request_id": "01JD6Z0S8N6J2V4Y7T3Q5W9XKB", "as_of": "2026-11-21T09:00:00Z", "features": {"card.n_1h": {"value": 7, "age_ms": 240, "status": "fresh", "view": "card@1"}, "amount": {"value": 120, "status": "fresh"}}})),
        BadRequest, NotFound, Unprocessable, TooManyRequests, Internal, BadGateway, Unavailable, GatewayTimeout,
        InsufficientStorage
    )
)]
async fn predict(State(gateway): State<Service>, model: &str, headers: HeaderMap, body: PredictRequest) -> Response {
    answer(gateway.predict(model, PredictRequest { headers, ..body }).await)
}

/// Score many requests together
///
/// One feature lookup and one run of the model for all instances.
#[utoipa::path(
    post, path = "/v1/models/{model}:batchPredict", tag = "predictions", operation_id = "batchPredict",
    params(("model" = String, Path, description = "`fraud` as its routing says, `fraud@3` for a pinned version, `fraud@canary` for an alias.", example = "fraud"),
        ("explain" = Option<bool>, Query, description = "As `explain` of the body, where that has none.")),
    request_body(content = BatchPredictRequest, example = json!({"instances": [{"card_id": "c1", "merchant_id": "m9", "amount": 120}, {"card_id": "c2", "merchant_id": "m9", "amount": 8}]})),
    responses(
        (status = 200, description = "One prediction per instance, in their order.", body = BatchPrediction),
        BadRequest, NotFound, Unprocessable, TooManyRequests, Internal, BadGateway, Unavailable, GatewayTimeout,
        InsufficientStorage
    )
)]
async fn batch_predict(
    State(gateway): State<Service>,
    model: &str,
    headers: HeaderMap,
    body: BatchPredictRequest,
) -> Response {
    answer(
        gateway
            .batch_predict(model, BatchPredictRequest { headers, ..body })
            .await,
    )
}

/// Register an artifact as a model's next version
///
/// Checked against the feature vector of the model's definition (names, order, types, nulls) and, when a manifest is
/// given, against the training set; a mismatch is refused with 422 and a line per difference. The body is a JSON
/// envelope, or the bare artifact; its kind is recognised from
/// its bytes unless the envelope says it.
#[utoipa::path(
    post, path = "/v1/models/{model}/versions", tag = "models", operation_id = "registerModel",
    params(("model" = String, Path, description = "The model's name.", example = "fraud")),
    request_body(content(
        (ArtifactEnvelope = "application/json", example = json!({"artifact_base64": "CAgSB3B5dG9yY2g=", "manifest": {"format": 1, "model": "fraud@1"}})),
        (Octets = "application/octet-stream")
    )),
    responses(
        (status = 200, description = "The new version.", body = RegisteredModel, example = json!({"model": "fraud@4", "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "registered_at": "2026-11-21T09:00:00Z", "definition_version": 1, "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 12]}], "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}]})),
        BadRequest, NotFound, Unprocessable, Internal, BadGateway, Unavailable, GatewayTimeout, InsufficientStorage
    )
)]
async fn register(State(gateway): State<Service>, Segment(model, _): Name, request: Request) -> Response {
    match artifact_of(request).await {
        Ok(request) => answer(gateway.register(&model, request).await),
        Err(refused) => refused,
    }
}

async fn artifact_of(request: Request) -> Result<RegisterRequest, Response> {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    if content_type.is_some_and(|value| value.starts_with(OCTETS)) {
        let artifact = read_body::<ModelGatewayError, ()>(request, &()).await?;
        return Ok(RegisterRequest {
            artifact,
            kind: None,
            manifest: None,
        });
    }
    let JsonBody(envelope, _) = Body::<ArtifactEnvelope>::from_request(request, &()).await?;
    envelope.try_into().map_err(|error| problem::respond(&error))
}

/// Every model with its versions
#[utoipa::path(
    get, path = "/v1/models", tag = "models", operation_id = "models",
    responses(
        (status = 200, description = "Every model.", body = Vec<ModelSummary>),
        Internal, Unavailable
    )
)]
async fn models(State(gateway): State<Service>) -> Response {
    answer(gateway.models().await)
}
