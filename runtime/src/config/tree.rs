//! Trees of configuration keys: merging, reaching and listing them.

use serde_json::{Map, Value};

/// The key that names a variant of a tagged enum. A layer that changes it replaces the whole section: the keys of
/// another variant mean nothing to this one.
const TAG: &str = "kind";

/// A key that holds no further keys.
pub(super) struct Leaf {
    pub(super) path: Vec<String>,
}

/// `above` over `below`: sections merge, everything else is replaced.
pub(super) fn overlay(below: &Map<String, Value>, above: &Map<String, Value>) -> Map<String, Value> {
    let mut merged = below.clone();
    for (key, value) in above {
        let value = match (merged.get(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) if !changes_variant(old, new) => {
                Value::Object(overlay(old, new))
            }
            (_, new) => new.clone(),
        };
        merged.insert(key.clone(), value);
    }
    merged
}

fn changes_variant(old: &Map<String, Value>, new: &Map<String, Value>) -> bool {
    matches!((old.get(TAG), new.get(TAG)), (Some(old), Some(new)) if old != new)
}

/// Every key of `tree` that holds no further keys.
pub(super) fn leaves(tree: &Map<String, Value>) -> Vec<Leaf> {
    let mut found = Vec::new();
    let mut open: Vec<(Vec<String>, &Map<String, Value>)> = vec![(Vec::new(), tree)];
    while let Some((prefix, section)) = open.pop() {
        for (key, value) in section {
            let mut path = prefix.clone();
            path.push(key.clone());
            match value {
                Value::Object(inner) if !inner.is_empty() => open.push((path, inner)),
                _ => found.push(Leaf { path }),
            }
        }
    }
    found
}

/// The value at `path`.
pub(super) fn get<'a>(tree: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = tree.get(first)?;
    if rest.is_empty() {
        Some(value)
    } else {
        get(value.as_object()?, rest)
    }
}

/// Puts `value` at `path`, making sections on the way.
pub(super) fn set(tree: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            tree.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let section = tree.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
            if !section.is_object() {
                *section = Value::Object(Map::new());
            }
            if let Value::Object(inner) = section {
                set(inner, rest, value);
            }
        }
    }
}

/// `tree` without the key at `path`; a section left empty goes too.
pub(super) fn without(tree: &Map<String, Value>, path: &[String]) -> Map<String, Value> {
    let mut tree = tree.clone();
    match path {
        [] => {}
        [last] => {
            tree.remove(last);
        }
        [first, rest @ ..] => {
            if let Some(Value::Object(inner)) = tree.get(first) {
                let inner = without(inner, rest);
                if inner.is_empty() {
                    tree.remove(first);
                } else {
                    tree.insert(first.clone(), Value::Object(inner));
                }
            }
        }
    }
    tree
}

/// `tree` without its nulls, at any depth, and without sections that held nothing else.
pub(super) fn without_nulls(tree: &Map<String, Value>) -> Map<String, Value> {
    let kept = tree.iter().filter_map(|(key, value)| match value {
        Value::Null => None,
        Value::Object(inner) => {
            let inner = without_nulls(inner);
            (!inner.is_empty()).then(|| (key.clone(), Value::Object(inner)))
        }
        other => Some((key.clone(), other.clone())),
    });
    kept.collect()
}

/// `text` as a TOML value where it is one, or as the string it is.
pub(super) fn toml_value(text: &str) -> Value {
    match text.trim().parse::<toml::Value>() {
        Ok(value) => from_toml(value),
        Err(_) => Value::String(text.to_owned()),
    }
}

/// TOML's data in JSON's; a date becomes its text.
pub(super) fn from_toml(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Float(number) => Value::from(number),
        toml::Value::Boolean(truth) => Value::Bool(truth),
        toml::Value::Datetime(moment) => Value::String(moment.to_string()),
        toml::Value::Array(values) => values.into_iter().map(from_toml).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, from_toml(value))).collect(),
    }
}
