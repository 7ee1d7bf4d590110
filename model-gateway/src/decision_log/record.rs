//! A decision as an event of source `decisions`.
//!
//! One JSON object of exactly these fields: `request_id`, `model`, `model_version`, `definition_version`, `at`, `as_of`,
//! `latency_us`, `features_us`, `model_us`, `inputs`, `vector`, `statuses`, `ages_ms`, `views`, `prediction`,
//! `model_digest`, `route`, `event_times`, `degraded`. Structured ones are JSON within it, and texts of JSON in the source's
//! columns (`json = true`), whose schema is flat. Floats round-trip exactly; NaN and the infinities are the texts `NaN`,
//! `Infinity` and `-Infinity`.
//!
//! What most of a vector shares is written once: `statuses` holds those that are not `fresh`, and `event_times` and
//! `ages_ms` have an entry per view, whose features come from one row, and one of its own for a feature that has another.
//!
//! Cost model: one pass into one buffer. Names are borrowed, and nothing is a text before it stands in the event. A
//! decision weighs what its vector does and some hundred bytes, and everything after it (the stream, its readers, the
//! table) costs by the byte.

use crate::features::Entry;
use crate::predict::Scored;
use ondol_model_gateway_api::wire::Degradation;
use ondol_vocabulary::{EventTime, FeatureRef, FeatureStatus};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// A decision as it is written to the topic.
#[derive(Serialize)]
pub(super) struct Decision<'a, Inputs, Vector, Statuses, Ages, Views, Times> {
    pub(super) request_id: &'a str,
    pub(super) model: &'a str,
    pub(super) model_version: u32,
    pub(super) definition_version: u32,
    pub(super) at: EventTime,
    pub(super) as_of: EventTime,
    pub(super) latency_us: i64,
    pub(super) features_us: i64,
    pub(super) model_us: i64,
    pub(super) inputs: Inputs,
    pub(super) vector: Vector,
    pub(super) statuses: Statuses,
    pub(super) ages_ms: Ages,
    pub(super) views: Views,
    pub(super) prediction: Predicted<'a>,
    pub(super) model_digest: &'a str,
    pub(super) route: &'a str,
    pub(super) event_times: Times,
    pub(super) degraded: Option<&'a [Degradation]>,
}

/// Row `row` of a scored batch as an event of source `decisions`.
pub(super) fn event(scored: &Scored, row: usize) -> Result<Box<RawValue>, serde_json::Error> {
    let entries: Vec<Entry<'_>> = scored.entries(row).collect();
    let statuses = || {
        let unfresh = entries.iter().filter(|entry| entry.status != FeatureStatus::Fresh);
        unfresh.map(|entry| (entry.name, entry.status))
    };
    let views = views(&entries);
    let times = Times::of(scored.event_times(row));
    let as_of = scored.as_of();
    let registered = &scored.version().record.registered;
    to_raw_value(&Decision {
        request_id: scored.request_id(row),
        model: &registered.model.name,
        model_version: registered.model.version,
        definition_version: registered.definition_version,
        at: scored.at(),
        as_of,
        latency_us: scored.timing().latency_us,
        features_us: scored.timing().features_us,
        model_us: scored.timing().model_us,
        inputs: Object(|| scored.inputs(row)),
        vector: Object(|| entries.iter().map(|entry| (entry.name, &entry.value))),
        statuses: Object(statuses),
        ages_ms: Object(|| times.each(|time| as_of.since(time) / 1_000)),
        views: Object(|| views.iter().copied()),
        prediction: Predicted(scored.prediction(row)),
        model_digest: &registered.sha256,
        route: scored.route(row),
        event_times: Object(|| times.each(|time| time)),
        degraded: Some(scored.degraded()).filter(|degraded| !degraded.is_empty()),
    })
}

/// The views behind a vector, each once, with their versions.
fn views<'a>(entries: &[Entry<'a>]) -> Vec<(&'a str, u32)> {
    let mut views: Vec<(&str, u32)> = Vec::new();
    for view in entries.iter().filter_map(|entry| entry.view) {
        // Features of one view stand together, mostly.
        if views.last() != Some(&view) && !views.contains(&view) {
            views.push(view);
        }
    }
    views
}

/// The times behind a vector: each view's, then those of features that have another.
struct Times<'a> {
    views: Vec<(&'a str, EventTime)>,
    features: Vec<(&'a FeatureRef, EventTime)>,
}

impl<'a> Times<'a> {
    fn of(times: impl Iterator<Item = (&'a FeatureRef, EventTime)>) -> Self {
        let (mut views, mut features): (Vec<(&str, EventTime)>, Vec<_>) = (Vec::new(), Vec::new());
        for (feature, time) in times {
            match views.iter().find(|(view, _)| *view == feature.view) {
                Some((_, known)) if *known == time => {}
                Some(_) => features.push((feature, time)),
                None => views.push((&feature.view, time)),
            }
        }
        Self { views, features }
    }

    fn each<T>(&self, value: impl Fn(EventTime) -> T + Copy) -> impl Iterator<Item = (Name<'a>, T)> {
        let views = self.views.iter();
        let views = views.map(move |(view, time)| (Name::View(view), value(*time)));
        let features = self.features.iter();
        views.chain(features.map(move |(feature, time)| (Name::Feature(feature), value(*time))))
    }
}

/// What a time is of.
enum Name<'a> {
    View(&'a str),
    Feature(&'a FeatureRef),
}

impl Serialize for Name<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::View(view) => serializer.serialize_str(view),
            Self::Feature(feature) => serializer.collect_str(feature),
        }
    }
}

