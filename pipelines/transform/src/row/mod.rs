//! An entity's row in one view: fences, latest values, window tiles. The stored value of the online store.
//!
//! A row is a fold of the set of events it absorbed: neither their order nor their batches can be told from it, nor
//! from its bytes. In the order of the data:
//! 1. an `event` carries evaluated expressions; the `layout` says which of them the view's rows keep, and how;
//! 2. `state`s (with [`exact_sum`], squares for a `variance`, a `sketch` of quantiles) keep what matters of a stretch of
//!    time, `tiles` keep a state for each stretch; a `trail` keeps what one state can answer for every window;
//! 3. a `sight` is the row as it stands at one moment: what reads see;
//! 4. the `codec` is its one stored form.
//!
//! **Ahead.** A row believes no event before its time: one whose event time is later than every arrival the row has
//! seen is kept whole, and folded into the tiles once an arrival reaches its time. So every folded event has happened
//! by the newest arrival, and a read never has to take one out of a tile again.
//!
//! **Eviction** follows the row's own newest folded event, never the wall clock: a tile is retained while a read
//! later than that event can still reach it. So replaying a log ends in the same row as living through it.

pub(crate) mod bytes;
pub(crate) mod codec;
pub(crate) mod event;
pub mod exact_sum;
mod fences;
pub(crate) mod float_block;
pub(crate) mod layout;
mod result_type;
mod rounding;
pub(crate) mod scalar;
pub(crate) mod sight;
mod size;
pub(crate) mod sketch;
pub(crate) mod state;
mod tiles;
pub(crate) mod trail;
pub(crate) mod variance;
pub(crate) mod wide;

pub(crate) use codec::{decode, encode};
pub use exact_sum::ExactSum;
pub use result_type::{ArgumentError, MAX_QUANTILES, MAX_VALUES, WHOLE, check_parameters, result_type};
pub(crate) use result_type::{example, parameter_range};
pub use size::{Bytes, RowPart, RowPartKind, RowSize, TEXT_BYTES};

use event::{AheadEvent, Event, Position};
use fences::Fences;
use layout::RowLayout;
use ondol_vocabulary::EventTime;
use scalar::{Scalar, ScalarRef};
use tiles::TileSet;
use trail::Trail;

/// What one view knows of one entity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    fences: Fences,
    /// The newest arrival absorbed; none before the first event.
    known: Option<i64>,
    /// Time of the newest event folded.
    newest: Option<i64>,
    /// The latest row's values, if the view keeps any and an event was folded.
    latest: Option<Latest>,
    /// One per set of the layout, from the first event on.
    tiles: Vec<TileSet>,
    /// One per trail of the layout, from the first event on.
    trails: Vec<Trail>,
    /// Events later than `known`, ascending by position.
    ahead: Vec<AheadEvent>,
}

/// The values of the event of the greatest position; of several, the greatest of each value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Latest {
    position: Position,
    /// By slot of the layout.
    values: Box<[Option<Scalar>]>,
}

/// Stored bytes that are not a row of this view.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the stored row is unreadable: {0}")]
pub struct RowError(pub String);

impl Row {
    /// The first offset of `partition` not absorbed, in the row's present generation; none if the row has seen nothing
    /// of it, or if `generation` differs from the row's.
    pub fn fence(&self, generation: u64, partition: i32) -> Option<i64> {
        self.fences.get(generation, partition)
    }

    /// The generation of the fences; 0 before the first event.
    pub fn generation(&self) -> u64 {
        self.fences.generation()
    }

    /// Moves the fence of `partition` up to `next_offset`, never back. A new generation drops the fences of the old
    /// one.
    pub fn advance(&mut self, generation: u64, partition: i32, next_offset: i64) {
        self.fences.advance(generation, partition, next_offset);
    }

    /// Time of the newest event folded into the row. Reads must be later; see
    /// [`crate::ViewEngine::finish`].
    pub fn newest(&self) -> Option<EventTime> {
        self.newest.map(EventTime::from_micros)
    }

    /// Takes in one event; false if it came too late to count for anything the row keeps.
    pub(crate) fn absorb(&mut self, layout: &RowLayout, event: &impl Event, ingested_at: i64) -> bool {
        if self.tiles.len() < layout.sets.len() {
            self.tiles.resize_with(layout.sets.len(), TileSet::default);
        }
        if self.trails.len() < layout.trails.len() {
            self.trails = layout.trails.iter().map(Trail::empty).collect();
        }
        let known = self.known.map_or(ingested_at, |known| known.max(ingested_at));
        if self.known.is_none_or(|before| before < known) {
            self.known = Some(known);
            let due = self.ahead.partition_point(|ahead| ahead.position.time <= known);
            for ahead in self.ahead.drain(..due).collect::<Vec<_>>() {
                self.fold(layout, &ahead);
            }
        }
        if event.position().time > known {
            let ahead = AheadEvent::of(layout, event);
            let at = self.ahead.partition_point(|held| *held < ahead);
            self.ahead.insert(at, ahead);
            return true;
        }
        self.fold(layout, event)
    }

    /// Folds an event whose time has come into the tiles and the latest row.
    fn fold(&mut self, layout: &RowLayout, event: &impl Event) -> bool {
        let time = event.position().time;
        let before = self.newest;
        let newest = before.map_or(time, |newest| newest.max(time));
        let advanced = before != Some(newest);
        self.newest = Some(newest);
        let mut counted = self.keep_latest(layout, event);
        for (tiles, set) in self.tiles.iter_mut().zip(&layout.sets) {
            let first = set.span.first_retained(newest);
            if advanced {
                tiles.evict(set, first);
            }
            if set.span.index(time) >= first {
                tiles.absorb(set, event);
                counted = true;
            }
        }
        for (trail, layout) in self.trails.iter_mut().zip(&layout.trails) {
            let from = layout.retained_from(newest);
            if advanced && before.is_none_or(|before| layout.retained_from(before) != from) {
                trail.evict(layout, from);
            }
            if time >= from {
                trail.absorb(layout, event);
                counted = true;
            }
        }
        counted
    }

    /// Keeps the event's values if it is the latest row; whether it is.
    fn keep_latest(&mut self, layout: &RowLayout, event: &impl Event) -> bool {
        if layout.latest.is_empty() {
            return false;
        }
        let position = event.position();
        if self.latest.as_ref().is_some_and(|latest| latest.position > position) {
            return false;
        }
        let values = layout
            .latest
            .iter()
            .map(|input| event.input(*input).map(ScalarRef::to_owned));
        match &mut self.latest {
            // Events of one message share a position, and rows of a table have none (or a topic was recreated). Then each
            // value decides for itself: neither the order of arrival nor what else the view keeps may matter.
            Some(latest) if latest.position == position => {
                let mut newer = false;
                for (held, value) in latest.values.iter_mut().zip(values) {
                    if *held < value {
                        *held = value;
                        newer = true;
                    }
                }
                newer
            }
            _ => {
                let values = values.collect();
                self.latest = Some(Latest { position, values });
                true
            }
        }
    }
}

#[cfg(test)]
mod tests;
