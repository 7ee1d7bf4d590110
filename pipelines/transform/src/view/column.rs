//! An evaluated expression, ready to be read value by value; and finished values, ready to be a column.

use crate::row::scalar::{ScalarRef, narrowed};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBuilder, Float32Array, Float32Builder, Float64Array, Float64Builder,
    Int32Array, Int32Builder, Int64Array, Int64Builder, StringArray, StringBuilder, TimestampMicrosecondArray,
    TimestampMicrosecondBuilder,
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

/// Finished values of one of the vocabulary's types on their way to an array.
#[derive(Debug)]
pub(super) enum ColumnBuilder {
    Bool(BooleanBuilder),
    I32(Int32Builder),
    I64(Int64Builder),
    F32(Float32Builder),
    F64(Float64Builder),
    Timestamp(TimestampMicrosecondBuilder),
    String(StringBuilder),
}

impl ColumnBuilder {
    /// With room for `rows` values.
    pub(super) fn new(data_type: DataType, rows: usize) -> Self {
        match data_type {
            DataType::Bool => Self::Bool(BooleanBuilder::with_capacity(rows)),
            DataType::I32 => Self::I32(Int32Builder::with_capacity(rows)),
            DataType::I64 => Self::I64(Int64Builder::with_capacity(rows)),
            DataType::F32 => Self::F32(Float32Builder::with_capacity(rows)),
            DataType::F64 => Self::F64(Float64Builder::with_capacity(rows)),
            DataType::Timestamp => {
                Self::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(data_type.arrow()))
            }
            DataType::String => Self::String(StringBuilder::with_capacity(rows, rows * 8)),
        }
    }

    /// Appends a value of the builder's type; any other is null.
    pub(super) fn push(&mut self, value: Option<ScalarRef<'_>>) {
        match (self, value) {
            (Self::Bool(values), Some(ScalarRef::Bool(value))) => values.append_value(value),
            // Narrowing is exact: the value was widened from an i32.
            (Self::I32(values), Some(ScalarRef::Int(value))) => values.append_value(value as i32),
            (Self::I64(values), Some(ScalarRef::Int(value))) => values.append_value(value),
            (Self::F32(values), Some(ScalarRef::Float(value))) => values.append_value(narrowed(value)),
            (Self::F64(values), Some(ScalarRef::Float(value))) => values.append_value(value),
            (Self::Timestamp(values), Some(ScalarRef::Int(value))) => values.append_value(value),
            (Self::String(values), Some(ScalarRef::Text(value))) => values.append_value(value),
            (Self::Bool(values), _) => values.append_null(),
            (Self::I32(values), _) => values.append_null(),
            (Self::I64(values), _) => values.append_null(),
            (Self::F32(values), _) => values.append_null(),
            (Self::F64(values), _) => values.append_null(),
            (Self::Timestamp(values), _) => values.append_null(),
            (Self::String(values), _) => values.append_null(),
        }
    }

    pub(super) fn finish(self) -> ArrayRef {
        match self {
            Self::Bool(mut values) => Arc::new(values.finish()),
            Self::I32(mut values) => Arc::new(values.finish()),
            Self::I64(mut values) => Arc::new(values.finish()),
            Self::F32(mut values) => Arc::new(values.finish()),
            Self::F64(mut values) => Arc::new(values.finish()),
            Self::Timestamp(mut values) => Arc::new(values.finish()),
            Self::String(mut values) => Arc::new(values.finish()),
        }
    }
}
