//! Batch sources brought online.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A batch source to bring online: the rows that the views over it lack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MaterializeRequest {
    /// The source's name.
    pub source: String,
    /// Whether every view gets all rows anew, whatever it has been given: new rows are built beside those that serve.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// Of a Parquet source whose files are written again as rows are added: how much later than the newest row so far a
    /// row may come, in seconds. Files that have changed are then read from there on. Absent: a changed file makes
    /// everything anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_s: Option<u64>,
}

impl MaterializeRequest {
    /// What is new in `source`.
    pub fn of(source: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            ..Self::default()
        }
    }
}

/// What a materialization came to: the `outcome` of its job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MaterializeOutcome {
    /// What was read: the Delta version, or a fingerprint of the files.
    pub table: String,
    /// Rows delivered.
    pub delivered: u64,
    /// Rows of the table that were not read, because every view had been given them.
    pub skipped: u64,
    /// Views that were given what is new.
    pub added_to: Vec<String>,
    /// Views that serve and were given all rows anew, and why.
    pub anew: BTreeMap<String, String>,
    /// Views that began to serve.
    pub activated: Vec<String>,
}
