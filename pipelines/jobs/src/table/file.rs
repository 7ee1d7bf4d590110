//! One Parquet file in an object store: its footer, and the bytes of the columns that are wanted.

use super::Table;
use crate::error::JobError;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use std::ops::Range;
use std::sync::Arc;

/// Stands for a row count that is not known before the footer is read.
pub(super) const UNKNOWN_ROWS: u64 = u64::MAX;

/// Footers read at the same time.
const FOOTERS_AT_ONCE: usize = 16;

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
        let options = ArrowReaderOptions::new();
        ArrowReaderMetadata::load_async(&mut file, options)
            .await
            .map_err(|cause| self.error(format!("{} is unreadable: {cause}", file.path)))
    }
}

/// Reads the footers of files whose row count is not known.
pub(super) async fn fill_row_counts(table: &mut Table) -> Result<(), JobError> {
    let unknown: Vec<usize> = (0..table.files.len())
        .filter(|&index| table.files.get(index).is_some_and(|f| f.rows == UNKNOWN_ROWS))
        .collect();
    let footers = table.footers(&unknown).await?;
    for (index, footer) in unknown.into_iter().zip(footers) {
        let rows = footer.metadata().file_metadata().num_rows();
        let rows = u64::try_from(rows).map_err(|_| table.error("a file claims a negative number of rows"))?;
        if let Some(file) = table.files.get_mut(index) {
            file.rows = rows;
        }
    }
    Ok(())
}
