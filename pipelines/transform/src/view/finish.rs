//! From rows to feature values: a column per feature, a sight per row.

use super::column::ColumnBuilder;
use super::compile::{Answer, Reading};
use super::{FinishedFeature, ViewEngine};
use crate::row::Row;
use crate::row::layout::RowLayout;
use crate::row::scalar::ScalarRef;
use crate::row::sight::{Reach, Sight};
use ondol_vocabulary::{Aggregation, EventTime, FeatureDefinition, FeatureKind, FeatureStatus};

/// Finishes features of one row after another into columns.
///
/// For readers whose rows do not stand still side by side: history finishes a row, lets it absorb more events, and
/// finishes it again, and pays for no column but the last.
#[derive(Debug)]
pub struct Finisher<'e> {
    engine: &'e ViewEngine,
    features: Vec<UnfinishedFeature>,
    event_time: Vec<Option<EventTime>>,
}

#[derive(Debug)]
struct UnfinishedFeature {
    reading: Reading,
    /// Its value where nothing has happened: there were 0 events, and no values.
    missing: Option<ScalarRef<'static>>,
    values: ColumnBuilder,
    status: Vec<FeatureStatus>,
}

/// What a row is worth at its moment.
enum Standing<'a> {
    /// Nothing has happened to the entity yet.
    Missing,
    /// Its newest event is older than the view's time to live.
    Stale(EventTime),
    Live(Sight<'a>),
}

impl<'e> Finisher<'e> {
    /// For the features of these indexes, with room for `rows` values of each.
    pub(super) fn new(engine: &'e ViewEngine, features: &[usize], rows: usize) -> Self {
        let unfinished = |feature: &usize| {
            let definition: &FeatureDefinition = &engine.definition.features[*feature];
            let counts = matches!(
                definition.kind,
                FeatureKind::Aggregate {
                    function: Aggregation::Count,
                    ..
                }
            );
            UnfinishedFeature {
                reading: engine.readings[*feature],
                missing: counts.then_some(ScalarRef::Int(0)),
                values: ColumnBuilder::new(definition.data_type, rows),
                status: Vec::with_capacity(rows),
            }
        };
        let features = features.iter().map(unfinished).collect();
        Self {
            engine,
            features,
            event_time: Vec::with_capacity(rows),
        }
    }

    /// Appends a value of each feature: that of `row` (None: the entity has no row) as of `moment`, under the rules of
    /// [`ViewEngine::finish`].
    pub fn push(&mut self, row: Option<&Row>, moment: EventTime) {
        let standing = standing(row, moment, self.engine.definition.ttl_us);
        self.event_time.push(standing.newest());
        // Features of one window mostly stand side by side.
        let mut window = None;
        for UnfinishedFeature {
            reading,
            missing,
            values,
            status,
        } in &mut self.features
        {
            let (value, worth) = match &standing {
                Standing::Missing => (*missing, FeatureStatus::Missing),
                Standing::Stale(_) => (None, FeatureStatus::Stale),
                Standing::Live(sight) => {
                    let value = read(sight, &self.engine.layout, *reading, &mut window);
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
    }

    /// The features, in the order in which they were asked for, with a value for each row pushed.
    pub fn finish(self) -> Vec<FinishedFeature> {
        let event_time = self.event_time;
        let finished = self.features.into_iter().map(|feature| FinishedFeature {
            values: feature.values.finish(),
            status: feature.status,
            event_time: event_time.clone(),
        });
        finished.collect()
    }
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

/// A set and a width, and what they reach.
type LastWindow<'a> = Option<((usize, Option<i64>), Reach<'a>)>;

/// A feature's value; `window` is the one found last.
fn read<'a>(
    sight: &Sight<'a>,
    layout: &'a RowLayout,
    reading: Reading,
    window: &mut LastWindow<'a>,
) -> Option<ScalarRef<'a>> {
    match reading {
        Reading::Latest { slot } => sight.latest(layout, slot),
        Reading::Window { set, width_us, answer } => match window {
            Some((of, reach)) if *of == (set, width_us) => answer.of(reach),
            _ => {
                let (_, reach) = window.insert(((set, width_us), sight.reach(layout, set, width_us)?));
                answer.of(reach)
            }
        },
    }
}

impl Answer {
    fn of<'a>(self, reach: &mut Reach<'a>) -> Option<ScalarRef<'a>> {
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
