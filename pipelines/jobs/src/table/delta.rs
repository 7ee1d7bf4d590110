//! Delta tables: the version's active files, from the log alone.

use super::{Positions, Table, TableFile, file, location, number_rows};
use crate::error::JobError;
use deltalake_core::kernel::LogicalFileView;
use deltalake_core::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake_core::{DeltaTable, DeltaTableError};
use ondol_runtime::Location;
use ondol_runtime::objects::Cause;
use ondol_vocabulary::Field;

/// Opens the newest version of the Delta table at `place`, which must have the columns `declared`.
pub(super) async fn open(place: &str, positions: Positions, declared: &[Field]) -> Result<Table, JobError> {
    let table = load(place).await?;
    let schema = table
        .snapshot()
        .map_err(|cause| JobError::table(place, cause))?
        .schema();
    // A file that lacks a column was written before the table had it; the table itself must have it. Of a log that is
    // not so: its source may have gained columns since the last event.
    if let Some(field) = declared.iter().find(|field| schema.field(&field.name).is_none()) {
        return Err(JobError::table(
            place,
            format!(
                "there is no column `{}` (any more): change the schema in the definition, or the table",
                field.name
            ),
        ));
    }
    opened(place, positions, &table).await
}

/// Reads the log of the Delta table at `place`.
pub(super) async fn load(place: &str) -> Result<DeltaTable, JobError> {
    let at = location::existing(place)?;
    let loaded = delta_table(&at, None).await;
    loaded.map_err(|detail| JobError::table(place, detail))
}

/// The Delta table at `at`, on a disk or in a bucket, its log read up to `version` or the newest. The error says what is
/// wrong and what to do.
pub async fn delta_table(at: &Location, version: Option<u64>) -> Result<DeltaTable, String> {
    let mut table = DeltaTable::new(log_of(at));
    // Boxed: the loader's future is tens of kilobytes.
    let loaded = match version {
        None => Box::pin(table.load()).await,
        Some(version) => Box::pin(table.load_version(version)).await,
    };
    loaded.map(|()| table).map_err(|cause| unloaded(at, &cause))
}

/// The log of the Delta table at `place`, unread.
pub(super) fn log_store(place: &str) -> Result<LogStoreRef, JobError> {
    Ok(log_of(&location::existing(place)?))
}

fn log_of(at: &Location) -> LogStoreRef {
    default_logstore(at.store(), at.root(), &at.folder_url(), &StorageConfig::default())
}

/// What the table is at the version that was loaded.
pub(super) async fn opened(place: &str, positions: Positions, table: &DeltaTable) -> Result<Table, JobError> {
    let error = |detail: String| JobError::table(place, detail);
    let state = table.snapshot().map_err(|cause| error(cause.to_string()))?;
    refuse_unreadable(table, place)?;
    let mut files = state
        .log_data()
        .iter()
        .map(|view| table_file(place, &view))
        .collect::<Result<Vec<TableFile>, JobError>>()?;
    files.sort_by(|left, right| left.path.cmp(&right.path));
    let mut opened = Table {
        location: place.to_owned(),
        root: location::existing(place)?.folder_url(),
        identity: state.version().to_string(),
        lineage: Some(state.metadata().id().to_owned()),
        files,
        positions,
        absent_is_null: true,
        store: table.object_store(),
    };
    // Only row numbers need the counts; the log's files carry their own positions.
    if positions != Positions::Log {
        file::fill_from_footers(&mut opened).await?;
        number_rows(&mut opened.files);
    }
    Ok(opened)
}

/// Why a table can't be loaded, and what to do.
fn unloaded(at: &Location, cause: &DeltaTableError) -> String {
    match cause {
        DeltaTableError::ObjectStore { source } => at.explain("reading its log", source).detail,
        DeltaTableError::NotATable(_) => {
            "there is no Delta table: check the location, or declare it as `parquet = …` if it has no `_delta_log`"
                .to_owned()
        }
        // What the log's reader says of a store is text by then.
        cause => {
            let text = cause.to_string();
            match Cause::told(&text) {
                Cause::Other => text,
                known => format!("{text}; {}", known.remedy(at.local_path().is_some())),
            }
        }
    }
}

/// Features of the format that a plain reading of the files would get wrong.
fn refuse_unreadable(table: &DeltaTable, place: &str) -> Result<(), JobError> {
    let state = table.snapshot().map_err(|cause| JobError::table(place, cause))?;
    let mapping = state.metadata().configuration().get("delta.columnMapping.mode");
    match mapping.map(String::as_str) {
        None | Some("none") => Ok(()),
        Some(mode) => Err(JobError::table(
            place,
            format!("it uses column mapping (`{mode}`), which is not supported: rewrite it without"),
        )),
    }
}

fn table_file(place: &str, view: &LogicalFileView) -> Result<TableFile, JobError> {
    if view.deletion_vector_descriptor().is_some() {
        return Err(JobError::table(
            place,
            format!(
                "{} has a deletion vector, which is not supported: purge the table's deleted rows",
                view.path()
            ),
        ));
    }
    Ok(TableFile {
        path: view.object_store_path(),
        size: u64::try_from(view.size()).map_err(|_| JobError::table(place, "a file of negative size"))?,
        modified_us: view.modification_time().saturating_mul(1_000),
        rows: view
            .num_records()
            .and_then(|rows| u64::try_from(rows).ok())
            .unwrap_or(file::UNKNOWN_ROWS),
        first_row: 0,
        partition_values: view.partition_values_map(),
        statistics: view.stats(),
    })
}
