//! The tiles of one hop: for each stretch of time that had events, the partial states of every measure.
//!
//! States stand densely behind one another, so a row has two allocations per hop however many tiles it holds.

use super::event::{Event, Position};
use super::layout::SetLayout;
use super::scalar::ScalarRef;
use super::state::State;

/// Tiles in ascending order, each with a state per measure, some of them empty. A tile has a state that is not.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TileSet {
    indexes: Vec<i64>,
    /// `indexes.len()` times the number of measures.
    states: Vec<State>,
}

impl TileSet {
    /// Takes in an event whose tile is retained.
    pub(crate) fn absorb(&mut self, layout: &SetLayout, event: &impl Event) {
        let position = event.position();
        let mut tile = None;
        for (at, measure) in layout.measures.iter().enumerate() {
            let Some(value) = measure.taken(event) else { continue };
            // Only now: a tile in which no measure took anything does not exist.
            let tile = *tile.get_or_insert_with(|| self.find_or_insert(layout, position));
            self.absorb_at(tile + at, layout, at, position, value);
        }
    }

    fn absorb_at(&mut self, state: usize, layout: &SetLayout, at: usize, position: Position, value: ScalarRef<'_>) {
        self.states[state].absorb(layout.measures[at].kind, position, value);
    }

    /// Where the states of the tile that holds `position` start.
    fn find_or_insert(&mut self, layout: &SetLayout, position: Position) -> usize {
        let index = layout.span.index(position.time);
        let width = layout.measures.len();
        // Most events are newer than what is held, or as new.
        let at = match self.indexes.last() {
            Some(last) if *last == index => return (self.indexes.len() - 1) * width,
            Some(last) if *last > index => self.indexes.partition_point(|held| *held < index),
            Some(_) | None => self.indexes.len(),
        };
        if self.indexes.get(at) != Some(&index) {
            self.indexes.insert(at, index);
            let start = at * width;
            self.states
                .splice(start..start, std::iter::repeat_n(State::Empty, width));
        }
        at * width
    }

    /// Forgets the tiles before `first`.
    pub(crate) fn evict(&mut self, layout: &SetLayout, first: i64) {
        let evicted = self.indexes.partition_point(|index| *index < first);
        if evicted > 0 {
            self.indexes.drain(..evicted);
            self.states.drain(..evicted * layout.measures.len());
        }
    }

    /// The states of the tiles from `first` on, oldest first: one of each measure, tile by tile.
    pub(crate) fn from(&self, layout: &SetLayout, first: i64) -> &[State] {
        let from = self.indexes.partition_point(|index| *index < first) * layout.measures.len();
        self.states.get(from..).unwrap_or_default()
    }

    /// Every tile's index and states, oldest first.
    pub(crate) fn iter(&self, layout: &SetLayout) -> impl Iterator<Item = (i64, &[State])> {
        self.indexes
            .iter()
            .copied()
            .zip(self.states.chunks_exact(layout.measures.len().max(1)))
    }

    pub(crate) fn len(&self) -> usize {
        self.indexes.len()
    }

    /// Room for `tiles` more.
    pub(crate) fn reserve(&mut self, layout: &SetLayout, tiles: usize) {
        self.indexes.reserve_exact(tiles);
        self.states.reserve_exact(tiles * layout.measures.len());
    }

    /// Appends a tile, newer than all held, and gives its states, one of each measure, to be filled in.
    pub(crate) fn push_tile(&mut self, layout: &SetLayout, index: i64) -> &mut [State] {
        self.indexes.push(index);
        let start = self.states.len();
        self.states.resize_with(start + layout.measures.len(), State::default);
        &mut self.states[start..]
    }
}
