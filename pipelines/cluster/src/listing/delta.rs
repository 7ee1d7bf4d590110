//! Delta tables: the version's active files, from the log alone.

use super::{ListedFile, Listing, split_columns, store_of};
use crate::fault::EngineError;
use deltalake_core::kernel::LogicalFileView;
use ondol_jobs::delta_table;
use ondol_runtime::objects::Location;

/// Lists the files of the Delta table at `place`, at `version` or the newest.
pub(super) async fn open(place: &Location, version: Option<u64>) -> Result<Listing, EngineError> {
    let location = place.to_string();
    let error = |detail: String| EngineError::table(&location, detail);
    let table = delta_table(place, version).await.map_err(error)?;
    let state = table.snapshot().map_err(|cause| error(cause.to_string()))?;
    let mapping = state.metadata().configuration().get("delta.columnMapping.mode");
    if let Some(mode) = mapping.filter(|mode| *mode != "none") {
        return Err(error(format!(
            "it uses column mapping (`{mode}`), which is not supported: rewrite it without"
        )));
    }
    let partition_columns = state.metadata().partition_columns().to_vec();
    let (file_schema, partition_fields) = split_columns(&state.snapshot().arrow_schema(), &partition_columns);
    let root = place.path();
    let mut files = Vec::new();
    for view in state.log_data() {
        files.push(listed(&view, root.as_ref(), &partition_columns).map_err(error)?);
    }
    // An order that depends on the version alone.
    files.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(Listing {
        store: store_of(place),
        location,
        files,
        file_schema,
        partition_columns: partition_fields,
    })
}

fn listed(view: &LogicalFileView, root: &str, partition_columns: &[String]) -> Result<ListedFile, String> {
    if view.deletion_vector_descriptor().is_some() {
        return Err(format!(
            "{} has a deletion vector, which is not supported: purge the table's deleted rows",
            view.path()
        ));
    }
    let values = view.partition_values_map();
    let below = view.object_store_path();
    let path = if root.is_empty() {
        below.to_string()
    } else {
        format!("{root}/{below}")
    };
    Ok(ListedFile {
        path,
        size: u64::try_from(view.size()).map_err(|_| format!("{} has a negative size", view.path()))?,
        modified_ms: view.modification_time(),
        partition_values: (partition_columns.iter())
            .map(|name| values.get(name).cloned().flatten())
            .collect(),
        statistics: view.stats(),
    })
}
