//! Training sets: what is built, and the rows that come out.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A training set to build. On the wire: the spine as an Arrow IPC stream, the options as query parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingSetRequest {
    /// What to build.
    pub options: TrainingSetOptions,
    /// The spine's schema.
    pub spine_schema: SchemaRef,
    /// The spine: a row per training row, with the model's inputs, the time column and any extra columns.
    pub spine: Vec<RecordBatch>,
}

/// What training set to build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TrainingSetOptions {
    /// The model whose feature vector is built.
    pub model: String,
    /// The spine's time column; absent: `time`, `ts`, `timestamp` or `event_time`, or the only timestamp column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_column: Option<String>,
    /// What a row may see.
    #[serde(default)]
    pub as_of: AsOf,
}

/// What a training row at `t` may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AsOf {
    /// Events before `t` that had been ingested by `t`: what the model would have been served.
    #[default]
    KnownAt,
    /// Events before `t`, whenever they arrived.
    EventTime,
}

/// The rows of a finished training set: the spine's columns, then the feature vector.
#[derive(Clone, Debug, PartialEq)]
pub struct JobResult {
    /// Schema of the rows.
    pub schema: SchemaRef,
    /// The rows, in the spine's order.
    pub batches: Vec<RecordBatch>,
}
