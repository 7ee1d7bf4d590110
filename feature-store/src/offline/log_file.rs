//! What is known of a data file without opening it: from its `add` action and its name.

use super::layout::{GENERATION, commits_of};
use deltalake_core::kernel::{Add, Remove};
use ondol_feature_store_api::wire::columns;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The active files of a table, by path.
pub(super) type Files = BTreeMap<String, Arc<LogFile>>;

/// A data file of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogFile {
    /// Path within the table.
    pub(super) path: String,
    /// The event date of all its rows, as Delta has it.
    pub(super) date: Option<String>,
    /// Size in bytes.
    pub(super) size: u64,
    /// When it was written, in milliseconds since the epoch.
    pub(super) written_ms: i64,
    /// Rows, where its statistics say so.
    pub(super) rows: Option<u64>,
    /// The one generation of its rows, where its statistics name it.
    pub(super) generation: Option<String>,
    /// The first and the last of the commits whose rows it holds.
    pub(super) commits: (u64, u64),
    /// Least partition and offset: no row of it stands before.
    pub(super) least: (i32, i64),
}

impl LogFile {
    pub(super) fn of(add: &Add) -> Self {
        let stats: Value = add
            .stats
            .as_deref()
            .and_then(|stats| serde_json::from_str(stats).ok())
            .unwrap_or_default();
        let bound = |which: &str, column: &str| stats.get(which)?.get(column).cloned();
        let least = |column: &str| bound("minValues", column)?.as_i64();
        let generation =
            bound("minValues", GENERATION).filter(|least| bound("maxValues", GENERATION).as_ref() == Some(least));
        Self {
            path: add.path.clone(),
            date: add.partition_values.get(columns::EVENT_DATE).cloned().flatten(),
            size: u64::try_from(add.size).unwrap_or_default(),
            written_ms: add.modification_time,
            rows: stats.get("numRecords").and_then(Value::as_u64),
            generation: generation.and_then(|name| Some(name.as_str()?.to_owned())),
            // A file that is named otherwise may hold anything.
            commits: commits_of(&add.path).unwrap_or((0, u64::MAX)),
            least: (
                least(columns::PARTITION)
                    .and_then(|least| i32::try_from(least).ok())
                    .unwrap_or(i32::MIN),
                least(columns::OFFSET).unwrap_or(i64::MIN),
            ),
        }
    }

    /// Whether rows of `generation` may be in it.
    pub(super) fn may_hold(&self, generation: Option<&str>) -> bool {
        match (&self.generation, generation) {
            (Some(held), Some(wanted)) => held == wanted,
            (None, _) | (_, None) => true,
        }
    }

    /// The action that takes it out of the table; `data_change` says whether its rows go with it.
    pub(super) fn removal(&self, now_ms: i64, data_change: bool) -> Remove {
        Remove {
            path: self.path.clone(),
            data_change,
            deletion_timestamp: Some(now_ms),
            extended_file_metadata: Some(true),
            partition_values: Some(HashMap::from([(columns::EVENT_DATE.to_owned(), self.date.clone())])),
            size: i64::try_from(self.size).ok(),
            ..Remove::default()
        }
    }
}

/// Rows of `files`, when every one of them says how many it has.
pub(super) fn rows_of<'a>(files: impl IntoIterator<Item = &'a Arc<LogFile>>) -> Option<u64> {
    files.into_iter().map(|file| file.rows).sum()
}
