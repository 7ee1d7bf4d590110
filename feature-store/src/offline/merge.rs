//! Sorted files in, one sorted stream out: rows of several files in order of (partition, offset).
//!
//! Every data file is sorted so, and a message's rows stay together. The merge works on batches, not on rows: whatever
//! lies before the least end of what the open files have read so far can be let go at once. A file is opened when the
//! merge comes to where it may begin. Memory: of each open file one row group's projected columns, and a batch.

use super::log_file::LogFile;
use super::object_file::ObjectFile;
use arrow::array::{ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};
use futures::StreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use ondol_feature_store_api::wire::columns;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use std::sync::Arc;

/// Rows read of a file at a time.
const BATCH_ROWS: usize = 8_192;
/// Rows below which what the merge lets go waits for more.
const WORTH_SENDING: usize = 8_192;

/// Partition and offset of a row.
pub(super) type Position = (i32, i64);

/// A file, or some of its row groups, to be merged.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) file: Arc<LogFile>,
    /// All of them when absent.
    pub(super) row_groups: Option<Vec<usize>>,
    /// No row of it stands before.
    pub(super) least: Position,
    /// Only rows of this partition.
    pub(super) partition: Option<i32>,
}

/// The part of a file that one row group is, as its statistics have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowGroup {
    pub(super) partitions: (i32, i32),
    pub(super) offsets: (i64, i64),
}

/// Where files are read from, and as what.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The columns to read, those of positions among them. A file that lacks one reads as null.
    pub(super) schema: SchemaRef,
}

/// Rows of several runs in order.
pub(super) struct Merge {
    reader: Reader,
    /// Not open yet, the one that begins last first.
    closed: Vec<Run>,
    open: Vec<OpenRun>,
    /// Let go, and not enough to be worth sending.
    ready: Vec<RecordBatch>,
}

struct OpenRun {
    path: String,
    rows: ParquetRecordBatchStream<ObjectFile>,
    partition: Option<i32>,
    /// What was read and not let go, never empty while there is more.
    held: RecordBatch,
    ended: bool,
}

impl Reader {
    /// The row groups of a file.
    pub(super) async fn row_groups(&self, file: &LogFile) -> Result<Vec<RowGroup>, String> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", file.path);
        let mut object = self.object(file);
        let options = ArrowReaderOptions::default();
        let metadata = ArrowReaderMetadata::load_async(&mut object, options)
            .await
            .map_err(|error| named(&error))?;
        let held = metadata.schema();
        let index = |name: &str| held.index_of(name).map_err(|error| named(&error));
        let (partition, offset) = (index(columns::PARTITION)?, index(columns::OFFSET)?);
        Ok(metadata
            .metadata()
            .row_groups()
            .iter()
            .map(|group| RowGroup::of(group, partition, offset))
            .collect())
    }

    fn object(&self, file: &LogFile) -> ObjectFile {
        ObjectFile {
            store: Arc::clone(&self.store),
            path: Path::from(file.path.as_str()),
            size: file.size,
        }
    }

    async fn open(&self, run: Run) -> Result<OpenRun, String> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", run.file.path);
        let mut builder = ParquetRecordBatchStreamBuilder::new(self.object(&run.file))
            .await
            .map_err(|error| named(&error))?;
        let wanted = |name: &str| self.schema.field_with_name(name).is_ok();
        let held = Arc::clone(builder.schema());
        let roots = held
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| wanted(field.name()));
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots.map(|(index, _)| index));
        builder = builder.with_projection(mask).with_batch_size(BATCH_ROWS);
        if let Some(row_groups) = run.row_groups {
            builder = builder.with_row_groups(row_groups);
        }
        let mut open = OpenRun {
            rows: builder.build().map_err(|error| named(&error))?,
            path: run.file.path.clone(),
            partition: run.partition,
            held: RecordBatch::new_empty(Arc::clone(&self.schema)),
            ended: false,
        };
        self.read_on(&mut open).await?;
        Ok(open)
    }

    /// Reads until there is something more, or nothing any more.
    async fn read_on(&self, run: &mut OpenRun) -> Result<(), String> {
        loop {
            let Some(read) = run.rows.next().await else {
                run.ended = true;
                return Ok(());
            };
            let rows = read
                .map_err(|error| error.to_string())
                .and_then(|rows| self.widen(&rows));
            let rows = rows.and_then(|rows| of_partition(rows, run.partition));
            let rows = rows.map_err(|why| format!("{}: {why}", run.path))?;
            if rows.num_rows() > 0 {
                run.held = joined(&self.schema, &[run.held.clone(), rows])?;
                return Ok(());
            }
        }
    }

    /// Columns that were added to the table after the file was written are null.
    fn widen(&self, batch: &RecordBatch) -> Result<RecordBatch, String> {
        let column = |field: &Arc<arrow::datatypes::Field>| match batch.column_by_name(field.name()) {
            Some(column) => Arc::clone(column),
            None => new_null_array(field.data_type(), batch.num_rows()),
        };
        let columns: Vec<ArrayRef> = self.schema.fields().iter().map(column).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|error| error.to_string())
    }
}

