//! Parquet tables without a log: one file, or every `.parquet` file under a folder.

use super::{ListedFile, Listing, store_of};
use crate::fault::EngineError;
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use ondol_runtime::objects::Location;
use parquet::arrow::async_reader::MetadataFetch;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use std::ops::Range;
use std::sync::Arc;

/// Footers read at the same time.
const FOOTERS_AT_ONCE: usize = 16;

/// Lists the Parquet file or folder at `place` as it is now.
pub(super) async fn open(place: &Location) -> Result<Listing, EngineError> {
    let location = place.to_string();
    let error = |detail: String| EngineError::table(&location, detail);
    let store = place.root();
    let mut found = list(store.as_ref(), place.path())
        .await
        .map_err(|cause| place.explain("listing", &cause))?;
    if found.is_empty() {
        return Err(error(
            "there is no .parquet file: check the location, or write the table first".to_owned(),
        ));
    }
    found.sort_by(|left, right| left.location.cmp(&right.location));
    let schemas: Vec<(Path, SchemaRef)> = futures::stream::iter(found.clone())
        .map(|meta| schema_of(Arc::clone(&store), meta))
        .buffered(FOOTERS_AT_ONCE)
        .try_collect()
        .await
        .map_err(error)?;
    let file_schema = merge(schemas).map_err(error)?;
    let files = found.into_iter().map(|meta| ListedFile {
        path: meta.location.to_string(),
        size: meta.size,
        modified_ms: meta.last_modified.timestamp_millis(),
        partition_values: Vec::new(),
        statistics: None,
    });
    Ok(Listing {
        store: store_of(place),
        location,
        files: files.collect(),
        file_schema,
        partition_columns: Vec::new(),
    })
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

/// A file whose footer is fetched.
struct FooterOf {
    store: Arc<dyn ObjectStore>,
    path: Path,
}

impl MetadataFetch for FooterOf {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        let fetched = async move { self.store.get_range(&self.path, range).await };
        fetched.map_err(|cause| ParquetError::External(Box::new(cause))).boxed()
    }
}

async fn schema_of(store: Arc<dyn ObjectStore>, meta: ObjectMeta) -> Result<(Path, SchemaRef), String> {
    let file = FooterOf {
        store,
        path: meta.location.clone(),
    };
    let footer = ParquetMetaDataReader::new()
        .load_and_finish(file, meta.size)
        .await
        .map_err(|cause| format!("{} is unreadable: {cause}", meta.location))?;
    let footer = footer.file_metadata();
    let schema = parquet_to_arrow_schema(footer.schema_descr(), footer.key_value_metadata())
        .map_err(|cause| format!("{} has columns that can't be read: {cause}", meta.location))?;
    // What a writer noted beside its columns differs from file to file.
    Ok((meta.location, Arc::new(Schema::new(schema.fields().clone()))))
}

/// The columns of all files. Each has the type it has in the first file with it; a file without it reads as null there.
fn merge(schemas: Vec<(Path, SchemaRef)>) -> Result<SchemaRef, String> {
    let mut merged: Vec<arrow::datatypes::FieldRef> = Vec::new();
    for (path, schema) in schemas {
        for field in schema.fields() {
            match merged.iter().find(|known| known.name() == field.name()) {
                None => merged.push(Arc::new(field.as_ref().clone().with_nullable(true))),
                Some(known) if known.data_type() == field.data_type() => {}
                Some(known) if arrow::compute::can_cast_types(field.data_type(), known.data_type()) => {}
                Some(known) => {
                    return Err(format!(
                        "column `{}` is {} in {path} and {} in the files before it: write the table with one type",
                        field.name(),
                        field.data_type(),
                        known.data_type()
                    ));
                }
            }
        }
    }
    Ok(Arc::new(Schema::new(merged)))
}
