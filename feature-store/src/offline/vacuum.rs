//! Deletes what no version of a table that must stay readable needs: data files, and entries of the log.
//!
//! Versions are kept for a retention; the *horizon* is the version that was the newest that long ago. A data file may go
//! when it is active neither at the horizon nor now, and is so old that it was not written, or added, since: nothing
//! tells a file that a commit is about to refer to from one that a crash left behind, but its age. Where the
//! retention is shorter than that age, the log's entries up to the horizon say which files were removed.
//!
//! Of the log, what precedes the newest checkpoint at or before the horizon may go, and most checkpoints in between: a
//! reader of an older version begins at one of those that are left.

use super::checkpoint;
use super::failure::{internal, unavailable};
use super::log_file::LogFile;
use super::table::LogTable;
use super::table_state::Commit;
use super::{EventLog, source_log::SourceLog};
use chrono::{DateTime, NaiveDate, Utc};
use deltalake_core::DeltaTable;
use deltalake_core::logstore::LogStoreRef;
use deltalake_core::protocol::DeltaOperation;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::maintenance::Vacuum;
use ondol_feature_store_api::wire::columns;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A file that nothing refers to may be one that a commit is about to: for so long after it was written.
const ON_ITS_WAY: Duration = Duration::from_secs(3600);
/// Entries of the log are kept at least so long: writers follow it entry by entry.
const LOG_AT_LEAST: Duration = Duration::from_secs(3600);
/// Of checkpoints that are no longer needed for speed, those of every so many versions are kept.
const CHECKPOINTS_KEPT: u64 = 1_000;

/// What a vacuum may delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VacuumConfig {
    /// How far back versions stay readable.
    pub retention: Duration,
    /// Event dates that lie wholly before this long ago are dropped; none means that events are kept for ever.
    pub keep: Option<Duration>,
    /// Only say what would be deleted.
    pub dry_run: bool,
}

/// What a vacuum looks at, as of its beginning.
struct Survey {
    source: String,
    log_store: LogStoreRef,
    now: DateTime<Utc>,
    retention: Duration,
    version: u64,
    active: BTreeSet<String>,
    log: Vec<LogEntry>,
    horizon: u64,
}

/// An object of the log's folder that belongs to a version.
struct LogEntry {
    version: u64,
    kind: Entry,
    object: ObjectMeta,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Commit,
    Checkpoint,
    Other,
}

impl EventLog {
    /// Deletes what no version of `source`'s table within the retention needs, after dropping event dates that are older
    /// than what is kept. Readers and writers go on meanwhile. Dropped halfway, it has deleted some of it.
    pub async fn vacuum(&self, source: &str, config: VacuumConfig) -> Result<Vacuum, FeatureStoreError> {
        let started = Instant::now();
        let log = self.log(source).await?;
        let _alone = log.tidying.lock().await;
        let mut done = Vacuum {
            source: source.to_owned(),
            dry_run: config.dry_run,
            ..Vacuum::default()
        };
        let Some(mut survey) = self.survey(source, &log, config, &mut done).await? else {
            return Ok(done);
        };
        let failed = |error: object_store::Error| unavailable(source, "cleaning up", error);
        survey.log = log_entries(survey.store().as_ref()).await.map_err(failed)?;
        survey.horizon = survey.horizon();
        done.oldest_version = i64::try_from(survey.horizon).ok();
        done.files_kept = survey.active.len() as u64;

        let files = survey.superfluous_files().await?;
        done.files_deleted = files.len() as u64;
        done.bytes_deleted = files.iter().map(|file| file.size).sum();
        let entries = survey.superfluous_entries();
        done.log_entries_deleted = entries.len() as u64;
        if !config.dry_run {
            delete(survey.store(), files).await.map_err(failed)?;
            // Oldest first: whatever an interruption leaves is whole from some checkpoint on.
            delete(survey.store(), entries).await.map_err(failed)?;
            metrics::counter!("ondol_log_files_deleted_total", "source" => source.to_owned())
                .increment(done.files_deleted);
            metrics::counter!("ondol_log_bytes_deleted_total", "source" => source.to_owned())
                .increment(done.bytes_deleted);
            metrics::histogram!("ondol_log_vacuum_seconds", "source" => source.to_owned())
                .record(started.elapsed().as_secs_f64());
            tracing::info!(
                source,
                files = done.files_deleted,
                bytes = done.bytes_deleted,
                "offline table cleaned up"
            );
        }
        Ok(done)
    }

