//! The protocol over HTTP: JSON, and tensors in JSON or as bytes behind it, both ways.
//!
//! Content types of requests are not looked at: clients send none. Errors are `{"error": "…"}`.

use crate::fault::{internal, invalid};
use crate::open_inference::compression::{Encoding, packed, unpacked};
use crate::open_inference::infer::{self, Call, INLINE_BYTES, versioned};
use crate::open_inference::metadata::{self, EXTENSIONS, SERVER};
use crate::open_inference::refusal::Refusal;
use crate::open_inference::statistics::Statistics;
use crate::open_inference::wire::{InferRequest, InferResponse, ModelMetadata, OutputTensor, ResponseBody};
use crate::open_inference::{OpenInference, repository};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest as _, FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use ondol_model_gateway_api::ModelGatewayError;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The header that says where the JSON ends and binary tensors begin.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// The routes.
pub(super) fn router(shared: OpenInference) -> Router {
    let asides = Router::new()
        .route("/v2", get(server_metadata))
        .route("/v2/", get(server_metadata))
        .route("/v2/health/live", get(|| async { Json(json!({ "live": true })) }))
        .route("/v2/health/ready", get(server_ready))
        .route("/v2/repository/index", post(repository_index))
        .route("/v2/repository/models/{model}/load", post(load))
        .route("/v2/repository/models/{model}/unload", post(unload))
        .route("/v2/models/stats", get(all_statistics))
        .route("/v2/models/{model}", get(model_metadata))
        .route("/v2/models/{model}/versions/{version}", get(model_metadata))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/versions/{version}/ready", get(model_ready))
        .route("/v2/models/{model}/config", get(model_config))
        .route("/v2/models/{model}/versions/{version}/config", get(model_config))
        .route("/v2/models/{model}/stats", get(statistics))
        .route("/v2/models/{model}/versions/{version}/stats", get(statistics))
        .route("/v2/{*rest}", get(unsupported).post(unsupported))
        .layer(DefaultBodyLimit::max(shared.max_request_bytes));
    // Behind no layer: each costs every inference a boxed service. `infer` bounds its body itself.
    Router::new()
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer))
        .merge(asides)
        .method_not_allowed_fallback(not_taken)
        .with_state(shared)
}

/// The model of a path and, where the path has one, its version.
struct Model {
    name: String,
    /// As [`crate::predict::Predictor`] takes it.
    versioned: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Model {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Segments {
            model: String,
            #[serde(default)]
            version: Option<String>,
        }
        let Path(Segments { model, version }) = Path::<Segments>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Refusal::new(rejection.status(), rejection.body_text()))?;
        Ok(Self {
            versioned: versioned(&model, version.as_deref()),
            name: model,
        })
    }
}

