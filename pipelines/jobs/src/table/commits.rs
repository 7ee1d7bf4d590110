//! What the commits of a Delta table did to its files, from the log alone.

use super::delta;
use crate::error::JobError;
use deltalake_core::kernel::Action;
use deltalake_core::logstore::get_actions;
use object_store::path::Path;
use std::collections::HashSet;
use std::ops::RangeInclusive;

/// One commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
                Action::Add(add) if add.data_change => commit.added.insert(path(&add.path)),
                Action::Add(add) => commit.rearranged.insert(path(&add.path)),
                Action::Remove(remove) if remove.data_change => commit.removed.insert(path(&remove.path)),
                Action::Remove(remove) => commit.replaced.insert(path(&remove.path)),
                _ => false,
            };
        }
        commit
    }
}

/// As the table's list of files names it.
fn path(logged: &str) -> String {
    Path::parse(logged).unwrap_or_else(|_| Path::from(logged)).to_string()
}
