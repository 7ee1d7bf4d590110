//! What the stores must hold, computed the slowest and plainest way from the topic that was read again: a list of events
//! for each entity, walked once for each feature and moment. No code is shared with the engine.

use crate::exact::ExactSum;
use crate::topic::Record;
use crate::views::{Aggregate, Argument, Feature, LATE_US, View, Window};
use anyhow::{Context as _, Result, bail};
use ondol_vocabulary::{FeatureStatus, Value};
use std::collections::BTreeMap;

/// A good event, parsed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) time: i64,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) card: String,
    pub(crate) merchant: String,
    pub(crate) amount: Option<f64>,
    pub(crate) cents: i64,
    pub(crate) declined: bool,
    pub(crate) country: Option<String>,
    pub(crate) number: i64,
    /// Whether it reached the topic too long after its time to count.
    pub(crate) late: bool,
}

/// An entity's key and its events.
pub(crate) type Entities<'a> = BTreeMap<Vec<&'a str>, Vec<&'a Event>>;

/// One feature as it must be read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) value: Value,
    pub(crate) status: FeatureStatus,
    pub(crate) event_time: Option<i64>,
}

impl Event {
    /// The event of a good message.
    ///
    /// # Errors
    /// When it is not what the producer makes: then the producer is wrong.
    pub(crate) fn of(record: &Record) -> Result<Self> {
        let payload = record.payload.as_deref().context("a good event is empty")?;
        let json: serde_json::Value = serde_json::from_slice(payload).context("a good event is no JSON")?;
        let text = |name: &str| json.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
        let whole = |name: &str| json.get(name).and_then(serde_json::Value::as_i64);
        let time = match &json["ts"] {
            serde_json::Value::String(text) => chrono::DateTime::parse_from_rfc3339(text)?.timestamp_micros(),
            other => other.as_i64().context("a good event has no time")?,
        };
        Ok(Self {
            time,
            partition: record.partition,
            offset: record.offset,
            card: text("card_id").context("a good event has no card")?,
            merchant: text("merchant_id").context("a good event has no merchant")?,
            amount: json["amount"].as_f64(),
            cents: whole("cents").context("a good event has no cents")?,
            declined: json["declined"].as_bool().context("a good event has no outcome")?,
            country: text("country"),
            number: whole("number").context("a good event has no number")?,
            late: record.timestamp_ms * 1_000 - time > LATE_US,
        })
    }

    const fn place(&self) -> (i64, i32, i64) {
        (self.time, self.partition, self.offset)
    }

    fn argument(&self, argument: Argument) -> Value {
        match argument {
            Argument::Amount => self.amount.map_or(Value::Null, Value::F64),
            Argument::Cents => Value::I64(self.cents),
            Argument::Number => Value::I64(self.number),
            Argument::Country => self.country.clone().map_or(Value::Null, Value::String),
        }
    }
}

/// The events of each entity of `view`, in the order of time and position.
pub(crate) fn entities<'a>(view: &View, events: &'a [Event]) -> Entities<'a> {
    let mut entities: Entities<'a> = BTreeMap::new();
    for event in events.iter().filter(|event| view.takes(event)) {
        entities.entry(view.key_of(event)).or_default().push(event);
    }
    for events in entities.values_mut() {
        events.sort_by_key(|event| event.place());
    }
    entities
}

/// `feature` of an entity with `events` as of `moment`.
///
/// # Errors
/// When a sum is beyond what the oracle can hold.
pub(crate) fn read(view: &View, feature: &Feature, events: &[&Event], moment: i64) -> Result<Reading> {
    let past: Vec<&Event> = events.iter().copied().filter(|event| event.time < moment).collect();
    let counts = matches!(feature.aggregate, Aggregate::Count | Aggregate::CountDeclined);
    let Some(newest) = past.last().map(|event| event.time) else {
        let value = if counts { Value::I64(0) } else { Value::Null };
        return Ok(Reading {
            value,
            status: FeatureStatus::Missing,
            event_time: None,
        });
    };
    let event_time = Some(newest);
    if view.ttl_us.is_some_and(|ttl| moment - newest > ttl) {
        return Ok(Reading {
            value: Value::Null,
            status: FeatureStatus::Stale,
            event_time,
        });
    }
    let value = aggregate(feature, &past, moment)?;
    let status = if value == Value::Null {
        FeatureStatus::Null
    } else {
        FeatureStatus::Fresh
    };
    Ok(Reading {
        value,
        status,
        event_time,
    })
}