impl RowGroup {
    fn of(group: &RowGroupMetaData, partition: usize, offset: usize) -> Self {
        let statistics = |column: usize| group.columns().get(column).and_then(|column| column.statistics());
        let partitions = match statistics(partition) {
            Some(Statistics::Int32(values)) => values.min_opt().copied().zip(values.max_opt().copied()),
            _ => None,
        };
        let offsets = match statistics(offset) {
            Some(Statistics::Int64(values)) => values.min_opt().copied().zip(values.max_opt().copied()),
            _ => None,
        };
        Self {
            partitions: partitions.unwrap_or((i32::MIN, i32::MAX)),
            offsets: offsets.unwrap_or((i64::MIN, i64::MAX)),
        }
    }
}

impl Merge {
    pub(super) fn new(reader: Reader, mut runs: Vec<Run>) -> Self {
        runs.sort_by_key(|run| std::cmp::Reverse(run.least));
        Self {
            reader,
            closed: runs,
            open: Vec::new(),
            ready: Vec::new(),
        }
    }

    /// The next rows; a message's rows are never split. None at the end.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>, String> {
        loop {
            let enough = self.ready.iter().map(RecordBatch::num_rows).sum::<usize>() >= WORTH_SENDING;
            let ended = self.open.is_empty() && self.closed.is_empty();
            if enough || ended {
                let ready = std::mem::take(&mut self.ready);
                return match ready.is_empty() {
                    true => Ok(None),
                    false => joined(&self.reader.schema, &ready).map(Some),
                };
            }
            self.advance().await?;
        }
    }

    /// Lets go of what nothing unread can come before, and reads on.
    async fn advance(&mut self) -> Result<(), String> {
        let mut bound = self.bound()?;
        // A run that may begin before the bound has to be looked into first.
        while let Some(run) = self.closed.pop_if(|run| bound.is_none_or(|bound| run.least <= bound)) {
            let opened = self.reader.open(run).await?;
            if !opened.is_empty() {
                self.open.push(opened);
            }
            bound = self.bound()?;
        }
        let mut parts = Vec::new();
        for run in &mut self.open {
            parts.extend(run.let_go(bound)?);
        }
        if let Some(rows) = in_order(&self.reader.schema, &parts)? {
            self.ready.push(rows);
        }
        let Some(bound) = bound else {
            self.open.clear();
            return Ok(());
        };
        for run in &mut self.open {
            // Of every other run there are rows left that lie past the bound.
            if !run.ended && run.last()?.is_none_or(|last| last <= bound) {
                self.reader.read_on(run).await?;
            }
        }
        self.open.retain(|run| !run.is_empty());
        Ok(())
    }

    /// What was read is complete before this; none when everything was read.
    fn bound(&self) -> Result<Option<Position>, String> {
        let mut bound = None;
        for run in self.open.iter().filter(|run| !run.ended) {
            let last = run.last()?.unwrap_or((i32::MIN, i64::MIN));
            bound = Some(bound.map_or(last, |bound: Position| bound.min(last)));
        }
        Ok(bound)
    }
}

