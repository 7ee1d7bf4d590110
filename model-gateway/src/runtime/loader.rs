//! Makes the runtime that runs an artifact, by its kind.

use crate::runtime::onnx::{OnnxModel, OnnxOptions};
use crate::runtime::upstream::Upstream;
use crate::runtime::{Runtime, RuntimeError};
use bytes::Bytes;
use ondol_model_gateway_api::wire::{ArtifactKind, RegisteredModel};
use ondol_vocabulary::ModelDefinition;
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

    /// Loads `artifact`, a model of `definition`, off the async threads where that takes long. `registered` is what is
    /// known of it, unless it is being registered.
    pub async fn load(
        &self,
        kind: ArtifactKind,
        artifact: Bytes,
        definition: &ModelDefinition,
        registered: Option<&RegisteredModel>,
    ) -> Result<Arc<dyn Runtime>, RuntimeError> {
        match kind {
            ArtifactKind::Onnx => {
                let options = self.onnx.clone();
                let load = move || OnnxModel::load(artifact, &options);
                let model = tokio::task::spawn_blocking(load)
                    .await
                    .map_err(|error| RuntimeError::Artifact(error.to_string()))??;
                Ok(Arc::new(model))
            }
            ArtifactKind::Upstream => Ok(Arc::new(Upstream::open(&artifact, definition, registered).await?)),
            other => Err(RuntimeError::Artifact(format!(
                "this gateway can't run artifacts of kind `{other}`"
            ))),
        }
    }
}
