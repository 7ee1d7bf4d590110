//! The bare handler: the same body and codec as Open Inference V2, the same pool of sessions, and nothing else: no routing,
//! no checks, no limits, no statistics. In a process of its own.

use super::http1::JSON_LENGTH;
use super::model::{FEATURES, load, run};
use anyhow::{Context as _, Result};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use bytes::Bytes;
use ondol_model_gateway::runtime::onnx::OnnxModel;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::TcpListener;

/// How to run it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    model: PathBuf,
    #[arg(long)]
    listen: SocketAddr,
}

/// Serves until it is killed.
pub(crate) async fn floor(args: &Args) -> Result<()> {
    let model = load(std::fs::read(&args.model)?.into())?;
    let listener = TcpListener::bind(args.listen).await?;
    // A stream that can't be set so would only be slower.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let router = Router::new()
        .route("/v2/models/json/infer", post(json))
        .route("/v2/models/binary/infer", post(binary))
        .route("/readyz", get(async || "ready"))
        .with_state(model);
    Ok(axum::serve(listener, router).await?)
}

#[derive(Deserialize)]
struct Request {
    inputs: Vec<Input>,
}

#[derive(Deserialize)]
struct Input {
    #[serde(default)]
    data: Vec<f32>,
}

#[derive(Serialize)]
struct Answer {
    model_name: &'static str,
    model_version: &'static str,
    outputs: [Output; 2],
}

#[derive(Serialize)]
struct Output {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<usize>,
    #[serde(flatten)]
    content: Content,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Content {
    #[serde(rename = "data")]
    Labels(Vec<i64>),
    #[serde(rename = "data")]
    Probabilities(Vec<f32>),
    Parameters {
        binary_data_size: usize,
    },
}

fn answer(labels: Content, probabilities: Content) -> Answer {
    let output = |name, datatype, shape, content| Output {
        name,
        datatype,
        shape,
        content,
    };
    Answer {
        model_name: "bench",
        model_version: "1",
        outputs: [
            output("label", "INT64", vec![1], labels),
            output("probabilities", "FP32", vec![1, 2], probabilities),
        ],
    }
}

async fn json(State(model): State<OnnxModel>, Json(request): Json<Request>) -> Response {
    let Some(input) = request.inputs.into_iter().next() else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match run(&model, input.data).await {
        Ok((labels, probabilities)) => {
            Json(answer(Content::Labels(labels), Content::Probabilities(probabilities))).into_response()
        }
        Err(error) => failed(&error),
    }
}

async fn binary(State(model): State<OnnxModel>, headers: HeaderMap, body: Bytes) -> Response {
    binary_answer(&model, &headers, &body)
        .await
        .unwrap_or_else(|error| failed(&error))
}

async fn binary_answer(model: &OnnxModel, headers: &HeaderMap, body: &[u8]) -> Result<Response> {
    let length = headers.get(JSON_LENGTH).context("no length")?.to_str()?.parse()?;
    let (head, bytes) = body.split_at_checked(length).context("no bytes")?;
    let _request: Request = serde_json::from_slice(head)?;
    let (singles, _) = bytes.as_chunks();
    let vector: Vec<f32> = singles
        .iter()
        .take(FEATURES)
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let (labels, probabilities) = run(model, vector).await?;
    let size = |count: usize, width: usize| Content::Parameters {
        binary_data_size: count * width,
    };
    let mut body = serde_json::to_vec(&answer(size(labels.len(), 8), size(probabilities.len(), 4)))?;
    let length = body.len().to_string();
    body.extend(labels.iter().flat_map(|value| value.to_le_bytes()));
    body.extend(probabilities.iter().flat_map(|value| value.to_le_bytes()));
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()),
        (JSON_LENGTH, length),
    ];
    Ok((headers, body).into_response())
}

fn failed(error: &anyhow::Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response()
}
