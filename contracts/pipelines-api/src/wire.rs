//! The types that travel to and from the pipelines.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ondol_vocabulary::{DataType, EventTime, VersionedName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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

/// A batch source to bring online.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MaterializeRequest {
    /// The source's name.
    pub source: String,
}

/// A job and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Unique; sorts by creation.
    pub id: String,
    /// `training-set` or `materialize`.
    pub kind: String,
    /// The model or source it works on.
    pub subject: String,
    /// Where it stands.
    pub state: JobState,
    /// Rises with every change of state or progress.
    pub revision: u64,
    /// What it does now, in a few words.
    pub stage: String,
    /// Rows done, of the present stage.
    pub rows_done: u64,
    /// Rows to do, of the present stage; absent while unknown.
    pub rows_total: Option<u64>,
    /// When it was submitted.
    pub created_at: EventTime,
    /// When it ended.
    pub ended_at: Option<EventTime>,
    /// Why it failed.
    pub error: Option<String>,
    /// The manifest of a finished training set.
    pub manifest: Option<Manifest>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waiting for a place.
    Queued,
    /// At work.
    Running,
    /// Done.
    Succeeded,
    /// Ended by an error.
    Failed,
    /// Ended on request.
    Cancelled,
}

impl JobState {
    /// Whether the job has ended.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// The rows of a finished training set: the spine's columns, then the feature vector.
#[derive(Clone, Debug, PartialEq)]
pub struct JobResult {
    /// Schema of the rows.
    pub schema: SchemaRef,
    /// The rows, in the spine's order.
    pub batches: Vec<RecordBatch>,
}

/// What a training set was made of: written beside it, checked when a model is registered, enough to make it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Manifest {
    /// Version of this form: 1.
    pub format: u32,
    /// The model definition.
    pub model: VersionedName,
    /// What rows may see.
    pub as_of: AsOf,
    /// The registry version the definitions were read at.
    pub registry_version: u64,
    /// The view definitions used.
    pub views: Vec<VersionedName>,
    /// The tables read: source name to Delta version (or, for a file, a fingerprint of its size and time).
    pub tables: BTreeMap<String, String>,
    /// The spine's time column.
    pub time_column: String,
    /// The spine's columns, in order.
    pub spine_columns: Vec<String>,
    /// The feature vector, in order.
    pub features: Vec<ManifestFeature>,
    /// Rows in the training set.
    pub rows: u64,
    /// When it was built.
    pub built_at: EventTime,
}

/// One column of a training set's feature vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ManifestFeature {
    /// The column's name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// Rows in which it is null.
    pub nulls: u64,
}
