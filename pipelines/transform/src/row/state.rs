//! Partial states: what a tile keeps of the events in it.
//!
//! Each kind is a commutative monoid: states absorb values and merge in any order and any split with the same result.
//! An empty state takes no space in a stored row.

use super::event::{Event, Position};
use super::exact_sum::ExactSum;
use super::layout::Measure;
use super::scalar::{Scalar, ScalarRef};
use super::sketch::Sketch;
use super::wide::Wide;

/// What a state keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// How many values.
    Count,
    /// The exact sum of integers.
    Integer,
    /// The exact sum of floats.
    Float,
    /// The exact sum of the squares of numbers.
    Squares,
    /// The least value.
    Min,
    /// The greatest value.
    Max,
    /// The value of the least position.
    First,
    /// The value of the greatest position.
    Last,
    /// The so many greatest values, each as often as it occurs.
    Top(u32),
    /// How the values are spread: a sketch of their quantiles.
    Quantiles,
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
    /// Of [`Kind::Squares`].
    Squares(Wide),
    /// Of [`Kind::Min`] and [`Kind::Max`].
    Extreme(Scalar),
    /// Of [`Kind::First`] and [`Kind::Last`].
    Picked(Position, Scalar),
    /// Of [`Kind::Top`]: greatest first.
    Top(Vec<Scalar>),
    /// Of [`Kind::Quantiles`].
    Sketch(Sketch),
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
            (Self::Squares(sum), value) => add_square(sum, value),
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
            (Self::Top(values), value) => keep_greatest(values, kind, value),
            (Self::Sketch(sketch), value) => sketch.add_scalar(value),
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
            (Kind::Squares, value) => {
                let mut sum = Wide::default();
                add_square(&mut sum, value);
                Self::Squares(sum)
            }
            (Kind::Min | Kind::Max, value) => Self::Extreme(value.to_owned()),
            (Kind::First | Kind::Last, value) => Self::Picked(position, value.to_owned()),
            (Kind::Top(_), value) => Self::Top(vec![value.to_owned()]),
            (Kind::Quantiles, value) => {
                let mut sketch = Sketch::default();
                sketch.add_scalar(value);
                Self::Sketch(sketch)
            }
            (Kind::Integer | Kind::Float, value) => {
                debug_assert!(false, "a sum took {value:?}");
                Self::Empty
            }
        }
    }
}

/// Adds the square of a number to `sum`: of an integer in units of 1, of a float in those of [`super::variance`].
pub(crate) fn add_square(sum: &mut Wide, value: ScalarRef<'_>) {
    match value {
        ScalarRef::Int(value) => sum.add_square_of_integer(value),
        ScalarRef::Float(value) => sum.add_square_of_float(value),
        ScalarRef::Bool(_) | ScalarRef::Text(_) => debug_assert!(false, "a sum took {value:?}"),
    }
}

/// Puts `value` in its place among the greatest, if it is one of them.
fn keep_greatest(values: &mut Vec<Scalar>, kind: Kind, value: ScalarRef<'_>) {
    let Kind::Top(most) = kind else { return };
    let is_full = values.len() >= most as usize;
    if is_full && values.last().is_none_or(|least| least.borrow() >= value) {
        return;
    }
    let at = values.partition_point(|held| held.borrow() >= value);
    if is_full {
        values.pop();
    }
    values.insert(at, value.to_owned());
}

impl Kind {
    /// Its name in the fingerprint of a layout.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Squares => "squares",
            Self::Min => "min",
            Self::Max => "max",
            Self::First => "first",
            Self::Last => "last",
            Self::Top(_) => "top",
            Self::Quantiles => "quantiles",
        }
    }

    /// The kind whose states serve readers of both, if there is one: the more values are kept, the fewer can be read.
    pub(crate) fn joined(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Top(one), Self::Top(another)) => Some(Self::Top(one.max(another))),
            _ => (self == other).then_some(self),
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
            Self::Count | Self::Integer | Self::Float | Self::Squares | Self::Top(_) | Self::Quantiles => false,
        }
    }
}
