//! Registration: an artifact becomes a model's next version, or is refused with a diff.
//!
//! In order: it must load, its inputs must take the vector of the model's definition, the training set's manifest must
//! agree with what will be served, no input without null may be fed by a feature that can be missing, and one trial run
//! must give a prediction. Only then is the file kept, and then the row that names it.

use crate::artifact::sha256;
use crate::catalog::VersionRecord;
use crate::definitions::Definitions;
use crate::fault::{invalid, nearest, of_trial, unavailable};
use crate::layout::Layout;
use crate::manifest;
use crate::models::{Models, Scorer};
use crate::runtime::onnx::FEATURES_PROPERTY;
use crate::runtime::signature::{Slot, SlotKind};
use crate::runtime::{RuntimeError, WARM_UP_ROWS, kind};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::{RegisterRequest, RegisteredModel, TensorSpec};
use ondol_pipelines_api::wire::Manifest;
use ondol_vocabulary::{EventTime, ModelVersion, Snapshot, VersionedName, ViewVersion};
use std::sync::Arc;

/// Registers `request` as the next version of `name`.
pub async fn register(
    models: &Models,
    definitions: &Definitions,
    name: &str,
    request: RegisterRequest,
    now: EventTime,
) -> Result<RegisteredModel, ModelGatewayError> {
    if name.contains('@') {
        return Err(invalid(format!(
            "`{name}` names a version: register by the model's name, the next version is given"
        )));
    }
    // Asked anew: the definition may have been applied a moment ago.
    let snapshot = definitions
        .refresh()
        .await
        .map_err(|error| unavailable(format!("definitions can't be read: {error}")))?;
    let model = snapshot.model(name).cloned().ok_or_else(|| {
        let known = snapshot.models.iter().map(|model| model.definition.name.as_str());
        ModelGatewayError::UnknownModel {
            name: name.to_owned(),
            suggestion: nearest(name, known),
        }
    })?;
    let manifest = request.manifest.map(manifest::parse).transpose()?;
    let artifact = request.artifact;
    let kind = request.kind.map_or_else(|| kind::recognise(&artifact), Ok);
    let kind = kind.map_err(|error| refused(&error))?;
    let charge = models.make_room(name, kind, artifact.len()).await?;
    let runtime = models
        .loader()
        .load(kind, artifact.clone(), &model.definition, None)
        .await;
    let scorer = Scorer::new(runtime.map_err(|error| refused(&error))?, &model.definition)?.charged(charge);
    check(&scorer, &model, manifest.as_ref(), &snapshot)?;
    trial(&scorer, &model).await?;
    let signature = scorer.runtime.signature();
    let mut views: Vec<&ViewVersion> = Vec::new();
    for (view, _) in model
        .definition
        .view_features()
        .iter()
        .filter_map(|feature| snapshot.resolve(feature))
    {
        if !views.iter().any(|known| known.id == view.id) {
            views.push(view);
        }
    }
    let record = VersionRecord {
        registered: RegisteredModel {
            model: VersionedName::new(name, 0),
            kind,
            sha256: sha256(&artifact),
            registered_at: now,
            definition_version: model.version,
            views: views
                .iter()
                .map(|view| VersionedName::new(&view.definition.name, view.version))
                .collect(),
            inputs: signature.inputs.iter().map(spec).collect(),
            outputs: signature.outputs.iter().map(spec).collect(),
        },
        views: views.into_iter().map(|view| view.definition.clone()).collect(),
        definition: model.definition.clone(),
    };
    let record = models.add(artifact, record, Arc::new(scorer)).await?;
    tracing::info!(model = %record.registered.model, sha256 = record.registered.sha256, "model registered");
    Ok(record.registered)
}

/// An artifact that can't be loaded is the caller's fault at registration, not the gateway's.
fn refused(error: &RuntimeError) -> ModelGatewayError {
    match error {
        RuntimeError::Artifact(_) => invalid(error.to_string()),
        other => of_trial(other),
    }
}

fn check(
    scorer: &Scorer,
    model: &ModelVersion,
    manifest: Option<&Manifest>,
    snapshot: &Snapshot,
) -> Result<(), ModelGatewayError> {
    let mut differences = Vec::new();
    if let Some(manifest) = manifest {
        let lines = manifest::check(manifest, model, snapshot);
        if !lines.is_empty() {
            differences.push("in the training set's manifest:".to_owned());
            differences.extend(lines);
        }
    } else if matches!(scorer.layout, Layout::Matrix { .. }) && scorer.runtime.signature().features.is_none() {
        tracing::warn!(
            model = model.definition.name,
            "the artifact's matrix was checked by its number of columns alone: register with the training set's \
             manifest, or add property `{FEATURES_PROPERTY}` to the file"
        );
    }
    let trained = manifest.map(|manifest| manifest.features.as_slice());
    differences.extend(scorer.layout.nulls(&model.definition, snapshot, trained));
    differences.extend(scorer.layout.long_lists(&model.definition, snapshot));
    if differences.is_empty() {
        Ok(())
    } else {
        Err(ModelGatewayError::Mismatch {
            model: model.definition.name.clone(),
            differences,
        })
    }
}

/// Scores vectors that say nothing, as for entities that nobody has seen, in typical numbers: what fails on them would
/// fail in service, and what is slow the first time (allocations, kernels, connections) is done before traffic.
async fn trial(scorer: &Scorer, model: &ModelVersion) -> Result<(), ModelGatewayError> {
    for rows in WARM_UP_ROWS {
        scorer.trial(rows).await.map_err(|detail| ModelGatewayError::Mismatch {
            model: model.definition.name.clone(),
            differences: vec![format!(
                "- a trial run on {rows} rows of missing values failed: {detail}"
            )],
        })?;
    }
    Ok(())
}

fn spec(slot: &Slot) -> TensorSpec {
    let (datatype, shape) = match &slot.kind {
        SlotKind::Tensor { element, shape } => (element.name().to_owned(), shape.clone()),
        SlotKind::Unsupported(kind) => (kind.clone(), Vec::new()),
    };
    TensorSpec {
        name: slot.name.clone(),
        datatype,
        shape,
    }
}
