//! The model repository extension: which versions there are, and whether they are in memory.
//!
//! What is in the repository is what was registered; loading and unloading move versions into and out of the memory of
//! this replica, and hold until it starts again.

use crate::fault::invalid;
use crate::models::Version;
use crate::open_inference::refusal::Refusal;
use crate::open_inference::statistics::{ModelStatistics, Statistics};
use crate::predict::Predictor;
use ondol_model_gateway_api::ModelGatewayError;
use serde::Serialize;
use std::sync::Arc;

/// A version in the index.
#[derive(Debug, Serialize)]
pub(super) struct IndexEntry {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) state: &'static str,
    pub(super) reason: &'static str,
}

/// Every version of every model; with `ready` only those that answer.
pub(super) fn index(predictor: &Predictor, ready: bool) -> Vec<IndexEntry> {
    let versions = every_version(predictor).into_iter();
    let entries = versions.map(|version| {
        let model = &version.record.registered.model;
        let (state, reason) = if version.is_unloaded() {
            ("UNAVAILABLE", "unloaded")
        } else if version.is_loaded() {
            ("READY", "")
        } else {
            ("READY", "its first request loads it")
        };
        IndexEntry {
            name: model.name.clone(),
            version: model.version.to_string(),
            state,
            reason,
        }
    });
    entries.filter(|entry| !ready || entry.state == "READY").collect()
}

fn every_version(predictor: &Predictor) -> Vec<Arc<Version>> {
    let snapshot = predictor.definitions.current();
    let models = snapshot.models.iter();
    models
        .flat_map(|model| predictor.models.versions(&model.definition.name))
        .collect()
}

/// The versions that `name` means: `fraud` is all of them, `fraud@3` one.
async fn versions(predictor: &Predictor, name: &str) -> Result<Vec<Arc<Version>>, ModelGatewayError> {
    let serving = predictor.version(name).await?;
    if name.contains('@') {
        return Ok(vec![serving]);
    }
    Ok(predictor.models.versions(name))
}

/// Loads `name`: a pinned version, or the one that serves (others load with their first request).
pub(super) async fn load<'a>(
    predictor: &Predictor,
    name: &str,
    mut parameters: impl Iterator<Item = &'a str>,
) -> Result<(), ModelGatewayError> {
    if let Some(parameter) = parameters.next() {
        return Err(invalid(format!(
            "parameter `{parameter}` is not supported: a model is loaded as it was registered; register another version \
             with POST /v1/models/{name}/versions"
        )));
    }
    for version in versions(predictor, name).await? {
        predictor.models.allow(&version);
    }
    let serving = predictor.version(name).await?;
    predictor.models.load(&serving).await?;
    tracing::info!(model = name, "model loaded on demand");
    Ok(())
}

/// Unloads `name`: a pinned version, or all of them.
pub(super) async fn unload(predictor: &Predictor, name: &str) -> Result<(), ModelGatewayError> {
    for version in versions(predictor, name).await? {
        predictor.models.unload(&version);
    }
    tracing::info!(model = name, "model unloaded on demand");
    Ok(())
}

/// Why `name` can't answer, if it can't: its model is not loaded, or its features can't be looked up.
pub(super) async fn ready(predictor: &Predictor, name: &str) -> Result<(), Refusal> {
    let version = predictor.version(name).await?;
    let ready = async {
        predictor.models.scorer(&version).await?;
        version.plan(&predictor.definitions.current()).map(drop)
    };
    ready.await.map_err(|error: ModelGatewayError| {
        // Triton's status for "not ready", which its clients expect.
        Refusal::new(
            axum::http::StatusCode::BAD_REQUEST,
            format!("model `{name}` is not ready: {error}"),
        )
    })
}

/// The statistics of `name`: a pinned version or all of them; without a name, of every model.
pub(super) async fn statistics(predictor: &Predictor, name: Option<&str>) -> Result<Statistics, ModelGatewayError> {
    let versions = match name {
        None => every_version(predictor),
        Some(name) => versions(predictor, name).await?,
    };
    let read = |version: &Arc<Version>| -> ModelStatistics {
        let model = &version.record.registered.model;
        version.statistics.read(&model.name, &model.version.to_string())
    };
    Ok(Statistics {
        model_stats: versions.iter().map(read).collect(),
    })
}
