//! Which features are read directly, and off what: readings of rows turned into readings of columns.

use super::super::compile::{Answer, Reading};
use super::super::projection::{Projection, failure};
use super::lanes::Lanes;
use super::picks;
use super::reach::Reach;
use super::totals::{Total, Totals};
use super::{ViewEngine, Worth};
use crate::expression::ExpressionError;
use crate::row::layout::{Measure, Span};
use crate::row::state::Kind;
use arrow::array::{Array, ArrayRef, Float64Array, Int64Array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use std::sync::Arc;

/// How the direct features of a view are read.
#[derive(Debug, Default)]
pub(super) struct Readings {
    /// By feature.
    pub(super) features: Vec<Direct>,
    /// The distinct windows.
    pub(super) windows: Vec<Window>,
    /// The distinct sets of events that count: those with a value of an input, past a filter.
    pub(super) takes: Vec<Take>,
}

/// A window of a width, whose tail moves as `span` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) span: Span,
    pub(super) width_us: Option<i64>,
}

/// The events that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Take {
    /// The input whose value must not be null.
    pub(super) input: Option<usize>,
    pub(super) filter: Option<usize>,
}

/// One feature. Numbers are places among the windows, takes and inputs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direct {
    Latest { input: usize },
    Count { window: usize, take: usize },
    Sum { window: usize, take: usize },
    Mean { window: usize, take: usize },
    Pick { window: usize, take: usize, kind: Kind },
}

/// Whether a feature can be read directly.
pub(super) fn is_direct(reading: &Reading) -> bool {
    match reading {
        Reading::Latest { .. } => true,
        Reading::Window { answer, .. } => matches!(
            answer,
            Answer::Count(_)
                | Answer::Integer(_)
                | Answer::Float(_)
                | Answer::IntegerMean { .. }
                | Answer::FloatMean { .. }
                | Answer::Picked(_)
        ),
        Reading::WindowList { .. } | Reading::Newest { .. } | Reading::Cardinality { .. } => false,
    }
}

impl Readings {
    /// Of an engine all of whose features are direct.
    pub(super) fn of(engine: &ViewEngine) -> Self {
        let mut readings = Self::default();
        for reading in &engine.readings {
            if let Some(direct) = readings.reading(engine, reading) {
                readings.features.push(direct);
            }
        }
        readings
    }

    fn reading(&mut self, engine: &ViewEngine, reading: &Reading) -> Option<Direct> {
        let (set, width_us, answer) = match reading {
            Reading::Latest { slot } => {
                let input = *engine.layout.latest.get(*slot)?;
                return Some(Direct::Latest { input });
            }
            Reading::Window { set, width_us, answer } => (engine.layout.sets.get(*set)?, *width_us, *answer),
            Reading::WindowList { .. } | Reading::Newest { .. } | Reading::Cardinality { .. } => return None,
        };
        let window = Window {
            // The widest of the hop is nothing to this one.
            span: set.span.of_any_width(),
            width_us,
        };
        let window = place(&mut self.windows, window);
        let mut measure = |at: usize| {
            let Measure { kind, input, filter } = *set.measures.get(at)?;
            Some((place(&mut self.takes, Take { input, filter }), kind))
        };
        Some(match answer {
            Answer::Count(at) => Direct::Count {
                window,
                take: measure(at)?.0,
            },
            Answer::Integer(at) | Answer::Float(at) => Direct::Sum {
                window,
                take: measure(at)?.0,
            },
            Answer::IntegerMean { sum, .. } | Answer::FloatMean { sum, .. } => Direct::Mean {
                window,
                take: measure(sum)?.0,
            },
            Answer::Picked(at) => {
                let (take, kind) = measure(at)?;
                Direct::Pick { window, take, kind }
            }
            Answer::IntegerSpread { .. } | Answer::FloatSpread { .. } | Answer::Quantile { .. } => return None,
        })
    }

    pub(super) fn is_latest_only(&self) -> bool {
        self.features
            .iter()
            .all(|direct| matches!(direct, Direct::Latest { .. }))
    }

    pub(super) fn has_positions(&self) -> bool {
        self.features.iter().any(|direct| {
            matches!(
                direct,
                Direct::Latest { .. }
                    | Direct::Pick {
                        kind: Kind::First | Kind::Last,
                        ..
                    }
            )
        })
    }

