//! What a training set was made of.

use super::AsOf;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ondol_vocabulary::{DataType, EventTime, Snapshot, Value, VersionedName, batch};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What a training set was made of: written beside it, checked when a model is registered, enough to make it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Manifest {
    /// Version of this form: 2. Form 1 had no `snapshot`.
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
    /// What it takes to make the same bytes again. Absent in form 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<TrainingSetSnapshot>,
}

impl Manifest {
    /// The form of manifests written by this version.
    pub const FORMAT: u32 = 2;
}

/// Everything a training set depends on, pinned: from it, and the spine, the same rows can be made again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrainingSetSnapshot {
    /// The model, its views and their sources as they were: whatever is applied later changes nothing.
    pub definitions: Snapshot,
    /// What was read of each source.
    pub tables: BTreeMap<String, TablePin>,
    /// The spine.
    pub spine: RowsPin,
    /// The rows that came out.
    pub result: RowsPin,
    /// What built it: name and version.
    pub built_by: String,
}

/// Rows that can be recognized again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RowsPin {
    /// SHA-256 over names and values, column by column; see the manifest's reference.
    pub digest: String,
    /// The Arrow schema as a base64 IPC stream without rows: types, nullability and metadata.
    pub schema: String,
    /// The file they came from, when whoever wrote the manifest knew one. Only a hint where to look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

impl RowsPin {
    /// Of rows with that schema and digest.
    ///
    /// # Errors
    /// When the schema can't be written as Arrow IPC.
    pub fn new(schema: &SchemaRef, digest: String) -> Result<Self, ArrowError> {
        Ok(Self {
            digest,
            schema: BASE64.encode(batch::encode(schema, &[])?),
            file: None,
        })
    }

    /// The schema of the rows.
    ///
    /// # Errors
    /// When what stands there is none.
    pub fn arrow_schema(&self) -> Result<SchemaRef, ArrowError> {
        let bytes = BASE64
            .decode(&self.schema)
            .map_err(|cause| ArrowError::IpcError(cause.to_string()))?;
        batch::decode(&bytes).map(|(schema, _)| schema)
    }
}

/// One version of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum TablePin {
    /// The log of a stream of which nothing had been committed.
    Empty,
    /// A version of a Delta table: the log of a stream, or a batch source.
    Delta {
        /// Where it was.
        location: String,
        /// The table's id, the same through all its versions.
        table_id: String,
        /// The version.
        version: u64,
    },
    /// Parquet files without a log of their own.
    Parquet {
        /// The file or folder.
        location: String,
        /// The files, in the order they were read in.
        files: Vec<FilePin>,
    },
}

/// A file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FilePin {
    /// Its path within its store.
    pub path: String,
    /// Bytes in it.
    pub size: u64,
    /// When it was last written.
    pub modified: EventTime,
}

/// One column of a training set's feature vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ManifestFeature {
    /// The column's name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// Rows in which it is null.
    pub nulls: u64,
    /// What its values come to. Absent in manifests of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<FeatureStatistics>,
    /// What an online read would have said of its values. Of features of views; absent in manifests of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statuses: Option<FeatureStatuses>,
}

/// How many rows of a training set have which status: those of online reads, and together all rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FeatureStatuses {
    /// There is a value, within its time to live.
    pub fresh: u64,
    /// The entity has a row, and the value is null.
    pub null: u64,
    /// The entity's row is older than the view's time to live: the value is withheld.
    pub stale: u64,
    /// The entity has no row.
    pub missing: u64,
    /// Nothing happened to the entity as far back as values reach, and what happened before was not read: missing, or
    /// else stale (of a view with a time to live), fresh (a count) or null (anything else). With `exact_status` none.
    #[serde(default)]
    pub unread: u64,
    /// Rows of any of these where the feature's default stands for the value that there is not.
    #[serde(default)]
    pub defaults: u64,
}

/// What the values of a feature come to in a training set: the same of the same rows, to the bit. No text of a row is
/// among it: a manifest travels further than the rows do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FeatureStatistics {
    /// Values that are not null.
    pub count: u64,
    /// Of these, NaN.
    #[serde(default)]
    pub nans: u64,
    /// Of a bool, values that are true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trues: Option<u64>,
    /// The least value that is not NaN; none of texts and lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Value>,
    /// The greatest value that is not NaN; none of texts and lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Value>,
    /// The mean of numbers, from their exact sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Value>,
    /// Distinct values; none of lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct: Option<u64>,
    /// Whether that is exact (up to 128), or within some 5 %.
    #[serde(default)]
    pub distinct_is_exact: bool,
}
