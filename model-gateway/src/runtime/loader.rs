//! Makes the runtime that runs an artifact, by its kind.

use crate::runtime::batch::{BatchLimits, Batched};
use crate::runtime::graph::{Graph, Members};
use crate::runtime::onnx::{self, OnnxModel, OnnxOptions};
use crate::runtime::trees::Trees;
use crate::runtime::upstream::Upstream;
use crate::runtime::{Runtime, RuntimeError};
use bytes::Bytes;
use ondol_model_gateway_api::wire::{ArtifactKind, RegisteredModel};
use ondol_vocabulary::ModelDefinition;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// How requests that arrive together are merged into one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchingConfig {
    /// Rows of a merged run at most. 0: requests are not merged.
    pub max_rows: usize,
    /// How long a request waits for others to be merged with, in milliseconds. 0: only those that wait already.
    pub max_delay_ms: u64,
    /// Other limits for some models, by name.
    pub models: BTreeMap<String, BatchLimits>,
}

/// Loads artifacts of every kind. Clones share what they load with.
#[derive(Clone, Debug)]
pub struct Loader {
    onnx: OnnxOptions,
    batching: BatchingConfig,
    members: Arc<OnceLock<Box<dyn Members>>>,
}

impl Loader {
    /// With `onnx` as models in process are loaded, and `batching` as requests are merged.
    pub fn new(onnx: OnnxOptions, batching: BatchingConfig) -> Self {
        Self {
            onnx,
            batching,
            members: Arc::default(),
        }
    }

    /// Where graphs find the models they name. Set once, when there is a place.
    pub fn find_members_in(&self, members: Box<dyn Members>) {
        // A second place would be a bug of the caller's; the first one stays.
        let _ = self.members.set(members);
    }

    /// About how much memory a model takes at most whose artifact has `size_bytes`, before it is loaded.
    pub fn memory_bytes(&self, kind: ArtifactKind, size_bytes: usize) -> usize {
        match kind {
            ArtifactKind::Onnx => onnx::memory_bytes(size_bytes, self.onnx.sessions),
            // A node of a tree takes more as text than in memory.
            ArtifactKind::Lightgbm | ArtifactKind::Xgboost => size_bytes,
            // Elsewhere, and what a graph runs is counted where it is.
            ArtifactKind::Upstream | ArtifactKind::Graph => 0,
        }
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
        let runtime: Arc<dyn Runtime> = match kind {
            ArtifactKind::Onnx => {
                let options = self.onnx.clone();
                aside(move || OnnxModel::load(artifact, &options)).await?
            }
            ArtifactKind::Upstream => Arc::new(Upstream::open(&artifact, definition, registered).await?),
            ArtifactKind::Graph => {
                let members = self
                    .members
                    .get()
                    .ok_or_else(|| RuntimeError::Run("no models are known yet".to_owned()))?;
                let is_first = registered.is_none();
                // Its members merge requests themselves.
                return Ok(Arc::new(
                    Graph::open(&artifact, definition, members.as_ref(), is_first).await?,
                ));
            }
            ArtifactKind::Lightgbm => {
                let definition = definition.clone();
                aside(move || Trees::lightgbm(&artifact, &definition)).await?
            }
            ArtifactKind::Xgboost => {
                let definition = definition.clone();
                aside(move || Trees::xgboost(&artifact, &definition)).await?
            }
        };
        let limits = self.batching(&definition.name);
        if limits.max_rows > 1 {
            return Ok(Arc::new(Batched::new(runtime, limits, self.onnx.sessions)));
        }
        Ok(runtime)
    }

    fn batching(&self, model: &str) -> BatchLimits {
        self.batching.models.get(model).copied().unwrap_or(BatchLimits {
            max_rows: self.batching.max_rows,
            max_delay_ms: self.batching.max_delay_ms,
        })
    }
}

/// Loads what blocks, aside.
async fn aside<R: Runtime + 'static>(
    load: impl FnOnce() -> Result<R, RuntimeError> + Send + 'static,
) -> Result<Arc<dyn Runtime>, RuntimeError> {
    let runtime = tokio::task::spawn_blocking(load)
        .await
        .map_err(|error| RuntimeError::Artifact(error.to_string()))??;
    Ok(Arc::new(runtime))
}
