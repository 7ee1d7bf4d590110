//! Partial states: what a tile keeps of the events in it.
//!
//! Each kind is a commutative monoid: states absorb values and merge in any order and any split with the same result.
//! An empty state takes no space in a stored row.

use super::event::{Event, Position};
use super::exact_sum::ExactSum;
use super::layout::Measure;
use super::scalar::{Scalar, ScalarRef};

/// What a state keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// How many values.
    Count,
    /// The exact sum of integers.
    Integer,
    /// The exact sum of floats.
    Float,
    /// The least value.
    Min,
    /// The greatest value.
    Max,
    /// The value of the least position.
    First,
    /// The value of the greatest position.
    Last,
}

/// The partial state of one measure over one tile.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum State {
    /// No value yet.
    #[default]
    Empty,
    /// Of [`Kind::Count`].
    Count(u64),
    /// Of [`Kind::Integer`]: 2⁶⁴ values of 64 bits fit.
    Integer(i128),
    /// Of [`Kind::Float`].
    Float(ExactSum),
    /// Of [`Kind::Min`] and [`Kind::Max`].
    Extreme(Scalar),
    /// Of [`Kind::First`] and [`Kind::Last`].
    Picked(Position, Scalar),
}

impl Measure {
    /// The value of `event` that this measure takes, if it takes the event: the filter passes and the argument is not
    /// null. Without an argument the event itself counts.
    pub(crate) fn taken<'e>(&self, event: &'e impl Event) -> Option<ScalarRef<'e>> {
        if self.filter.is_some_and(|filter| !event.passes(filter)) {
            return None;
        }
        match self.input {
            Some(input) => event.input(input),
            None => Some(ScalarRef::Bool(true)),
        }
    }
}

impl State {
    /// Takes in one value that stands at `position`.
    pub(crate) fn absorb(&mut self, kind: Kind, position: Position, value: ScalarRef<'_>) {
        match (&mut *self, value) {
            (Self::Empty, _) => *self = Self::of(kind, position, value),
            (Self::Count(count), _) => *count = count.wrapping_add(1),
            (Self::Integer(sum), ScalarRef::Int(value)) => *sum = sum.wrapping_add(i128::from(value)),
            (Self::Float(sum), ScalarRef::Float(value)) => sum.add(value),
            (Self::Extreme(best), value) => {
                if kind.prefers((position, value), (position, best.borrow())) {
                    *best = value.to_owned();
                }
            }
            (Self::Picked(at, best), value) => {
                if kind.prefers((position, value), (*at, best.borrow())) {
                    *at = position;
                    *best = value.to_owned();
                }
            }
            // A sum's argument is numeric, of one type: compiling the view checked it.
            (Self::Integer(_) | Self::Float(_), _) => debug_assert!(false, "a sum took {value:?}"),
        }
    }

    /// The state of a single value.
    fn of(kind: Kind, position: Position, value: ScalarRef<'_>) -> Self {
        match (kind, value) {
            (Kind::Count, _) => Self::Count(1),
            (Kind::Integer, ScalarRef::Int(value)) => Self::Integer(i128::from(value)),
            (Kind::Float, ScalarRef::Float(value)) => Self::Float([value].into_iter().collect()),
            (Kind::Min | Kind::Max, value) => Self::Extreme(value.to_owned()),
            (Kind::First | Kind::Last, value) => Self::Picked(position, value.to_owned()),
            (Kind::Integer | Kind::Float, value) => {
                debug_assert!(false, "a sum took {value:?}");
                Self::Empty
            }
        }
    }
}

impl Kind {
    /// Its name in the fingerprint of a layout.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Min => "min",
            Self::Max => "max",
            Self::First => "first",
            Self::Last => "last",
        }
    }

    /// Whether `challenger` takes the place of `holder` in a state that keeps one value.
    ///
    /// Positions differ between events of one generation; should two events share one (a topic was recreated), the
    /// value decides, so that the order of arrival never does.
    pub(crate) fn prefers(self, challenger: (Position, ScalarRef<'_>), holder: (Position, ScalarRef<'_>)) -> bool {
        match self {
            Self::Min => challenger.1 < holder.1,
            Self::Max => challenger.1 > holder.1,
            Self::First => challenger < holder,
            Self::Last => challenger > holder,
            Self::Count | Self::Integer | Self::Float => false,
        }
    }
}
