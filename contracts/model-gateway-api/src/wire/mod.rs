//! The types that travel to and from the model gateway.

use bytes::Bytes;
use http::HeaderMap;
use ondol_vocabulary::{DataType, EventTime, FeatureStatus, Value, VersionedName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

mod access;
mod artifact_kind;
mod decision;
mod policy;
mod routing;

pub use access::{AccessMode, AuditEntry, AuditPage, AuditQuery, CallerIdentity, CreateKey, CreatedKey, KeySummary};
pub use artifact_kind::ArtifactKind;
pub use decision::{OutcomeReceipt, OutcomeRequest, ScoreRequest, VectorScores};
pub use policy::{Degradation, Trouble};
pub use routing::{
    HeaderMatch, Limits, LiveReport, PromoteRequest, Quantiles, Remark, RollbackRequest, Routing, RoutingAction,
    RoutingChange, RoutingReport, RoutingRevision, RoutingRule, Shadow, ShadowReport, Share, Target,
};

/// One request: entity keys and request-time values by the names of the model's inputs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PredictRequest {
    /// A value per input of the model.
    pub inputs: BTreeMap<String, Value>,
    /// The moment to predict as of; absent means now. For replays and tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<EventTime>,
    /// How long the request may take; absent means the gateway's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Whether the answer lists the features, each with its value, age, status and view version. False when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explain: Option<bool>,
    /// The headers of the call, which routing rules may look at.
    #[serde(skip)]
    pub headers: HeaderMap,
}

/// Many requests of one model, scored together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchPredictRequest {
    /// One entry per request: a value per input of the model.
    pub instances: Vec<BTreeMap<String, Value>>,
    /// The moment to predict as of; absent means now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<EventTime>,
    /// How long the request may take; absent means the gateway's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Whether the answer lists the features, each with its value, age, status and view version. False when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explain: Option<bool>,
    /// The headers of the call, which routing rules may look at.
    #[serde(skip)]
    pub headers: HeaderMap,
}

/// A model's answer to one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Prediction {
    /// The score: a number where the model has one, a list where it has several.
    pub prediction: serde_json::Value,
    /// Which version of which model scored it.
    pub model: VersionedName,
    /// Names this request in the decision log.
    pub request_id: String,
    /// The moment the features are as of.
    pub as_of: EventTime,
    /// The vector that was scored, by feature name; absent unless `explain` is true.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub features: BTreeMap<String, ServedFeature>,
    /// What the answer was made in spite of, under the model's policy; absent when nothing was wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<Degradation>,
    /// By which way of the model's routing that version was found: `default`, `pinned`, `alias canary`, `rule large`,
    /// `split`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub route: String,
}

/// One entry of the vector that was scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServedFeature {
    /// Its value.
    pub value: Value,
    /// Age of the newest event behind it; absent for inputs and derived features, and for missing entities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<i64>,
    /// What it is worth.
    pub status: FeatureStatus,
    /// The view version it came from; absent for inputs and derived features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<VersionedName>,
    /// Whether the value is the default that the model's policy put in the place of none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub defaulted: bool,
}

/// A model's answers, in the order of the instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchPrediction {
    /// One per instance.
    pub predictions: Vec<Prediction>,
}

/// An artifact to register as a model's next version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterRequest {
    /// The artifact's bytes.
    pub artifact: Bytes,
    /// What they are; absent: recognised from the bytes.
    pub kind: Option<ArtifactKind>,
    /// The manifest of the training set it was trained on, as written beside the output; its feature names, order,
    /// types and definition versions are checked too.
    pub manifest: Option<serde_json::Value>,
}

/// A version of a model that can score.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegisteredModel {
    /// The model and its new version.
    pub model: VersionedName,
    /// What the artifact is.
    #[serde(default)]
    pub kind: ArtifactKind,
    /// SHA-256 of the artifact, in hexadecimal.
    pub sha256: String,
    /// When it was registered.
    pub registered_at: EventTime,
    /// The model definition's version it was checked against.
    pub definition_version: u32,
    /// The view versions that its vector came from when it was registered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<VersionedName>,
    /// The artifact's inputs.
    pub inputs: Vec<TensorSpec>,
    /// The artifact's outputs.
    pub outputs: Vec<TensorSpec>,
}

/// A named tensor of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Element type in the words of the Open Inference Protocol: `FP32`, `INT64`, `BYTES`, …
    pub datatype: String,
    /// Dimensions; -1 where any size goes.
    pub shape: Vec<i64>,
}

/// A model and its versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelSummary {
    /// Its name.
    pub name: String,
    /// What a caller sends: name and type.
    pub inputs: BTreeMap<String, DataType>,
    /// The feature vector's names, in order.
    pub features: Vec<String>,
    /// Registered versions, newest first; the newest one serves.
    pub versions: Vec<RegisteredModel>,
}
