//! Values of Arrow columns as JSON values, and the columns that stand in for values that nobody gave.

use crate::fault::internal;
use crate::inputs::{conform, to_array};
use arrow::array::{Array, ArrayRef, AsArray, ListArray, UInt32Array, new_null_array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{
    DataType as ArrowType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::{DataType, EventTime, FeatureDefinition, Field, Value};
use std::sync::Arc;

/// The default that `feature` declares, as a column of one row; none where it declares none.
pub(super) fn default_of(feature: &FeatureDefinition) -> Result<Option<ArrayRef>, ModelGatewayError> {
    let Some(default) = &feature.default else {
        return Ok(None);
    };
    let made = column(&feature.name, feature.data_type, std::slice::from_ref(&default.0));
    let broken = |detail| internal(format!("the default of `{}` can't be served: {detail}", feature.name));
    made.map(Some).map_err(broken)
}

/// `values` of entry `name` as a column of `data_type`; the error says which value is not of it.
pub fn column(name: &str, data_type: DataType, values: &[Value]) -> Result<ArrayRef, String> {
    let of = |data_type, value: &Value| {
        let name = name.to_owned();
        conform(&Field { name, data_type }, value.clone())
    };
    let DataType::List(element) = data_type else {
        let values = values
            .iter()
            .map(|value| of(data_type, value))
            .collect::<Result<Vec<_>, _>>()?;
        return Ok(to_array(data_type, &values));
    };
    let (mut items, mut lengths, mut valid) = (Vec::new(), Vec::new(), Vec::new());
    for value in values {
        let before = items.len();
        match value {
            Value::List(list) => {
                for item in list {
                    items.push(of(element.data_type(), item)?);
                }
            }
            Value::Null => {}
            other => return Err(format!("`{name}` is {other}, expected {data_type}: send a list")),
        }
        lengths.push(items.len() - before);
        valid.push(*value != Value::Null);
    }
    let field = match data_type.arrow() {
        ArrowType::List(field) => field,
        other => return Err(format!("`{name}` is no list but {other}")),
    };
    let items = to_array(element.data_type(), &items);
    let list = ListArray::try_new(
        field,
        OffsetBuffer::from_lengths(lengths),
        items,
        Some(NullBuffer::from(valid)),
    );
    list.map(|list| Arc::new(list) as ArrayRef)
        .map_err(|error| error.to_string())
}

/// `rows` times the value of a one-row column, or as many nulls of `data_type`.
pub(super) fn constant(
    value: Option<&ArrayRef>,
    data_type: DataType,
    rows: usize,
) -> Result<ArrayRef, ModelGatewayError> {
    match value {
        Some(value) => {
            let first = UInt32Array::from(vec![0; rows]);
            arrow::compute::take(value.as_ref(), &first, None).map_err(internal)
        }
        None => Ok(new_null_array(&data_type.arrow(), rows)),
    }
}

/// Row `row` of a column as a JSON value; an `f32` as the `f64` that it equals, which is what was scored.
pub fn value_at(column: &ArrayRef, row: usize) -> Value {
    if row >= column.len() || column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        ArrowType::Utf8 => Value::String(column.as_string::<i32>().value(row).to_owned()),
        ArrowType::Boolean => Value::Bool(column.as_boolean().value(row)),
        ArrowType::Int32 => Value::I64(i64::from(column.as_primitive::<Int32Type>().value(row))),
        ArrowType::Int64 => Value::I64(column.as_primitive::<Int64Type>().value(row)),
        ArrowType::Float32 => Value::F64(f64::from(column.as_primitive::<Float32Type>().value(row))),
        ArrowType::Float64 => Value::F64(column.as_primitive::<Float64Type>().value(row)),
        ArrowType::Timestamp(TimeUnit::Microsecond, _) => Value::Timestamp(EventTime::from_micros(
            column.as_primitive::<TimestampMicrosecondType>().value(row),
        )),
        ArrowType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            Value::List((0..items.len()).map(|item| value_at(&items, item)).collect())
        }
        // The engine's columns have the types of the vocabulary; another would be a bug, and its value unknown.
        _ => Value::Null,
    }
}
