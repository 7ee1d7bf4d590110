//! An evaluated expression, ready to be read value by value; and finished values, ready to be a column.

use crate::row::scalar::{ScalarRef, narrowed};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType as ArrowType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use ondol_vocabulary::DataType;
use std::sync::Arc;

/// An array of one of the vocabulary's types, its type known.
#[derive(Debug)]
pub(super) enum Column {
    Bool(BooleanArray),
    I32(Int32Array),
    I64(Int64Array),
    F32(Float32Array),
    F64(Float64Array),
    Timestamp(TimestampMicrosecondArray),
    String(StringArray),
}

impl Column {
    /// None if the vocabulary has no such type.
    pub(super) fn new(array: &ArrayRef) -> Option<Self> {
        Some(match array.data_type() {
            ArrowType::Boolean => Self::Bool(array.as_boolean_opt()?.clone()),
            ArrowType::Int32 => Self::I32(array.as_primitive_opt::<Int32Type>()?.clone()),
            ArrowType::Int64 => Self::I64(array.as_primitive_opt::<Int64Type>()?.clone()),
            ArrowType::Float32 => Self::F32(array.as_primitive_opt::<Float32Type>()?.clone()),
            ArrowType::Float64 => Self::F64(array.as_primitive_opt::<Float64Type>()?.clone()),
            ArrowType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Timestamp(array.as_primitive_opt::<TimestampMicrosecondType>()?.clone())
            }
            ArrowType::Utf8 => Self::String(array.as_string_opt()?.clone()),
            _ => return None,
        })
    }

    /// The value of row `row`, unless null.
    pub(super) fn get(&self, row: usize) -> Option<ScalarRef<'_>> {
        fn valid(array: &impl Array, row: usize) -> Option<()> {
            array.is_valid(row).then_some(())
        }
        Some(match self {
            Self::Bool(array) => valid(array, row).map(|()| ScalarRef::Bool(array.value(row)))?,
            Self::I32(array) => valid(array, row).map(|()| ScalarRef::Int(i64::from(array.value(row))))?,
            Self::I64(array) => valid(array, row).map(|()| ScalarRef::Int(array.value(row)))?,
            Self::F32(array) => valid(array, row).map(|()| ScalarRef::float(f64::from(array.value(row))))?,
            Self::F64(array) => valid(array, row).map(|()| ScalarRef::float(array.value(row)))?,
            Self::Timestamp(array) => valid(array, row).map(|()| ScalarRef::Int(array.value(row)))?,
            Self::String(array) => valid(array, row).map(|()| ScalarRef::Text(array.value(row)))?,
        })
    }
}

/// The column of `values`, all of type `data_type`.
pub(super) fn array(data_type: DataType, values: &[Option<ScalarRef<'_>>]) -> ArrayRef {
    match data_type {
        DataType::Bool => Arc::new(values.iter().map(|value| boolean((*value)?)).collect::<BooleanArray>()),
        DataType::I32 => {
            // Narrowing is exact: the value was widened from an i32.
            Arc::new(
                values
                    .iter()
                    .map(|value| integer((*value)?).map(|value| value as i32))
                    .collect::<Int32Array>(),
            )
        }
        DataType::I64 => Arc::new(values.iter().map(|value| integer((*value)?)).collect::<Int64Array>()),
        DataType::F32 => Arc::new(
            values
                .iter()
                .map(|value| float((*value)?).map(narrowed))
                .collect::<Float32Array>(),
        ),
        DataType::F64 => Arc::new(values.iter().map(|value| float((*value)?)).collect::<Float64Array>()),
        DataType::Timestamp => {
            let moments = values
                .iter()
                .map(|value| integer((*value)?))
                .collect::<TimestampMicrosecondArray>();
            Arc::new(moments.with_timezone("UTC"))
        }
        DataType::String => Arc::new(values.iter().map(|value| text((*value)?)).collect::<StringArray>()),
    }
}

fn boolean(value: ScalarRef<'_>) -> Option<bool> {
    if let ScalarRef::Bool(value) = value {
        Some(value)
    } else {
        None
    }
}

fn integer(value: ScalarRef<'_>) -> Option<i64> {
    if let ScalarRef::Int(value) = value {
        Some(value)
    } else {
        None
    }
}

fn float(value: ScalarRef<'_>) -> Option<f64> {
    if let ScalarRef::Float(value) = value {
        Some(value)
    } else {
        None
    }
}

fn text(value: ScalarRef<'_>) -> Option<&str> {
    if let ScalarRef::Text(value) = value {
        Some(value)
    } else {
        None
    }
}
