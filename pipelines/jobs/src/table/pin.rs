//! A table at the very version that was read before: what names that version, and how it is opened again.
//!
//! A Delta table is pinned by its id and version; older versions stay readable until their files are vacuumed. Parquet
//! files without a log have no versions: they are pinned one by one, and reading them again works for as long as each
//! of them is as it was. Files that were added since are not read.

use super::{Positions, Table, TableFile, delta, folder};
use crate::error::JobError;
use futures::StreamExt;
use object_store::ObjectStore;
use ondol_pipelines_api::wire::{FilePin, TablePin};
use ondol_vocabulary::{EventTime, SourceDefinition, SourceOrigin};
use std::collections::{HashMap, HashSet};

/// Commits that are looked through for the last vacuum.
const HISTORY: usize = 1_000;

impl Table {
    /// What names this version of the table.
    pub(crate) fn pin(&self) -> TablePin {
        let version = self.version().and_then(|version| u64::try_from(version).ok());
        match (&self.lineage, version) {
            (Some(table_id), Some(version)) => TablePin::Delta {
                location: self.location.clone(),
                table_id: table_id.clone(),
                version,
            },
            _ if self.positions == Positions::Log => TablePin::Empty,
            _ => TablePin::Parquet {
                location: self.location.clone(),
                files: self.files.iter().map(file_pin).collect(),
            },
        }
    }

    /// Opens what `source` read when `pin` was taken: from the stream's log, which is at `log_url` now, or its table.
    pub(crate) async fn open_pinned(
        source: &SourceDefinition,
        log_url: Option<&str>,
        pin: &TablePin,
    ) -> Result<Self, JobError> {
        let opened = match (&source.origin, pin) {
            (SourceOrigin::Stream { .. }, TablePin::Empty) => {
                Ok(Self::empty(format!("the log of `{}`", source.name), Positions::Log))
            }
            (
                SourceOrigin::Stream { .. },
                TablePin::Delta {
                    table_id,
                    version,
                    location,
                },
            ) => match log_url {
                Some(url) => open_version(url, Positions::Log, table_id, *version).await,
                None => Err(JobError::table(
                    location,
                    "the feature store has no log of this source any more",
                )),
            },
            (SourceOrigin::Table { location, .. }, TablePin::Delta { table_id, version, .. }) => {
                open_version(location, Positions::of(source.arrival), table_id, *version).await
            }
            (SourceOrigin::Table { location, .. }, TablePin::Parquet { files, .. }) => {
                open_files(location, Positions::of(source.arrival), files).await
            }
            _ => Err(JobError::internal(format!(
                "source `{}` is pinned as another kind of table than it is",
                source.name
            ))),
        };
        opened.map_err(|error| error.of_source(&source.name))
    }
}

/// Version `version` of the Delta table at `place`, if it is still the table of that id and all its files are there.
async fn open_version(place: &str, positions: Positions, table_id: &str, version: u64) -> Result<Table, JobError> {
    let gone = |detail: String| {
        JobError::table(
            place,
            format!(
                "version {version}, which the manifest pins, can't be read any more: {detail}; build a new training set"
            ),
        )
    };
    let mut table = delta::load(place).await?;
    let state = table.snapshot().map_err(|cause| JobError::table(place, cause))?;
    let (newest, found) = (state.version(), state.metadata().id().to_owned());
    if found != table_id {
        return Err(gone(format!(
            "the table was created anew since (its id is {found}, not {table_id})"
        )));
    }
    if newest < version {
        return Err(gone(format!(
            "the table ends at version {newest}: it was restored from an older copy"
        )));
    }
    if newest != version {
        let loaded = Box::pin(table.load_version(version)).await;
        loaded.map_err(|cause| gone(format!("its commit is no longer in the table's log ({cause})")))?;
    }
    let opened = match delta::opened(place, positions, &table).await {
        Ok(opened) => opened,
        Err(error) => return Err(gone(format!("{error}{}", since_vacuum(place).await))),
    };
    let missing = missing_files(&opened).await?;
    if let Some(first) = missing.first() {
        return Err(gone(format!(
            "{} of its {} files are gone{} (the first is {first}): a longer retention keeps them",
            missing.len(),
            opened.files.len(),
            since_vacuum(place).await
        )));
    }
    Ok(opened)
}

/// When files that no newer version needs were deleted last, for a message: empty where the log doesn't tell.
async fn since_vacuum(place: &str) -> String {
    let Ok(table) = delta::load(place).await else {
        return String::new();
    };
    let mut commits = table.history(Some(HISTORY));
    while let Some(Ok(commit)) = commits.next().await {
        let vacuum = commit
            .operation
            .as_deref()
            .is_some_and(|name| name.starts_with("VACUUM"));
        if let (true, Some(millis)) = (vacuum, commit.timestamp) {
            let moment = EventTime::from_micros(millis.saturating_mul(1_000));
            return format!(", since the vacuum of {moment}");
        }
    }
    String::new()
}

/// Files of `table` that its store doesn't have.
async fn missing_files(table: &Table) -> Result<Vec<String>, JobError> {
    let mut missing: HashSet<&str> = table.files.iter().map(TableFile::path).collect();
    let mut listed = table.store.list(None);
    while let Some(file) = listed.next().await {
        let file = file.map_err(|cause| JobError::table(&table.location, cause))?;
        missing.remove(file.location.as_ref());
    }
    let mut missing: Vec<String> = missing.into_iter().map(str::to_owned).collect();
    missing.sort_unstable();
    Ok(missing)
}

/// The table at `place` with the files `pins` alone, each of which must be as it was.
async fn open_files(place: &str, positions: Positions, pins: &[FilePin]) -> Result<Table, JobError> {
    let table = folder::open(place, positions).await?;
    let found: HashMap<&str, &TableFile> = table.files.iter().map(|file| (file.path(), file)).collect();
    let differences: Vec<String> = pins
        .iter()
        .filter_map(|pin| difference(pin, found.get(pin.path.as_str()).copied()))
        .collect();
    if let Some(first) = differences.first() {
        return Err(JobError::table(
            place,
            format!(
                "{} of the {} files that the manifest pins are not what they were: {first}; put them back as they were \
                 or build a new training set (a Delta table keeps its versions, Parquet files don't)",
                differences.len(),
                pins.len()
            ),
        ));
    }
    let pinned: HashSet<&str> = pins.iter().map(|pin| pin.path.as_str()).collect();
    Ok(table.only(|file| pinned.contains(file.path())))
}

fn file_pin(file: &TableFile) -> FilePin {
    FilePin {
        path: file.path().to_owned(),
        size: file.size,
        modified: EventTime::from_micros(file.modified_us),
    }
}

/// How `found` (the file of the same path, if there is one) differs from `pin`; none if it doesn't.
fn difference(pin: &FilePin, found: Option<&TableFile>) -> Option<String> {
    let Some(found) = found else {
        return Some(format!("{} is gone", pin.path));
    };
    (file_pin(found) != *pin).then(|| {
        format!(
            "{} was written again at {} ({} bytes, {} when it was pinned)",
            pin.path,
            EventTime::from_micros(found.modified_us),
            found.size,
            pin.size
        )
    })
}
