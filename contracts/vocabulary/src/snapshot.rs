//! A versioned snapshot of all applied definitions: what services subscribe to, pin and restart from.

use crate::{FeatureRef, ModelDefinition, SourceDefinition, ViewDefinition};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Every definition in force at one registry version.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Rises with every change of the registry; 0 is the empty registry.
    pub version: u64,
    /// The version in force of each source.
    pub sources: Vec<SourceVersion>,
    /// For each view the version that serves, and the newer one being provisioned, if any.
    pub views: Vec<ViewVersion>,
    /// The version in force of each model definition.
    pub models: Vec<ModelVersion>,
}

/// One immutable version of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceVersion {
    /// Counts from 1 for each name.
    pub version: u32,
    /// The definition.
    pub definition: SourceDefinition,
}

/// One immutable version of a view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ViewVersion {
    /// Names this view version in stored rows; unique in the registry, never reused.
    pub id: u32,
    /// Counts from 1 for each name.
    pub version: u32,
    /// Whether it serves yet.
    pub state: ViewState,
    /// The definition.
    pub definition: ViewDefinition,
}

/// Where a view version stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ViewState {
    /// Its rows are being built from the log or the table; it does not serve.
    Provisioning,
    /// It takes writes and serves reads.
    Active,
    /// A newer version or a removal took its place.
    Retired,
}

/// One immutable version of a model definition (not of the artifact that scores it).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelVersion {
    /// Counts from 1 for each name.
    pub version: u32,
    /// The definition.
    pub definition: ModelDefinition,
}

impl Snapshot {
    /// The source called `name`.
    pub fn source(&self, name: &str) -> Option<&SourceVersion> {
        self.sources.iter().find(|source| source.definition.name == name)
    }

    /// The version of view `name` that serves.
    pub fn active_view(&self, name: &str) -> Option<&ViewVersion> {
        self.views
            .iter()
            .find(|view| view.definition.name == name && view.state == ViewState::Active)
    }

    /// The newest version of view `name` that is not retired, serving or not.
    pub fn newest_view(&self, name: &str) -> Option<&ViewVersion> {
        self.views
            .iter()
            .filter(|view| view.definition.name == name && view.state != ViewState::Retired)
            .max_by_key(|view| view.version)
    }

    /// The model called `name`.
    pub fn model(&self, name: &str) -> Option<&ModelVersion> {
        self.models.iter().find(|model| model.definition.name == name)
    }

    /// The views that read source `name` and are not retired.
    pub fn views_of<'a>(&'a self, source: &'a str) -> impl Iterator<Item = &'a ViewVersion> {
        self.views
            .iter()
            .filter(move |view| view.definition.source == source && view.state != ViewState::Retired)
    }

    /// The version of the view that serves `feature`, and the feature's place in it.
    pub fn resolve(&self, feature: &FeatureRef) -> Option<(&ViewVersion, usize)> {
        let view = self.active_view(&feature.view)?;
        let index = view
            .definition
            .features
            .iter()
            .position(|candidate| candidate.name == feature.feature)?;
        Some((view, index))
    }
}
