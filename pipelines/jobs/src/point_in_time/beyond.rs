//! What happened before a row can reach: too old to make a value of, but not nothing.
//!
//! An event older than the lookback of a view changes no value, so it is not kept; that there was one still tells a
//! stale or empty row from one of an entity that nobody has ever heard of. A mark for each place of the spine is enough.

use super::entities::Entities;
use super::view::JoinView;
use ondol_transform::Worth;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// By place of the spine, whether its moment was the first to see an event too old to matter.
pub(crate) struct Beyond {
    /// Empty where no event is too old.
    places: Vec<AtomicU8>,
    is_marked: AtomicBool,
}

impl Beyond {
    /// Of the spine of `entities`, for `view`.
    pub(crate) fn new(view: &JoinView, entities: &Entities) -> Self {
        let places = view.lookback_us().map_or(0, |_| entities.row_count());
        let mut marks = Vec::with_capacity(places);
        marks.resize_with(places, AtomicU8::default);
        Self {
            places: marks,
            is_marked: AtomicBool::new(false),
        }
    }

    /// An event that the row at `place` is the first to see is too old for it.
    #[inline]
    pub(crate) fn mark(&self, place: usize) {
        if let Some(mark) = self.places.get(place)
            && mark.load(Ordering::Relaxed) == 0
        {
            // Written once: threads that mark neighbours would take the line from each other each time.
            mark.store(1, Ordering::Relaxed);
            self.is_marked.store(true, Ordering::Relaxed);
        }
    }

    /// Corrects `worth`, by row of the spine, of entities to which nothing happened in reach. With `unread`, older events
    /// were not even read: of the rows that name an entity nobody knows then.
    pub(crate) fn settle(&self, view: &JoinView, entities: &Entities, unread: bool, worth: &mut [Worth]) {
        if !unread && !self.is_marked.load(Ordering::Relaxed) {
            return;
        }
        let before = view.worth_of_past();
        for entity in 0..entities.len() {
            let never = match unread && entity != entities.nobody() {
                true => Worth::Unread,
                false => Worth::Missing,
            };
            let mut has_past = false;
            for place in entities.slots(&(entity..entity + 1)) {
                let mark = self.places.get(place);
                has_past |= mark.is_some_and(|mark| mark.load(Ordering::Relaxed) != 0);
                let row = entities.rows().get(place).map(|row| *row as usize);
                if let Some(worth @ Worth::Missing) = row.and_then(|row| worth.get_mut(row)) {
                    *worth = if has_past { before } else { never };
                }
            }
        }
    }
}

impl JoinView {
    /// What an entity is worth of which only events are known that are too old to matter.
    pub(crate) fn worth_of_past(&self) -> Worth {
        match self.definition().ttl_us {
            // It may have been a deletion, which is no state that ages.
            Some(_) if self.history().has_deletions() => Worth::Unread,
            Some(_) => Worth::Stale,
            None => Worth::Live,
        }
    }
}
