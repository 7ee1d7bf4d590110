//! What a model says of itself: its metadata, and Triton's configuration of it.
//!
//! `inputs` are those of the model's definition, which the gateway looks features up by; the model's own tensors, which
//! may be sent in their place, stand beside them as `raw_inputs`.

use crate::models::Version;
use crate::open_inference::wire::{ModelMetadata, RawInputs};
use crate::predict::Predictor;
use crate::runtime::tensor::ElementType;
use ondol_model_gateway_api::wire::TensorSpec;
use ondol_vocabulary::DataType;
use serde::Serialize;
use std::collections::BTreeMap;

/// Names the gateway to clients.
pub(super) const SERVER: &str = "ondol";

/// Which extensions of the protocol are spoken.
pub(super) const EXTENSIONS: [&str; 4] = [
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "statistics",
];

/// The metadata of `version`.
pub(super) fn of(predictor: &Predictor, version: &Version) -> ModelMetadata {
    let registered = &version.record.registered;
    let versions = predictor.models.versions(&registered.model.name);
    ModelMetadata {
        name: registered.model.name.clone(),
        versions: versions
            .iter()
            .map(|version| version.record.registered.model.version.to_string())
            .collect(),
        platform: platform(version),
        inputs: inputs(version),
        outputs: registered.outputs.clone(),
        parameters: RawInputs {
            raw_inputs: registered.inputs.clone(),
        },
    }
}

/// What runs it, in the protocol's form `project_format`.
fn platform(version: &Version) -> String {
    match version.record.registered.kind.name() {
        "onnx" => "onnx_onnxv1".to_owned(),
        kind => format!("ondol_{kind}"),
    }
}

fn inputs(version: &Version) -> Vec<TensorSpec> {
    let inputs = version.record.definition.inputs.iter();
    inputs.map(|input| input_spec(&input.name, input.data_type)).collect()
}

/// The tensor by which an input of a model's definition is sent.
fn input_spec(name: &str, data_type: DataType) -> TensorSpec {
    let element = match data_type {
        // Definitions refuse inputs of lists.
        DataType::String | DataType::Timestamp | DataType::List(_) => ElementType::String,
        DataType::Bool => ElementType::Bool,
        DataType::I32 => ElementType::I32,
        DataType::I64 => ElementType::I64,
        DataType::F32 => ElementType::F32,
        DataType::F64 => ElementType::F64,
    };
    TensorSpec {
        name: name.to_owned(),
        datatype: element.name().to_owned(),
        shape: vec![-1],
    }
}

/// Triton's model configuration, as far as it means something here.
#[derive(Debug, Serialize)]
pub(super) struct ModelConfig {
    pub(super) name: String,
    pub(super) platform: String,
    pub(super) backend: String,
    /// 0: dimensions are complete, the first one is the rows.
    pub(super) max_batch_size: i32,
    pub(super) input: Vec<ConfiguredTensor>,
    pub(super) output: Vec<ConfiguredTensor>,
    pub(super) parameters: BTreeMap<&'static str, ConfiguredText>,
}

/// An input or output in a configuration.
#[derive(Debug, Serialize)]
pub(super) struct ConfiguredTensor {
    pub(super) name: String,
    pub(super) data_type: String,
    pub(super) dims: Vec<i64>,
}

/// A parameter in a configuration.
#[derive(Debug, Serialize)]
pub(super) struct ConfiguredText {
    pub(super) string_value: String,
}

/// The configuration of `version`.
pub(super) fn config(version: &Version) -> ModelConfig {
    let registered = &version.record.registered;
    let texts = [
        ("raw_inputs", raw_inputs(version)),
        ("sha256", registered.sha256.clone()),
        ("definition_version", registered.definition_version.to_string()),
    ];
    let parameter = |(name, string_value)| (name, ConfiguredText { string_value });
    ModelConfig {
        name: registered.model.name.clone(),
        platform: platform(version),
        backend: registered.kind.name().to_owned(),
        max_batch_size: 0,
        input: inputs(version).into_iter().map(configured).collect(),
        output: registered.outputs.iter().cloned().map(configured).collect(),
        parameters: texts.into_iter().map(parameter).collect(),
    }
}

/// The model's own tensors as JSON, where the wire has only room for a text.
pub(super) fn raw_inputs(version: &Version) -> String {
    serde_json::to_string(&version.record.registered.inputs).unwrap_or_default()
}

fn configured(spec: TensorSpec) -> ConfiguredTensor {
    let data_type = match spec.datatype.as_str() {
        "BYTES" => "TYPE_STRING".to_owned(),
        name => format!("TYPE_{name}"),
    };
    ConfiguredTensor {
        name: spec.name,
        data_type,
        dims: spec.shape,
    }
}
