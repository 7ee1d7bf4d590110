//! A row as it stands at one moment: what a read sees of it.
//!
//! Nothing is copied out of the row but sums and sketches: a sight borrows states and values, so finishing a feature
//! allocates nothing per value, unless it is a long list.

use super::Row;
use super::event::{AheadEvent, Event, Position};
use super::exact_sum::{ExactSum, Total};
use super::layout::{Measure, RowLayout, SetLayout, Span, TrailLayout};
use super::scalar::{Scalar, ScalarRef};
use super::sketch::Sketch;
use super::state::{Kind, State, add_square};
use super::trail::cardinality::hash;
use super::trail::{Trail, TrailKind};
use super::variance::{Spread, Unit};
use super::wide::{Wide, WideTotal};
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The events of a row that happened before a moment.
pub(crate) struct Sight<'a> {
    row: &'a Row,
    moment: i64,
    /// Kept events before the moment; all later than every folded one.
    ahead: &'a [AheadEvent],
    /// Time of the newest event in sight.
    newest: i64,
}

/// One window over one set of states, found once for every feature that reads it.
pub(crate) struct Reach<'a> {
    set: &'a SetLayout,
    /// Of the window's tiles, oldest first: one of each measure, tile by tile.
    states: &'a [State],
    /// Kept events in the window.
    ahead: &'a [AheadEvent],
    /// The sums of floats asked for so far, by measure: a sum and a mean of one argument add it up once.
    sums: SmallVec<[(usize, Option<f64>); 4]>,
    /// The sketches asked for so far, by measure: several quantiles of one argument merge it once.
    sketches: Vec<(usize, Sketch)>,
}

/// A list that is a feature's value.
pub(crate) type List<'a> = SmallVec<[ScalarRef<'a>; 16]>;

impl<'a> Sight<'a> {
    /// What stands at `moment`; none if nothing has happened by then. A moment at or before the row's newest folded
    /// event is moved to just after it: what was folded can't be told apart any more.
    pub(crate) fn of(row: &'a Row, moment: i64) -> Option<Self> {
        let moment = row.newest.map_or(moment, |newest| moment.max(newest.saturating_add(1)));
        let ahead = &row.ahead[..row.ahead.partition_point(|ahead| ahead.position.time < moment)];
        let newest = ahead.last().map(|ahead| ahead.position.time).max(row.newest)?;
        Some(Self {
            row,
            moment,
            ahead,
            newest,
        })
    }

    /// Time of the newest event in sight.
    pub(crate) fn newest(&self) -> i64 {
        self.newest
    }

    /// Microseconds since the newest event in sight.
    pub(crate) fn age_us(&self) -> i128 {
        i128::from(self.moment) - i128::from(self.newest)
    }