fn aggregate(feature: &Feature, past: &[&Event], moment: i64) -> Result<Value> {
    let from = match feature.window {
        Some(Window { width_us, hop_us }) => (moment - width_us).div_euclid(hop_us) * hop_us,
        None => i64::MIN,
    };
    let seen = || past.iter().filter(|event| event.time >= from);
    let values = |argument| {
        seen()
            .map(|event| event.argument(argument))
            .filter(|value| *value != Value::Null)
            .collect::<Vec<_>>()
    };
    Ok(match feature.aggregate {
        Aggregate::Count => count(seen().count()),
        Aggregate::CountDeclined => count(seen().filter(|event| event.declined).count()),
        Aggregate::Sum(argument) => sum(&values(argument))?,
        Aggregate::Mean(argument) => match exact(&values(argument))?.mean() {
            Some(mean) => Value::F64(mean),
            None => Value::Null,
        },
        Aggregate::Min(argument) => values(argument).into_iter().min_by(order).unwrap_or_default(),
        Aggregate::Max(argument) => values(argument).into_iter().max_by(order).unwrap_or_default(),
        Aggregate::First(argument) => values(argument).into_iter().next().unwrap_or_default(),
        Aggregate::Last(argument) => values(argument).into_iter().next_back().unwrap_or_default(),
        Aggregate::Latest(argument) => past.last().map(|event| event.argument(argument)).unwrap_or_default(),
    })
}

fn count(events: usize) -> Value {
    Value::I64(i64::try_from(events).unwrap_or(i64::MAX))
}

fn sum(values: &[Value]) -> Result<Value> {
    if let Some(Value::F64(_)) = values.first() {
        return Ok(exact(values)?.sum().map_or(Value::Null, Value::F64));
    }
    let whole = values.iter().map(|value| match value {
        Value::I64(whole) => *whole,
        _ => 0,
    });
    Ok(whole.reduce(|sum, value| sum + value).map_or(Value::Null, Value::I64))
}

fn exact(values: &[Value]) -> Result<ExactSum> {
    let mut sum = ExactSum::default();
    for value in values {
        let Value::F64(value) = value else {
            bail!("a sum of floats met {value:?}");
        };
        if !sum.add(*value) {
            bail!("{value} is beyond what the oracle can add up: change the generator");
        }
    }
    Ok(sum)
}

fn order(left: &Value, right: &Value) -> std::cmp::Ordering {
    match (left, right) {
        (Value::F64(left), Value::F64(right)) => left.total_cmp(right),
        (Value::I64(left), Value::I64(right)) => left.cmp(right),
        (Value::String(left), Value::String(right)) => left.as_bytes().cmp(right.as_bytes()),
        _ => std::cmp::Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views;

    fn event(time: i64, amount: f64) -> Event {
        Event {
            time,
            partition: 0,
            offset: time,
            card: "c".to_owned(),
            merchant: "m".to_owned(),
            amount: Some(amount),
            cents: 1,
            declined: false,
            country: None,
            number: time,
            late: false,
        }
    }

    #[test]
    fn a_window_moves_its_tail_in_hops() {
        let minute = 60_000_000;
        let events: Vec<Event> = [(1, 10.0), (2, 20.0), (16, 30.0), (31, 5.0), (61, 7.0), (76, 3.0)]
            .map(|(at, amount)| event(at * minute, amount))
            .to_vec();
        let events: Vec<&Event> = events.iter().collect();
        let window = Some(Window {
            width_us: 60 * minute,
            hop_us: 15 * minute,
        });
        let view = &views::all()[0];
        let check = |aggregate, expected| {
            let feature = Feature {
                name: "f",
                text: "",
                aggregate,
                window,
            };
            let reading = read(view, &feature, &events, 90 * minute).unwrap();
            assert_eq!(reading.value, expected);
        };
        check(Aggregate::Max(Argument::Amount), Value::F64(7.0));
        check(Aggregate::Min(Argument::Amount), Value::F64(3.0));
        check(Aggregate::Sum(Argument::Amount), Value::F64(15.0));
        check(Aggregate::Mean(Argument::Amount), Value::F64(5.0));
        check(Aggregate::Count, Value::I64(3));
    }
}
