//! Makes the runtime that runs an artifact, by its kind.

use crate::runtime::onnx::{OnnxModel, OnnxOptions};
use crate::runtime::{Runtime, RuntimeError};
use bytes::Bytes;
use ondol_model_gateway_api::wire::ArtifactKind;
use std::sync::Arc;

/// Loads artifacts of every kind.
#[derive(Clone, Debug)]
pub struct Loader {
    onnx: OnnxOptions,
}

impl Loader {
    /// With `onnx` as ONNX models are loaded.
    pub fn new(onnx: OnnxOptions) -> Self {
        Self { onnx }
    }

    /// Loads `artifact`, off the async threads where that takes long.
    pub async fn load(&self, kind: ArtifactKind, artifact: Bytes) -> Result<Arc<dyn Runtime>, RuntimeError> {
        match kind {
            ArtifactKind::Onnx => {
                let options = self.onnx.clone();
                let load = move || OnnxModel::load(artifact, &options);
                let model = tokio::task::spawn_blocking(load)
                    .await
                    .map_err(|error| RuntimeError::Artifact(error.to_string()))??;
                Ok(Arc::new(model))
            }
            other => Err(RuntimeError::Artifact(format!(
                "this gateway can't run artifacts of kind `{other}`"
            ))),
        }
    }
}
