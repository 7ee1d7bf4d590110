//! The training set's manifest against the model's definition: what the artifact was trained on must be what it will
//! be served.

use crate::difference::{Column, differences};
use crate::fault::invalid;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_pipelines_api::wire::{Manifest, ManifestFeature};
use ondol_vocabulary::{DecisionPolicy, ModelDefinition, ModelPolicy, ModelVersion, Snapshot};

/// Parses a manifest.
pub fn parse(value: serde_json::Value) -> Result<Manifest, ModelGatewayError> {
    let manifest: Manifest = serde_json::from_value(value).map_err(|error| {
        invalid(format!(
            "the manifest is not one of a training set: {error}: pass the file written beside its output"
        ))
    })?;
    if manifest.format > Manifest::FORMAT {
        return Err(invalid(format!(
            "the manifest is of form {}, this gateway reads forms up to {}: build the training set again",
            manifest.format,
            Manifest::FORMAT
        )));
    }
    Ok(manifest)
}

/// Whether two definitions of a model are of the same inputs, vector and derived features, whatever their policies.
pub fn same_vector(one: &ModelDefinition, other: &ModelDefinition) -> bool {
    let bare = |model: &ModelDefinition| ModelDefinition {
        policy: ModelPolicy::default(),
        decisions: DecisionPolicy::default(),
        ..model.clone()
    };
    bare(one) == bare(other)
}

/// How the training set differs from what the model would be served, a line each.
pub fn check(manifest: &Manifest, model: &ModelVersion, snapshot: &Snapshot) -> Vec<String> {
    let name = &model.definition.name;
    if manifest.model.name != *name {
        return vec![
            format!("- expected a training set of model {name}"),
            format!("+ found one of model {}", manifest.model.name),
        ];
    }
    let expected: Vec<Column> = model
        .definition
        .features
        .iter()
        .map(|feature| Column::new(&feature.name, Some(feature.data_type)))
        .collect();
    let found: Vec<Column> = manifest
        .features
        .iter()
        .map(|ManifestFeature { name, data_type, .. }| Column::new(name, Some(*data_type)))
        .collect();
    let mut lines = differences(&expected, &found);
    // Another policy makes another version of the definition, and not of what was trained on.
    let pinned = manifest
        .snapshot
        .as_ref()
        .and_then(|pinned| pinned.definitions.model(name));
    let is_same = pinned.is_some_and(|pinned| same_vector(&pinned.definition, &model.definition));
    if manifest.model.version != model.version && !is_same {
        lines.push(format!("- expected definition {name}@{}", model.version));
        lines.push(format!(
            "+ found definition {}: build the training set again",
            manifest.model
        ));
    }
    for view in &manifest.views {
        match snapshot.active_view(&view.name) {
            Some(active) if active.version == view.version => {}
            Some(active) => {
                lines.push(format!("- expected view {}@{}", view.name, active.version));
                lines.push(format!("+ found view {view}: build the training set again"));
            }
            None => lines.push(format!("+ found view {view}, which is not active")),
        }
    }
    lines
}
