//! From rows to feature values: a column per feature, a sight per row.
//!
//! Reads of few rows pay for columns more than for values. So the numbers of all columns then stand in one buffer, and
//! columns share the event times, and the statuses where these are the same.

use super::column::{CELL, ColumnBuilder, FEW_ROWS};
use super::compile::{Answer, ListAnswer, Reading};
use super::fallback::Fallback;
use super::{FinishedFeature, ViewEngine};
use crate::row::Row;
use crate::row::layout::RowLayout;
use crate::row::scalar::ScalarRef;
use crate::row::sight::{List, Reach, Sight};
use arrow::array::ArrayRef;
use arrow::buffer::{Buffer, MutableBuffer};
use ondol_vocabulary::{EventTime, FeatureDefinition, FeatureKind, FeatureStatus};
use smallvec::SmallVec;
use std::sync::Arc;

/// Finishes features of one row after another into columns.
///
/// For readers whose rows do not stand still side by side: history finishes a row, lets it absorb more events, and
/// finishes it again, and pays for no column but the last.
#[derive(Debug)]
pub struct Finisher<'e> {
    engine: &'e ViewEngine,
    features: Vec<UnfinishedFeature<'e>>,
    event_time: SmallVec<[Option<EventTime>; 2]>,
}

#[derive(Debug)]
struct UnfinishedFeature<'e> {
    reading: &'e Reading,
    /// Its value where nothing has happened: there were 0 events, and no values.
    missing: Option<ScalarRef<'static>>,
    /// Its value where it has none.
    fallback: Option<&'e Fallback>,
    values: ColumnBuilder,
    status: SmallVec<[FeatureStatus; 16]>,
}

/// What a row is worth at its moment.
enum Standing<'a> {
    /// Nothing has happened to the entity yet.
    Missing,
    /// Its row was deleted: as if nothing had happened, and when that was.
    Deleted(EventTime),
    /// Its newest event is older than the view's time to live.
    Stale(EventTime),
    Live(Sight<'a>),
}

impl<'e> Finisher<'e> {
    /// For the features of these indexes, with room for `rows` values of each.
    pub(super) fn new(engine: &'e ViewEngine, features: &[usize], rows: usize) -> Self {
        let unfinished = |feature: &usize| {
            let definition: &FeatureDefinition = &engine.definition.features[*feature];
            let counts = match definition.kind {
                FeatureKind::Aggregate { function, .. } => function.counts(),
                FeatureKind::LatestRow { .. } => false,
            };
            UnfinishedFeature {
                reading: &engine.readings[*feature],
                missing: counts.then_some(ScalarRef::Int(0)),
                fallback: engine.fallbacks[*feature].as_ref(),
                values: ColumnBuilder::new(definition.data_type, rows),
                status: SmallVec::with_capacity(rows),
            }
        };
        let features = features.iter().map(unfinished).collect();
        Self {
            engine,
            features,
            event_time: SmallVec::with_capacity(rows),
        }
    }

