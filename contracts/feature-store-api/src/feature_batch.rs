//! [`FeatureBatch`] on the wire. Services read it as one Arrow record batch: a column of values per feature, in order;
//! then `status`, one fixed-size binary cell per entity with a byte per feature (the numbers of [`FeatureStatus`]); then
//! each distinct column of event times once, since the features of one view share theirs. Columns cost more than bytes
//! in this format, so there are as few as can be. What has no row stands in the schema's metadata. People read the same
//! as JSON, and our own client takes it [`packed`].

pub mod packed;

use crate::wire::{FeatureBatch, FeatureColumn};
use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{
    DataType as ArrowType, Field, Float32Type, Float64Type, Int32Type, Int64Type, Schema, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use ondol_vocabulary::{DataType, EventTime, FeatureRef, FeatureStatus, Value};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// The key of the Arrow schema's metadata that holds what has no row, as JSON.
const METADATA_KEY: &str = "ondol.features";

/// The name of the column of statuses.
const STATUS: &str = "status";

/// What of a [`FeatureBatch`] has no row.
#[derive(Serialize, Deserialize)]
struct Header {
    as_of_us: i64,
    rows: usize,
    features: Arc<[FeatureRef]>,
    view_versions: Vec<u32>,
    /// Which of the distinct columns of event times is each feature's.
    event_times: Vec<usize>,
}

/// Feature values for a batch of entities, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FeatureBatchJson {
    /// The moment the values are as of.
    pub as_of: EventTime,
    /// Number of entities.
    pub rows: usize,
    /// One per feature asked for.
    pub features: Vec<FeatureColumnJson>,
}

/// One feature's values, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FeatureColumnJson {
    /// Which feature.
    pub feature: FeatureRef,
    /// The view version it came from.
    pub view_version: u32,
    /// The values, one per entity.
    pub values: Vec<Value>,
    /// What each value is worth.
    pub status: Vec<FeatureStatus>,
    /// Time of the newest event behind each value; null for a missing entity.
    pub event_time: Vec<Option<EventTime>>,
}

impl FeatureBatch {
    /// Its columns, each with its feature.
    pub fn named(&self) -> impl Iterator<Item = (&FeatureRef, &FeatureColumn)> {
        self.features.iter().zip(&self.columns)
    }

    /// The column of `feature`, if it was asked for.
    pub fn column(&self, feature: &FeatureRef) -> Option<&FeatureColumn> {
        self.named()
            .find(|(known, _)| *known == feature)
            .map(|(_, column)| column)
    }

    /// As one record batch.
    ///
    /// # Errors
    /// When a column's length is not the number of entities.
    pub fn to_arrow(&self) -> Result<RecordBatch, ArrowError> {
        if self.features.len() != self.columns.len() {
            return Err(malformed("it has other columns than features"));
        }
        let mut fields: Vec<Field> = Vec::with_capacity(self.columns.len() + 3);
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len() + 3);
        for (feature, column) in self.named() {
            fields.push(Field::new(feature.to_string(), column.values.data_type().clone(), true));
            arrays.push(Arc::clone(&column.values));
        }
        if !self.columns.is_empty() {
            let status = self.statuses()?;
            fields.push(Field::new(STATUS, status.data_type().clone(), false));
            arrays.push(Arc::new(status));
        }
        let (distinct, event_times) = self.distinct_event_times();
        for times in distinct {
            let array: TimestampMicrosecondArray = times.iter().map(|time| time.map(EventTime::micros)).collect();
            fields.push(Field::new("event_time", DataType::Timestamp.arrow(), true));
            arrays.push(Arc::new(array.with_timezone("UTC")));
        }
        let header = Header {
            as_of_us: self.as_of.micros(),
            rows: self.rows,
            features: Arc::clone(&self.features),
            view_versions: self.columns.iter().map(|column| column.view_version).collect(),
            event_times,
        };
        let header = serde_json::to_string(&header).map_err(|error| ArrowError::ExternalError(Box::new(error)))?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), header)]);
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        RecordBatch::try_new_with_options(schema, arrays, &options)
    }

    /// A cell per entity: its features' statuses, a byte each.
    fn statuses(&self) -> Result<FixedSizeBinaryArray, ArrowError> {
        let features = self.columns.len();
        let mut codes = vec![0u8; features * self.rows];
        for (place, column) in self.columns.iter().enumerate() {
            for (cell, status) in codes.iter_mut().skip(place).step_by(features).zip(column.status.iter()) {
                *cell = *status as u8;
            }
        }
        let width = i32::try_from(features).map_err(|_| malformed("too many features"))?;
        FixedSizeBinaryArray::try_new(width, Buffer::from_vec(codes), None)
    }

    /// The event times that differ, and which of them each feature has.
    fn distinct_event_times(&self) -> (Vec<&[Option<EventTime>]>, Vec<usize>) {
        let mut distinct: Vec<&[Option<EventTime>]> = Vec::new();
        let places = self.columns.iter().map(|column| {
            let times: &[Option<EventTime>] = &column.event_time;
            // Those of one view are mostly the same ones, and need no comparison.
            let known = distinct
                .iter()
                .position(|known| std::ptr::eq(*known, times) || *known == times);
            known.unwrap_or_else(|| {
                distinct.push(&column.event_time);
                distinct.len() - 1
            })
        });
        let places = places.collect();
        (distinct, places)
    }

    /// From the record batch made by [`Self::to_arrow`], possibly elsewhere.
    ///
    /// # Errors
    /// When the batch is not of that form.
    pub fn from_arrow(batch: &RecordBatch) -> Result<Self, ArrowError> {
        let header = batch
            .schema_ref()
            .metadata()
            .get(METADATA_KEY)
            .ok_or_else(|| malformed("no header"))?;
        let header: Header = serde_json::from_str(header).map_err(|error| malformed(&error.to_string()))?;
        let features = header.features.len();
        let fits = header.view_versions.len() == features
            && header.event_times.len() == features
            && batch.num_columns() >= features
            && header.rows == batch.num_rows();
        if !fits {
            return Err(malformed("the header does not fit the columns"));
        }
        let (values, rest) = batch.columns().split_at(features);
        let statuses = match rest.first() {
            Some(column) => Statuses::of(column, features)?,
            None if features == 0 => Statuses { cells: None, features },
            None => return Err(malformed("there is no column of statuses")),
        };
        let times = rest.iter().skip(1).map(event_times).collect::<Result<Vec<_>, _>>()?;
        let mut columns = Vec::with_capacity(features);
        let parts = header.view_versions.into_iter().zip(values).zip(header.event_times);
        for (place, ((view_version, values), time)) in parts.enumerate() {
            let event_time = times
                .get(time)
                .ok_or_else(|| malformed("a column of event times is absent"))?;
            columns.push(FeatureColumn {
                view_version,
                values: Arc::clone(values),
                status: statuses.of_feature(place)?,
                event_time: Arc::clone(event_time),
            });
        }
        Ok(Self {
            as_of: EventTime::from_micros(header.as_of_us),
            rows: header.rows,
            features: header.features,
            columns,
        })
    }

    /// As JSON.
    pub fn to_json(&self) -> FeatureBatchJson {
        let features = self.named().map(|(feature, column)| FeatureColumnJson {
            feature: feature.clone(),
            view_version: column.view_version,
            values: (0..column.values.len())
                .map(|row| value_at(&column.values, row))
                .collect(),
            status: column.status.to_vec(),
            event_time: column.event_time.to_vec(),
        });
        FeatureBatchJson {
            as_of: self.as_of,
            rows: self.rows,
            features: features.collect(),
        }
    }
}

