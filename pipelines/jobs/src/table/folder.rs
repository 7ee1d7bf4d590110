//! Parquet tables without a log: one file, or every `.parquet` file under a folder.

use super::{Positions, Table, TableFile, file, location, number_rows};
use crate::error::JobError;
use deltalake_core::logstore::{StorageConfig, object_store_factories};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use std::collections::HashMap;
use std::sync::Arc;
use url::Url;

/// Opens the Parquet file or folder at `place` as it is now.
pub(super) async fn open(place: &str, positions: Positions) -> Result<Table, JobError> {
    let error = |detail: String| JobError::table(place, detail);
    let url = location::parse(place)?;
    let scheme = Url::parse(&format!("{}://", url.scheme())).map_err(|cause| error(cause.to_string()))?;
    // The registry of the table library serves here too, so that one configuration of a store does for both formats.
    let factory = object_store_factories()
        .get(&scheme)
        .map(|entry| Arc::clone(entry.value()))
        .ok_or_else(|| error(format!("no store is configured for {}:// locations", url.scheme())))?;
    let (store, path) = factory
        .parse_url_opts(&url, &StorageConfig::default())
        .map_err(|cause| error(cause.to_string()))?;
    let mut found = list(store.as_ref(), &path)
        .await
        .map_err(|cause| error(cause.to_string()))?;
    if found.is_empty() {
        return Err(error(
            "there is no .parquet file: check the location, or write the table first".to_owned(),
        ));
    }
    found.sort_by(|left, right| left.location.cmp(&right.location));
    let mut table = Table {
        location: place.to_owned(),
        identity: fingerprint(&found),
        files: found.into_iter().map(table_file).collect(),
        positions,
        absent_is_null: false,
        store,
    };
    file::fill_row_counts(&mut table).await?;
    number_rows(&mut table.files);
    Ok(table)
}

/// The file itself, or the folder's Parquet files. Names that start with `_` or `.` are not data, by old custom.
async fn list(store: &dyn ObjectStore, path: &Path) -> object_store::Result<Vec<ObjectMeta>> {
    let parquet = |path: &Path| {
        path.extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"))
    };
    if parquet(path)
        && let Ok(meta) = store.head(path).await
    {
        return Ok(vec![meta]);
    }
    let hidden = |meta: &ObjectMeta| {
        meta.location
            .prefix_match(path)
            .is_some_and(|mut parts| parts.any(|part| part.as_ref().starts_with(['_', '.'])))
    };
    let all: Vec<ObjectMeta> = store.list(Some(path)).try_collect().await?;
    Ok(all
        .into_iter()
        .filter(|meta| parquet(&meta.location) && !hidden(meta))
        .collect())
}

fn table_file(meta: ObjectMeta) -> TableFile {
    TableFile {
        path: meta.location,
        size: meta.size,
        rows: file::UNKNOWN_ROWS,
        first_row: 0,
        partition_values: HashMap::new(),
        statistics: None,
    }
}

/// Changes with any file's path, size or time.
fn fingerprint(files: &[ObjectMeta]) -> String {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for file in files {
        hasher.update(file.location.as_ref().as_bytes());
        hasher.update(&[0]);
        hasher.update(&file.size.to_le_bytes());
        hasher.update(&file.last_modified.timestamp_micros().to_le_bytes());
    }
    format!("{:032x}", hasher.digest128())
}
