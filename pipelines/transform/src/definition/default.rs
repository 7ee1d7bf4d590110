//! `default` of a feature: what is served where the feature has no value.

use super::report::Reports;
use super::tree::{Node, Word};
use crate::view::Fallback;
use ondol_vocabulary::{DataType, EventTime, FeatureDefault, FeatureDefinition, FeatureKind, Value};

/// The default that is written for `feature` of `view`, if it is one. `has_ttl`: values of the view can be stale.
pub(super) fn compile(
    view: &str,
    feature: &FeatureDefinition,
    (word, node): &(Word<'_>, Node<'_>),
    has_ttl: bool,
    reports: &mut Reports<'_>,
) -> Option<FeatureDefault> {
    let title = format!("{view}.{}", feature.name);
    if never_null(&feature.kind) && !has_ttl {
        let message = format!("`{title}` is never null: it counts, and of nothing there are 0");
        let help = "remove `default`; it would matter only in a view with a `ttl`, where counts can be stale";
        reports.add(&word.place, "misplaced-key", message, Some(help.to_owned()));
        return None;
    }
    let default = canonical(*node, feature.data_type)
        .ok_or_else(|| format!("{} is no {}", node.kind(), feature.data_type))
        .map(FeatureDefault)
        .and_then(|default| {
            let declared = FeatureDefinition {
                default: Some(default.clone()),
                ..feature.clone()
            };
            Fallback::of(&declared).map(|_| default)
        });
    match default {
        Ok(default) => Some(default),
        Err(problem) => {
            let message = format!("the default of `{title}`: {problem}");
            let help = format!("`{title}` is {}: {}", feature.data_type, example(feature.data_type));
            reports.add(&node.place(), "invalid-default", message, Some(help));
            None
        }
    }
}

fn never_null(kind: &FeatureKind) -> bool {
    matches!(kind, FeatureKind::Aggregate { function, .. } if function.counts())
}

/// What is written, in the form in which a definition keeps it: the same value has one form, so that writing it
/// otherwise changes nothing. None for what no feature can be.
fn canonical(node: Node<'_>, data_type: DataType) -> Option<Value> {
    if let DataType::List(element) = data_type {
        let items = node.as_array()?;
        let items = items.into_iter().map(|item| canonical(item, element.data_type()));
        return Some(Value::List(items.collect::<Option<_>>()?));
    }
    let value = node.as_value()?;
    Some(match (data_type, value) {
        // Beyond this, a double may be another number: told as what it is.
        (DataType::F32 | DataType::F64, Value::I64(whole)) if whole.unsigned_abs() <= 1 << 53 => {
            Value::F64(whole as f64)
        }
        (DataType::Timestamp, Value::String(text)) => match EventTime::parse(&text) {
            Ok(time) => Value::String(time.to_string()),
            Err(_) => Value::String(text),
        },
        (_, value) => value,
    })
}

fn example(data_type: DataType) -> String {
    let one = |data_type| match data_type {
        DataType::String => "\"none\"",
        DataType::Bool => "false",
        DataType::I32 | DataType::I64 => "0",
        DataType::F32 | DataType::F64 => "0.5",
        DataType::Timestamp => "\"2026-01-01T00:00:00Z\"",
        DataType::List(_) => "[]",
    };
    match data_type {
        DataType::List(element) => format!("write default = [] or a list such as [{}]", one(element.data_type())),
        scalar => format!("write one, such as default = {}", one(scalar)),
    }
}
