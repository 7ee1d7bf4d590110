//! Trails: what a row keeps once for all windows, rather than once a tile.
//!
//! A read is later than every folded event, so every window reaches up to the newest one, and windows differ only in how
//! far back they go. Where a value can only be pushed out by newer ones, whatever is pushed out of all time is pushed out
//! of every window too: the n newest values of all time, cut at a window's tail, are the n newest of the window. So one
//! list answers windows of any width and hop, and its length does not grow with their number of tiles.
//!
//! A trail is a function of the set of events absorbed, whatever their order: what it drops, by time or by number, no
//! later event can bring back. What no window reaches any more is forgotten, as tiles are.

pub(crate) mod cardinality;
mod newest;

use super::event::Event;
use super::layout::{Measure, TrailLayout};
pub(crate) use cardinality::Cardinality;
pub(crate) use newest::Newest;

/// What a trail keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrailKind {
    /// The so many newest values.
    Newest(u32),
    /// The so many newest distinct values, each where it occurred last.
    Distinct(u32),
    /// How many distinct values there are.
    Cardinality,
}

/// The state of one trail.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Trail {
    /// Of [`TrailKind::Newest`] and [`TrailKind::Distinct`].
    Values(Newest),
    /// Of [`TrailKind::Cardinality`].
    Cardinality(Cardinality),
}

impl TrailKind {
    /// The kind that serves readers of both, if there is one.
    pub(crate) fn joined(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Newest(one), Self::Newest(another)) => Some(Self::Newest(one.max(another))),
            (Self::Distinct(one), Self::Distinct(another)) => Some(Self::Distinct(one.max(another))),
            _ => (self == other).then_some(self),
        }
    }

    /// Whether it divides time into tiles, those of the one hop it serves.
    pub(crate) fn is_tiled(self) -> bool {
        self == Self::Cardinality
    }
}

impl TrailLayout {
    /// Which values it takes of an event.
    pub(crate) fn measure(&self) -> Measure {
        Measure {
            kind: super::state::Kind::Last,
            input: Some(self.input),
            filter: self.filter,
        }
    }
}

impl Trail {
    /// Of no events.
    pub(crate) fn empty(layout: &TrailLayout) -> Self {
        match layout.kind {
            TrailKind::Newest(_) | TrailKind::Distinct(_) => Self::Values(Newest::default()),
            TrailKind::Cardinality => Self::Cardinality(Cardinality::default()),
        }
    }

    /// Takes in an event that is retained.
    pub(crate) fn absorb(&mut self, layout: &TrailLayout, event: &impl Event) {
        let measure = layout.measure();
        let Some(value) = measure.taken(event) else { return };
        let position = event.position();
        match (self, layout.kind) {
            (Self::Values(newest), TrailKind::Newest(most)) => newest.add(most as usize, position, value),
            (Self::Values(newest), TrailKind::Distinct(most)) => newest.add_distinct(most as usize, position, value),
            (Self::Cardinality(seen), _) => seen.add(layout.span().index(position.time), value),
            (Self::Values(_), TrailKind::Cardinality) => debug_assert!(false, "a trail is of another kind"),
        }
    }

    /// Forgets what happened before `from`.
    pub(crate) fn evict(&mut self, layout: &TrailLayout, from: i64) {
        match self {
            Self::Values(newest) => newest.evict(from),
            Self::Cardinality(seen) => seen.evict(layout.span().index(from)),
        }
    }
}

#[cfg(test)]
mod tests;
