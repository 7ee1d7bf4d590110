//! The default of a field that the writer does not have: JSON in the reader's schema to a value.

use super::read::moment;
use super::schema::{Kind, Logical, Schema, Type};
use crate::decode::value::Value;
use crate::decode::wanted::Wanted;
use serde_json::Value as Json;
use std::borrow::Cow;

/// The value of `data_type` that `json` is, as far as it is `wanted`; none when it is no such value.
pub(super) fn default_value(schema: &Schema, data_type: &Type, json: &Json, wanted: &Wanted) -> Option<Value<'static>> {
    Some(match data_type {
        Type::Null => json.is_null().then_some(Value::Null)?,
        Type::Boolean => Value::Bool(json.as_bool()?),
        Type::Int(logical) | Type::Long(logical) => number(json.as_i64()?, *logical),
        Type::Float | Type::Double => match json.as_str() {
            // What JSON can't say as a number.
            Some("NaN") => Value::F64(f64::NAN),
            Some("Infinity" | "INF") => Value::F64(f64::INFINITY),
            Some("-Infinity" | "-INF") => Value::F64(f64::NEG_INFINITY),
            _ => Value::F64(json.as_f64()?),
        },
        Type::String => Value::Text(Cow::Owned(json.as_str()?.to_owned())),
        Type::Bytes(_) => json.is_string().then_some(Value::Bytes)?,
        Type::Array(items) => {
            let elements = json.as_array()?;
            let elements = elements.iter().filter(|_| wanted.elements());
            Value::Array(
                elements
                    .map(|element| default_value(schema, items, element, wanted))
                    .collect::<Option<_>>()?,
            )
        }
        Type::Map(values) => {
            let mut fields = Vec::new();
            for (key, value) in json.as_object()? {
                if let Some(wanted) = wanted.field(key) {
                    fields.push((Cow::Owned(key.clone()), default_value(schema, values, value, wanted)?));
                }
            }
            Value::Object(fields)
        }
        // Before 1.12 only the first branch; since, any that fits.
        Type::Union(branches) => branches
            .iter()
            .find_map(|branch| default_value(schema, branch, json, wanted))?,
        Type::Named(place) => match &schema.named(*place)?.kind {
            Kind::Enum { symbols, .. } => {
                let symbol = json.as_str()?;
                symbols
                    .iter()
                    .any(|known| known == symbol)
                    .then(|| Value::Text(Cow::Owned(symbol.to_owned())))?
            }
            Kind::Fixed { .. } => json.is_string().then_some(Value::Bytes)?,
            Kind::Record(fields) => {
                let given = json.as_object()?;
                let mut values = Vec::new();
                for field in fields {
                    let value = given.get(&field.name).or(field.default.as_ref())?;
                    if let Some(wanted) = wanted.field(&field.name) {
                        let value = default_value(schema, &field.data_type, value, wanted)?;
                        values.push((Cow::Owned(field.name.clone()), value));
                    }
                }
                Value::Object(values)
            }
            Kind::Unfinished => return None,
        },
    })
}

fn number(number: i64, logical: Option<Logical>) -> Value<'static> {
    logical
        .and_then(|logical| moment(number, logical))
        .unwrap_or(Value::I64(number))
}
