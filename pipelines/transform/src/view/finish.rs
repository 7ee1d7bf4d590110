//! From rows to feature values: a column per feature, a sight per row.

use super::column::array;
use super::compile::{Answer, Reading};
use super::{FinishedFeature, ViewEngine};
use crate::row::Row;
use crate::row::layout::RowLayout;
use crate::row::scalar::ScalarRef;
use crate::row::sight::{Reach, Sight};
use ondol_vocabulary::{Aggregation, EventTime, FeatureDefinition, FeatureKind, FeatureStatus};

/// What a row is worth at its moment.
enum Standing<'a> {
    /// Nothing has happened to the entity yet.
    Missing,
    /// Its newest event is older than the view's time to live.
    Stale(EventTime),
    Live(Sight<'a>),
}

pub(super) fn finish(
    engine: &ViewEngine,
    rows: &[Option<&Row>],
    as_of: &[EventTime],
    features: &[usize],
) -> Vec<FinishedFeature> {
    debug_assert_eq!(rows.len(), as_of.len(), "a moment per row");
    let ttl_us = engine.definition.ttl_us;
    let standings: Vec<Standing<'_>> = rows
        .iter()
        .zip(as_of)
        .map(|(row, moment)| standing(*row, *moment, ttl_us))
        .collect();
    let event_time: Vec<Option<EventTime>> = standings.iter().map(Standing::newest).collect();
    let mut values = Vec::with_capacity(rows.len());
    let mut finished = Vec::with_capacity(features.len());
    for feature in features {
        let definition = &engine.definition.features[*feature];
        let reading = engine.readings[*feature];
        values.clear();
        let mut status = Vec::with_capacity(rows.len());
        for standing in &standings {
            let (value, worth) = match standing {
                Standing::Missing => (missing(definition), FeatureStatus::Missing),
                Standing::Stale(_) => (None, FeatureStatus::Stale),
                Standing::Live(sight) => {
                    let value = read(sight, &engine.layout, reading);
                    (
                        value,
                        if value.is_some() {
                            FeatureStatus::Fresh
                        } else {
                            FeatureStatus::Null
                        },
                    )
                }
            };
            values.push(value);
            status.push(worth);
        }
        let values = array(definition.data_type, &values);
        finished.push(FinishedFeature {
            values,
            status,
            event_time: event_time.clone(),
        });
    }
    finished
}

fn standing<'a>(row: Option<&'a Row>, moment: EventTime, ttl_us: Option<i64>) -> Standing<'a> {
    let Some(sight) = row.and_then(|row| Sight::of(row, moment.micros())) else {
        return Standing::Missing;
    };
    match ttl_us {
        Some(ttl_us) if sight.age_us() > i128::from(ttl_us) => Standing::Stale(EventTime::from_micros(sight.newest())),
        Some(_) | None => Standing::Live(sight),
    }
}

impl Standing<'_> {
    fn newest(&self) -> Option<EventTime> {
        match self {
            Self::Missing => None,
            Self::Stale(newest) => Some(*newest),
            Self::Live(sight) => Some(EventTime::from_micros(sight.newest())),
        }
    }
}

/// What a feature is worth of an entity that nothing has happened to: there were 0 events, and no values.
fn missing(feature: &FeatureDefinition) -> Option<ScalarRef<'static>> {
    let counts = matches!(
        feature.kind,
        FeatureKind::Aggregate {
            function: Aggregation::Count,
            ..
        }
    );
    counts.then_some(ScalarRef::Int(0))
}

fn read<'a>(sight: &Sight<'a>, layout: &'a RowLayout, reading: Reading) -> Option<ScalarRef<'a>> {
    match reading {
        Reading::Latest { slot } => sight.latest(layout, slot),
        Reading::Window { set, width_us, answer } => answer.of(&sight.reach(layout, set, width_us)?),
    }
}

impl Answer {
    fn of<'a>(self, reach: &Reach<'a>) -> Option<ScalarRef<'a>> {
        match self {
            Self::Count(measure) => Some(ScalarRef::Int(i64::try_from(reach.count(measure)).unwrap_or(i64::MAX))),
            // Beyond an i64 the sum is null rather than wrong.
            Self::Integer(measure) => i64::try_from(reach.integer(measure)?).ok().map(ScalarRef::Int),
            Self::Float(measure) => reach.float(measure).map(ScalarRef::float),
            Self::IntegerMean { sum, count } => mean(reach.integer(sum)? as f64, reach.count(count)),
            Self::FloatMean { sum, count } => mean(reach.float(sum)?, reach.count(count)),
            Self::Picked(measure) => reach.picked(measure),
        }
    }
}

/// The sum rounded once, divided once: each nearest to even.
fn mean(sum: f64, count: u64) -> Option<ScalarRef<'static>> {
    Some(ScalarRef::float(sum / count as f64))
}
