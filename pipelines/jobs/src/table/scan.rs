//! A reading of some columns of a table: what to skip, what to read, and the batches that come of it.
//!
//! A file is skipped by its partition date, then by the log's statistics, then by its row groups' statistics. All three
//! are conservative: a row that a caller must not see may still come out and is the caller's to leave out.
//!
//! Decoding is work for a compute thread: [`Scan::read`] blocks on the fetch of one row group's wanted columns and then
//! decodes them as the iterator is pulled.

mod pages;
mod picked;

use super::file::UNKNOWN_ROWS;
use super::local_file::LocalFile;
use super::{Positions, Table, TableFile, cast};
use crate::error::JobError;
use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::{filter_record_batch, is_not_null};
use arrow::datatypes::{
    DataType as ArrowType, Field as ArrowField, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use ondol_feature_store_api::wire::columns;
use ondol_vocabulary::{DataType, EventTime, Field};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const DAY_US: i64 = 86_400_000_000;

/// A reading of some columns.
pub(crate) struct Scan {
    table: Table,
    columns: Vec<Field>,
    time: String,
    ignore_arrival: bool,
    marks: Marks,
    batch_rows: usize,
    schema: SchemaRef,
    without_time: AtomicU64,
    has_older: AtomicBool,
}

/// Which of the marks of events are wanted behind the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Partition and offset.
    pub positions: bool,
    /// When events count as known.
    pub arrival: bool,
}

impl Marks {
    /// All of them.
    pub(crate) const ALL: Self = Self {
        positions: true,
        arrival: true,
    };
}

/// Event times of interest: `[from, before)`, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeRange {
    /// First moment of interest.
    pub from: i64,
    /// First moment after it.
    pub before: i64,
}

/// One row group to read.
pub(crate) struct Unit {
    file: usize,
    row_group: usize,
    footer: ArrowReaderMetadata,
    first_row: i64,
    /// Rows in it.
    pub rows: u64,
}

impl TimeRange {
    pub(super) fn overlaps(&self, bounds: Option<(i64, i64)>) -> bool {
        bounds.is_none_or(|(least, greatest)| greatest >= self.from && least < self.before)
    }
}

impl Scan {
    /// Of `columns`, among them the time column `time`. With `ignore_arrival` every event counts as known at its time.
    pub(crate) fn new(
        table: Table,
        columns: Vec<Field>,
        time: String,
        ignore_arrival: bool,
        batch_rows: usize,
    ) -> Self {
        Self {
            schema: schema(&columns, Marks::ALL),
            table,
            columns,
            time,
            ignore_arrival,
            marks: Marks::ALL,
            batch_rows,
            without_time: AtomicU64::new(0),
            has_older: AtomicBool::new(false),
        }
    }

    /// The same with only these marks.
    pub(crate) fn with_marks(mut self, marks: Marks) -> Self {
        self.schema = schema(&self.columns, marks);
        self.marks = marks;
        self
    }

    /// The schema of the batches: the columns, then partition, offset and arrival.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows that were left out because their time is null.
    pub(crate) fn rows_without_time(&self) -> u64 {
        self.without_time.load(Ordering::Relaxed)
    }

    /// Whether [`Self::units`] left out events from before its range.
    pub(crate) fn has_older(&self) -> bool {
        self.has_older.load(Ordering::Relaxed)
    }

    /// Whether events of these bounds are wanted; remembers when they are too old.
    fn is_wanted(&self, range: TimeRange, bounds: Option<(i64, i64)>) -> bool {
        if bounds.is_some_and(|(_, greatest)| greatest < range.from) {
            self.has_older.store(true, Ordering::Relaxed);
        }
        range.overlaps(bounds)
    }

    /// The row groups that may hold events of `range`, in the table's order.
    pub(crate) async fn units(&self, range: TimeRange) -> Result<Vec<Unit>, JobError> {
        let indexes: Vec<usize> = (self.table.files.iter().enumerate())
            .filter(|(_, file)| file.rows > 0 && self.is_wanted(range, file.time_bounds(&self.time)))
            .map(|(index, _)| index)
            .collect();
        let footers = self.table.footers(&indexes).await?;
        let mut units = Vec::new();
        for (&index, footer) in indexes.iter().zip(&footers) {
            self.check(index, footer.schema())?;
        }
        for (file, footer) in indexes.into_iter().zip(footers) {
            let mut first_row = self.table.files.get(file).map_or(0, |file| file.first_row);
            for (row_group, metadata) in footer.metadata().row_groups().iter().enumerate() {
                let rows = u64::try_from(metadata.num_rows()).unwrap_or(0);
                if rows > 0 && self.is_wanted(range, row_group_bounds(&footer, metadata, &self.time)) {
                    units.push(Unit {
                        file,
                        row_group,
                        footer: footer.clone(),
                        first_row,
                        rows,
                    });
                }
                first_row = first_row.saturating_add_unsigned(rows);
            }
        }
        Ok(units)
    }