    /// Every feature's values, off columns in order.
    pub(super) fn values(
        &self,
        engine: &ViewEngine,
        projection: &Projection,
        lanes: &Lanes,
        reach: &Reach,
    ) -> Result<Vec<ArrayRef>, ExpressionError> {
        let taken: Vec<Option<BooleanBuffer>> = self.takes.iter().map(|take| taken(projection, take)).collect();
        let mut totals: Vec<Option<Total>> = Vec::new();
        totals.resize_with(self.takes.len(), || None);
        let mut counts: Vec<Option<Vec<u32>>> = vec![None; self.takes.len()];
        // A sum and a mean of one window mostly stand side by side.
        let mut last: Option<((usize, usize), Totals)> = None;
        let mut arrays = Vec::with_capacity(self.features.len());
        for direct in &self.features {
            arrays.push(match *direct {
                Direct::Latest { input } => picks::latest(projection, input, reach)?,
                Direct::Count { window, take } => {
                    let counts = reach.counts(window, running(&mut counts, &taken, take));
                    Arc::new(Int64Array::new(counts.into(), reach.nulls_of_counts())) as ArrayRef
                }
                Direct::Sum { window, take } | Direct::Mean { window, take } => {
                    if last.as_ref().is_none_or(|(of, _)| *of != (window, take)) {
                        let total = match &mut totals[take] {
                            Some(total) => total,
                            unknown => unknown.insert(
                                Total::of(projection, &self.takes[take], taken[take].as_ref(), lanes)
                                    .ok_or_else(|| failure("a sum", &"its argument is no number"))?,
                            ),
                        };
                        last = Some(((window, take), total.of_window(reach, window, lanes)));
                    }
                    let Some((_, sums)) = &last else { continue };
                    let counts = reach.counts(window, running(&mut counts, &taken, take));
                    match direct {
                        Direct::Sum { .. } => sums.sums(&counts, reach),
                        _ => sums.means(&counts, reach),
                    }
                }
                Direct::Pick { window, take, kind } => {
                    picks::pick(projection, &self.takes[take], taken[take].as_ref(), kind, window, reach)?
                }
            });
        }
        debug_assert_eq!(arrays.len(), engine.readings.len(), "a column per feature");
        Ok(arrays)
    }
}

/// For each event, how many up to and with it were taken; none if all are.
fn running<'c>(counts: &'c mut [Option<Vec<u32>>], taken: &[Option<BooleanBuffer>], take: usize) -> Option<&'c [u32]> {
    let taken = taken[take].as_ref()?;
    let counts = counts[take].get_or_insert_with(|| {
        let mut count = 0;
        let next = |taken: bool| {
            count += u32::from(taken);
            count
        };
        taken.iter().map(next).collect()
    });
    Some(counts)
}

/// The events that count; none if all do.
fn taken(projection: &Projection, take: &Take) -> Option<BooleanBuffer> {
    let values = take
        .input
        .and_then(|input| projection.column(input)?.array().nulls().cloned());
    let values = values
        .filter(|nulls| nulls.null_count() > 0)
        .map(NullBuffer::into_inner);
    let passed = take
        .filter
        .and_then(|filter| Some(projection.filter(filter)?.values().clone()));
    match (values, passed) {
        (Some(values), Some(passed)) => Some(&values & &passed),
        (values, passed) => values.or(passed),
    }
}

fn place<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|known| *known == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

impl Reach {
    /// Counts of missing entities are 0, of stale ones null.
    pub(super) fn nulls_of_counts(&self) -> Option<NullBuffer> {
        let worth = self.worth.as_ref()?;
        Some(
            worth
                .iter()
                .map(|worth| *worth != Worth::Stale)
                .collect::<BooleanBuffer>()
                .into(),
        )
    }

    /// A column of floats, null where nothing was counted.
    pub(super) fn floats(&self, values: Vec<f64>, counts: &[i64]) -> ArrayRef {
        Arc::new(Float64Array::new(values.into(), nulls_of_nothing(counts)))
    }
}

/// Null where nothing was counted.
pub(super) fn nulls_of_nothing(counts: &[i64]) -> Option<NullBuffer> {
    let nulls = NullBuffer::from(BooleanBuffer::collect_bool(counts.len(), |at| counts[at] > 0));
    (nulls.null_count() > 0).then_some(nulls)
}
