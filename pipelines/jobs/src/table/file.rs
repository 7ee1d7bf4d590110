//! One Parquet file in an object store: its footer, and the bytes of the columns that are wanted.

use super::scan::row_group_bounds;
use super::{Table, TableFile};
use crate::error::JobError;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use ondol_runtime::objects::Cause;
use ondol_vocabulary::EventTime;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use serde_json::{Map, json};
use std::ops::Range;
use std::sync::Arc;

/// Stands for a row count that is not known before the footer is read.
pub(super) const UNKNOWN_ROWS: u64 = u64::MAX;

/// Magic bytes at both ends and the footer's length.
const SMALLEST_PARQUET: u64 = 12;

/// Footers read at the same time.
const FOOTERS_AT_ONCE: usize = 16;
/// Footers held at the same time while row counts are taken from them.
const FOOTERS_HELD: usize = 256;

/// A file as the Parquet reader wants it.
#[derive(Clone)]
pub(super) struct ObjectFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for ObjectFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.store.get_range(&self.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

impl Table {
    /// File `index`, to be read.
    pub(super) fn object_file(&self, index: usize) -> Option<ObjectFile> {
        let file = self.files.get(index)?;
        Some(ObjectFile {
            store: Arc::clone(&self.store),
            path: file.path.clone(),
            size: file.size,
        })
    }

    /// Footers of the files `indexes`, in that order.
    pub(super) async fn footers(&self, indexes: &[usize]) -> Result<Vec<ArrowReaderMetadata>, JobError> {
        let loads: Vec<BoxFuture<'_, Result<ArrowReaderMetadata, JobError>>> =
            indexes.iter().map(|&index| self.footer(index).boxed()).collect();
        futures::stream::iter(loads)
            .buffered(FOOTERS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn footer(&self, index: usize) -> Result<ArrowReaderMetadata, JobError> {
        let mut file = self
            .object_file(index)
            .ok_or_else(|| self.error("a file vanished from its list"))?;
        if file.size < SMALLEST_PARQUET {
            return Err(self.error(format!(
                "{} has {} bytes, so it is no Parquet file: its writer did not finish; write it again, or remove it",
                file.path, file.size
            )));
        }
        let options = ArrowReaderOptions::new();
        ArrowReaderMetadata::load_async(&mut file, options)
            .await
            .map_err(|cause| self.unreadable(index, &cause))
    }

    /// What `cause` says of file `index`, and what to do.
    pub(super) fn unreadable(&self, index: usize, cause: &ParquetError) -> JobError {
        let path = self.files.get(index).map_or("a file", TableFile::path);
        let from_store = match cause {
            ParquetError::External(source) => source.downcast_ref::<object_store::Error>(),
            _ => None,
        };
        let remedy = match from_store.map(Cause::of) {
            None => "it is damaged: write it again, or remove it",
            Some(Cause::Missing) => "it was removed while the table was read: try again",
            Some(cause) => cause.remedy(self.root.scheme() == "file"),
        };
        self.error(format!("{path} can't be read: {cause}; {remedy}"))
    }
}

/// Reads the footers of files whose row count is not known, and takes over what they tell: that count, and the bounds of
/// every timestamp column.
pub(super) async fn fill_from_footers(table: &mut Table) -> Result<(), JobError> {
    let unknown: Vec<usize> = (0..table.files.len())
        .filter(|&index| table.files.get(index).is_some_and(|f| f.rows == UNKNOWN_ROWS))
        .collect();
    // A part at a time: footers are large, what is taken over is small.
    for part in unknown.chunks(FOOTERS_HELD) {
        let footers = table.footers(part).await?;
        for (&index, footer) in part.iter().zip(footers) {
            let rows = footer.metadata().file_metadata().num_rows();
            let rows = u64::try_from(rows).map_err(|_| table.error("a file claims a negative number of rows"))?;
            if let Some(file) = table.files.get_mut(index) {
                file.rows = rows;
                file.statistics = file.statistics.take().or_else(|| statistics(&footer));
            }
        }
    }
    Ok(())
}

/// The bounds of the file's timestamp columns, in the form of a Delta log's.
fn statistics(footer: &ArrowReaderMetadata) -> Option<String> {
    let (mut least, mut greatest) = (Map::new(), Map::new());
    for field in footer.schema().fields() {
        let bounds = footer
            .metadata()
            .row_groups()
            .iter()
            .filter(|group| group.num_rows() > 0);
        let bounds = bounds.map(|group| row_group_bounds(footer, group, field.name()));
        let whole = bounds
            .reduce(|left, right| left.zip(right).map(|((a, b), (c, d))| (a.min(c), b.max(d))))
            .flatten();
        if let Some((min, max)) = whole {
            least.insert(field.name().clone(), EventTime::from_micros(min).to_string().into());
            greatest.insert(field.name().clone(), EventTime::from_micros(max).to_string().into());
        }
    }
    (!least.is_empty()).then(|| json!({ "minValues": least, "maxValues": greatest }).to_string())
}