    /// The least and greatest event time of each of the table's files, as their footers tell; none where they don't.
    pub(crate) async fn file_bounds(&self) -> Result<Vec<Option<(i64, i64)>>, JobError> {
        let indexes: Vec<usize> = (0..self.table.files.len()).collect();
        let footers = self.table.footers(&indexes).await?;
        let bounds = footers.iter().map(|footer| {
            let groups = footer
                .metadata()
                .row_groups()
                .iter()
                .filter(|group| group.num_rows() > 0);
            let mut all = groups.map(|group| row_group_bounds(footer, group, &self.time));
            let first = all.next()??;
            all.try_fold(first, |(least, greatest), next| {
                let (from, to) = next?;
                Some((least.min(from), greatest.max(to)))
            })
        });
        Ok(bounds.collect())
    }

    /// The least and greatest event time that `unit` may hold, as its statistics tell.
    pub(crate) fn bounds(&self, unit: &Unit) -> Option<(i64, i64)> {
        let group = unit.footer.metadata().row_groups().get(unit.row_group)?;
        row_group_bounds(&unit.footer, group, &self.time)
    }

    /// Whether file `index`, of that schema, has the columns that are wanted: told before any row is read.
    fn check(&self, index: usize, schema: &Schema) -> Result<(), JobError> {
        let Some(file) = self.table.files.get(index) else {
            return Ok(());
        };
        for field in &self.columns {
            let checked = if let Some(text) = file.partition_values.get(&field.name) {
                cast::constant(text.as_deref(), field, 1).map(drop)
            } else {
                match schema.field_with_name(&field.name) {
                    Ok(found) => cast::check(found.data_type(), field),
                    Err(_) if self.reads_as_null(field) => Ok(()),
                    Err(_) => Err(absent(field)),
                }
            };
            checked.map_err(|detail| self.table.error(format!("{}: {detail}", file.path)))?;
        }
        Ok(())
    }

    /// Whether a file may lack `field`.
    fn reads_as_null(&self, field: &Field) -> bool {
        self.table.absent_is_null && field.name != self.time
    }

    /// The batches of one unit. Call it on a thread that may block.
    pub(crate) fn read<'a>(&'a self, unit: &'a Unit, io: &tokio::runtime::Handle) -> Result<Batches<'a>, JobError> {
        let parquet = unit.footer.parquet_schema();
        let wanted = parquet.root_schema().get_fields().iter().enumerate();
        let wanted = wanted
            .filter(|(_, field)| self.wants(field.name()))
            .map(|(index, _)| index);
        let wanted = ProjectionMask::roots(parquet, wanted);
        let unreadable = |cause: ParquetError| self.table.unreadable(unit.file, &cause);
        let reader = match self.table.local_file(unit.file) {
            Some(file) => self.read_local(file.map_err(unreadable)?, unit, wanted).map(Some),
            None => self.fetch(unit, wanted, io),
        };
        let reader = reader.map_err(unreadable)?;
        Ok(Batches {
            scan: self,
            unit,
            reader,
            next_row: unit.first_row,
        })
    }

    /// Page by page, as batches are asked for.
    fn read_local(
        &self,
        file: LocalFile,
        unit: &Unit,
        wanted: ProjectionMask,
    ) -> Result<ParquetRecordBatchReader, ParquetError> {
        ParquetRecordBatchReaderBuilder::new_with_metadata(file, unit.footer.clone())
            .with_projection(wanted)
            .with_row_groups(vec![unit.row_group])
            .with_batch_size(self.batch_rows)
            .build()
    }

    /// All at once, before the first batch.
    fn fetch(
        &self,
        unit: &Unit,
        wanted: ProjectionMask,
        io: &tokio::runtime::Handle,
    ) -> Result<Option<ParquetRecordBatchReader>, ParquetError> {
        let file = self.table.object_file(unit.file);
        let file = file.ok_or_else(|| ParquetError::General("the file vanished from its table's list".to_owned()))?;
        let mut stream = ParquetRecordBatchStreamBuilder::new_with_metadata(file, unit.footer.clone())
            .with_projection(wanted)
            .with_row_groups(vec![unit.row_group])
            .with_batch_size(self.batch_rows)
            .build()?;
        io.block_on(stream.next_row_group())
    }

    fn wants(&self, name: &str) -> bool {
        self.columns.iter().any(|field| field.name == name)
            || (self.table.positions == Positions::Log
                && ((self.marks.positions && (name == columns::PARTITION || name == columns::OFFSET))
                    || (self.marks.arrival && name == columns::INGESTED_AT && !self.ignore_arrival)))
    }