/// A JSON object of the entries that its function gives.
pub(super) struct Object<F>(pub(super) F);

impl<F, E, K, V> Serialize for Object<F>
where
    F: Fn() -> E,
    E: Iterator<Item = (K, V)>,
    K: Serialize,
    V: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map((self.0)())
    }
}

/// A prediction. The column of a text is the JSON that it holds, so one that is a text itself, or nothing, is written as such.
pub(super) struct Predicted<'a>(pub(super) &'a serde_json::Value);

impl Serialize for Predicted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            text @ (serde_json::Value::String(_) | serde_json::Value::Null) => serializer.collect_str(text),
            prediction => prediction.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ondol_vocabulary::Value;
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    fn any_value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::I64),
            any::<f64>().prop_map(Value::F64),
            any::<f32>().prop_map(|number| Value::F64(f64::from(number))),
            prop::sample::select(vec![
                -0.0,
                0.0,
                f64::NAN,
                f64::INFINITY,
                f64::NEG_INFINITY,
                5e-324,
                f64::MAX
            ])
            .prop_map(Value::F64),
            ".{0,12}".prop_map(Value::String),
            "[\\\\\"\u{0}-\u{1f}a]{0,6}".prop_map(Value::String),
            (-1_i64 << 50..1 << 50).prop_map(|micros| Value::Timestamp(EventTime::from_micros(micros))),
        ];
        let scalar = scalar.boxed();
        prop_oneof![
            4 => scalar.clone(),
            1 => prop::collection::vec(scalar, 0..4).prop_map(Value::List),
        ]
    }

    /// What the module says, the slow way.
    fn expected(value: &Value) -> Json {
        match value {
            Value::Null => Json::Null,
            Value::Bool(truth) => json!(truth),
            Value::I64(number) => json!(number),
            Value::F64(number) if number.is_nan() => json!("NaN"),
            Value::F64(number) if number.is_infinite() && *number > 0.0 => json!("Infinity"),
            Value::F64(number) if number.is_infinite() => json!("-Infinity"),
            Value::F64(number) => json!(number),
            Value::String(text) => json!(text),
            Value::Timestamp(time) => json!(time.to_string()),
            Value::List(items) => items.iter().map(expected).collect(),
        }
    }

    /// Numbers by their bits.
    fn same(found: &Json, expected: &Json) -> bool {
        match (found, expected) {
            (Json::Number(a), Json::Number(b)) => {
                a.is_f64() == b.is_f64() && a.as_f64().map(f64::to_bits) == b.as_f64().map(f64::to_bits) && a == b
            }
            (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
            (Json::Object(a), Json::Object(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .all(|(name, value)| b.get(name).is_some_and(|other| same(value, other)))
            }
            (a, b) => a == b,
        }
    }

    proptest! {
        #[test]
        fn an_event_is_what_a_tree_of_values_says(
            vector in prop::collection::btree_map(".{0,8}", any_value(), 0..8),
            prediction in any_value(),
        ) {
            let prediction = expected(&prediction);
            let time = EventTime::from_micros(1_795_262_400_000_000);
            let event = to_raw_value(&Decision {
                request_id: "r\"1",
                model: "fraud",
                model_version: 3,
                definition_version: 2,
                at: time,
                as_of: time,
                latency_us: 30,
                features_us: 20,
                model_us: 10,
                inputs: Object(|| vector.iter()),
                vector: Object(|| vector.iter()),
                statuses: Object(|| [("a", FeatureStatus::Missing)].into_iter()),
                ages_ms: Object(|| [("card", 5)].into_iter()),
                views: Object(|| [("card", 1)].into_iter()),
                prediction: Predicted(&prediction),
                model_digest: "d",
                route: "default",
                event_times: Object(|| [(Name::View("card"), time)].into_iter()),
                degraded: None,
            }).unwrap();
            let object: Json = vector.iter().map(|(name, value)| (name.clone(), expected(value))).collect();
            let predicted = match &prediction {
                Json::String(_) | Json::Null => json!(prediction.to_string()),
                other => other.clone(),
            };
            let at = "2026-11-21T12:00:00Z";
            let slow = json!({
                "request_id": "r\"1", "model": "fraud", "model_version": 3, "definition_version": 2, "at": at,
                "as_of": at, "latency_us": 30, "features_us": 20, "model_us": 10, "inputs": object, "vector": object,
                "statuses": {"a": "missing"}, "ages_ms": {"card": 5}, "views": {"card": 1}, "prediction": predicted,
                "model_digest": "d", "route": "default", "event_times": {"card": at}, "degraded": null,
            });
            let fast: Json = serde_json::from_str(event.get()).unwrap();
            prop_assert!(same(&fast, &slow), "{}\n{}", fast, slow);
        }
    }
}
