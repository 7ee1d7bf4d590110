//! A decision as an event of source `decisions`.
//!
//! One JSON object of exactly these fields (structured ones are texts that hold JSON, so that the source's schema is
//! flat): `request_id`, `model`, `model_version`, `definition_version`, `at`, `as_of`, `latency_us`, `features_us`,
//! `model_us`, `inputs`, `vector`, `statuses`, `ages_ms`, `views`, `prediction`, `model_digest`, `route`, `event_times`,
//! `degraded`. Floats round-trip exactly; NaN and the infinities are the texts `NaN`, `Infinity` and `-Infinity`.
//!
//! What most of a vector shares is written once: `statuses` holds those that are not `fresh`, and `event_times` and
//! `ages_ms` have an entry per view, whose features come from one row, and one of its own for a feature that has another.
//!
//! Cost model: a decision weighs what its vector does and some hundred bytes, and everything after it (the stream, its
//! readers, the table) costs by the byte. Names are borrowed.

use crate::features::Entry;
use crate::predict::Scored;
use ondol_vocabulary::{EventTime, FeatureRef, FeatureStatus};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;

/// A decision as it is written to the topic.
#[derive(Debug, Serialize)]
pub(super) struct Decision<'a> {
    pub(super) request_id: &'a str,
    pub(super) model: &'a str,
    pub(super) model_version: i64,
    pub(super) definition_version: i64,
    pub(super) at: EventTime,
    pub(super) as_of: EventTime,
    pub(super) latency_us: i64,
    pub(super) features_us: i64,
    pub(super) model_us: i64,
    pub(super) inputs: String,
    pub(super) vector: String,
    pub(super) statuses: String,
    pub(super) ages_ms: String,
    pub(super) views: String,
    pub(super) prediction: String,
    pub(super) model_digest: &'a str,
    pub(super) route: &'a str,
    pub(super) event_times: String,
    pub(super) degraded: Option<String>,
}

/// Row `row` of a scored batch as an event of source `decisions`.
pub(super) fn event(scored: &Scored, row: usize) -> Result<Box<RawValue>, serde_json::Error> {
    let entries: Vec<Entry<'_>> = scored.entries(row).collect();
    let statuses = entries.iter().filter(|entry| entry.status != FeatureStatus::Fresh);
    let views: BTreeMap<&str, u32> = entries.iter().filter_map(|entry| entry.view).collect();
    let times = Times::of(scored.event_times(row));
    let as_of = scored.as_of();
    let degraded = Some(scored.degraded()).filter(|degraded| !degraded.is_empty());
    let registered = &scored.version().record.registered;
    to_raw_value(&Decision {
        request_id: scored.request_id(row),
        model: &registered.model.name,
        model_version: i64::from(registered.model.version),
        definition_version: i64::from(registered.definition_version),
        at: scored.at(),
        as_of,
        latency_us: scored.timing().latency_us,
        features_us: scored.timing().features_us,
        model_us: scored.timing().model_us,
        inputs: serde_json::to_string(&scored.inputs(row))?,
        vector: object(entries.iter().map(|entry| (entry.name, &entry.value)))?,
        statuses: object(statuses.map(|entry| (entry.name, entry.status)))?,
        ages_ms: object(times.each(|time| as_of.since(time) / 1_000))?,
        views: serde_json::to_string(&views)?,
        prediction: serde_json::to_string(scored.prediction(row))?,
        model_digest: &registered.sha256,
        route: scored.route(row),
        event_times: object(times.each(|time| time))?,
        degraded: degraded.map(serde_json::to_string).transpose()?,
    })
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

    fn each<T>(&self, value: impl Fn(EventTime) -> T + Copy) -> impl Iterator<Item = (String, T)> {
        let views = self
            .views
            .iter()
            .map(move |(view, time)| ((*view).to_owned(), value(*time)));
        let features = self
            .features
            .iter()
            .map(move |(feature, time)| (feature.to_string(), value(*time)));
        views.chain(features)
    }
}

/// A JSON object of `entries`.
pub(super) fn object<K: Serialize, V: Serialize>(
    entries: impl Iterator<Item = (K, V)>,
) -> Result<String, serde_json::Error> {
    let mut text = Vec::with_capacity(64 * entries.size_hint().1.unwrap_or_default().min(1_024));
    serde_json::Serializer::new(&mut text).collect_map(entries)?;
    String::from_utf8(text).map_err(serde::ser::Error::custom)
}
