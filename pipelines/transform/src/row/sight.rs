//! A row as it stands at one moment: what a read sees of it.
//!
//! Nothing is copied out of the row but sums: a sight borrows states and values, so finishing a feature allocates
//! nothing per value.

use super::Row;
use super::event::{AheadEvent, Event, Position};
use super::exact_sum::Total;
use super::layout::{Measure, RowLayout, SetLayout};
use super::scalar::{Scalar, ScalarRef};
use super::state::{Kind, State};
use smallvec::SmallVec;

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
}

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
            (Some(ahead), _) => ahead.input(*layout.latest.get(slot)?),
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
        })
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
        sum.map(|sum| sum.value())
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
            Kind::Count | Kind::Integer | Kind::Float => None,
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
