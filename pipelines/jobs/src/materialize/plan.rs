//! What a run has to do: which views lack which rows of the table as it is now.
//!
//! A view that was never given the table, or of which rows would have to be taken away, needs all of them in new rows. The
//! others need what is new: of a Delta table the files that commits have added since, of files without a log those that
//! were not there. A file that was there and was written again holds anything; either everything is anew, or the caller
//! says how late a row can come (`late`), and it is read from there on.

use super::changes::{Since, since};
use super::reach::{Extent, Identity, Reach};
use crate::error::JobError;
use crate::table::commits::{Commit, commits};
use crate::table::{Table, TableFile};
use ondol_vocabulary::SourceDefinition;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What a run has to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Views (by id) that need all rows anew, and why.
    pub anew: BTreeMap<u32, String>,
    /// Views that take what is new.
    pub behind: BTreeSet<u32>,
    /// Views that lack nothing, and have been given an earlier state of the table.
    pub current: Vec<u32>,
    /// What is new: files by path, and from which event time on they are read.
    pub files: HashMap<String, i64>,
}

/// What one view needs.
enum Need {
    Everything(String),
    /// Files by path, and from which event time on.
    Files(HashMap<String, i64>),
}

/// Reads a file whole.
const WHOLE: i64 = i64::MIN;

/// Plans for the views `serving`. With `full` they need everything anew, whatever they have.
pub(super) async fn plan(
    table: &Table,
    source: &SourceDefinition,
    serving: &[u32],
    reaches: &HashMap<u32, Reach>,
    full: bool,
    late_us: Option<i64>,
) -> Result<Plan, JobError> {
    let identity = Identity::of(table, source);
    let log = log_since(table, &identity, reaches).await?;
    let extent = Extent::of(table);
    let mut plan = Plan::default();
    for view in serving {
        let need = match reaches.get(view) {
            _ if full => Need::Everything("it was asked for".to_owned()),
            Some(reach) if reach.table == identity => need(table, reach, log.as_deref(), late_us),
            Some(_) => Need::Everything("the source is another table now".to_owned()),
            None => Need::Everything("what it holds is not on record".to_owned()),
        };
        match need {
            Need::Everything(why) => drop(plan.anew.insert(*view, why)),
            Need::Files(files) if files.is_empty() => {
                let reached = reaches.get(view).and_then(|reach| reach.reached.as_ref());
                if reached != Some(&extent) {
                    plan.current.push(*view);
                }
            }
            Need::Files(files) => {
                plan.behind.insert(*view);
                for (path, from) in files {
                    let held = plan.files.entry(path).or_insert(from);
                    *held = from.min(*held);
                }
            }
        }
    }
    Ok(plan)
}

/// The commits since the least that any view has reached; none without a log, or if it no longer goes back that far.
async fn log_since(
    table: &Table,
    identity: &Identity,
    reaches: &HashMap<u32, Reach>,
) -> Result<Option<Vec<Commit>>, JobError> {
    let versions = reaches.values().filter(|reach| reach.table == *identity);
    let least = versions.filter_map(|reach| reach.reached.as_ref()?.version()).min();
    match (least, table.version()) {
        (Some(least), Some(now)) => commits(&table.location, least.saturating_add(1)..=now).await,
        _ => Ok(None),
    }
}

fn need(table: &Table, reach: &Reach, log: Option<&[Commit]>, late_us: Option<i64>) -> Need {
    let begun = reach.begun.as_ref();
    match &reach.reached {
        None => Need::Everything("its last materialization did not end".to_owned()),
        Some(Extent::Version(reached)) => match (log, table.version()) {
            (Some(log), Some(now)) if now >= *reached => {
                let from = log.partition_point(|commit| commit.version <= *reached);
                let begun = begun.and_then(Extent::version).unwrap_or(*reached);
                match since(log.get(from..).unwrap_or_default(), begun) {
                    Since::Files(files) => Need::Files(files.into_iter().map(|path| (path, WHOLE)).collect()),
                    Since::Rewritten(version) => {
                        Need::Everything(format!("version {version} of the table took rows away"))
                    }
                }
            }
            _ => Need::Everything(format!("the table's log no longer goes back to version {reached}")),
        },
        Some(Extent::Files(reached)) => {
            let begun = begun.and_then(Extent::files);
            need_of_files(&table.files, reached, begun, reach.newest, late_us)
        }
    }
}

fn need_of_files(
    now: &[TableFile],
    reached: &BTreeMap<String, String>,
    begun: Option<&BTreeMap<String, String>>,
    newest: Option<i64>,
    late_us: Option<i64>,
) -> Need {
    let present: HashMap<&str, String> = now.iter().map(|file| (file.path(), file.fingerprint())).collect();
    let is_there = |(path, print): (&String, &String)| present.get(path.as_str()) == Some(print);
    let changed = |(path, _): (&String, &String)| format!("file {path} was written again or is gone");
    let gone = |files: &BTreeMap<String, String>| files.iter().find(|file| !is_there(*file)).map(changed);
    let rewritten = gone(reached).or_else(|| begun.and_then(gone));
    // Rows at most this late: everything before was delivered from the file as it was.
    let since = late_us.and_then(|late| Some(newest?.saturating_sub(late)));
    if let (Some(why), None) = (rewritten, since) {
        return Need::Everything(why);
    }
    let known: HashSet<&str> = reached.keys().map(String::as_str).collect();
    let files = now
        .iter()
        .filter(|file| reached.get(file.path()) != Some(&file.fingerprint()));
    let files = files.map(|file| match since {
        Some(since) if known.contains(file.path()) => (file.path().to_owned(), since),
        _ => (file.path().to_owned(), WHOLE),
    });
    Need::Files(files.collect())
}

impl Extent {
    fn version(&self) -> Option<i64> {
        match self {
            Self::Version(version) => Some(*version),
            Self::Files(_) => None,
        }
    }

    fn files(&self) -> Option<&BTreeMap<String, String>> {
        match self {
            Self::Files(files) => Some(files),
            Self::Version(_) => None,
        }
    }
}
