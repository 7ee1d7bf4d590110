//! Training sets: what is built, and the rows that come out.

use super::Manifest;
use crate::error::PipelinesError;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ondol_vocabulary::EventTime;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// The key of a spine's schema metadata under which a manifest travels: the training set it describes is made again.
pub const MANIFEST_KEY: &str = "ondol.manifest";

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

impl TrainingSetRequest {
    /// The training set that `manifest` describes, once more, from the same spine. The manifest travels in the metadata
    /// of the spine's schema, so that any Arrow client can send it and whoever keeps the request keeps it too.
    ///
    /// # Errors
    /// When the manifest doesn't go into the request.
    pub fn from_manifest(
        manifest: &Manifest,
        spine_schema: &SchemaRef,
        spine: Vec<RecordBatch>,
    ) -> Result<Self, PipelinesError> {
        let json = serde_json::to_string(manifest).map_err(|cause| PipelinesError::InvalidRequest {
            detail: format!("the manifest can't be sent: {cause}"),
        })?;
        let mut request = Self {
            options: TrainingSetOptions {
                model: manifest.model.name.clone(),
                time_column: Some(manifest.time_column.clone()),
                as_of: manifest.as_of,
                exact_status: false,
            },
            spine_schema: Arc::clone(spine_schema),
            spine,
        };
        request.change_metadata(|metadata| {
            metadata.insert(MANIFEST_KEY.to_owned(), json.clone());
        });
        Ok(request)
    }

    /// Takes the manifest out of the request, if it holds one.
    ///
    /// # Errors
    /// When what stands there is no manifest.
    pub fn take_manifest(&mut self) -> Result<Option<Manifest>, PipelinesError> {
        let Some(json) = self.spine_schema.metadata().get(MANIFEST_KEY) else {
            return Ok(None);
        };
        let manifest = serde_json::from_str(json).map_err(|cause| PipelinesError::InvalidRequest {
            detail: format!(
                "the manifest is not one of a training set: {cause}: pass the file written beside its output"
            ),
        })?;
        self.change_metadata(|metadata| {
            metadata.remove(MANIFEST_KEY);
        });
        Ok(Some(manifest))
    }

    fn change_metadata(&mut self, change: impl Fn(&mut HashMap<String, String>)) {
        change(&mut Arc::make_mut(&mut self.spine_schema).metadata);
        for batch in &mut self.spine {
            change(batch.schema_metadata_mut());
        }
    }
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
    /// Reads events that are too old to change a value as well, so that the manifest's counts of statuses tell missing from
    /// stale, null or fresh for every row.
    #[serde(default)]
    pub exact_status: bool,
}

/// A training set whose spine the job reads by itself, and whose rows it keeps: one that a schedule can submit.
///
/// In `spine`, `spine_query` and `output`, `{start}` and `{end}` stand for moments (`2026-11-21T03:30:00Z`), `{start_date}`
/// and `{end_date}` for their dates in UTC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecurringTrainingSetRequest {
    /// The model whose feature vector is built.
    pub model: String,
    /// Where the spine is: a Parquet file, or a folder of them; a path or a URL. Or else `spine_query`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spine: Option<String>,
    /// A query over the offline tables whose rows are the spine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spine_query: Option<String>,
    /// Where the rows are kept: a `.parquet` file; a path or a URL. The manifest goes beside it.
    #[schema(example = "s3://lake/sets/{end_date}/train.parquet")]
    pub output: String,
    /// The spine's time column, if its name does not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_column: Option<String>,
    /// What a row may see.
    #[serde(default)]
    pub as_of: AsOf,
    /// The first moment that the run is about. A schedule fills in the end of the run before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<EventTime>,
    /// The first moment after what the run is about. A schedule fills in when the run is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<EventTime>,
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
