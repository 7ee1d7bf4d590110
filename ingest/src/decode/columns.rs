//! Cells to Arrow arrays. One builder per column; nothing is allocated per row beyond the builders' growth.

use super::Cell;
use arrow::array::{
    ArrayRef, BooleanBuilder, Float32Builder, Float64Builder, Int32Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use ondol_vocabulary::{DataType, Field};
use std::sync::Arc;

/// The columns of a batch being built.
#[derive(Debug)]
pub struct Columns(Vec<Column>);

#[derive(Debug)]
enum Column {
    String(StringBuilder),
    Bool(BooleanBuilder),
    I32(Int32Builder),
    I64(Int64Builder),
    F32(Float32Builder),
    F64(Float64Builder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl Columns {
    /// For `fields`, with room for `rows` rows.
    pub fn new(fields: &[Field], rows: usize) -> Self {
        Self(fields.iter().map(|field| Column::new(field.data_type, rows)).collect())
    }

    /// Adds a row: one cell per field, of its field's type.
    pub fn append(&mut self, cells: &[Cell<'_>]) {
        for (column, cell) in self.0.iter_mut().zip(cells) {
            column.append(cell);
        }
    }

    /// The arrays, in the order of the fields.
    pub fn finish(self) -> Vec<ArrayRef> {
        self.0.into_iter().map(Column::finish).collect()
    }
}

impl Column {
    fn new(data_type: DataType, rows: usize) -> Self {
        match data_type {
            DataType::String | DataType::List(_) => Self::String(StringBuilder::with_capacity(rows, rows * 8)),
            DataType::Bool => Self::Bool(BooleanBuilder::with_capacity(rows)),
            DataType::I32 => Self::I32(Int32Builder::with_capacity(rows)),
            DataType::I64 => Self::I64(Int64Builder::with_capacity(rows)),
            DataType::F32 => Self::F32(Float32Builder::with_capacity(rows)),
            DataType::F64 => Self::F64(Float64Builder::with_capacity(rows)),
            DataType::Timestamp => Self::Timestamp(
                TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(DataType::Timestamp.arrow()),
            ),
        }
    }

    fn append(&mut self, cell: &Cell<'_>) {
        match (self, cell) {
            (Self::String(builder), Cell::Text(text)) => builder.append_value(text),
            (Self::Bool(builder), Cell::Bool(truth)) => builder.append_value(*truth),
            (Self::I32(builder), Cell::Int(number)) => builder.append_option(i32::try_from(*number).ok()),
            (Self::I64(builder), Cell::Int(number)) => builder.append_value(*number),
            (Self::F32(builder), Cell::Float(number)) => builder.append_value(*number as f32),
            (Self::F64(builder), Cell::Float(number)) => builder.append_value(*number),
            (Self::Timestamp(builder), Cell::Micros(micros)) => builder.append_value(*micros),
            (column, cell) => {
                debug_assert_eq!(*cell, Cell::Null, "the parser gives each column its own type");
                column.append_null();
            }
        }
    }

    fn append_null(&mut self) {
        match self {
            Self::String(builder) => builder.append_null(),
            Self::Bool(builder) => builder.append_null(),
            Self::I32(builder) => builder.append_null(),
            Self::I64(builder) => builder.append_null(),
            Self::F32(builder) => builder.append_null(),
            Self::F64(builder) => builder.append_null(),
            Self::Timestamp(builder) => builder.append_null(),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::String(mut builder) => Arc::new(builder.finish()),
            Self::Bool(mut builder) => Arc::new(builder.finish()),
            Self::I32(mut builder) => Arc::new(builder.finish()),
            Self::I64(mut builder) => Arc::new(builder.finish()),
            Self::F32(mut builder) => Arc::new(builder.finish()),
            Self::F64(mut builder) => Arc::new(builder.finish()),
            Self::Timestamp(mut builder) => Arc::new(builder.finish()),
        }
    }
}
