//! [`FeatureBatch`] on the wire. Services read it as one Arrow record batch, three columns a feature: the values, the
//! status (`UInt8`, the numbers of [`FeatureStatus`]) and the event time (nullable); what has no row stands in the
//! schema's metadata. People read the same as JSON.

use crate::wire::{FeatureBatch, FeatureColumn};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray, UInt8Array};
use arrow::datatypes::{
    DataType as ArrowType, Field, Float32Type, Float64Type, Int32Type, Int64Type, Schema, TimeUnit,
    TimestampMicrosecondType, UInt8Type,
};
use arrow::error::ArrowError;
use ondol_vocabulary::{DataType, EventTime, FeatureRef, FeatureStatus, Value};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// The key of the Arrow schema's metadata that holds what has no row, as JSON.
const METADATA_KEY: &str = "ondol.features";

/// Arrow columns a feature.
const COLUMNS: usize = 3;

/// What of a [`FeatureBatch`] has no row.
#[derive(Serialize, Deserialize)]
struct Header {
    as_of_us: i64,
    rows: usize,
    features: Vec<FeatureRef>,
    view_versions: Vec<u32>,
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
    /// As one record batch.
    ///
    /// # Errors
    /// When a column's length is not the number of entities.
    pub fn to_arrow(&self) -> Result<RecordBatch, ArrowError> {
        let mut fields = Vec::with_capacity(self.columns.len() * COLUMNS);
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len() * COLUMNS);
        for column in &self.columns {
            let name = column.feature.to_string();
            let event_time: TimestampMicrosecondArray = column
                .event_time
                .iter()
                .map(|time| time.map(EventTime::micros))
                .collect();
            fields.push(Field::new(name.as_str(), column.values.data_type().clone(), true));
            fields.push(Field::new(format!("{name}.status"), ArrowType::UInt8, false));
            fields.push(Field::new(
                format!("{name}.event_time"),
                DataType::Timestamp.arrow(),
                true,
            ));
            arrays.push(Arc::clone(&column.values));
            arrays.push(Arc::new(UInt8Array::from_iter_values(
                column.status.iter().map(|status| *status as u8),
            )));
            arrays.push(Arc::new(event_time.with_timezone("UTC")));
        }
        let header = Header {
            as_of_us: self.as_of.micros(),
            rows: self.rows,
            features: self.columns.iter().map(|column| column.feature.clone()).collect(),
            view_versions: self.columns.iter().map(|column| column.view_version).collect(),
        };
        let header = serde_json::to_string(&header).map_err(|error| ArrowError::ExternalError(Box::new(error)))?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), header)]);
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        RecordBatch::try_new_with_options(schema, arrays, &options)
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
        let same_length = header.view_versions.len() == features && batch.num_columns() == features * COLUMNS;
        if !same_length || header.rows != batch.num_rows() {
            return Err(malformed("the header does not fit the columns"));
        }
        let columns = header
            .features
            .into_iter()
            .zip(header.view_versions)
            .zip(batch.columns().chunks_exact(COLUMNS))
            .map(|((feature, view_version), columns)| FeatureColumn::from_arrow(feature, view_version, columns))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            as_of: EventTime::from_micros(header.as_of_us),
            rows: header.rows,
            columns,
        })
    }

    /// As JSON.
    pub fn to_json(&self) -> FeatureBatchJson {
        let features = self.columns.iter().map(|column| FeatureColumnJson {
            feature: column.feature.clone(),
            view_version: column.view_version,
            values: (0..column.values.len())
                .map(|row| scalar(&column.values, row))
                .collect(),
            status: column.status.clone(),
            event_time: column.event_time.clone(),
        });
        FeatureBatchJson {
            as_of: self.as_of,
            rows: self.rows,
            features: features.collect(),
        }
    }
}

impl FeatureColumn {
    fn from_arrow(feature: FeatureRef, view_version: u32, columns: &[ArrayRef]) -> Result<Self, ArrowError> {
        let [values, status, event_time] = columns else {
            return Err(malformed("a feature lacks a column"));
        };
        let status = status
            .as_primitive_opt::<UInt8Type>()
            .ok_or_else(|| malformed("a status is no UInt8"))?;
        let event_time = event_time
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or_else(|| malformed("an event time is no timestamp"))?;
        Ok(Self {
            feature,
            view_version,
            values: Arc::clone(values),
            status: status
                .iter()
                .map(|code| {
                    code.and_then(FeatureStatus::from_code)
                        .ok_or_else(|| malformed("an unknown status"))
                })
                .collect::<Result<_, _>>()?,
            event_time: event_time.iter().map(|time| time.map(EventTime::from_micros)).collect(),
        })
    }
}

/// Row `row` of `array` as a scalar: exact, except that an `f32` becomes the `f64` of its shortest decimal text, so
/// that JSON shows `0.1` and reads back as the same `f32`. A type that no feature has is null.
pub fn scalar(array: &ArrayRef, row: usize) -> Value {
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
        _ => Value::Null,
    }
}

fn malformed(why: &str) -> ArrowError {
    ArrowError::ParseError(format!("not a batch of features: {why}"))
}