impl OpenRun {
    fn is_empty(&self) -> bool {
        self.ended && self.held.num_rows() == 0
    }

    fn last(&self) -> Result<Option<Position>, String> {
        match self.held.num_rows() {
            0 => Ok(None),
            rows => position(&self.held, rows - 1).map(Some),
        }
    }

    /// Takes out the rows before `bound`, or all of them.
    fn let_go(&mut self, bound: Option<Position>) -> Result<Option<RecordBatch>, String> {
        let rows = self.held.num_rows();
        let count = match bound {
            None => rows,
            Some(bound) => partition_point(&self.held, bound)?,
        };
        let gone = self.held.slice(0, count);
        self.held = self.held.slice(count, rows - count);
        Ok((count > 0).then_some(gone))
    }
}

/// The least row of sorted `rows` that is not before `bound`.
fn partition_point(rows: &RecordBatch, bound: Position) -> Result<usize, String> {
    let (mut low, mut high) = (0, rows.num_rows());
    while low < high {
        let middle = low + (high - low) / 2;
        if position(rows, middle)? < bound {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// The rows of sorted `rows` that are of `partition`.
fn of_partition(rows: RecordBatch, partition: Option<i32>) -> Result<RecordBatch, String> {
    let Some(partition) = partition else { return Ok(rows) };
    let from = partition_point(&rows, (partition, i64::MIN))?;
    let to = match partition.checked_add(1) {
        Some(next) => partition_point(&rows, (next, i64::MIN))?,
        None => rows.num_rows(),
    };
    Ok(rows.slice(from, to - from))
}

fn position(rows: &RecordBatch, row: usize) -> Result<Position, String> {
    let partitions = rows
        .column_by_name(columns::PARTITION)
        .and_then(|column| column.as_primitive_opt::<Int32Type>())
        .ok_or("column `_partition` is missing or no integer")?;
    let offsets = rows
        .column_by_name(columns::OFFSET)
        .and_then(|column| column.as_primitive_opt::<Int64Type>())
        .ok_or("column `_offset` is missing or no integer")?;
    Ok((partitions.value(row), offsets.value(row)))
}

fn joined(schema: &SchemaRef, parts: &[RecordBatch]) -> Result<RecordBatch, String> {
    match parts {
        [only] => Ok(only.clone()),
        several => concat_batches(schema, several).map_err(|error| error.to_string()),
    }
}

fn in_order(schema: &SchemaRef, parts: &[RecordBatch]) -> Result<Option<RecordBatch>, String> {
    if let [] | [_] = parts {
        return Ok(parts.first().cloned());
    }
    let rows = joined(schema, parts)?;
    let sort = |name: &str| {
        let values = rows.column_by_name(name).cloned();
        let values = values.ok_or_else(|| format!("column `{name}` is missing"))?;
        Ok::<_, String>(SortColumn { values, options: None })
    };
    // Rows of one message may lie in several files: that they are in the order of the runs makes the merge repeatable.
    let row = arrow::array::UInt32Array::from_iter_values(
        0..u32::try_from(rows.num_rows()).map_err(|error| error.to_string())?,
    );
    let row = SortColumn {
        values: Arc::new(row),
        options: None,
    };
    let order = lexsort_to_indices(&[sort(columns::PARTITION)?, sort(columns::OFFSET)?, row], None);
    let order = order.map_err(|error| error.to_string())?;
    take_record_batch(&rows, &order)
        .map(Some)
        .map_err(|error| error.to_string())
}
