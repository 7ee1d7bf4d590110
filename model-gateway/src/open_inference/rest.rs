//! The protocol's routes over HTTP with JSON data.
//!
//! A model takes its *definition's inputs* (entity keys and request-time values, a tensor `[N]` or `[N, 1]` each: the
//! features are looked up and the decisions logged) or its *own tensors* (nothing is looked up or logged); the names of
//! a request's tensors tell which. Metadata lists the former as `inputs` and the latter under `parameters.raw_inputs`.
//! Both answer the model's own outputs, in JSON also where binary output was asked for. Content types of requests are
//! not looked at: clients send none. Errors are `{"error": "…"}`.

use crate::fault::{did_you_mean, invalid};
use crate::models::Version;
use crate::open_inference::wire::{
    InferRequest, InferResponse, InputTensor, ModelMetadata, OutputTensor, RequestedOutput, binary_data, input_spec,
};
use crate::predict::{Batch, Predictor, run_model};
use crate::runtime::tensor::NamedTensor;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::Value;
use serde::Deserialize;
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The header by which clients say where the JSON ends and binary tensors begin.
const BINARY_HEADER: &str = "inference-header-content-length";

/// The routes, with bodies of at most `max_bytes`.
pub fn router(predictor: Predictor, max_bytes: usize) -> Router {
    Router::new()
        .route("/v2", get(server_metadata))
        .route("/v2/", get(server_metadata))
        .route("/v2/health/live", get(|| async { Json(json!({ "live": true })) }))
        .route("/v2/health/ready", get(server_ready))
        .route("/v2/repository/index", post(repository_index))
        .route("/v2/models/{model}", get(model_metadata))
        .route("/v2/models/{model}/versions/{version}", get(model_metadata))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/versions/{version}/ready", get(model_ready))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer))
        .route("/v2/{*rest}", get(unsupported).post(unsupported))
        .layer(DefaultBodyLimit::max(max_bytes))
        .with_state(predictor)
}

/// The model and, where the path has one, its version.
#[derive(Debug, Deserialize)]
struct ModelPath {
    model: String,
    #[serde(default)]
    version: Option<String>,
}

impl ModelPath {
    fn name(&self) -> String {
        match &self.version {
            Some(version) => format!("{}@{version}", self.model),
            None => self.model.clone(),
        }
    }
}

/// An error in the protocol's form.
struct Refusal(StatusCode, String);

