//! A decision as an event of source `decisions`.
//!
//! One JSON object of exactly these fields (structured ones are texts that hold JSON, so that the source's schema is
//! flat): `request_id`, `model`, `model_version`, `definition_version`, `at`, `as_of`, `latency_us`, `features_us`,
//! `model_us`, `inputs`, `vector`, `statuses`, `ages_ms`, `views`, `prediction`, `model_digest`, `route`, `event_times`,
//! `degraded`. Floats round-trip exactly; NaN and the infinities are the texts `NaN`, `Infinity` and `-Infinity`.
//!
//! Cost model: some kilobytes a decision, beside a prediction that takes microseconds; so it is written in one pass into
//! one buffer, JSON within JSON ([`Nested`]) as well, names borrowed, and a time that many features share once.

use crate::features::Entry;
use crate::predict::Scored;
use ondol_model_gateway_api::wire::Degradation;
use ondol_vocabulary::{EventTime, FeatureRef};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;
use std::{fmt, io};

/// A decision as it is written to the topic.
#[derive(Debug, Serialize)]
pub(super) struct Decision<'a, I, V, S, A, T> {
    pub(super) request_id: &'a str,
    pub(super) model: &'a str,
    pub(super) model_version: i64,
    pub(super) definition_version: i64,
    pub(super) at: EventTime,
    pub(super) as_of: EventTime,
    pub(super) latency_us: i64,
    pub(super) features_us: i64,
    pub(super) model_us: i64,
    pub(super) inputs: Nested<I>,
    pub(super) vector: Nested<V>,
    pub(super) statuses: Nested<S>,
    pub(super) ages_ms: Nested<A>,
    pub(super) views: Nested<BTreeMap<&'a str, u32>>,
    pub(super) prediction: Nested<&'a serde_json::Value>,
    pub(super) model_digest: &'a str,
    pub(super) route: &'a str,
    pub(super) event_times: Nested<T>,
    pub(super) degraded: Option<Nested<&'a [Degradation]>>,
}

/// Row `row` of a scored batch as an event of source `decisions`.
pub(super) fn event(scored: &Scored, row: usize) -> Result<Box<RawValue>, serde_json::Error> {
    let entries: Vec<Entry<'_>> = scored.entries(row).collect();
    let entries = entries.as_slice();
    let mut times = Times::default();
    let event_times: Vec<(&FeatureRef, usize)> = scored
        .event_times(row)
        .map(|(feature, time)| (feature, times.place(time)))
        .collect();
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
        inputs: Nested(scored.inputs(row)),
        vector: Nested(Object(|| entries.iter().map(|entry| (entry.name, &entry.value)))),
        statuses: Nested(Object(|| entries.iter().map(|entry| (entry.name, entry.status)))),
        ages_ms: Nested(Object(|| {
            entries.iter().filter_map(|entry| Some((entry.name, entry.age_ms?)))
        })),
        views: Nested(entries.iter().filter_map(|entry| entry.view).collect()),
        prediction: Nested(scored.prediction(row)),
        model_digest: &registered.sha256,
        route: scored.route(row),
        event_times: Nested(Object(|| {
            event_times
                .iter()
                .map(|(feature, time)| (Text(feature), times.text(*time)))
        })),
        degraded: Some(scored.degraded())
            .filter(|degraded| !degraded.is_empty())
            .map(Nested),
    })
}

/// Texts of times, each once: the features of one view share theirs.
#[derive(Default)]
struct Times(Vec<(EventTime, String)>);

impl Times {
    fn place(&mut self, time: EventTime) -> usize {
        let known = self.0.iter().position(|(known, _)| *known == time);
        known.unwrap_or_else(|| {
            self.0.push((time, time.to_string()));
            self.0.len() - 1
        })
    }

    fn text(&self, place: usize) -> &str {
        self.0.get(place).map_or("", |(_, text)| text)
    }
}

/// An object of the entries that its function lists.
pub(super) struct Object<F>(pub(super) F);

impl<F, I, K, V> Serialize for Object<F>
where
    F: Fn() -> I,
    I: Iterator<Item = (K, V)>,
    K: Serialize,
    V: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map((self.0)())
    }
}

/// A text as it is displayed.
struct Text<T>(T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A text that holds the value as JSON, written without being held by itself.
#[derive(Debug)]
pub(super) struct Nested<T>(pub(super) T);

impl<T: Serialize> Serialize for Nested<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<T: Serialize> fmt::Display for Nested<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        serde_json::to_writer(Pieces(f), &self.0).map_err(|_| fmt::Error)
    }
}

/// Takes JSON as it is written, piece by piece: each is whole characters.
struct Pieces<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl io::Write for Pieces<'_, '_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.write_all(piece)?;
        Ok(piece.len())
    }

    fn write_all(&mut self, piece: &[u8]) -> io::Result<()> {
        let text = std::str::from_utf8(piece).map_err(io::Error::other)?;
        self.0.write_str(text).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
