//! Data files: buffered rows in, Parquet bytes and their Delta `add` actions out.
//!
//! One file per generation and event date, rows in order of (partition, offset). Cost: see [`order`] and
//! [`properties`].

use super::buffer::Pending;
use super::layout::{FileNames, GENERATION};
use super::{order, properties};
use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::{
    ArrowNativeType, ArrowPrimitiveType, Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType,
};
use deltalake_core::kernel::Add;
use ondol_feature_store_api::wire::columns;
use ondol_vocabulary::EventTime;
use parquet::arrow::ArrowWriter;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub(super) const DAY_US: i64 = 86_400_000_000;

/// A data file ready to be put.
#[derive(Debug)]
pub(super) struct DataFile {
    /// Path within the table.
    pub(super) path: String,
    /// The Parquet bytes.
    pub(super) bytes: Vec<u8>,
    /// Its `add` action.
    pub(super) add: Add,
}

/// Encodes `pending` as data files of `schema`. `time` names the event time column.
pub(super) fn encode(
    pending: &[Pending],
    schema: &SchemaRef,
    time: &str,
    files: &mut FileNames,
) -> Result<Vec<DataFile>, String> {
    let mut generations: Vec<&str> = Vec::new();
    for entry in pending {
        if !generations.contains(&entry.generation.as_str()) {
            generations.push(&entry.generation);
        }
    }
    let mut encoded = Vec::new();
    for generation in generations {
        let batches = pending
            .iter()
            .filter(|entry| entry.generation == generation)
            .map(|entry| conform(&entry.rows, schema, generation))
            .collect::<Result<Vec<_>, _>>()?;
        for (date, day) in order::by_date(&batches, schema, time)? {
            encoded.push(encode_day(&day, &date_text(date), time, files)?);
        }
    }
    Ok(encoded)
}

pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A delivery's rows with exactly the table's columns: those it lacks are null, its generation is filled in.
fn conform(rows: &RecordBatch, schema: &SchemaRef, generation: &str) -> Result<RecordBatch, String> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| -> Result<ArrayRef, String> {
            if field.name() == GENERATION {
                return Ok(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(
                    generation,
                    rows.num_rows(),
                ))));
            }
            match rows.column_by_name(field.name()) {
                Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
                Some(column) => Err(format!(
                    "column `{}` is {} in the table and {} in the delivery: a column's type can't change, \
                     give the new one another name",
                    field.name(),
                    field.data_type(),
                    column.data_type()
                )),
                None => Ok(new_null_array(field.data_type(), rows.num_rows())),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(text)
}

pub(super) fn timestamps<'a>(
    rows: &'a RecordBatch,
    name: &str,
) -> Result<&'a PrimitiveArray<TimestampMicrosecondType>, String> {
    rows.column_by_name(name)
        .and_then(|column| column.as_primitive_opt())
        .ok_or_else(|| format!("column `{name}` is missing or no timestamp"))
}

/// `2013-01-31`.
fn date_text(days: i32) -> String {
    let time = EventTime::from_micros(i64::from(days) * DAY_US).to_string();
    time.split('T').next().unwrap_or(&time).to_owned()
}

fn encode_day(rows: &RecordBatch, date: &str, time: &str, files: &mut FileNames) -> Result<DataFile, String> {
    let mut file = FileWriter::new(rows.schema(), &[time, columns::INGESTED_AT]);
    file.write(rows)?;
    file.finish(files.next(date), date, true)
}

/// Writes one data file.
pub(super) struct FileWriter {
    schema: SchemaRef,
    /// Absent before the first rows, which say how its columns are encoded.
    writer: Option<ArrowWriter<Vec<u8>>>,
    statistics: Statistics,
}

impl FileWriter {
    /// A file whose statistics hold the bounds of `times` as well as those of positions and of the generation.
    pub(super) fn new(schema: SchemaRef, times: &[&str]) -> Self {
        Self {
            schema,
            writer: None,
            statistics: Statistics::of(times),
        }
    }

    /// Adds rows, which come in order of (partition, offset).
    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<(), String> {
        self.statistics.add(rows)?;
        self.writer(rows)?.write(rows).map_err(text)
    }

