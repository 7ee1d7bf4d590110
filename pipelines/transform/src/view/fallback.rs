//! What is served where a feature has no value: the default that its definition declares, in the form that columns take.
//!
//! The rule is one for all ways a value is read: where it would be null, whatever the reason, it is the default. The
//! status still says what was found.

use crate::row::scalar::{Scalar, ScalarRef, narrowed};
use crate::view::column::ColumnBuilder;
use arrow::array::{Array, ArrayRef, BooleanArray, Scalar as ArrowScalar};
use arrow::compute::kernels::zip::zip;
use arrow::error::ArrowError;
use ondol_vocabulary::{DataType, EventTime, FeatureDefault, FeatureDefinition, Value};
use std::sync::Arc;

/// The greatest integer up to which a double holds each.
const EXACT: u64 = 1 << 53;

/// A declared default, of its feature's type.
#[derive(Debug)]
pub(crate) struct Fallback {
    value: Constant,
    /// The value as a column of one row.
    array: ArrayRef,
}

#[derive(Debug)]
enum Constant {
    One(Scalar),
    List(Vec<Scalar>),
}

impl Fallback {
    /// That of `feature`, if it declares one. The error says what is wrong with it.
    pub(crate) fn of(feature: &FeatureDefinition) -> Result<Option<Self>, String> {
        let Some(FeatureDefault(value)) = &feature.default else {
            return Ok(None);
        };
        let value = match (value, feature.data_type) {
            (Value::List(items), DataType::List(element)) => {
                let items = items.iter().map(|item| scalar(item, element.data_type()));
                Constant::List(items.collect::<Result<_, _>>()?)
            }
            (value, data_type) => Constant::One(scalar(value, data_type)?),
        };
        let mut column = ColumnBuilder::new(feature.data_type, 1);
        value.push_to(&mut column);
        let array = column.finish();
        Ok(Some(Self { value, array }))
    }

    /// Appends the default to `values`, a column of the feature's type.
    pub(super) fn push_to(&self, values: &mut ColumnBuilder) {
        self.value.push_to(values);
    }

    /// `values`, and the default wherever they are null.
    pub(crate) fn fill(&self, values: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        let Some(nulls) = values.logical_nulls().filter(|nulls| nulls.null_count() > 0) else {
            return Ok(Arc::clone(values));
        };
        let present = BooleanArray::new(nulls.into_inner(), None);
        zip(&present, values, &ArrowScalar::new(Arc::clone(&self.array)))
    }
}

impl Constant {
    fn push_to(&self, column: &mut ColumnBuilder) {
        match self {
            Self::One(scalar) => column.push(Some(scalar.borrow())),
            Self::List(items) => {
                let items: Vec<ScalarRef<'_>> = items.iter().map(Scalar::borrow).collect();
                column.push_whole_list(&items);
            }
        }
    }
}

/// `value` as one of `data_type`, if it is one.
fn scalar(value: &Value, data_type: DataType) -> Result<Scalar, String> {
    let finite = |value: f64| match value.is_finite() {
        true => Ok(value),
        false => Err(format!("{value} is no number that can be served as a default")),
    };
    Ok(match (data_type, value) {
        (DataType::String, Value::String(text)) => Scalar::Text(text.as_str().into()),
        (DataType::Bool, Value::Bool(value)) => Scalar::Bool(*value),
        (DataType::I32, Value::I64(value)) if i32::try_from(*value).is_err() => {
            return Err(format!("{value} does not fit an i32"));
        }
        (DataType::I32 | DataType::I64, Value::I64(value)) => Scalar::Int(*value),
        (DataType::F32 | DataType::F64, Value::I64(value)) if value.unsigned_abs() > EXACT => {
            return Err(format!("{value} is too great for a float to hold exactly"));
        }
        (DataType::F64, Value::I64(value)) => Scalar::Float(*value as f64),
        (DataType::F64, Value::F64(value)) => Scalar::Float(finite(*value)?),
        // The nearest single, widened again as rows keep it.
        (DataType::F32, Value::I64(value)) => Scalar::Float(f64::from(narrowed(*value as f64))),
        (DataType::F32, Value::F64(value)) => Scalar::Float(finite(f64::from(narrowed(*value)))?),
        (DataType::Timestamp, Value::Timestamp(time)) => Scalar::Int(time.micros()),
        (DataType::Timestamp, Value::String(text)) => {
            Scalar::Int(EventTime::parse(text).map_err(|error| error.to_string())?.micros())
        }
        (data_type, value) => return Err(format!("{} is no {data_type}", shown(value))),
    })
}

/// The value as it was written.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

/// `values`, one column a feature, with the defaults of `fallbacks` where they are null.
pub(super) fn fill(fallbacks: &[Option<Fallback>], values: Vec<ArrayRef>) -> Result<Vec<ArrayRef>, ArrowError> {
    let pairs = values.into_iter().zip(fallbacks);
    pairs
        .map(|(values, fallback)| match fallback {
            Some(fallback) => fallback.fill(&values),
            None => Ok(values),
        })
        .collect()
}
