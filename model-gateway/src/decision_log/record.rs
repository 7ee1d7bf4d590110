//! A decision as an event of source `decisions`.
//!
//! One JSON object of exactly these fields (structured ones are texts that hold JSON, so that the source's schema is
//! flat): `request_id`, `model`, `model_version`, `definition_version`, `at`, `as_of`, `latency_us`, `features_us`,
//! `model_us`, `inputs`, `vector`, `statuses`, `ages_ms`, `views`, `prediction`, `model_digest`, `route`, `event_times`,
//! `degraded`. Floats round-trip exactly; NaN and the infinities are the texts `NaN`, `Infinity` and `-Infinity`.

use crate::predict::Scored;
use ondol_vocabulary::{EventTime, FeatureStatus, Value, VersionedName};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;

/// A decision as it is written to the topic.
#[derive(Debug, Serialize)]
struct Decision<'a> {
    request_id: &'a str,
    model: &'a str,
    model_version: i64,
    definition_version: i64,
    at: EventTime,
    as_of: EventTime,
    latency_us: i64,
    features_us: i64,
    model_us: i64,
    inputs: String,
    vector: String,
    statuses: String,
    ages_ms: String,
    views: String,
    prediction: String,
    model_digest: &'a str,
    route: &'a str,
    event_times: String,
    degraded: Option<String>,
}

/// Row `row` of a scored batch as an event of source `decisions`.
pub(super) fn event(scored: &Scored, row: usize) -> Result<Box<RawValue>, serde_json::Error> {
    let mut vector: BTreeMap<&str, Value> = BTreeMap::new();
    let mut statuses: BTreeMap<&str, FeatureStatus> = BTreeMap::new();
    let mut ages_ms: BTreeMap<&str, i64> = BTreeMap::new();
    let mut views: BTreeMap<String, u32> = BTreeMap::new();
    for (name, feature) in scored.entries(row) {
        vector.insert(name, feature.value);
        statuses.insert(name, feature.status);
        if let Some(age_ms) = feature.age_ms {
            ages_ms.insert(name, age_ms);
        }
        if let Some(VersionedName { name, version }) = feature.view {
            views.insert(name, version);
        }
    }
    let event_times: BTreeMap<String, EventTime> = scored
        .event_times(row)
        .map(|(feature, time)| (feature.to_string(), time))
        .collect();
    let degraded = match scored.degraded() {
        [] => None,
        degraded => Some(serde_json::to_string(degraded)?),
    };
    let registered = &scored.version().record.registered;
    to_raw_value(&Decision {
        request_id: scored.request_id(row),
        model: &registered.model.name,
        model_version: i64::from(registered.model.version),
        definition_version: i64::from(registered.definition_version),
        at: scored.at(),
        as_of: scored.as_of(),
        latency_us: scored.timing().latency_us,
        features_us: scored.timing().features_us,
        model_us: scored.timing().model_us,
        inputs: serde_json::to_string(&scored.inputs(row))?,
        vector: serde_json::to_string(&vector)?,
        statuses: serde_json::to_string(&statuses)?,
        ages_ms: serde_json::to_string(&ages_ms)?,
        views: serde_json::to_string(&views)?,
        prediction: serde_json::to_string(&scored.prediction(row))?,
        model_digest: &registered.sha256,
        route: scored.route(row),
        event_times: serde_json::to_string(&event_times)?,
        degraded,
    })
}
