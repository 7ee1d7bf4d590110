//! Columns of the vector as cells of a float matrix.

use crate::fault::internal;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType as ArrowType, Float32Type, Float64Type, Int32Type, Int64Type};
use ondol_model_gateway_api::ModelGatewayError;

/// A float cell that a number or bool becomes. Each number is rounded once, straight to the cell's type.
pub(super) trait Cell: Copy {
    fn of_i32(value: i32) -> Self;
    fn of_i64(value: i64) -> Self;
    fn of_f32(value: f32) -> Self;
    fn of_f64(value: f64) -> Self;
}

macro_rules! cell {
    ($type:ty) => {
        #[allow(clippy::cast_lossless, reason = "one macro for both types")]
        impl Cell for $type {
            fn of_i32(value: i32) -> Self {
                value as Self
            }
            fn of_i64(value: i64) -> Self {
                value as Self
            }
            fn of_f32(value: f32) -> Self {
                value as Self
            }
            fn of_f64(value: f64) -> Self {
                value as Self
            }
        }
    };
}

cell!(f32);
cell!(f64);

pub(super) fn fill_columns<T: Cell>(vector: &RecordBatch, cells: &mut [T]) -> Result<(), ModelGatewayError> {
    let width = vector.num_columns();
    vector
        .columns()
        .iter()
        .enumerate()
        .try_for_each(|(place, column)| fill(column, cells, width, place))
}

/// Writes `column` into every `width`th cell from `place` on. Nulls leave their cell as it is (NaN).
pub(super) fn fill<T: Cell>(
    column: &ArrayRef,
    cells: &mut [T],
    width: usize,
    place: usize,
) -> Result<(), ModelGatewayError> {
    let cells = cells.iter_mut().skip(place).step_by(width.max(1));
    macro_rules! each {
        ($values:expr, $cast:expr) => {
            for (cell, value) in cells.zip($values) {
                if let Some(value) = value {
                    *cell = $cast(value);
                }
            }
        };
    }
    match column.data_type() {
        ArrowType::Float64 => each!(column.as_primitive::<Float64Type>(), T::of_f64),
        ArrowType::Float32 => each!(column.as_primitive::<Float32Type>(), T::of_f32),
        ArrowType::Int64 => each!(column.as_primitive::<Int64Type>(), T::of_i64),
        ArrowType::Int32 => each!(column.as_primitive::<Int32Type>(), T::of_i32),
        ArrowType::Boolean => each!(column.as_boolean(), |truth: bool| T::of_i32(i32::from(truth))),
        other => return Err(internal(format!("a {other} column can't become a float tensor"))),
    }
    Ok(())
}

pub(super) fn integers(column: &ArrayRef) -> Result<Vec<i64>, ModelGatewayError> {
    match column.data_type() {
        ArrowType::Int64 => Ok(column.as_primitive::<Int64Type>().values().to_vec()),
        ArrowType::Int32 => Ok(column
            .as_primitive::<Int32Type>()
            .values()
            .iter()
            .map(|value| i64::from(*value))
            .collect()),
        ArrowType::Boolean => Ok(column.as_boolean().values().iter().map(i64::from).collect()),
        other => Err(internal(format!("a {other} column can't become an integer tensor"))),
    }
}