    /// Appends a value of each feature: that of `row` (None: the entity has no row) as of `moment`, under the rules of
    /// [`ViewEngine::finish`].
    pub fn push(&mut self, row: Option<&Row>, moment: EventTime) {
        let standing = standing(row, moment, self.engine);
        self.event_time.push(standing.newest());
        // Features of one window mostly stand side by side.
        let mut window = None;
        for UnfinishedFeature {
            reading,
            missing,
            fallback,
            values,
            status,
        } in &mut self.features
        {
            let (value, worth) = match &standing {
                Standing::Missing | Standing::Deleted(_) => (*missing, FeatureStatus::Missing),
                Standing::Stale(_) => (None, FeatureStatus::Stale),
                Standing::Live(sight) if values.is_list() => {
                    let list = read_list(sight, &self.engine.layout, reading, &mut window);
                    status.push(if list.is_empty() {
                        FeatureStatus::Null
                    } else {
                        FeatureStatus::Fresh
                    });
                    match fallback {
                        Some(fallback) if list.is_empty() => fallback.push_to(values),
                        Some(_) | None => values.push_list(&list),
                    }
                    continue;
                }
                Standing::Live(sight) => {
                    let value = read(sight, &self.engine.layout, reading, &mut window);
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
            match (value, fallback) {
                (None, Some(fallback)) => fallback.push_to(values),
                (value, _) => values.push(value),
            }
            status.push(worth);
        }
    }

    /// The features, in the order in which they were asked for, with a value for each row pushed.
    pub fn finish(self) -> Vec<FinishedFeature> {
        let event_time: Arc<[Option<EventTime>]> = Arc::from(self.event_time.as_slice());
        let mut columns = Columns::of(&self.features, event_time.len());
        let mut statuses = Statuses::default();
        let finished = self.features.into_iter().map(|feature| FinishedFeature {
            status: statuses.share(&feature.status),
            values: columns.next(feature.values),
            event_time: Arc::clone(&event_time),
        });
        finished.collect()
    }
}

/// Columns on their way to arrays.
struct Columns {
    /// Where the numbers of few rows stand, column by column.
    cells: Option<Buffer>,
    /// Where in it each column begins.
    places: std::vec::IntoIter<usize>,
}

impl Columns {
    fn of(features: &[UnfinishedFeature<'_>], rows: usize) -> Self {
        if rows == 0 || rows > FEW_ROWS {
            return Self {
                cells: None,
                places: Vec::new().into_iter(),
            };
        }
        // Numbers, and a bitmap if some of them are null.
        let mut cells = MutableBuffer::with_capacity(features.len() * (rows + 1) * CELL);
        let places: Vec<usize> = features.iter().map(|feature| feature.values.put(&mut cells)).collect();
        Self {
            cells: Some(cells.into()),
            places: places.into_iter(),
        }
    }

    /// The array of the next column.
    fn next(&mut self, column: ColumnBuilder) -> ArrayRef {
        match (&self.cells, self.places.next()) {
            (Some(cells), Some(at)) => column.finish_at(cells, at),
            _ => column.finish(),
        }
    }
}

/// Statuses of columns, those that are the same once.
#[derive(Default)]
struct Statuses(SmallVec<[Arc<[FeatureStatus]>; 3]>);

impl Statuses {
    fn share(&mut self, status: &[FeatureStatus]) -> Arc<[FeatureStatus]> {
        if let Some(known) = self.0.iter().find(|known| ***known == *status) {
            return Arc::clone(known);
        }
        let status = Arc::from(status);
        if self.0.len() < self.0.inline_size() {
            self.0.push(Arc::clone(&status));
        }
        status
    }
}

fn standing<'a>(row: Option<&'a Row>, moment: EventTime, engine: &ViewEngine) -> Standing<'a> {
    let Some(sight) = row.and_then(|row| Sight::of(row, moment.micros())) else {
        return Standing::Missing;
    };
    let deleted = engine.deleted.and_then(|slot| sight.latest(&engine.layout, slot));
    if deleted == Some(ScalarRef::Bool(true)) {
        return Standing::Deleted(EventTime::from_micros(sight.newest()));
    }
    match engine.definition.ttl_us {
        Some(ttl_us) if sight.age_us() > i128::from(ttl_us) => Standing::Stale(EventTime::from_micros(sight.newest())),
        Some(_) | None => Standing::Live(sight),
    }
}

impl Standing<'_> {
    fn newest(&self) -> Option<EventTime> {
        match self {
            Self::Missing => None,
            Self::Deleted(newest) | Self::Stale(newest) => Some(*newest),
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
    reading: &Reading,
    window: &mut LastWindow<'a>,
) -> Option<ScalarRef<'a>> {
    match reading {
        Reading::Latest { slot } => sight.latest(layout, *slot),
        Reading::Window { set, width_us, answer } => {
            let reach = reach(sight, layout, (*set, *width_us), window)?;
            answer.of(reach)
        }
        Reading::Cardinality { trail, window } => Some(count(sight.cardinality(layout, *trail, *window))),
        // Their columns are lists.
        Reading::WindowList { .. } | Reading::Newest { .. } => None,
    }
}

/// The value of a feature that is a list; empty for null.
fn read_list<'a>(sight: &Sight<'a>, layout: &'a RowLayout, reading: &Reading, window: &mut LastWindow<'a>) -> List<'a> {
    match reading {
        Reading::Newest { trail, window, most } => sight.newest_values(layout, *trail, *window, *most),
        Reading::WindowList { set, width_us, answer } => match reach(sight, layout, (*set, *width_us), window) {
            Some(reach) => answer.of(reach),
            None => List::new(),
        },
        Reading::Latest { .. } | Reading::Window { .. } | Reading::Cardinality { .. } => List::new(),
    }
}

/// What a window reaches, which may be the one found last.
fn reach<'w, 'a>(
    sight: &Sight<'a>,
    layout: &'a RowLayout,
    wanted: (usize, Option<i64>),
    window: &'w mut LastWindow<'a>,
) -> Option<&'w mut Reach<'a>> {
    if window.as_ref().is_none_or(|(found, _)| *found != wanted) {
        *window = Some((wanted, sight.reach(layout, wanted.0, wanted.1)?));
    }
    window.as_mut().map(|(_, reach)| reach)
}

impl Answer {
    fn of<'a>(self, reach: &mut Reach<'a>) -> Option<ScalarRef<'a>> {
        match self {
            Self::Count(measure) => Some(count(reach.count(measure))),
            // Beyond an i64 the sum is null rather than wrong.
            Self::Integer(measure) => i64::try_from(reach.integer(measure)?).ok().map(ScalarRef::Int),
            Self::Float(measure) => reach.float(measure).map(ScalarRef::float),
            Self::IntegerMean { sum, count } => mean(reach.integer(sum)? as f64, reach.count(count)),
            Self::FloatMean { sum, count } => mean(reach.float(sum)?, reach.count(count)),
            Self::Picked(measure) => reach.picked(measure),
            Self::IntegerSpread { spread, measures } => {
                reach.spread_of_integers(spread, measures).map(ScalarRef::float)
            }
            Self::FloatSpread { spread, measures } => reach.spread_of_floats(spread, measures).map(ScalarRef::float),
            Self::Quantile { measure, quantile } => reach.quantile(measure, quantile).map(ScalarRef::float),
        }
    }
}

impl ListAnswer {
    fn of<'a>(&self, reach: &mut Reach<'a>) -> List<'a> {
        match self {
            Self::Greatest { measure, most } => reach.greatest(*measure, *most),
            // Of the same values there are all quantiles or none.
            Self::Quantiles { measure, quantiles } => quantiles
                .iter()
                .filter_map(|quantile| reach.quantile(*measure, *quantile).map(ScalarRef::float))
                .collect(),
        }
    }
}

fn count(count: u64) -> ScalarRef<'static> {
    ScalarRef::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

/// The sum rounded once, divided once: each nearest to even.
fn mean(sum: f64, count: u64) -> Option<ScalarRef<'static>> {
    Some(ScalarRef::float(sum / count as f64))
}
