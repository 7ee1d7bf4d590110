//! Raw vectors as each server takes them, and the probability in what it answers.

use super::http1::{Answer, JSON_LENGTH, post};
use super::load::{Door, Target};
use super::model::{FEATURES, Model};
use anyhow::{Context as _, Result};
use axum::http::Uri;
use bytes::Bytes;
use ondol_model_gateway::open_inference::grpc::generated::model_infer_request::InferInputTensor;
use ondol_model_gateway::open_inference::grpc::generated::{ModelInferRequest, ModelInferResponse};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Different requests.
const REQUESTS: usize = 256;
/// The output that is compared.
const PROBABILITIES: &str = "probabilities";

/// Vectors, and what the model says of them.
pub(super) struct Vectors {
    vectors: Vec<Vec<f32>>,
    expected: Arc<Vec<f32>>,
}

impl Vectors {
    pub(super) async fn make(model: &Model) -> Result<Self> {
        let mut random = StdRng::seed_from_u64(11);
        // Two decimals, as numbers in JSON tend to have.
        let mut number = || f32::from(random.random_range(0..50_000_u16)) / 100.0;
        let vectors: Vec<Vec<f32>> = (0..REQUESTS)
            .map(|_| (0..FEATURES).map(|_| number()).collect())
            .collect();
        let mut expected = Vec::new();
        for vector in &vectors {
            expected.push(model.probability(vector.clone()).await?);
        }
        Ok(Self {
            vectors,
            expected: Arc::new(expected),
        })
    }

    /// Open Inference V2 over REST, the vector in the JSON.
    pub(super) fn json(&self, server: SocketAddr, model: &str) -> Target {
        self.target(Door::Http(server), json_probability, |vector| {
            let body = json!({
                "inputs": [{"name": "vector", "shape": [1, FEATURES], "datatype": "FP32", "data": decimals(vector)}]
            });
            post(&infer(model), "", body.to_string().as_bytes())
        })
    }

    /// Open Inference V2 over REST, the vector and the answer as bytes.
    pub(super) fn binary(&self, server: SocketAddr, model: &str) -> Target {
        self.target(Door::Http(server), binary_probability, |vector| {
            let json = json!({
                "inputs": [{
                    "name": "vector",
                    "shape": [1, FEATURES],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": 4 * FEATURES}
                }],
                "parameters": {"binary_data_output": true}
            });
            let json = json.to_string();
            let body = [json.as_bytes(), &raw(vector)].concat();
            post(&infer(model), &format!("{JSON_LENGTH}: {}\r\n", json.len()), &body)
        })
    }

    /// Open Inference V2 over gRPC, raw contents, as Triton's clients send them.
    pub(super) fn grpc(&self, server: SocketAddr, model: &str) -> Result<Target> {
        let uri: Uri = format!("http://{server}").parse()?;
        Ok(self.target(Door::Grpc(uri), grpc_probability, |vector| {
            let input = InferInputTensor {
                name: "vector".to_owned(),
                datatype: "FP32".to_owned(),
                shape: vec![1, FEATURES as i64],
                parameters: HashMap::new(),
                contents: None,
            };
            let message = ModelInferRequest {
                model_name: model.to_owned(),
                inputs: vec![input],
                raw_input_contents: vec![raw(vector).into()],
                ..ModelInferRequest::default()
            };
            message.encode_to_vec().into()
        }))
    }

    /// The body of the hand-written FastAPI server.
    pub(super) fn by_hand(&self, server: SocketAddr) -> Target {
        self.target(Door::Http(server), by_hand_probability, |vector| {
            post(
                "/predict",
                "",
                json!({"vector": decimals(vector)}).to_string().as_bytes(),
            )
        })
    }

    fn target(&self, door: Door, probability: fn(&Answer) -> Result<f32>, request: impl Fn(&[f32]) -> Bytes) -> Target {
        Target {
            door,
            requests: Arc::new(self.vectors.iter().map(|vector| request(vector)).collect()),
            expected: Arc::clone(&self.expected),
            probability,
        }
    }
}

/// Numbers with their two decimals, and not with the digits of the doubles that are nearest to the singles.
fn decimals(vector: &[f32]) -> Vec<f64> {
    vector
        .iter()
        .map(|value| (f64::from(*value) * 100.0).round() / 100.0)
        .collect()
}

fn infer(model: &str) -> String {
    format!("/v2/models/{model}/infer")
}

fn raw(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[derive(Deserialize)]
struct Body {
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default)]
    data: Vec<f64>,
    #[serde(default)]
    parameters: HashMap<String, serde_json::Value>,
}

fn json_probability(answer: &Answer) -> Result<f32> {
    let body: Body = serde_json::from_slice(&answer.body)?;
    let output = body.outputs.iter().find(|output| output.name == PROBABILITIES);
    let data = &output.context("no probabilities")?.data;
    Ok(*data.get(1).context("no second class")? as f32)
}

fn binary_probability(answer: &Answer) -> Result<f32> {
    let json_bytes = answer.json_bytes.context("no bytes in the answer")?;
    let body: Body = serde_json::from_slice(&answer.body[..json_bytes])?;
    let mut start = json_bytes;
    for output in &body.outputs {
        let size = output
            .parameters
            .get("binary_data_size")
            .and_then(serde_json::Value::as_u64);
        let end = start + usize::try_from(size.context("no size")?)?;
        if output.name == PROBABILITIES {
            return second(answer.body.get(start..end).context("bytes are missing")?);
        }
        start = end;
    }
    anyhow::bail!("no probabilities")
}

fn grpc_probability(answer: &Answer) -> Result<f32> {
    let message = ModelInferResponse::decode(answer.body.clone())?;
    let place = message.outputs.iter().position(|output| output.name == PROBABILITIES);
    let place = place.context("no probabilities")?;
    if let Some(bytes) = message.raw_output_contents.get(place) {
        return second(bytes);
    }
    let contents = message.outputs[place].contents.as_ref().context("no contents")?;
    contents.fp32_contents.get(1).copied().context("no second class")
}

fn second(bytes: &[u8]) -> Result<f32> {
    let bytes = bytes.get(4..8).context("no second class")?;
    Ok(f32::from_le_bytes(bytes.try_into()?))
}

fn by_hand_probability(answer: &Answer) -> Result<f32> {
    #[derive(Deserialize)]
    struct ByHand {
        probabilities: Vec<Vec<f64>>,
    }
    let body: ByHand = serde_json::from_slice(&answer.body)?;
    let row = body.probabilities.first().context("no row")?;
    Ok(*row.get(1).context("no second class")? as f32)
}
