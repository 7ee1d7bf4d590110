//! Decisions looked back on: old vectors scored anew, and what became of what was predicted.

use ondol_vocabulary::{EventTime, Value, VersionedName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Feature vectors to score as they are: nothing is looked up, nothing is recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScoreRequest {
    /// One entry per vector: a value per entry of the model's feature vector, by name; null where it has none. Floats
    /// that JSON has no number for are `NaN`, `Infinity` and `-Infinity`.
    pub vectors: Vec<BTreeMap<String, Value>>,
    /// How long it may take; absent means the gateway's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// What a model says of given vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VectorScores {
    /// Which version of which model scored them.
    pub model: VersionedName,
    /// SHA-256 of its artifact, in hexadecimal: the same digest gives the same bits.
    pub sha256: String,
    /// A prediction per vector, in their order.
    #[schema(value_type = Vec<Object>)]
    pub predictions: Vec<serde_json::Value>,
}

/// What became of something that was predicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutcomeRequest {
    /// The id of the request whose prediction it answers.
    pub request_id: String,
    /// What happened: a number, a truth value or a text.
    pub outcome: Value,
    /// When it happened; absent means now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<EventTime>,
}

/// An outcome that was taken: durable from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutcomeReceipt {
    /// The id of the request.
    pub request_id: String,
    /// The moment it is recorded at.
    pub at: EventTime,
}
