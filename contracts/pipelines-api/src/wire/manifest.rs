//! What a training set was made of.

use super::AsOf;
use ondol_vocabulary::{DataType, EventTime, VersionedName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

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