    /// The writer of a file that begins with `rows`.
    fn writer(&mut self, rows: &RecordBatch) -> Result<&mut ArrowWriter<Vec<u8>>, String> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let properties = properties::of_file(rows)?;
                ArrowWriter::try_new(Vec::new(), Arc::clone(&self.schema), Some(properties)).map_err(text)?
            }
        };
        Ok(self.writer.insert(writer))
    }

    /// Ends the file, which is to stand at `path`.
    pub(super) fn finish(mut self, path: String, date: &str, data_change: bool) -> Result<DataFile, String> {
        self.writer(&RecordBatch::new_empty(Arc::clone(&self.schema)))?;
        let bytes = self.writer.map(ArrowWriter::into_inner).transpose().map_err(text)?;
        let bytes = bytes.unwrap_or_default();
        let add = Add {
            path: path.clone(),
            partition_values: HashMap::from([(columns::EVENT_DATE.to_owned(), Some(date.to_owned()))]),
            size: i64::try_from(bytes.len()).map_err(text)?,
            modification_time: chrono::Utc::now().timestamp_millis(),
            data_change,
            stats: Some(self.statistics.json().to_string()),
            ..empty_add()
        };
        Ok(DataFile { path, bytes, add })
    }
}

fn empty_add() -> Add {
    Add {
        path: String::new(),
        partition_values: HashMap::new(),
        size: 0,
        modification_time: 0,
        data_change: true,
        stats: None,
        tags: None,
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
        clustering_provider: None,
    }
}

/// Delta's per-file statistics of the columns that readers prune by: times, position, generation.
struct Statistics {
    rows: usize,
    times: BTreeMap<String, Bounds<i64>>,
    partitions: Bounds<i32>,
    offsets: Bounds<i64>,
    /// A file holds rows of one.
    generation: Option<String>,
}

#[derive(Clone, Copy)]
struct Bounds<T> {
    ends: Option<(T, T)>,
    nulls: usize,
}

impl<T: ArrowNativeType + Ord> Bounds<T> {
    const NONE: Self = Self { ends: None, nulls: 0 };

    fn add<A>(&mut self, column: &PrimitiveArray<A>)
    where
        A: ArrowPrimitiveType<Native = T>,
    {
        self.nulls += column.null_count();
        for value in column.iter().flatten() {
            self.ends = Some(match self.ends {
                Some((least, greatest)) => (least.min(value), greatest.max(value)),
                None => (value, value),
            });
        }
    }
}

impl Statistics {
    fn of(times: &[&str]) -> Self {
        Self {
            rows: 0,
            times: times.iter().map(|name| ((*name).to_owned(), Bounds::NONE)).collect(),
            partitions: Bounds::NONE,
            offsets: Bounds::NONE,
            generation: None,
        }
    }

    fn add(&mut self, rows: &RecordBatch) -> Result<(), String> {
        self.rows += rows.num_rows();
        for (name, bounds) in &mut self.times {
            bounds.add(timestamps(rows, name)?);
        }
        let missing = |name: &str| format!("column `{name}` is missing or no integer");
        let partitions = rows
            .column_by_name(columns::PARTITION)
            .and_then(|column| column.as_primitive_opt::<Int32Type>());
        self.partitions
            .add(partitions.ok_or_else(|| missing(columns::PARTITION))?);
        let offsets = rows
            .column_by_name(columns::OFFSET)
            .and_then(|column| column.as_primitive_opt::<Int64Type>());
        self.offsets.add(offsets.ok_or_else(|| missing(columns::OFFSET))?);
        let generations = rows
            .column_by_name(GENERATION)
            .and_then(|column| column.as_string_opt::<i32>());
        if let Some(generations) = generations
            && !generations.is_empty()
        {
            self.generation.get_or_insert_with(|| generations.value(0).to_owned());
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let (mut least, mut greatest, mut nulls) = (Map::new(), Map::new(), Map::new());
        let mut put = |name: &str, ends: Option<(Value, Value)>, null_count: usize| {
            if let Some((min, max)) = ends {
                least.insert(name.to_owned(), min);
                greatest.insert(name.to_owned(), max);
            }
            nulls.insert(name.to_owned(), json!(null_count));
        };
        for (name, bounds) in &self.times {
            put(
                name,
                bounds.ends.map(|(min, max)| (moment(min), moment(max))),
                bounds.nulls,
            );
        }
        let ends = self.partitions.ends;
        put(columns::PARTITION, ends.map(|(min, max)| (json!(min), json!(max))), 0);
        let ends = self.offsets.ends;
        put(columns::OFFSET, ends.map(|(min, max)| (json!(min), json!(max))), 0);
        if let Some(generation) = &self.generation {
            put(GENERATION, Some((json!(generation), json!(generation))), 0);
        }
        json!({ "numRecords": self.rows, "minValues": least, "maxValues": greatest, "nullCount": nulls })
    }
}

fn moment(micros: i64) -> Value {
    let time = chrono::DateTime::from_timestamp_micros(micros);
    time.map_or(Value::Null, |time| {
        json!(time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_before_the_epoch_has_the_date_of_its_day() {
        assert_eq!([date_text(-1), date_text(0)], ["1969-12-31", "1970-01-01"]);
    }
}
