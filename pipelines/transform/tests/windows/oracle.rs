//! What every feature should be, by reading the whole list of events. Shares no code with the engine: windows are
//! filters of the list, sums are big integers, sketches are the lists that they sketch.

use crate::aggregations;
use crate::events::Event;
use crate::views::{ARGUMENTS, CONDITIONS, Feature, View, default};
use ondol_vocabulary::FeatureStatus;
use std::cmp::Ordering;

/// A value whose equality is that of its bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    /// The bits of an `f64`.
    F64(u64),
    /// The bits of an `f32`.
    F32(u32),
    Text(String),
    List(Vec<Self>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub value: Value,
    pub status: FeatureStatus,
    pub event_time: Option<i64>,
}

impl Value {
    pub(crate) fn integer(value: Option<i64>) -> Self {
        value.map_or(Self::Null, Self::Integer)
    }

    pub(crate) fn f64(value: Option<f64>) -> Self {
        value.map_or(Self::Null, |value| {
            Self::F64(if value.is_nan() { 0x7ff8 << 48 } else { value.to_bits() })
        })
    }

    pub(crate) fn f32(value: Option<f32>) -> Self {
        value.map_or(Self::Null, |value| {
            Self::F32(if value.is_nan() { 0x7fc0 << 16 } else { value.to_bits() })
        })
    }

    pub(crate) fn number(&self) -> f64 {
        match self {
            Self::F64(bits) => f64::from_bits(*bits),
            Self::F32(bits) => f64::from(f32::from_bits(*bits)),
            other => panic!("{other:?} is no float"),
        }
    }

    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            _ => float_order(self.number())
                .partial_cmp(&float_order(other.number()))
                .unwrap(),
        }
    }
}

/// NaN after everything, then the number, then its sign: −0.0 before 0.0.
fn float_order(value: f64) -> (bool, f64, bool) {
    if value.is_nan() {
        (true, 0.0, false)
    } else {
        (false, value, value.is_sign_positive())
    }
}

/// The features of an entity that all of `events` have happened to, read as of `moment`. `known_at`: only those that
/// had arrived by then. Otherwise the row of all of them is read, which can't go back behind what it has folded.
pub(crate) fn answers(view: &View, events: &[Event], entity: &str, moment: i64, known_at: bool) -> Vec<Answer> {
    let mine: Vec<&Event> = events
        .iter()
        .filter(|event| event.key.as_deref() == Some(entity))
        .filter(|event| view.filter.is_none_or(|filter| CONDITIONS[filter].1(event)))
        .filter(|event| !known_at || event.ingested_at <= moment)
        .collect();
    let mut moment = moment;
    if !known_at {
        let arrived = mine.iter().map(|event| event.ingested_at).max();
        for event in mine.iter().filter(|event| Some(event.time) <= arrived) {
            moment = moment.max(event.time + 1);
        }
    }
    let mut seen: Vec<&Event> = mine.into_iter().filter(|event| event.time < moment).collect();
    seen.sort_by_key(|event| (event.time, event.partition, event.offset));
    view.features
        .iter()
        .map(|feature| {
            let mut answer = answer(view, feature, &seen, moment);
            if view.with_defaults && answer.value == Value::Null {
                answer.value = default(feature.data_type()).1;
            }
            answer
        })
        .collect()
}

fn answer(view: &View, feature: &Feature, seen: &[&Event], moment: i64) -> Answer {
    let Some(newest) = seen.last().map(|event| event.time) else {
        let value = match feature {
            Feature::Aggregate { function, .. } => aggregations::over_nothing(*function),
            Feature::Latest(_) => Value::Null,
        };
        return Answer {
            value,
            status: FeatureStatus::Missing,
            event_time: None,
        };
    };
    let event_time = Some(newest);
    let age = i128::from(moment) - i128::from(newest);
    if view.ttl_us.is_some_and(|ttl_us| age > i128::from(ttl_us)) {
        return Answer {
            value: Value::Null,
            status: FeatureStatus::Stale,
            event_time,
        };
    }
    let value = value(feature, seen, moment);
    let status = if value == Value::Null {
        FeatureStatus::Null
    } else {
        FeatureStatus::Fresh
    };
    Answer {
        value,
        status,
        event_time,
    }
}

fn value(feature: &Feature, seen: &[&Event], moment: i64) -> Value {
    let (function, argument, parameters, filter, window) = match feature {
        Feature::Latest(argument) => return ARGUMENTS[*argument].2(seen[seen.len() - 1]),
        Feature::Aggregate {
            function,
            argument,
            parameters,
            filter,
            window,
        } => (function, argument, parameters, filter, window),
    };
    let tail = window.map(|window| {
        let (edge, hop) = (
            i128::from(moment) - i128::from(window.width_us),
            i128::from(window.hop_us),
        );
        // Down to a multiple of the hop, before zero too.
        edge - ((edge % hop) + hop) % hop
    });
    let values: Vec<Value> = seen
        .iter()
        .filter(|event| tail.is_none_or(|tail| i128::from(event.time) >= tail))
        .filter(|event| filter.is_none_or(|filter| CONDITIONS[filter].1(event)))
        .map(|event| argument.map_or(Value::Bool(true), |argument| ARGUMENTS[argument].2(event)))
        .filter(|value| *value != Value::Null)
        .collect();
    aggregations::aggregate(*function, parameters, values)
}