    /// The latest row's value in `slot`.
    pub(crate) fn latest(&self, layout: &RowLayout, slot: usize) -> Option<ScalarRef<'a>> {
        match (self.ahead.last(), &self.row.latest) {
            (Some(last), _) => {
                let input = *layout.latest.get(slot)?;
                let latest = self.ahead.iter().rev();
                let latest = latest.take_while(|ahead| ahead.position == last.position);
                // As if they were folded: the greatest of each value, where several share a position.
                latest.filter_map(|ahead| ahead.input(input)).max()
            }
            (None, Some(latest)) => latest.values.get(slot)?.as_ref().map(Scalar::borrow),
            (None, None) => None,
        }
    }

    /// What a window of `width_us` (none: all time) reaches of set `set`.
    pub(crate) fn reach(&self, layout: &'a RowLayout, set: usize, width_us: Option<i64>) -> Option<Reach<'a>> {
        let layout = layout.sets.get(set)?;
        let first = width_us.map_or(i64::MIN, |width_us| layout.span.first_index(self.moment, width_us));
        let tiles = self.row.tiles.get(set);
        let from = self
            .ahead
            .partition_point(|ahead| layout.span.index(ahead.position.time) < first);
        Some(Reach {
            set: layout,
            states: tiles.map_or(&[], |tiles| tiles.from(layout, first)),
            ahead: &self.ahead[from..],
            sums: SmallVec::new(),
            sketches: Vec::new(),
        })
    }

    /// The `most` newest values of a trail within `window` (of a trail of distinct values, distinct ones), newest first.
    pub(crate) fn newest_values(&self, layout: &RowLayout, trail: usize, window: Span, most: usize) -> List<'a> {
        let (Some(layout), Some(Trail::Values(held))) = (layout.trails.get(trail), self.row.trails.get(trail)) else {
            return List::new();
        };
        let from = self.tail(window);
        let mut kept: SmallVec<[(Position, ScalarRef<'a>); 4]> = self.kept(layout).collect();
        kept.sort_unstable_by(|one, another| another.cmp(one));
        let is_distinct = matches!(layout.kind, TrailKind::Distinct(_));
        let mut values = List::new();
        let later = kept.len();
        for (at, (position, value)) in kept.into_iter().chain(held.iter()).enumerate() {
            if values.len() == most || position.time < from {
                break;
            }
            // What the trail holds is distinct among itself.
            let others = if at < later {
                values.len()
            } else {
                values.len().min(later)
            };
            if !is_distinct || !values[..others].contains(&value) {
                values.push(value);
            }
        }
        values
    }

    /// How many distinct values a trail has seen within `window`.
    pub(crate) fn cardinality(&self, layout: &RowLayout, trail: usize, window: Span) -> u64 {
        let (Some(layout), Some(Trail::Cardinality(seen))) = (layout.trails.get(trail), self.row.trails.get(trail))
        else {
            return 0;
        };
        let span = layout.span();
        let first = match window {
            Span::Ever => i64::MIN,
            Span::Tiles { width_us, .. } => span.first_index(self.moment, width_us),
        };
        let kept = self.kept(layout);
        seen.count(
            first,
            kept.map(|(position, value)| (span.index(position.time), hash(value))),
        )
    }

    /// Where `window` begins.
    fn tail(&self, window: Span) -> i64 {
        match window {
            Span::Ever => i64::MIN,
            Span::Tiles { width_us, .. } => window.start(window.first_index(self.moment, width_us)),
        }
    }

    /// The values that a trail takes of the kept events.
    fn kept(&self, layout: &TrailLayout) -> impl Iterator<Item = (Position, ScalarRef<'a>)> + use<'a> {
        let (ahead, measure) = (self.ahead, layout.measure());
        ahead
            .iter()
            .filter_map(move |event| Some((event.position, measure.taken(event)?)))
    }
}

impl<'a> Reach<'a> {
    fn measure(&self, measure: usize) -> Option<&'a Measure> {
        self.set.measures.get(measure)
    }

    fn states(&self, measure: usize) -> impl DoubleEndedIterator<Item = &'a State> + use<'a> {
        let tiles = self.states.chunks_exact(self.set.measures.len().max(1));
        tiles.filter_map(move |states| states.get(measure))
    }

    /// The values that `measure` takes of the kept events.
    fn kept(&self, measure: usize) -> impl Iterator<Item = (Position, ScalarRef<'a>)> + use<'a> {
        let ahead = self.ahead;
        let taken = self.measure(measure);
        ahead
            .iter()
            .filter_map(move |event| Some((event.position, taken?.taken(event)?)))
    }

    /// How many values there are.
    pub(crate) fn count(&self, measure: usize) -> u64 {
        let folded = self
            .states(measure)
            .map(|state| if let State::Count(count) = state { *count } else { 0 });
        folded.fold(self.kept(measure).count() as u64, u64::wrapping_add)
    }

    /// The sum of integers; none over nothing.
    pub(crate) fn integer(&self, measure: usize) -> Option<i128> {
        let folded = self.states(measure).filter_map(|state| {
            if let State::Integer(sum) = state {
                Some(*sum)
            } else {
                None
            }
        });
        let kept = self.kept(measure).filter_map(|(_, value)| match value {
            ScalarRef::Int(value) => Some(i128::from(value)),
            _ => None,
        });
        folded.chain(kept).reduce(i128::wrapping_add)
    }

    /// The sum of floats, rounded once; none over nothing.
    pub(crate) fn float(&mut self, measure: usize) -> Option<f64> {
        if let Some((_, sum)) = self.sums.iter().find(|(known, _)| *known == measure) {
            return *sum;
        }
        let sum = self.added(measure);
        self.sums.push((measure, sum));
        sum
    }

    fn added(&self, measure: usize) -> Option<f64> {
        self.exactly(measure).map(Total::value)
    }

    /// The sum of floats; none over nothing.
    fn exactly(&self, measure: usize) -> Option<Total> {
        let mut sum: Option<Total> = None;
        for state in self.states(measure) {
            if let State::Float(part) = state {
                sum.get_or_insert_default().merge(part);
            }
        }
        for (_, value) in self.kept(measure) {
            if let ScalarRef::Float(value) = value {
                sum.get_or_insert_default().add(value);
            }
        }
        sum
    }

    /// The sum of squares.
    fn squares(&self, measure: usize) -> Wide {
        let mut sum = WideTotal::default();
        for state in self.states(measure) {
            if let State::Squares(part) = state {
                sum.merge(part);
            }
        }
        let mut sum = sum.into_wide();
        self.kept(measure).for_each(|(_, value)| add_square(&mut sum, value));
        sum
    }

    /// How far integers spread, by three measures of them; none of too few.
    pub(crate) fn spread_of_integers(&self, spread: Spread, [count, sum, squares]: [usize; 3]) -> Option<f64> {
        let count = self.count(count);
        if !spread.is_defined(count) {
            return None;
        }
        let sum = self.integer(sum)?;
        let mut wide = Wide::default();
        wide.add_shifted(sum.unsigned_abs(), 0, sum < 0);
        spread.of(count, &wide, &self.squares(squares), Unit::One)
    }

    /// How far floats spread, by three measures of them; none of too few, NaN if one is NaN or infinite.
    pub(crate) fn spread_of_floats(&self, spread: Spread, [count, sum, squares]: [usize; 3]) -> Option<f64> {
        let count = self.count(count);
        if !spread.is_defined(count) {
            return None;
        }
        let sum: ExactSum = self.exactly(sum)?.into_sum();
        match sum.finite() {
            Some(sum) => spread.of(count, sum, &self.squares(squares), Unit::Least),
            None => Some(f64::NAN),
        }
    }

    /// The `most` greatest values, greatest first.
    pub(crate) fn greatest(&self, measure: usize, most: usize) -> List<'a> {
        // The least of those chosen is on top.
        let mut chosen: BinaryHeap<Reverse<ScalarRef<'a>>> = BinaryHeap::new();
        let mut choose = |value: ScalarRef<'a>| {
            if chosen.len() < most {
                chosen.push(Reverse(value));
                return true;
            }
            match chosen.peek_mut() {
                Some(mut least) if least.0 < value => {
                    *least = Reverse(value);
                    true
                }
                _ => false,
            }
        };
        for state in self.states(measure) {
            if let State::Top(values) = state {
                // In descending order: once one is not chosen, no other is.
                let _ = values.iter().all(|value| choose(value.borrow()));
            }
        }
        self.kept(measure).for_each(|(_, value)| {
            choose(value);
        });
        chosen
            .into_sorted_vec()
            .into_iter()
            .map(|Reverse(value)| value)
            .collect()
    }

    /// A quantile, in millionths, of numbers; none over nothing.
    pub(crate) fn quantile(&mut self, measure: usize, quantile: u32) -> Option<f64> {
        let at = match self.sketches.iter().position(|(known, _)| *known == measure) {
            Some(at) => at,
            None => {
                let sketches = self.states(measure).filter_map(|state| match state {
                    State::Sketch(sketch) => Some(sketch),
                    _ => None,
                });
                let sketch = Sketch::merged(sketches, self.kept(measure).map(|(_, value)| value));
                self.sketches.push((measure, sketch));
                self.sketches.len() - 1
            }
        };
        self.sketches.get(at)?.1.quantile(quantile)
    }

    /// The one value that the measure's kind prefers.
    pub(crate) fn picked(&self, measure: usize) -> Option<ScalarRef<'a>> {
        const NOWHERE: Position = Position {
            time: 0,
            source: ondol_vocabulary::SourcePosition {
                partition: 0,
                offset: 0,
            },
        };
        let kind = self.measure(measure)?.kind;
        let candidate = |state: &'a State| match state {
            State::Picked(position, value) => Some((*position, value.borrow())),
            _ => None,
        };
        let extremes = self.states(measure).filter_map(|state| match state {
            State::Extreme(value) => Some(value.borrow()),
            _ => None,
        });
        let folded = match kind {
            // Tiles stand in order of time: the first or last that holds a value holds the one.
            Kind::First => self.states(measure).find_map(candidate),
            Kind::Last => self.states(measure).rev().find_map(candidate),
            // Equal values are the same value, so it does not matter which of them is the one.
            Kind::Min => extremes.min().map(|value| (NOWHERE, value)),
            Kind::Max => extremes.max().map(|value| (NOWHERE, value)),
            Kind::Count | Kind::Integer | Kind::Float | Kind::Squares | Kind::Top(_) | Kind::Quantiles => None,
        };
        folded
            .into_iter()
            .chain(self.kept(measure))
            .reduce(|best, next| better(kind, best, next))
            .map(|(_, value)| value)
    }
}

fn better<'a>(
    kind: Kind,
    best: (Position, ScalarRef<'a>),
    next: (Position, ScalarRef<'a>),
) -> (Position, ScalarRef<'a>) {
    if kind.prefers(next, best) { next } else { best }
}
