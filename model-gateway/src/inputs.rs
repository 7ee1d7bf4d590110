//! A request's inputs, parsed at the edge into the columns of the model's definition. Nothing behind checks them again.

use crate::fault::{did_you_mean, internal, invalid};
use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, RecordBatchOptions,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field as ArrowField, Schema};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::{DataType, EventTime, Field, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The inputs of a batch of requests, in the order of the definition.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Number of requests.
    pub rows: usize,
    /// Per input its values, each of the input's type or null.
    pub columns: Vec<Vec<Value>>,
    /// The same as Arrow columns, named and typed as defined.
    pub batch: RecordBatch,
}

/// Parses `instances` by the model's `fields`: every input must be there, nothing else may be. A null is allowed: a null
/// key names no entity, so its features are missing.
pub fn parse(fields: &[Field], instances: Vec<BTreeMap<String, Value>>) -> Result<Inputs, ModelGatewayError> {
    let rows = instances.len();
    let mut columns: Vec<Vec<Value>> = fields.iter().map(|_| Vec::with_capacity(rows)).collect();
    for (row, mut instance) in instances.into_iter().enumerate() {
        let at = if rows == 1 {
            String::new()
        } else {
            format!("instance {row}: ")
        };
        for (field, column) in fields.iter().zip(&mut columns) {
            let value = instance.remove(&field.name).ok_or_else(|| {
                let near = did_you_mean(&field.name, instance.keys().map(String::as_str));
                let near = near
                    .strip_prefix(": did you mean ")
                    .map(|near| near.trim_end_matches('?').to_owned());
                let hint = near.map(|near| format!(" in the place of {near}")).unwrap_or_default();
                invalid(format!(
                    "{at}input `{}` ({}) is missing: add it to `inputs`{hint}",
                    field.name, field.data_type
                ))
            })?;
            column.push(conform(field, value).map_err(|detail| invalid(format!("{at}{detail}")))?);
        }
        if let Some((unknown, _)) = instance.pop_first() {
            let near = did_you_mean(&unknown, fields.iter().map(|field| field.name.as_str()));
            let known: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
            return Err(invalid(format!(
                "{at}unknown input `{unknown}`{near} (the model takes: {})",
                known.join(", ")
            )));
        }
    }
    let batch = to_batch(fields, &columns, rows)?;
    Ok(Inputs { rows, columns, batch })
}

/// `value` as the input's type, or why it is not.
pub(crate) fn conform(field: &Field, value: Value) -> Result<Value, String> {
    let wrong = |value: &Value, remedy: &str| {
        Err(format!(
            "input `{}` is {}, expected {}: {remedy}",
            field.name,
            words(value),
            field.data_type
        ))
    };
    match (field.data_type, value) {
        (_, Value::Null) => Ok(Value::Null),
        (DataType::String, value @ Value::String(_)) | (DataType::Bool, value @ Value::Bool(_)) => Ok(value),
        (DataType::String, value) => wrong(&value, "send a JSON string"),
        (DataType::Bool, value) => wrong(&value, "send true or false"),
        (DataType::I64, value) => match integer(&value) {
            Some(number) => Ok(Value::I64(number)),
            None => wrong(&value, "send a whole number"),
        },
        (DataType::I32, value) => match integer(&value).filter(|number| i32::try_from(*number).is_ok()) {
            Some(number) => Ok(Value::I64(number)),
            None => wrong(&value, "send a whole number between -2147483648 and 2147483647"),
        },
        (DataType::F64, value) => match float(&value) {
            Some(number) => Ok(Value::F64(number)),
            None => wrong(&value, "send a number"),
        },
        // Narrowed here, so that what is logged is what was scored.
        (DataType::F32, value) => match float(&value) {
            Some(number) => Ok(Value::F64(f64::from(number as f32))),
            None => wrong(&value, "send a number"),
        },
        (DataType::Timestamp, Value::String(text)) => EventTime::parse(&text)
            .map(Value::Timestamp)
            .map_err(|error| format!("input `{}` (timestamp): {error}", field.name)),
        (DataType::Timestamp, Value::I64(micros)) => Ok(Value::Timestamp(EventTime::from_micros(micros))),
        (DataType::Timestamp, value @ Value::Timestamp(_)) => Ok(value),
        (DataType::Timestamp, value) => wrong(
            &value,
            "send RFC 3339 text such as `2013-01-01T05:17:00Z`, or microseconds since the epoch",
        ),
        (DataType::List(_), value) => wrong(
            &value,
            "a list is no input: apply a definition that has its values as inputs of their own",
        ),
    }
}

/// What the value is, for an error that goes back to who sent it.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the text `{}`", text.chars().take(64).collect::<String>()),
        other => other.to_string(),
    }
}

/// Whole numbers, also written with a fraction of zero where a float holds them exactly.
fn integer(value: &Value) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::I64(number) => Some(*number),
        Value::F64(number) if number.fract() == 0.0 && number.abs() <= EXACT => Some(*number as i64),
        _ => None,
    }
}

