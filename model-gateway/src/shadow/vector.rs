//! A shadow's vector from what was read for the version that served: nothing is looked up for a shadow.

use crate::features::Served;
use arrow::array::{ArrayRef, RecordBatch};
use ondol_transform::VectorEngine;
use ondol_vocabulary::{FeatureRef, ModelDefinition, Snapshot, ViewDefinition};
use std::sync::Arc;

/// How a shadow has its vector.
#[derive(Debug)]
pub enum ShadowVector {
    /// It is the one that was served.
    Served,
    /// Computed from what was read.
    Computed(Box<VectorEngine>),
    /// It can't be had, and why.
    Impossible(String),
}

impl ShadowVector {
    /// How `shadow` has its vector from what `served` looks up under `snapshot`.
    pub fn plan(served: &ModelDefinition, shadow: &ModelDefinition, snapshot: &Snapshot) -> Self {
        if served.features == shadow.features && served.derived == shadow.derived {
            return Self::Served;
        }
        for input in &shadow.inputs {
            if !served.inputs.contains(input) {
                return Self::Impossible(format!(
                    "it takes input `{}` ({}), which the version that serves does not",
                    input.name, input.data_type
                ));
            }
        }
        let read = served.view_features();
        let mut views: Vec<&ViewDefinition> = Vec::new();
        for need in shadow.view_features() {
            if !read.contains(&need) {
                return Self::Impossible(format!(
                    "it needs `{need}`, which the version that serves does not read"
                ));
            }
            if let Some((view, _)) = snapshot.resolve(&need)
                && !views.iter().any(|known| known.name == view.definition.name)
            {
                views.push(&view.definition);
            }
        }
        match VectorEngine::compile(shadow, &views) {
            Ok(engine) => Self::Computed(Box::new(engine)),
            Err(error) => Self::Impossible(error.to_string()),
        }
    }

    /// The vector of what was `served` to requests with these `inputs`, or why it can't be had.
    pub fn of(&self, served: &Served, inputs: &RecordBatch) -> Result<RecordBatch, String> {
        match self {
            Self::Served => Ok(served.vector.clone()),
            Self::Computed(engine) => {
                let column = |need: &FeatureRef| {
                    let place = served.features.iter().position(|feature| feature == need);
                    place
                        .and_then(|place| served.columns.get(place))
                        .map(|column| Arc::clone(&column.values))
                        .ok_or_else(|| format!("`{need}` was not read"))
                };
                let columns: Vec<ArrayRef> = engine.needs().iter().map(column).collect::<Result<_, _>>()?;
                engine.assemble(inputs, &columns).map_err(|error| error.to_string())
            }
            Self::Impossible(reason) => Err(reason.clone()),
        }
    }
}
