//! An event as a row takes it in: from a projected batch, or from those the row keeps until their time has come.

use super::layout::RowLayout;
use super::scalar::{Scalar, ScalarRef};
use ondol_vocabulary::SourcePosition;

/// Where an event stands in time and, among events of the same time, in its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// Event time in microseconds.
    pub(crate) time: i64,
    /// Decides between events of the same time.
    pub(crate) source: SourcePosition,
}

/// One event's evaluated expressions.
pub(crate) trait Event {
    fn position(&self) -> Position;
    /// The value of the view's input `input`, unless null.
    fn input(&self, input: usize) -> Option<ScalarRef<'_>>;
    /// Whether the event meets the view's feature filter `filter`; null is no.
    fn passes(&self, filter: usize) -> bool;
}

/// An event that claims to happen later than anything the row knows to have arrived. It is kept whole until then, so
/// that reads before its time do not see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AheadEvent {
    pub(crate) position: Position,
    pub(crate) passes: Box<[bool]>,
    pub(crate) inputs: Box<[Option<Scalar>]>,
}

impl AheadEvent {
    pub(crate) fn of(layout: &RowLayout, event: &impl Event) -> Self {
        Self {
            position: event.position(),
            passes: (0..layout.filters).map(|filter| event.passes(filter)).collect(),
            inputs: (0..layout.inputs.len())
                .map(|input| event.input(input).map(ScalarRef::to_owned))
                .collect(),
        }
    }
}

impl Event for AheadEvent {
    fn position(&self) -> Position {
        self.position
    }

    fn input(&self, input: usize) -> Option<ScalarRef<'_>> {
        self.inputs.get(input)?.as_ref().map(Scalar::borrow)
    }

    fn passes(&self, filter: usize) -> bool {
        self.passes.get(filter).copied().unwrap_or(false)
    }
}
