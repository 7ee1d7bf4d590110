//! A spine that the job gets for itself: Parquet files, or the rows of a query.

use crate::error::JobError;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use ondol_pipelines_api::OfflineSql;
use ondol_pipelines_api::sql::SqlRequest;
use ondol_runtime::objects::{Location, ObjectStores};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// A spine's schema and batches. It is held in memory, as one that is sent.
pub(super) type Rows = (SchemaRef, Vec<RecordBatch>);

/// Rows of a batch.
const BATCH_ROWS: usize = 65_536;

/// The rows of the Parquet file at `place`, or of all of them below it, by name.
pub(super) async fn files(place: &str) -> Result<Rows, JobError> {
    let objects = ObjectStores::of_process();
    let location = objects
        .at(place)
        .map_err(|cause| JobError::Refused(format!("the spine: {cause}")))?;
    let paths = paths(&location).await?;
    let mut spine: Option<Rows> = None;
    for path in paths {
        let read = async { location.root().get(&path).await?.bytes().await };
        let bytes = read
            .await
            .map_err(|cause| unread(&location, "reading the spine", &cause))?;
        let decoded = tokio::task::spawn_blocking(move || decode(bytes)).await;
        let decoded = decoded.map_err(JobError::internal)?;
        let (schema, batches) = decoded
            .map_err(|cause| JobError::Refused(format!("the spine: {location}: {path} can't be read: {cause}")))?;
        let (first, all) = spine.get_or_insert_with(|| (schema.clone(), Vec::new()));
        if first.fields() != schema.fields() {
            return Err(JobError::Refused(format!(
                "the spine: {location}: {path} has other columns than the files before it: {} instead of {}",
                columns(&schema),
                columns(first)
            )));
        }
        // What files say of themselves beside their columns does not make them different.
        let same = batches
            .into_iter()
            .map(|batch| batch.with_schema(SchemaRef::clone(first)));
        all.extend(same.collect::<Result<Vec<_>, _>>()?);
    }
    spine.ok_or_else(|| {
        JobError::Refused(format!(
            "the spine: {location}: there is no .parquet file: check the place, and whether what makes the spine has run"
        ))
    })
}

/// The rows that `query` gives over the offline tables.
pub(super) async fn answer(sql: Option<&dyn OfflineSql>, query: String) -> Result<Rows, JobError> {
    let Some(sql) = sql else {
        return Err(JobError::Refused(
            "`spine_query`: these pipelines answer no queries: name files with `spine`".to_owned(),
        ));
    };
    let failed = |cause| JobError::Refused(format!("`spine_query`: {cause}"));
    let rows = sql.sql(SqlRequest { query, max_rows: None }).await.map_err(failed)?;
    Ok((rows.schema, rows.batches.try_collect().await.map_err(failed)?))
}

/// The file itself, or those below the folder, by name.
async fn paths(location: &Location) -> Result<Vec<Path>, JobError> {
    if location.path().as_ref().ends_with(".parquet") {
        return Ok(vec![location.path().clone()]);
    }
    let found: Vec<_> = location
        .root()
        .list(Some(location.path()))
        .try_collect()
        .await
        .map_err(|cause| unread(location, "listing the spine", &cause))?;
    let mut paths: Vec<Path> = found.into_iter().map(|object| object.location).collect();
    paths.retain(|path| path.as_ref().ends_with(".parquet"));
    paths.sort();
    Ok(paths)
}

fn unread(location: &Location, doing: &str, cause: &object_store::Error) -> JobError {
    JobError::Refused(format!("the spine: {}", location.explain(doing, cause)))
}

fn decode(bytes: Bytes) -> Result<Rows, parquet::errors::ParquetError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?
        .with_batch_size(BATCH_ROWS)
        .build()?;
    let schema = arrow::array::RecordBatchReader::schema(&reader);
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    Ok((schema, batches))
}

fn columns(schema: &SchemaRef) -> String {
    let columns = schema.fields().iter();
    let columns: Vec<String> = columns
        .map(|field| format!("{} {}", field.name(), field.data_type()))
        .collect();
    columns.join(", ")
}