    /// The declared columns and the positions of a decoded batch, rows without a time left out.
    fn declared(&self, batch: &RecordBatch, unit: &Unit, first_row: i64) -> Result<RecordBatch, JobError> {
        let file = self
            .table
            .files
            .get(unit.file)
            .ok_or_else(|| self.table.error("a file vanished from its list"))?;
        let mut arrays = Vec::with_capacity(self.columns.len() + 3);
        for field in &self.columns {
            arrays.push(
                self.column(batch, file, field)
                    .map_err(|detail| self.table.error(format!("{}: {detail}", file.path)))?,
            );
        }
        let time = self.columns.iter().position(|field| field.name == self.time);
        let time = time.and_then(|index| arrays.get(index)).cloned();
        let time = time.ok_or_else(|| {
            self.table
                .error(format!("the time column `{}` was not read", self.time))
        })?;
        arrays.extend(
            self.positions(batch, &time, first_row)
                .map_err(|detail| self.table.error(detail))?,
        );
        if time.null_count() == 0 {
            return RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(|cause| self.table.error(cause));
        }
        self.without_time.fetch_add(time.null_count() as u64, Ordering::Relaxed);
        let relaxed = Schema::new(
            self.schema
                .fields()
                .iter()
                .map(|field| field.as_ref().clone().with_nullable(true))
                .collect::<Vec<_>>(),
        );
        let kept = RecordBatch::try_new(Arc::new(relaxed), arrays)
            .and_then(|batch| filter_record_batch(&batch, &is_not_null(&time)?))
            .and_then(|batch| RecordBatch::try_new(Arc::clone(&self.schema), batch.columns().to_vec()));
        kept.map_err(|cause| self.table.error(cause))
    }

    fn column(&self, batch: &RecordBatch, file: &TableFile, field: &Field) -> Result<ArrayRef, String> {
        if let Some(text) = file.partition_values.get(&field.name) {
            return cast::constant(text.as_deref(), field, batch.num_rows());
        }
        match batch.column_by_name(&field.name) {
            Some(array) => cast::to_declared(array, field),
            None if self.reads_as_null(field) => Ok(new_null_array(&field.data_type.arrow(), batch.num_rows())),
            None => Err(absent(field)),
        }
    }

    /// The marks that are wanted.
    fn positions(&self, batch: &RecordBatch, time: &ArrayRef, first_row: i64) -> Result<Vec<ArrayRef>, String> {
        let rows = batch.num_rows();
        let from_log = |name: &str| {
            batch
                .column_by_name(name)
                .cloned()
                .ok_or_else(|| format!("no column `{name}`"))
        };
        let delayed = |delay_us: i64| -> ArrayRef {
            let time = time.as_primitive::<TimestampMicrosecondType>();
            let known: TimestampMicrosecondArray = time.unary(|micros| micros.saturating_add(delay_us));
            Arc::new(known.with_timezone("UTC"))
        };
        let mut marks = Vec::with_capacity(3);
        if self.marks.positions {
            match self.table.positions {
                Positions::Log => marks.extend([from_log(columns::PARTITION)?, from_log(columns::OFFSET)?]),
                Positions::RowNumber { .. } => marks.extend([
                    Arc::new(Int32Array::from(vec![0; rows])) as ArrayRef,
                    Arc::new(Int64Array::from_iter_values((first_row..).take(rows))),
                ]),
            }
        }
        if self.marks.arrival {
            let arrival = Field {
                name: columns::INGESTED_AT.to_owned(),
                data_type: DataType::Timestamp,
            };
            marks.push(match self.table.positions {
                _ if self.ignore_arrival => Arc::clone(time),
                Positions::Log => cast::to_declared(&from_log(columns::INGESTED_AT)?, &arrival)?,
                Positions::RowNumber { delay_us } => delayed(delay_us),
            });
        }
        Ok(marks)
    }
}

/// The schema of batches of `columns` and `marks`.
fn schema(declared: &[Field], marks: Marks) -> SchemaRef {
    let mut fields: Vec<ArrowField> = declared
        .iter()
        .map(|field| ArrowField::new(&field.name, field.data_type.arrow(), true))
        .collect();
    if marks.positions {
        fields.push(ArrowField::new(columns::PARTITION, ArrowType::Int32, false));
        fields.push(ArrowField::new(columns::OFFSET, ArrowType::Int64, false));
    }
    if marks.arrival {
        fields.push(ArrowField::new(
            columns::INGESTED_AT,
            DataType::Timestamp.arrow(),
            false,
        ));
    }
    Arc::new(Schema::new(fields))
}

fn absent(field: &Field) -> String {
    format!(
        "there is no column `{}`: change the schema in the definition, or write the table with it",
        field.name
    )
}