impl From<ModelGatewayError> for Refusal {
    fn from(error: ModelGatewayError) -> Self {
        let status = match &error {
            ModelGatewayError::InvalidRequest { .. } => StatusCode::BAD_REQUEST,
            ModelGatewayError::UnknownModel { .. } | ModelGatewayError::NothingRegistered { .. } => {
                StatusCode::NOT_FOUND
            }
            ModelGatewayError::Mismatch { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            ModelGatewayError::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            ModelGatewayError::DeadlineExceeded { .. } => StatusCode::GATEWAY_TIMEOUT,
            ModelGatewayError::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            ModelGatewayError::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, error) = self;
        if status.is_server_error() {
            tracing::error!(error, status = status.as_u16(), "open inference request failed");
        }
        (status, Json(json!({ "error": error }))).into_response()
    }
}

async fn server_metadata() -> Json<serde_json::Value> {
    Json(json!({ "name": "ondol", "version": env!("CARGO_PKG_VERSION"), "extensions": ["model_repository"] }))
}

/// Ready once definitions are known. The specification reads `live`, KServe reads `ready`: both are there.
async fn server_ready(State(predictor): State<Predictor>) -> Response {
    let ready = predictor.definitions.current().version > 0;
    // Triton's status for "not ready", which its clients expect.
    let status = if ready { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    (status, Json(json!({ "live": true, "ready": ready }))).into_response()
}

async fn repository_index(State(predictor): State<Predictor>) -> Json<serde_json::Value> {
    let snapshot = predictor.definitions.current();
    let entries: Vec<_> = snapshot
        .models
        .iter()
        .flat_map(|model| predictor.models.versions(&model.definition.name))
        .map(|version| {
            let model = &version.record.registered.model;
            json!({ "name": model.name, "version": model.version.to_string(), "state": "READY", "reason": "" })
        })
        .collect();
    Json(json!(entries))
}

async fn model_metadata(
    State(predictor): State<Predictor>,
    Path(path): Path<ModelPath>,
) -> Result<Json<ModelMetadata>, Refusal> {
    let version = predictor.version(&path.name()).await?;
    let registered = &version.record.registered;
    let versions = predictor.models.versions(&registered.model.name);
    let mut parameters = Map::new();
    parameters.insert("raw_inputs".to_owned(), json!(registered.inputs));
    Ok(Json(ModelMetadata {
        name: registered.model.name.clone(),
        versions: versions
            .iter()
            .map(|version| version.record.registered.model.version.to_string())
            .collect(),
        platform: "onnx_onnxv1",
        inputs: version
            .record
            .definition
            .inputs
            .iter()
            .map(|input| input_spec(&input.name, input.data_type))
            .collect(),
        outputs: registered.outputs.clone(),
        parameters,
    }))
}

/// Ready when the model is loaded and its features can be looked up.
async fn model_ready(
    State(predictor): State<Predictor>,
    Path(path): Path<ModelPath>,
) -> Result<Json<serde_json::Value>, Refusal> {
    let version = predictor.version(&path.name()).await?;
    let ready = async {
        predictor.models.scorer(&version).await?;
        version.plan(&predictor.definitions.current()).map(drop)
    };
    match ready.await {
        Ok(()) => Ok(Json(json!({ "name": path.model, "live": true, "ready": true }))),
        Err(error) => Err(Refusal(
            StatusCode::BAD_REQUEST,
            format!("model `{}` is not ready: {error}", path.name()),
        )),
    }
}

async fn unsupported() -> Refusal {
    Refusal(
        StatusCode::NOT_IMPLEMENTED,
        "this part of the Open Inference Protocol is not supported: health, metadata, ready, infer and the repository \
         index are"
            .to_owned(),
    )
}

async fn infer(
    State(predictor): State<Predictor>,
    Path(path): Path<ModelPath>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<InferResponse>, Refusal> {
    let body = body.map_err(|rejection| Refusal(rejection.status(), rejection.body_text()))?;
    if headers.contains_key(BINARY_HEADER) {
        return Err(binary_data().into());
    }
    if let Some(encoding) = headers
        .get(header::CONTENT_ENCODING)
        .filter(|encoding| *encoding != "identity")
    {
        let encoding = String::from_utf8_lossy(encoding.as_bytes());
        let error = format!("content encoding `{encoding}` is not supported: send the request uncompressed");
        return Err(Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
    }
    let request: InferRequest = serde_json::from_slice(&body).map_err(|error| {
        invalid(format!(
            "the request is not valid: {error} (JSON has no NaN: send null for a missing number)"
        ))
    })?;
    let version = predictor.version(&path.name()).await?;
    let InferRequest {
        id,
        parameters,
        inputs,
        outputs,
    } = request;
    // Clients give their timeout in microseconds.
    let deadline_ms = parameters
        .get("timeout")
        .and_then(serde_json::Value::as_u64)
        .map(|micros| micros.div_ceil(1_000));
    let model = version.record.registered.model.clone();
    let (tensors, request_ids) = match kind_of(&version, &inputs)? {
        InputKind::Definition => infer_by_key(&predictor, &model.to_string(), inputs, deadline_ms).await?,
        InputKind::Raw => (infer_raw(&predictor, &version, inputs, deadline_ms).await?, Map::new()),
    };
    Ok(Json(InferResponse {
        model_name: model.name,
        model_version: model.version.to_string(),
        id,
        parameters: request_ids,
        outputs: wanted(&tensors, &outputs)?,
    }))
}

/// What the tensors of a request stand for.
enum InputKind {
    /// The inputs of the model's definition.
    Definition,
    /// The model's own tensors.
    Raw,
}

fn kind_of(version: &Version, inputs: &[InputTensor]) -> Result<InputKind, ModelGatewayError> {
    let keys: Vec<&str> = version
        .record
        .definition
        .inputs
        .iter()
        .map(|input| input.name.as_str())
        .collect();
    let raw: Vec<&str> = version
        .record
        .registered
        .inputs
        .iter()
        .map(|input| input.name.as_str())
        .collect();
    let all_of = |names: &[&str]| inputs.iter().all(|input| names.contains(&input.name.as_str()));
    // A model whose own tensors are named as its inputs is asked by its inputs: the same values, and they are logged.
    if all_of(&keys) {
        return Ok(InputKind::Definition);
    }
    if all_of(&raw) {
        return Ok(InputKind::Raw);
    }
    let known = || keys.iter().chain(&raw).copied();
    let stranger = inputs.iter().find(|input| !known().any(|name| name == input.name));
    Err(match stranger {
        Some(input) => invalid(format!(
            "unknown input `{}`{} (the model takes {}, or its own tensors {})",
            input.name,
            did_you_mean(&input.name, known()),
            keys.join(", "),
            raw.join(", ")
        )),
        None => invalid(format!(
            "the inputs mix the model's inputs ({}) with its own tensors ({}): send either",
            keys.join(", "),
            raw.join(", ")
        )),
    })
}

async fn infer_by_key(
    predictor: &Predictor,
    model: &str,
    inputs: Vec<InputTensor>,
    deadline_ms: Option<u64>,
) -> Result<(Vec<NamedTensor>, Map<String, serde_json::Value>), ModelGatewayError> {
    let instances = instances(inputs)?;
    let scored = predictor
        .score(
            model,
            Batch {
                instances,
                as_of: None,
                deadline_ms,
            },
        )
        .await?;
    let ids: Vec<&str> = (0..scored.rows()).map(|row| scored.request_id(row)).collect();
    let mut parameters = Map::new();
    // The protocol's parameters are scalars, so the ids are one text.
    parameters.insert("request_ids".to_owned(), json!(ids.join(",")));
    Ok((scored.outputs().to_vec(), parameters))
}

/// Columns of values as one map of inputs per request.
fn instances(inputs: Vec<InputTensor>) -> Result<Vec<BTreeMap<String, Value>>, ModelGatewayError> {
    let mut instances: Vec<BTreeMap<String, Value>> = Vec::new();
    for (place, input) in inputs.into_iter().enumerate() {
        let (name, values) = input.into_scalars()?;
        if place == 0 {
            instances.resize_with(values.len(), BTreeMap::new);
        }
        if values.len() != instances.len() {
            return Err(invalid(format!(
                "input `{name}` has {} values, the first input has {}",
                values.len(),
                instances.len()
            )));
        }
        for (instance, value) in instances.iter_mut().zip(values) {
            if instance.insert(name.clone(), value).is_some() {
                return Err(invalid(format!("input `{name}` was sent twice")));
            }
        }
    }
    if instances.is_empty() {
        return Err(invalid("the request has no rows: send at least one value per input"));
    }
    Ok(instances)
}

async fn infer_raw(
    predictor: &Predictor,
    version: &Arc<Version>,
    inputs: Vec<InputTensor>,
    deadline_ms: Option<u64>,
) -> Result<Vec<NamedTensor>, ModelGatewayError> {
    let _permit = predictor.bounds.admit()?;
    let deadline = predictor.bounds.deadline(deadline_ms);
    let tensors = inputs
        .into_iter()
        .map(InputTensor::into_tensor)
        .collect::<Result<Vec<_>, _>>()?;
    let rows = check_raw(version, &tensors)?;
    predictor.bounds.check_rows(rows)?;
    let scorer = deadline.model(predictor.models.scorer(version)).await?;
    run_model(&scorer, rows, tensors, deadline).await
}

/// Checks names, element types and dimensions, so that what is left to fail is the model's own fault. The rows.
fn check_raw(version: &Version, tensors: &[NamedTensor]) -> Result<usize, ModelGatewayError> {
    for spec in &version.record.registered.inputs {
        let mut named = tensors.iter().filter(|tensor| tensor.name == spec.name);
        let tensor = named
            .next()
            .ok_or_else(|| invalid(format!("input `{}` ({}) is missing", spec.name, spec.datatype)))?;
        if named.next().is_some() {
            return Err(invalid(format!("input `{}` was sent twice", spec.name)));
        }
        if tensor.data.element().name() != spec.datatype {
            let sent = tensor.data.element();
            return Err(invalid(format!(
                "input `{}` is {sent}, expected {}",
                spec.name, spec.datatype
            )));
        }
        let fits = tensor.shape.len() == spec.shape.len()
            && tensor
                .shape
                .iter()
                .zip(&spec.shape)
                .all(|(size, wanted)| *wanted < 0 || size == wanted);
        if !fits {
            return Err(invalid(format!(
                "input `{}` has shape {:?}, expected {:?}",
                spec.name, tensor.shape, spec.shape
            )));
        }
    }
    let rows = tensors
        .first()
        .and_then(|tensor| tensor.shape.first())
        .copied()
        .unwrap_or(0);
    match usize::try_from(rows) {
        Ok(rows) if rows > 0 => Ok(rows),
        _ => Err(invalid(
            "the request has no rows: the first dimension must be at least 1",
        )),
    }
}

/// The outputs that were asked for, all when none were.
fn wanted(tensors: &[NamedTensor], outputs: &[RequestedOutput]) -> Result<Vec<OutputTensor>, ModelGatewayError> {
    if outputs.is_empty() {
        return Ok(tensors.iter().map(OutputTensor::from).collect());
    }
    let find = |output: &RequestedOutput| {
        tensors
            .iter()
            .find(|tensor| tensor.name == output.name)
            .map(OutputTensor::from)
            .ok_or_else(|| {
                let known: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
                let near = did_you_mean(&output.name, known.iter().copied());
                invalid(format!(
                    "unknown output `{}`{near} (the model has {})",
                    output.name,
                    known.join(", ")
                ))
            })
    };
    outputs.iter().map(find).collect()
}