async fn server_metadata() -> Json<Value> {
    Json(json!({ "name": SERVER, "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS }))
}

/// Ready once definitions are known. The specification reads `live`, KServe reads `ready`: both are there.
async fn server_ready(State(shared): State<OpenInference>) -> Response {
    let ready = shared.predictor.definitions.current().version > 0;
    // Triton's status for "not ready", which its clients expect.
    let status = if ready { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    (status, Json(json!({ "live": true, "ready": ready }))).into_response()
}

/// A body of the repository extension; clients send none, or an empty one.
#[derive(Default, Deserialize)]
struct RepositoryBody {
    #[serde(default)]
    ready: bool,
    #[serde(default)]
    parameters: Option<Map<String, Value>>,
}

impl RepositoryBody {
    async fn read(headers: &HeaderMap, body: Result<Bytes, BytesRejection>, max: usize) -> Result<Self, Refusal> {
        let body = unpacked(headers, whole(body)?, max).await?;
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let read = serde_json::from_slice(&body).map_err(|error| invalid(format!("the request is not valid: {error}")));
        Ok(read?)
    }
}

fn whole(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Refusal> {
    body.map_err(|rejection| Refusal::new(rejection.status(), rejection.body_text()))
}

async fn repository_index(
    State(shared): State<OpenInference>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Refusal> {
    let body = RepositoryBody::read(&headers, body, shared.max_request_bytes).await?;
    Ok(Json(json!(repository::index(&shared.predictor, body.ready))))
}

async fn load(
    State(shared): State<OpenInference>,
    model: Model,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Refusal> {
    let body = RepositoryBody::read(&headers, body, shared.max_request_bytes).await?;
    let parameters = body.parameters.iter().flatten().map(|(name, _)| name.as_str());
    repository::load(&shared.predictor, &model.name, parameters).await?;
    Ok(Json(json!({ "model_name": model.name, "load": true })))
}

async fn unload(
    State(shared): State<OpenInference>,
    model: Model,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Refusal> {
    // Its one parameter, `unload_dependents`, changes nothing: no version here depends on another.
    RepositoryBody::read(&headers, body, shared.max_request_bytes).await?;
    repository::unload(&shared.predictor, &model.name).await?;
    Ok(Json(json!({ "model_name": model.name, "unload": true })))
}

async fn model_metadata(State(shared): State<OpenInference>, model: Model) -> Result<Json<ModelMetadata>, Refusal> {
    let version = shared.predictor.version(&model.versioned).await?;
    Ok(Json(metadata::of(&shared.predictor, &version)))
}

async fn model_config(State(shared): State<OpenInference>, model: Model) -> Result<Response, Refusal> {
    let version = shared.predictor.version(&model.versioned).await?;
    Ok(Json(metadata::config(&version)).into_response())
}

async fn model_ready(State(shared): State<OpenInference>, model: Model) -> Result<Json<Value>, Refusal> {
    repository::ready(&shared.predictor, &model.versioned).await?;
    Ok(Json(json!({ "name": model.name, "live": true, "ready": true })))
}

async fn statistics(State(shared): State<OpenInference>, model: Model) -> Result<Json<Statistics>, Refusal> {
    Ok(Json(
        repository::statistics(&shared.predictor, Some(&model.versioned)).await?,
    ))
}

async fn all_statistics(State(shared): State<OpenInference>) -> Result<Json<Statistics>, Refusal> {
    Ok(Json(repository::statistics(&shared.predictor, None).await?))
}

async fn unsupported() -> Refusal {
    Refusal::new(
        StatusCode::NOT_IMPLEMENTED,
        "this part of the protocol is not supported: health, metadata, config, ready, infer, stats and the repository are",
    )
}

async fn not_taken() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take the method")
}

async fn infer(State(shared): State<OpenInference>, model: Model, mut request: Request) -> Result<Response, Refusal> {
    // Taken rather than cloned: this is on the way of every inference.
    let headers = std::mem::take(request.headers_mut());
    DefaultBodyLimit::max(shared.max_request_bytes).apply(&mut request);
    let body = whole(Bytes::from_request(request, &()).await)?;
    let body = unpacked(&headers, body, shared.max_request_bytes).await?;
    let request = parse(body, json_length(&headers)?).await?;
    let (binary, deadline_ms) = (request.wants_binary(), request.deadline_ms());
    let accepted = Encoding::accepted(&headers);
    let call = Call {
        model: model.versioned,
        inputs: request.inputs,
        deadline_ms,
        headers,
    };
    let answer = infer::infer(&shared.predictor, call).await?;
    let parameters = answer.parameters.iter();
    let parameters = parameters.map(|(name, text)| ((*name).to_owned(), Value::String(text.clone())));
    let outputs = answer.wanted(&request.outputs, |output| &output.name)?.into_iter();
    let response = InferResponse {
        model_name: &answer.model.name,
        model_version: answer.model.version.to_string(),
        id: request.id,
        parameters: parameters.collect(),
        outputs: outputs
            .map(|(tensor, wish)| OutputTensor::new(tensor, wish.map_or(binary, |wish| wish.wants_binary(binary))))
            .collect(),
    };
    let body = response.into_body().map_err(internal)?;
    respond(body, accepted).await
}

/// Where a body's JSON ends, if binary tensors follow it.
fn json_length(headers: &HeaderMap) -> Result<Option<usize>, ModelGatewayError> {
    let Some(value) = headers.get(&JSON_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| {
        invalid(format!(
            "Inference-Header-Content-Length is {value:?}, expected a number of bytes"
        ))
    })
}

/// A large body is read aside: all of its JSON is looked at once, to find where the tensors are.
async fn parse(body: Bytes, json: Option<usize>) -> Result<InferRequest, ModelGatewayError> {
    if json.unwrap_or(body.len()) <= INLINE_BYTES {
        return InferRequest::parse(&body, json);
    }
    tokio::task::spawn_blocking(move || InferRequest::parse(&body, json))
        .await
        .map_err(internal)?
}

async fn respond(body: ResponseBody, accepted: Option<Encoding>) -> Result<Response, Refusal> {
    let ResponseBody { bytes, json } = body;
    let (bytes, encoding) = packed(accepted, bytes).await?;
    let mut response = bytes.into_response();
    let headers = response.headers_mut();
    let kind = match json {
        None => "application/json",
        Some(length) => {
            headers.insert(JSON_LENGTH, HeaderValue::from(length));
            "application/octet-stream"
        }
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(encoding) = encoding {
        headers.insert(header::CONTENT_ENCODING, encoding);
    }
    Ok(response)
}
