//! Delta tables: the version's active files, from the log alone.

use super::{Positions, Table, TableFile, file, location, number_rows};
use crate::error::JobError;
use deltalake_core::DeltaTable;
use deltalake_core::kernel::LogicalFileView;

/// Opens the newest version of the Delta table at `place`.
pub(super) async fn open(place: &str, positions: Positions) -> Result<Table, JobError> {
    let error = |detail: String| JobError::table(place, detail);
    let mut url = location::parse(place)?;
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    // Boxed: the loader's future is tens of kilobytes.
    let table = Box::pin(deltalake_core::open_table(url))
        .await
        .map_err(|cause| error(cause.to_string()))?;
    let state = table.snapshot().map_err(|cause| error(cause.to_string()))?;
    refuse_unreadable(&table, place)?;
    let mut files = state
        .log_data()
        .iter()
        .map(|view| table_file(place, &view))
        .collect::<Result<Vec<TableFile>, JobError>>()?;
    files.sort_by(|left, right| left.path.cmp(&right.path));
    let mut opened = Table {
        location: place.to_owned(),
        identity: state.version().to_string(),
        files,
        positions,
        absent_is_null: true,
        store: table.object_store(),
    };
    // Only row numbers need the counts; the log's files carry their own positions.
    if positions != Positions::Log {
        file::fill_row_counts(&mut opened).await?;
        number_rows(&mut opened.files);
    }
    Ok(opened)
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
        rows: view
            .num_records()
            .and_then(|rows| u64::try_from(rows).ok())
            .unwrap_or(file::UNKNOWN_ROWS),
        first_row: 0,
        partition_values: view.partition_values_map(),
        statistics: view.stats(),
    })
}