/// Numbers, and the texts by which JSON carries what it has no number for.
fn float(value: &Value) -> Option<f64> {
    match value {
        Value::F64(number) => Some(*number),
        Value::I64(number) => Some(*number as f64),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn to_batch(fields: &[Field], columns: &[Vec<Value>], rows: usize) -> Result<RecordBatch, ModelGatewayError> {
    let arrow_fields: Vec<ArrowField> = fields
        .iter()
        .map(|field| ArrowField::new(&field.name, field.data_type.arrow(), true))
        .collect();
    let arrays = fields
        .iter()
        .zip(columns)
        .map(|(field, values)| to_array(field.data_type, values))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(arrow_fields)), arrays, &options).map_err(internal)
}

/// Values of one type as an Arrow column; a value of another type would be null, and [`conform`] lets none through.
pub(crate) fn to_array(data_type: DataType, values: &[Value]) -> ArrayRef {
    let integers = || {
        values.iter().map(|value| match value {
            Value::I64(number) => Some(*number),
            _ => None,
        })
    };
    let floats = || {
        values.iter().map(|value| match value {
            Value::F64(number) => Some(*number),
            _ => None,
        })
    };
    match data_type {
        DataType::String => Arc::new(StringArray::from_iter(values.iter().map(|value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        }))),
        DataType::Bool => Arc::new(BooleanArray::from_iter(values.iter().map(|value| match value {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        }))),
        DataType::I32 => Arc::new(Int32Array::from_iter(
            integers().map(|number| number.and_then(|number| i32::try_from(number).ok())),
        )),
        DataType::I64 => Arc::new(Int64Array::from_iter(integers())),
        DataType::F32 => Arc::new(Float32Array::from_iter(
            floats().map(|number| number.map(|number| number as f32)),
        )),
        // Definitions refuse inputs of lists, and `conform` every value for one.
        DataType::List(_) => arrow::array::new_null_array(&data_type.arrow(), values.len()),
        DataType::F64 => Arc::new(Float64Array::from_iter(floats())),
        DataType::Timestamp => {
            let micros = values.iter().map(|value| match value {
                Value::Timestamp(time) => Some(time.micros()),
                _ => None,
            });
            Arc::new(TimestampMicrosecondArray::from_iter(micros).with_timezone("UTC"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Vec<Field> {
        let field = |name: &str, data_type| Field {
            name: name.to_owned(),
            data_type,
        };
        vec![
            field("card_id", DataType::String),
            field("amount", DataType::F64),
            field("count", DataType::I32),
            field("at", DataType::Timestamp),
        ]
    }

    fn instance(json: &str) -> BTreeMap<String, Value> {
        serde_json::from_str(json).unwrap()
    }

    fn refused(json: &str) -> String {
        parse(&fields(), vec![instance(json)]).unwrap_err().to_string()
    }

    #[test]
    fn inputs_become_columns_of_the_defined_types() {
        let inputs = parse(
            &fields(),
            vec![
                instance(r#"{"card_id":"c1","amount":120,"count":3.0,"at":"2013-01-01T00:00:00Z"}"#),
                instance(r#"{"card_id":null,"amount":"NaN","count":null,"at":5}"#),
            ],
        )
        .unwrap();
        assert_eq!(inputs.rows, 2);
        let types: Vec<_> = inputs
            .batch
            .schema()
            .fields()
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        assert_eq!(
            types,
            fields().iter().map(|field| field.data_type.arrow()).collect::<Vec<_>>()
        );
        let values = |row: usize| {
            inputs
                .columns
                .iter()
                .map(|column| column[row].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(values(0)[1..3], [Value::F64(120.0), Value::I64(3)]);
        assert_eq!(values(1)[0], Value::Null);
        assert_eq!(values(1)[3], Value::Timestamp(EventTime::from_micros(5)));
    }

    #[test]
    fn a_missing_input_is_named_with_its_type_and_the_near_one_that_was_sent() {
        let error = refused(r#"{"card":"c1","amount":1,"count":1,"at":1}"#);
        assert_eq!(
            error,
            "input `card_id` (string) is missing: add it to `inputs` in the place of `card`"
        );
    }

    #[test]
    fn an_unknown_input_is_named_with_those_that_exist() {
        let error = refused(r#"{"card_id":"c1","amount":1,"count":1,"at":1,"amuont":2}"#);
        assert!(
            error.starts_with("unknown input `amuont`: did you mean `amount`?"),
            "{error}"
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_with_the_remedy() {
        let error = refused(r#"{"card_id":"c1","amount":"much","count":1,"at":1}"#);
        assert_eq!(error, "input `amount` is the text `much`, expected f64: send a number");
        let error = refused(r#"{"card_id":7,"amount":1,"count":1,"at":1}"#);
        assert_eq!(error, "input `card_id` is 7, expected string: send a JSON string");
        let error = refused(r#"{"card_id":"c","amount":1,"count":3000000000,"at":1}"#);
        assert!(error.contains("between -2147483648 and 2147483647"), "{error}");
        let error = refused(r#"{"card_id":"c","amount":1,"count":1,"at":"2013-01-01T00:00:00"}"#);
        assert!(error.contains("add `Z`"), "{error}");
    }

    #[test]
    fn in_a_batch_the_instance_is_named() {
        let good = instance(r#"{"card_id":"c1","amount":1,"count":1,"at":1}"#);
        let bad = instance(r#"{"card_id":"c1","amount":true,"count":1,"at":1}"#);
        let error = parse(&fields(), vec![good, bad]).unwrap_err().to_string();
        assert_eq!(error, "instance 1: input `amount` is true, expected f64: send a number");
    }
}