/// Decodes one unit as it is pulled.
pub(crate) struct Batches<'a> {
    scan: &'a Scan,
    unit: &'a Unit,
    reader: Option<ParquetRecordBatchReader>,
    next_row: i64,
}

impl Iterator for Batches<'_> {
    type Item = Result<RecordBatch, JobError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.reader.as_mut()?.next()? {
            Ok(batch) => batch,
            Err(cause) => return Some(Err(self.scan.table.unreadable(self.unit.file, &cause.into()))),
        };
        let first_row = self.next_row;
        self.next_row = first_row.saturating_add_unsigned(batch.num_rows() as u64);
        Some(self.scan.declared(&batch, self.unit, first_row))
    }
}

impl TableFile {
    /// The least and greatest event time the file may hold, where its place or statistics tell.
    pub(crate) fn time_bounds(&self, time: &str) -> Option<(i64, i64)> {
        let by_date = self
            .partition_values
            .get(columns::EVENT_DATE)
            .and_then(Option::as_deref)
            .and_then(date_bounds);
        let by_statistics = self
            .statistics
            .as_deref()
            .and_then(|json| statistics_bounds(json, time));
        match (by_date, by_statistics) {
            (Some((a, b)), Some((c, d))) => Some((a.max(c), b.min(d))),
            (either, other) => either.or(other),
        }
    }

    /// Rows in it, where known.
    pub(crate) fn known_rows(&self) -> Option<u64> {
        (self.rows != UNKNOWN_ROWS).then_some(self.rows)
    }
}

fn date_bounds(date: &str) -> Option<(i64, i64)> {
    let date = chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    let start = date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros();
    Some((start, start.saturating_add(DAY_US - 1)))
}

fn statistics_bounds(json: &str, time: &str) -> Option<(i64, i64)> {
    #[derive(serde::Deserialize)]
    struct Bounds {
        #[serde(rename = "minValues")]
        least: serde_json::Map<String, serde_json::Value>,
        #[serde(rename = "maxValues")]
        greatest: serde_json::Map<String, serde_json::Value>,
    }
    let bounds: Bounds = serde_json::from_str(json).ok()?;
    let moment = |values: &serde_json::Map<String, serde_json::Value>| {
        EventTime::parse(values.get(time)?.as_str()?)
            .ok()
            .map(EventTime::micros)
    };
    // Writers may cut statistics to milliseconds, which lowers the greatest.
    Some((moment(&bounds.least)?, moment(&bounds.greatest)?.saturating_add(999)))
}

pub(super) fn row_group_bounds(
    footer: &ArrowReaderMetadata,
    metadata: &RowGroupMetaData,
    time: &str,
) -> Option<(i64, i64)> {
    let ArrowType::Timestamp(unit, _) = footer.schema().field_with_name(time).ok()?.data_type() else {
        return None;
    };
    let column = metadata
        .columns()
        .iter()
        .find(|column| column.column_path().parts() == [time])?;
    let Statistics::Int64(statistics) = column.statistics()? else {
        return None;
    };
    let (least, greatest) = (*statistics.min_opt()?, *statistics.max_opt()?);
    let micros = |value: i64| match unit {
        TimeUnit::Second => value.checked_mul(1_000_000),
        TimeUnit::Millisecond => value.checked_mul(1_000),
        TimeUnit::Microsecond => Some(value),
        // Casting cuts toward zero: widen by one on both sides.
        TimeUnit::Nanosecond => Some(value / 1_000),
    };
    Some((micros(least)?.saturating_sub(1), micros(greatest)?.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_covers_its_whole_day() {
        assert_eq!(date_bounds("1970-01-02"), Some((DAY_US, 2 * DAY_US - 1)));
        assert_eq!(date_bounds("__HIVE_DEFAULT_PARTITION__"), None);
    }

    #[test]
    fn statistics_cut_to_milliseconds_hide_no_event() {
        let json = r#"{"numRecords":1,"minValues":{"ts":"1970-01-01T00:00:00.001Z"},"maxValues":{"ts":"1970-01-01T00:00:00.002Z"},"nullCount":{}}"#;
        assert_eq!(statistics_bounds(json, "ts"), Some((1_000, 2_999)));
        assert_eq!(statistics_bounds(json, "other"), None);
    }

    #[test]
    fn a_range_overlaps_what_may_hold_its_events() {
        let range = TimeRange { from: 10, before: 20 };
        for (bounds, expected) in [
            (None, true),
            (Some((0, 9)), false),
            (Some((0, 10)), true),
            (Some((19, 30)), true),
            (Some((20, 30)), false),
        ] {
            assert_eq!(range.overlaps(bounds), expected, "{bounds:?}");
        }
    }
}