    /// Drops what is not kept, and takes down how the table stands then; none before it exists.
    async fn survey(
        &self,
        source: &str,
        log: &SourceLog,
        config: VacuumConfig,
        done: &mut Vacuum,
    ) -> Result<Option<Survey>, FeatureStoreError> {
        let now = Utc::now();
        let mut table = log.table.lock().await;
        table.refresh().await?;
        log.catch_up(source, &table)?;
        if let Some(keep) = config.keep {
            let dropped = drop_dates(&mut table, now, keep, done).await;
            log.catch_up(source, &table)?;
            log.memory().rows = table.rows();
            dropped?;
        }
        let checkpoint = table.take_checkpoint();
        let Some(state) = table.state() else { return Ok(None) };
        done.version = i64::try_from(state.version()).ok();
        let survey = Survey {
            source: source.to_owned(),
            log_store: table.log_store(),
            now,
            retention: config.retention,
            version: state.version(),
            active: state.files().keys().cloned().collect(),
            log: Vec::new(),
            horizon: 0,
        };
        drop(table);
        if let Some((log_store, version)) = checkpoint {
            checkpoint::write(source, log_store, version).await;
        }
        Ok(Some(survey))
    }
}

/// Takes the event dates that lie wholly before `keep` ago out of the table.
async fn drop_dates(
    table: &mut LogTable,
    now: DateTime<Utc>,
    keep: Duration,
    done: &mut Vacuum,
) -> Result<(), FeatureStoreError> {
    let Some(oldest) = before(now, keep).map(|moment| moment.date_naive()) else {
        return Ok(());
    };
    let is_old = |file: &&Arc<LogFile>| {
        let date = file.date.as_deref().and_then(|date| date.parse::<NaiveDate>().ok());
        date.is_some_and(|date| date < oldest)
    };
    let files = table
        .state()
        .map(|state| state.files().values().filter(is_old).cloned().collect::<Vec<_>>());
    let files = files.unwrap_or_default();
    let dates: BTreeSet<String> = files.iter().filter_map(|file| file.date.clone()).collect();
    done.rows_dropped = files.iter().filter_map(|file| file.rows).sum();
    done.dates_dropped = dates.into_iter().collect();
    if done.dry_run || files.is_empty() {
        return Ok(());
    }
    let operation = DeltaOperation::Delete {
        predicate: Some(format!("{} < '{oldest}'", columns::EVENT_DATE)),
    };
    table.replace(&files, Vec::new(), &operation, true).await.map(drop)
}

impl Survey {
    fn store(&self) -> Arc<dyn ObjectStore> {
        self.log_store.object_store(None)
    }

    /// The version that was the newest when the retention began: it and all later ones stay readable.
    fn horizon(&self) -> u64 {
        let of_table = self.log.iter().filter(|entry| entry.version <= self.version);
        // A version is readable from the first commit on, or from a checkpoint on.
        let whole = of_table
            .clone()
            .any(|entry| entry.kind == Entry::Commit && entry.version == 0);
        let checkpoints = of_table.clone().filter(|entry| entry.kind == Entry::Checkpoint);
        let first = checkpoints.map(|entry| entry.version).min().unwrap_or(self.version);
        let oldest = if whole { 0 } else { first };
        let commits = of_table.filter(|entry| entry.kind == Entry::Commit);
        let young = commits
            .filter(|entry| before(self.now, self.retention).is_none_or(|moment| entry.object.last_modified > moment));
        match young.map(|entry| entry.version).min() {
            Some(first) => first.saturating_sub(1).max(oldest),
            None => self.version,
        }
    }

    /// The data files that may go.
    async fn superfluous_files(&self) -> Result<Vec<ObjectMeta>, FeatureStoreError> {
        let failed = |error: object_store::Error| unavailable(&self.source, "listing files of", error);
        let mut needed = self.active.clone();
        if self.horizon < self.version {
            needed.extend(self.active_at_the_horizon().await?);
        }
        let removed = self.removed_of_late().await?;
        let left_behind = before(self.now, self.retention.saturating_add(ON_ITS_WAY));
        let store = self.store();
        let mut superfluous = Vec::new();
        for folder in store.list_with_delimiter(None).await.map_err(failed)?.common_prefixes {
            let of_dates = format!("{}=", columns::EVENT_DATE);
            if !folder.filename().is_some_and(|name| name.starts_with(&of_dates)) {
                continue;
            }
            let mut files = store.list(Some(&folder));
            while let Some(file) = files.try_next().await.map_err(failed)? {
                let path = file.location.as_ref();
                let old = left_behind.is_some_and(|moment| file.last_modified < moment);
                if path.ends_with(".parquet") && !needed.contains(path) && (old || removed.contains(path)) {
                    superfluous.push(file);
                }
            }
        }
        Ok(superfluous)
    }

