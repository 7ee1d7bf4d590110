//! Entity values of a request into entity keys, checked against the types of the join keys.

use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::EntityColumn;
use ondol_vocabulary::{DataType, EntityKey, EventTime, Field, Value};
use std::borrow::Cow;

/// One join key's values in the type its views declare.
pub(super) type TypedColumn<'a> = Vec<Cow<'a, Value>>;

/// The number of entities; an error when the columns differ in length.
pub(super) fn rows(entities: &[EntityColumn]) -> Result<usize, FeatureStoreError> {
    let Some(first) = entities.first() else { return Ok(0) };
    let rows = first.values.len();
    match entities.iter().find(|column| column.values.len() != rows) {
        None => Ok(rows),
        Some(other) => Err(invalid(format!(
            "entity column `{}` has {} values and `{}` has {rows}: give one value per entity in each",
            other.name,
            other.values.len(),
            first.name
        ))),
    }
}

/// The columns of `keys`, in their order, by name.
pub(super) fn typed<'a>(
    keys: &[Field],
    entities: &'a [EntityColumn],
) -> Result<Vec<TypedColumn<'a>>, FeatureStoreError> {
    let column = |key: &Field| {
        let column = entities
            .iter()
            .find(|column| column.name == key.name)
            .ok_or_else(|| missing(key, entities))?;
        let value = |(row, value)| typed_value(key, row, value);
        column.values.iter().enumerate().map(value).collect()
    };
    keys.iter().map(column).collect()
}

/// Each entity's key of a view whose key columns are `key` (indexes into `columns`); none where a part is null.
pub(super) fn encode(columns: &[TypedColumn<'_>], key: &[usize]) -> Result<Vec<Option<EntityKey>>, FeatureStoreError> {
    let parts: Vec<&TypedColumn<'_>> = key.iter().filter_map(|&index| columns.get(index)).collect();
    let rows = parts.first().map_or(0, |column| column.len());
    let entity = |row: usize| {
        let values = parts.iter().filter_map(|column| column.get(row).map(Cow::as_ref));
        EntityKey::from_values(values).map_err(|error| invalid(error.to_string()))
    };
    (0..rows).map(entity).collect()
}

fn typed_value<'a>(key: &Field, row: usize, value: &'a Value) -> Result<Cow<'a, Value>, FeatureStoreError> {
    let wrong = |remedy: &str| {
        Err(invalid(format!(
            "entity `{}` is `{value}` in row {row}, which is no {}: {remedy}",
            key.name, key.data_type
        )))
    };
    match (key.data_type, value) {
        (_, Value::Null)
        | (DataType::String, Value::String(_))
        | (DataType::Bool, Value::Bool(_))
        | (DataType::I64, Value::I64(_))
        | (DataType::Timestamp, Value::Timestamp(_)) => Ok(Cow::Borrowed(value)),
        (DataType::I32, Value::I64(number)) if i32::try_from(*number).is_ok() => Ok(Cow::Borrowed(value)),
        (DataType::I32, Value::I64(_)) => wrong("it is beyond 32 bits"),
        (DataType::Timestamp, Value::I64(micros)) => Ok(Cow::Owned(Value::Timestamp(EventTime::from_micros(*micros)))),
        (DataType::Timestamp, Value::String(text)) => match EventTime::parse(text) {
            Ok(time) => Ok(Cow::Owned(Value::Timestamp(time))),
            Err(error) => wrong(&error.to_string()),
        },
        (DataType::String, _) => wrong("write it in quotes"),
        (DataType::I32 | DataType::I64, _) => wrong("give a whole number without quotes"),
        (DataType::Bool, _) => wrong("give true or false"),
        (DataType::Timestamp, _) => wrong("give an RFC 3339 text with a zone, or microseconds since the epoch"),
        (DataType::F32 | DataType::F64 | DataType::List(_), _) => wrong("floats and lists can't name an entity"),
    }
}

fn missing(key: &Field, entities: &[EntityColumn]) -> FeatureStoreError {
    let given: Vec<&str> = entities.iter().map(|column| column.name.as_str()).collect();
    let given = if given.is_empty() {
        "none".to_owned()
    } else {
        format!("`{}`", given.join("`, `"))
    };
    invalid(format!(
        "the features need entity `{}` ({}), and the request gives {given}",
        key.name, key.data_type
    ))
}

fn invalid(detail: String) -> FeatureStoreError {
    FeatureStoreError::InvalidRequest { detail }
}
