//! What the Delta log says of a file's rows, in the form in which the engine skips files and counts rows.
//!
//! Bounds are used of integers, dates and moments only: texts may be cut, and floats may hide a NaN. A moment's greatest
//! value is rounded down to the millisecond by the format, so that much is added back.

use super::{Listing, partition_value};
use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, ColumnStatistics, Statistics};
use datafusion::scalar::ScalarValue;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// The log's statistics of one file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Logged {
    num_records: Option<u64>,
    min_values: Map<String, Value>,
    max_values: Map<String, Value>,
    null_count: Map<String, Value>,
}

/// What is known of the rows of each file of a listing.
pub(crate) struct FileStatistics<'a> {
    listing: &'a Listing,
    logged: Vec<Logged>,
}

#[derive(Clone, Copy)]
enum Bound {
    Least,
    Greatest,
}

impl<'a> FileStatistics<'a> {
    /// Reads the log's texts. One that can't be read says nothing.
    pub(crate) fn new(listing: &'a Listing) -> Self {
        let logged = (listing.files.iter())
            .map(|file| {
                let text = file.statistics.as_deref();
                text.and_then(|text| serde_json::from_str(text).ok())
                    .unwrap_or_default()
            })
            .collect();
        Self { listing, logged }
    }

    /// Of file `index`, in the engine's form: the columns of files, in order. None if it says nothing.
    pub(crate) fn of_file(&self, index: usize) -> Option<Statistics> {
        let logged = self.logged.get(index)?;
        let rows = usize::try_from(logged.num_records?).ok()?;
        let column_statistics = (self.listing.file_schema.fields().iter())
            .map(|field| {
                let mut column = ColumnStatistics::new_unknown();
                if let Some(nulls) = logged.null_count.get(field.name()).and_then(Value::as_u64) {
                    column.null_count = usize::try_from(nulls).map_or(Precision::Absent, Precision::Exact);
                }
                let bound = |bound| logged.bound(bound, field.name(), field.data_type());
                // Bounds, not values: an aggregate is not answered from them.
                column.min_value = bound(Bound::Least).map_or(Precision::Absent, Precision::Inexact);
                column.max_value = bound(Bound::Greatest).map_or(Precision::Absent, Precision::Inexact);
                column
            })
            .collect();
        Some(Statistics {
            num_rows: Precision::Exact(rows),
            total_byte_size: Precision::Absent,
            column_statistics,
        })
    }

    fn bounds(&self, column: &Column, bound: Bound) -> Option<ArrayRef> {
        let name = column.name();
        if let Some(place) = self.place(name) {
            let data_type = self.listing.partition_columns.get(place)?.data_type();
            let values = self.listing.files.iter().map(|file| {
                let text = file.partition_values.get(place).and_then(Option::as_deref);
                partition_value(text, data_type).or_else(|_| ScalarValue::try_from(data_type))
            });
            return ScalarValue::iter_to_array(values.collect::<Result<Vec<_>, _>>().ok()?).ok();
        }
        let (_, field) = self.listing.file_schema.fields().find(name)?;
        let none = ScalarValue::try_from(field.data_type()).ok()?;
        let values = self.logged.iter();
        let values = values.map(|logged| {
            logged
                .bound(bound, name, field.data_type())
                .unwrap_or_else(|| none.clone())
        });
        ScalarValue::iter_to_array(values).ok()
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.listing
            .partition_columns
            .iter()
            .position(|field| field.name() == name)
    }
}

impl Logged {
    fn bound(&self, bound: Bound, name: &str, data_type: &DataType) -> Option<ScalarValue> {
        let value = match bound {
            Bound::Least => self.min_values.get(name)?,
            Bound::Greatest => self.max_values.get(name)?,
        };
        match data_type {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
                ScalarValue::Int64(Some(value.as_i64()?)).cast_to(data_type).ok()
            }
            DataType::Date32 => ScalarValue::try_from_string(value.as_str()?.to_owned(), data_type).ok(),
            DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                let moment = chrono::DateTime::parse_from_rfc3339(value.as_str()?)
                    .ok()?
                    .timestamp_micros();
                let moment = match bound {
                    Bound::Least => moment,
                    Bound::Greatest => moment.saturating_add(999),
                };
                Some(ScalarValue::TimestampMicrosecond(Some(moment), zone.clone()))
            }
            _ => None,
        }
    }
}

impl PruningStatistics for FileStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, Bound::Least)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, Bound::Greatest)
    }

    fn num_containers(&self) -> usize {
        self.logged.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let name = column.name();
        if let Some(place) = self.place(name) {
            let counts = self.listing.files.iter().zip(&self.logged).map(|(file, logged)| {
                let is_null = file.partition_values.get(place).is_none_or(Option::is_none);
                if is_null { logged.num_records } else { Some(0) }
            });
            return Some(std::sync::Arc::new(counts.collect::<UInt64Array>()));
        }
        let counts = self.logged.iter();
        let counts = counts.map(|logged| logged.null_count.get(name).and_then(Value::as_u64));
        Some(std::sync::Arc::new(counts.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let counts = self.logged.iter().map(|logged| logged.num_records);
        Some(std::sync::Arc::new(counts.collect::<UInt64Array>()))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
