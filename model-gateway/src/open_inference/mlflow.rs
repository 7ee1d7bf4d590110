//! MLflow's scoring: `POST /v1/models/M/invocations`, for callers that speak to MLflow's model server.
//!
//! A request has exactly one of `dataframe_split`, `dataframe_records`, `instances` and `inputs`. The names of its
//! columns tell what they are: the inputs of the model's definition (the features are looked up and the decision is
//! logged), the entries of its feature vector, or its own tensors; data without names are the model's only tensor.
//! Answers are `{"predictions": […]}`, one per row, the same values as `:predict` gives, and errors MLflow's
//! `{"error_code", "message"}`.
//!
//! Source: MLflow's documentation of its scoring server, "Accepted input formats".

mod columns;

use crate::fault::invalid;
use crate::inputs;
use crate::models::Version;
use crate::open_inference::OpenInference;
use crate::open_inference::compression::unpacked;
use crate::open_inference::infer::{Source, run};
use crate::open_inference::refusal::Refusal;
use crate::predict::Batch;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use columns::{Columns, Data, Invocation};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::{Field, ModelFeature};
use serde_json::{Value, json};

/// The version of MLflow whose scoring protocol this is.
const MLFLOW: &str = "3.0.0";

/// The routes.
pub(super) fn router(shared: OpenInference) -> Router {
    Router::new()
        .route("/ping", get(ping))
        .route("/version", get(|| async { MLFLOW }))
        .route("/v1/models/{model}/ping", get(ping_model))
        .route("/v1/models/{model}/version", get(|| async { MLFLOW }))
        .route("/v1/models/{model}/invocations", post(invocations))
        .layer(DefaultBodyLimit::max(shared.max_request_bytes))
        .with_state(shared)
}

/// An error in MLflow's form.
struct Failure(Refusal);

impl<T: Into<Refusal>> From<T> for Failure {
    fn from(error: T) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Refusal { status, error, .. } = &self.0;
        let code = match *status {
            StatusCode::NOT_FOUND => "RESOURCE_DOES_NOT_EXIST",
            StatusCode::TOO_MANY_REQUESTS => "REQUEST_LIMIT_EXCEEDED",
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => "TEMPORARILY_UNAVAILABLE",
            status if status.is_server_error() => "INTERNAL_ERROR",
            _ => "BAD_REQUEST",
        };
        let body = json!({ "error_code": code, "message": error });
        // The refusal's own response logs what is the gateway's fault, and says when to come again.
        let (mut parts, _) = self.0.into_response().into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        (parts.status, parts.headers, Json(body)).into_response()
    }
}

/// Answers once definitions are known.
async fn ping(State(shared): State<OpenInference>) -> StatusCode {
    match shared.predictor.definitions.current().version {
        0 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    }
}

/// Answers once the model is loaded.
async fn ping_model(State(shared): State<OpenInference>, Path(model): Path<String>) -> Result<StatusCode, Failure> {
    let version = shared.predictor.version(&model).await?;
    shared.predictor.models.scorer(&version).await?;
    Ok(StatusCode::OK)
}

async fn invocations(
    State(shared): State<OpenInference>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Failure> {
    let body = body.map_err(|rejection| Refusal::new(rejection.status(), rejection.body_text()))?;
    refuse_csv(&headers)?;
    let body = unpacked(&headers, body, shared.max_request_bytes).await?;
    let data = Invocation::parse(&body)?.data()?;
    Ok(Json(answer(&shared, &model, headers, data).await?))
}

fn refuse_csv(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    match kind {
        Some(kind) if kind.starts_with("text/csv") => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "text/csv is not supported: send the same rows as JSON in `dataframe_split`",
        )),
        _ => Ok(()),
    }
}

async fn answer(
    shared: &OpenInference,
    model: &str,
    headers: HeaderMap,
    data: Data,
) -> Result<Value, ModelGatewayError> {
    let version = shared.predictor.version(model).await?;
    let columns = match data {
        Data::Columns(columns) => columns,
        Data::Tensor(tensor) => {
            let [spec] = version.record.registered.inputs.as_slice() else {
                return Err(invalid("the model has several inputs: send their names with the data"));
            };
            return predictions(shared, model, Source::Tensors(vec![columns::tensor(spec, &tensor)?])).await;
        }
    };
    if columns.are_among(&inputs_of(&version)) {
        let batch = Batch {
            instances: columns.instances()?,
            headers,
            ..Batch::default()
        };
        let routed = shared.predictor.predict(model, batch).await?;
        let places = || (0..routed.rows()).filter_map(|row| routed.place(row));
        return Ok(json!({
            "predictions": places().map(|(scored, row)| scored.prediction(row)).collect::<Vec<_>>(),
            "request_ids": places().map(|(scored, row)| scored.request_id(row)).collect::<Vec<_>>(),
        }));
    }
    let source = source(&version, columns)?;
    predictions(shared, model, source).await
}

fn inputs_of(version: &Version) -> Vec<&str> {
    let inputs = version.record.definition.inputs.iter();
    inputs.map(|input| input.name.as_str()).collect()
}

/// The vector's entries, or the model's own tensors.
fn source(version: &Version, columns: Columns) -> Result<Source, ModelGatewayError> {
    let definition = &version.record.definition;
    let own = &version.record.registered.inputs;
    let features: Vec<&str> = definition
        .features
        .iter()
        .map(|feature| feature.name.as_str())
        .collect();
    let tensors: Vec<&str> = own.iter().map(|input| input.name.as_str()).collect();
    if columns.are_among(&features) {
        let field = |feature: &ModelFeature| Field {
            name: feature.name.clone(),
            data_type: feature.data_type,
        };
        let fields: Vec<Field> = definition.features.iter().map(field).collect();
        return Ok(Source::Vector(inputs::parse(&fields, columns.instances()?)?.batch));
    }
    if columns.are_among(&tensors) {
        return Ok(Source::Tensors(columns.tensors(own)?));
    }
    Err(columns.unknown(&inputs_of(version), &features, &tensors))
}

async fn predictions(shared: &OpenInference, model: &str, source: Source) -> Result<Value, ModelGatewayError> {
    let run = run(&shared.predictor, model, source, None).await?;
    Ok(json!({
        "predictions": run.scorer.score.predictions(&run.outputs, run.rows)?,
        "request_ids": run.request_ids,
    }))
}
