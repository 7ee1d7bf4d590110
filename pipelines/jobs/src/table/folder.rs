//! Parquet tables without a log: one file, or every `.parquet` file under a folder. Folders named `column=value` are
//! columns of the files below them.

use super::{Positions, Table, TableFile, file, location, number_rows};
use crate::error::JobError;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use std::collections::HashMap;

/// What Hive calls the partition of rows whose value is null.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// Opens the Parquet file or folder at `place` as it is now.
pub(super) async fn open(place: &str, positions: Positions) -> Result<Table, JobError> {
    let error = |detail: String| JobError::table(place, detail);
    let at = location::existing(place)?;
    let mut root = at.url().clone();
    root.set_path("/");
    let store = at.root();
    let mut found = list(store.as_ref(), at.path())
        .await
        .map_err(|cause| error(at.explain("listing it", &cause).detail))?;
    if found.is_empty() {
        return Err(error(
            "there is no .parquet file: check the location, or write the table first".to_owned(),
        ));
    }
    found.sort_by(|left, right| left.location.cmp(&right.location));
    let mut table = Table {
        location: place.to_owned(),
        root,
        identity: fingerprint(&found),
        lineage: None,
        files: found.into_iter().map(|meta| table_file(meta, at.path())).collect(),
        positions,
        absent_is_null: false,
        store,
    };
    file::fill_from_footers(&mut table).await?;
    number_rows(&mut table.files);
    Ok(table)
}

/// The file itself, or the folder's Parquet files. Names that start with `_` or `.` are not data, by old custom, unless
/// they are those of a partition (`_event_date=2013-01-31`).
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
    let is_hidden = |part: &str| part.starts_with('.') || (part.starts_with('_') && !part.contains('='));
    let hidden = |meta: &ObjectMeta| {
        meta.location
            .prefix_match(path)
            .is_some_and(|mut parts| parts.any(|part| is_hidden(part.as_ref())))
    };
    let all: Vec<ObjectMeta> = store.list(Some(path)).try_collect().await?;
    Ok(all
        .into_iter()
        .filter(|meta| parquet(&meta.location) && !hidden(meta))
        .collect())
}

fn table_file(meta: ObjectMeta, folder: &Path) -> TableFile {
    TableFile {
        partition_values: partition_values(&meta.location, folder),
        path: meta.location,
        size: meta.size,
        modified_us: meta.last_modified.timestamp_micros(),
        rows: file::UNKNOWN_ROWS,
        first_row: 0,
        statistics: None,
    }
}

/// The columns that the folders between `folder` and the file at `path` stand for: `year=2025/month=3/a.parquet`, as Hive
/// names them.
fn partition_values(path: &Path, folder: &Path) -> HashMap<String, Option<String>> {
    let Some(parts) = path.prefix_match(folder) else {
        return HashMap::new();
    };
    let parts: Vec<_> = parts.collect();
    let (_, folders) = parts
        .split_last()
        .map_or((None, &[][..]), |(name, folders)| (Some(name), folders));
    let columns = folders.iter().filter_map(|part| part.as_ref().split_once('='));
    columns
        .map(|(name, value)| (unescaped(name), (value != NULL_PARTITION).then(|| unescaped(value))))
        .collect()
}

/// `text` with `%3A` and the like resolved; an escape that is none stays as it is.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escape = after.get(..2).filter(|_| first == b'%');
        let byte = escape
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = byte.and_then(|_| after.get(2..)).unwrap_or(after);
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &[(&str, Option<&str>)]) {
        let found = partition_values(&Path::parse(path).unwrap(), &Path::from("lake/trips"));
        let expected: HashMap<String, Option<String>> = expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)))
            .collect();
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn folders_below_the_table_are_columns() {
        check("lake/trips/a.parquet", &[]);
        check("lake/trips/plain/a=b.parquet", &[]);
        check(
            "lake/trips/year=2025/month=3/a.parquet",
            &[("year", Some("2025")), ("month", Some("3"))],
        );
        check(
            "lake/trips/city=__HIVE_DEFAULT_PARTITION__/at=00%3A30/a.parquet",
            &[("city", None), ("at", Some("00:30"))],
        );
        check(
            "lake/trips/of=100%/x=%zz/a.parquet",
            &[("of", Some("100%")), ("x", Some("%zz"))],
        );
    }
}
