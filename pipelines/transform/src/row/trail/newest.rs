//! The newest values, or the newest distinct ones.

use crate::row::event::Position;
use crate::row::scalar::{Scalar, ScalarRef};
use std::collections::VecDeque;

/// Values and where they stand, ascending by position; of one position by value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Newest {
    entries: VecDeque<(Position, Scalar)>,
}

impl Newest {
    /// Adds a value; of more than `most` the oldest goes.
    pub(crate) fn add(&mut self, most: usize, position: Position, value: ScalarRef<'_>) {
        let is_full = self.entries.len() >= most;
        if is_full
            && self
                .entries
                .front()
                .is_none_or(|oldest| stands(oldest) >= (position, value))
        {
            return;
        }
        if is_full {
            self.entries.pop_front();
        }
        self.put(position, value);
    }

    /// Adds a value that is kept where it occurred last; of more than `most` the oldest goes.
    pub(crate) fn add_distinct(&mut self, most: usize, position: Position, value: ScalarRef<'_>) {
        // From the newest: values that recur have mostly done so of late.
        match self.entries.iter().rposition(|(_, held)| held.borrow() == value) {
            Some(at) if self.entries.get(at).is_some_and(|(held, _)| *held >= position) => {}
            Some(at) => {
                self.entries.remove(at);
                self.put(position, value);
            }
            None => self.add(most, position, value),
        }
    }

    fn put(&mut self, position: Position, value: ScalarRef<'_>) {
        let entry = (position, value.to_owned());
        match self.entries.back() {
            Some(last) if stands(last) > (position, value) => {
                let at = self.entries.partition_point(|held| stands(held) <= (position, value));
                self.entries.insert(at, entry);
            }
            Some(_) | None => self.entries.push_back(entry),
        }
    }

    /// Forgets what happened before `from`.
    pub(crate) fn evict(&mut self, from: i64) {
        while self.entries.front().is_some_and(|(position, _)| position.time < from) {
            self.entries.pop_front();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is held, newest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Position, ScalarRef<'_>)> {
        self.entries.iter().rev().map(stands)
    }

    /// Adds a value older than all held; false if it is not.
    pub(crate) fn push_older(&mut self, position: Position, value: Scalar, is_distinct: bool) -> bool {
        let newer = self.entries.front();
        let follows = newer.is_none_or(|newer| {
            let order = stands(newer).cmp(&(position, value.borrow()));
            order.is_gt() || (order.is_eq() && !is_distinct)
        });
        if follows {
            self.entries.push_front((position, value));
        }
        follows
    }
}

fn stands(entry: &(Position, Scalar)) -> (Position, ScalarRef<'_>) {
    (entry.0, entry.1.borrow())
}