    async fn active_at_the_horizon(&self) -> Result<Vec<String>, FeatureStoreError> {
        let mut table = DeltaTable::new(Arc::clone(&self.log_store));
        let loaded = table.load_version(self.horizon).await;
        loaded.map_err(|error| unavailable(&self.source, "reading an older version of", error))?;
        let state = table.snapshot().map_err(|error| internal(&self.source, error))?;
        Ok(state.log_data().iter().map(|file| file.path().into_owned()).collect())
    }

    /// Files that entries up to the horizon took out, as far back as age does not say it.
    async fn removed_of_late(&self) -> Result<BTreeSet<String>, FeatureStoreError> {
        let mut removed = BTreeSet::new();
        if self.retention >= ON_ITS_WAY {
            return Ok(removed);
        }
        let since = before(self.now, ON_ITS_WAY * 3);
        let of_late = self.log.iter().filter(|entry| {
            let up_to_horizon = entry.kind == Entry::Commit && entry.version <= self.horizon;
            up_to_horizon && since.is_none_or(|since| entry.object.last_modified >= since)
        });
        for entry in of_late {
            let bytes = self.log_store.read_commit_entry(entry.version).await;
            let bytes = bytes.map_err(|error| unavailable(&self.source, "reading the log of", error))?;
            let Some(bytes) = bytes else { continue };
            let commit = Commit::parse(&bytes).map_err(|why| internal(&self.source, why))?;
            removed.extend(commit.removed_paths().map(str::to_owned));
        }
        Ok(removed)
    }

    /// The entries of the log that may go, the oldest first.
    fn superfluous_entries(&self) -> Vec<ObjectMeta> {
        let checkpoints = || {
            self.log
                .iter()
                .filter(|entry| entry.kind == Entry::Checkpoint)
                .map(|entry| entry.version)
        };
        let Some(first) = checkpoints().filter(|version| *version <= self.horizon).max() else {
            return Vec::new();
        };
        let newest = checkpoints().max().unwrap_or(first);
        let expired = before(self.now, self.retention.max(LOG_AT_LEAST));
        let settled = before(self.now, LOG_AT_LEAST);
        let is_before = |entry: &LogEntry, moment: Option<DateTime<Utc>>| {
            moment.is_some_and(|moment| entry.object.last_modified < moment)
        };
        let may_go = |entry: &&LogEntry| {
            let superseded = entry.version < first && is_before(entry, expired);
            let thinned = entry.kind == Entry::Checkpoint
                && (first + 1..newest).contains(&entry.version)
                && !(entry.version + 1).is_multiple_of(CHECKPOINTS_KEPT)
                && is_before(entry, settled);
            superseded || thinned
        };
        let mut entries: BTreeMap<(u64, &str), &LogEntry> = BTreeMap::new();
        for entry in self.log.iter().filter(may_go) {
            entries.insert((entry.version, entry.object.location.as_ref()), entry);
        }
        entries.into_values().map(|entry| entry.object.clone()).collect()
    }
}

fn before(now: DateTime<Utc>, ago: Duration) -> Option<DateTime<Utc>> {
    now.checked_sub_signed(chrono::TimeDelta::from_std(ago).ok()?)
}

async fn log_entries(store: &dyn ObjectStore) -> object_store::Result<Vec<LogEntry>> {
    let objects: Vec<ObjectMeta> = store.list(Some(&Path::from("_delta_log"))).try_collect().await?;
    Ok(objects.into_iter().filter_map(entry).collect())
}

/// An object that is named by a version: 20 digits and a point.
fn entry(object: ObjectMeta) -> Option<LogEntry> {
    let (digits, rest) = object.location.filename()?.split_once('.')?;
    let version = (digits.len() == 20).then(|| digits.parse().ok())??;
    let kind = match rest {
        "json" => Entry::Commit,
        rest if rest.starts_with("checkpoint") => Entry::Checkpoint,
        _ => Entry::Other,
    };
    Some(LogEntry { version, kind, object })
}

async fn delete(store: Arc<dyn ObjectStore>, objects: Vec<ObjectMeta>) -> object_store::Result<()> {
    let paths = objects.into_iter().map(|object| Ok(object.location));
    let mut deleted = store.delete_stream(futures::stream::iter(paths.collect::<Vec<_>>()).boxed());
    while let Some(outcome) = deleted.next().await {
        match outcome {
            // Somebody else, or an attempt before, was faster.
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