/// The column of statuses; absent where there are no features.
struct Statuses<'a> {
    cells: Option<&'a FixedSizeBinaryArray>,
    features: usize,
}

impl<'a> Statuses<'a> {
    fn of(column: &'a ArrayRef, features: usize) -> Result<Self, ArrowError> {
        let cells = column
            .as_fixed_size_binary_opt()
            .filter(|cells| usize::try_from(cells.value_length()) == Ok(features) && cells.null_count() == 0)
            .ok_or_else(|| malformed("the statuses are no byte per feature"))?;
        Ok(Self {
            cells: Some(cells),
            features,
        })
    }

    fn of_feature(&self, place: usize) -> Result<Arc<[FeatureStatus]>, ArrowError> {
        let Some(cells) = self.cells else {
            return Ok(Arc::default());
        };
        debug_assert!(place < self.features, "the caller counts features");
        let codes = (0..cells.len()).map(|row| cells.value(row).get(place).copied());
        codes
            .map(|code| {
                code.and_then(FeatureStatus::from_code)
                    .ok_or_else(|| malformed("an unknown status"))
            })
            .collect()
    }
}

fn event_times(column: &ArrayRef) -> Result<Arc<[Option<EventTime>]>, ArrowError> {
    let times = column
        .as_primitive_opt::<TimestampMicrosecondType>()
        .ok_or_else(|| malformed("an event time is no timestamp"))?;
    Ok(times.iter().map(|time| time.map(EventTime::from_micros)).collect())
}

/// Row `row` of `array` as a value: exact, except that an `f32` becomes the `f64` of its shortest decimal text, so
/// that JSON shows `0.1` and reads back as the same `f32`. A type that no feature has is null.
pub fn value_at(array: &ArrayRef, row: usize) -> Value {
    if row >= array.len() || array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        ArrowType::Utf8 => Value::String(array.as_string::<i32>().value(row).to_owned()),
        ArrowType::Boolean => Value::Bool(array.as_boolean().value(row)),
        ArrowType::Int32 => Value::I64(i64::from(array.as_primitive::<Int32Type>().value(row))),
        ArrowType::Int64 => Value::I64(array.as_primitive::<Int64Type>().value(row)),
        ArrowType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            Value::F64(value.to_string().parse().unwrap_or_else(|_| f64::from(value)))
        }
        ArrowType::Float64 => Value::F64(array.as_primitive::<Float64Type>().value(row)),
        ArrowType::Timestamp(TimeUnit::Microsecond, _) => Value::Timestamp(EventTime::from_micros(
            array.as_primitive::<TimestampMicrosecondType>().value(row),
        )),
        ArrowType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            Value::List((0..items.len()).map(|item| value_at(&items, item)).collect())
        }
        _ => Value::Null,
    }
}

fn malformed(why: &str) -> ArrowError {
    ArrowError::ParseError(format!("not a batch of features: {why}"))
}
