//! What the commits of a Delta table did to its files, from the log alone.

use super::file::UNKNOWN_ROWS;
use super::{TableFile, delta};
use crate::error::JobError;
use deltalake_core::kernel::Action;
use deltalake_core::logstore::get_actions;
use object_store::path::Path;
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

/// One commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Commit {
    /// Its version.
    pub version: i64,
    /// Files that hold rows which the table did not have before.
    pub added: HashSet<String>,
    /// Files that hold rows which the table had already, arranged anew.
    pub rearranged: HashSet<String>,
    /// Files whose rows the table no longer has.
    pub removed: HashSet<String>,
    /// Files whose rows are in [`Self::rearranged`] from now on.
    pub replaced: HashSet<String>,
    /// The files of [`Self::added`] and [`Self::removed`], with what the log says of their rows.
    pub changed: Vec<TableFile>,
}

/// The commits `versions` of the table at `place`, in order; `None` if the log no longer has one of them.
pub(crate) async fn commits(place: &str, versions: RangeInclusive<i64>) -> Result<Option<Vec<Commit>>, JobError> {
    let error = |cause: &dyn std::fmt::Display| JobError::table(place, cause);
    let log = delta::log_store(place)?;
    let mut commits = Vec::new();
    for version in versions {
        let read = u64::try_from(version).map_err(|cause| error(&cause))?;
        let Some(bytes) = log.read_commit_entry(read).await.map_err(|cause| error(&cause))? else {
            return Ok(None);
        };
        let actions = get_actions(read, &bytes).map_err(|cause| error(&cause))?;
        commits.push(Commit::of(version, actions));
    }
    Ok(Some(commits))
}

impl Commit {
    fn of(version: i64, actions: Vec<Action>) -> Self {
        let mut commit = Self {
            version,
            ..Self::default()
        };
        for action in actions {
            match action {
                Action::Add(add) if add.data_change => {
                    commit
                        .changed
                        .push(file(&add.path, Some(add.partition_values), add.stats));
                    commit.added.insert(path(&add.path).to_string())
                }
                Action::Add(add) => commit.rearranged.insert(path(&add.path).to_string()),
                Action::Remove(remove) if remove.data_change => {
                    commit.changed.push(file(&remove.path, remove.partition_values, None));
                    commit.removed.insert(path(&remove.path).to_string())
                }
                Action::Remove(remove) => commit.replaced.insert(path(&remove.path).to_string()),
                _ => false,
            };
        }
        commit
    }
}

/// As the table's list of files names it.
fn path(logged: &str) -> Path {
    Path::parse(logged).unwrap_or_else(|_| Path::from(logged))
}

/// A file of which only its place and its bounds are of interest.
fn file(
    logged: &str,
    partition_values: Option<HashMap<String, Option<String>>>,
    statistics: Option<String>,
) -> TableFile {
    TableFile {
        path: path(logged),
        size: 0,
        modified_us: 0,
        rows: UNKNOWN_ROWS,
        first_row: 0,
        partition_values: partition_values.unwrap_or_default(),
        statistics,
    }
}
