//! Fences: how far a row has absorbed each partition of its source, so that a second delivery changes nothing.

use smallvec::SmallVec;

/// The first offset not absorbed of each partition that the row has seen, within one generation of the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fences {
    generation: u64,
    /// Ascending by partition. A row whose key is the topic's has one.
    next: SmallVec<[(i32, i64); 2]>,
}

impl Fences {
    pub(crate) fn get(&self, generation: u64, partition: i32) -> Option<i64> {
        if generation != self.generation {
            return None;
        }
        let at = self
            .next
            .binary_search_by_key(&partition, |(partition, _)| *partition)
            .ok()?;
        self.next.get(at).map(|(_, next)| *next)
    }

    pub(crate) fn advance(&mut self, generation: u64, partition: i32, next_offset: i64) {
        if generation != self.generation {
            self.next.clear();
            self.generation = generation;
        }
        match self.next.binary_search_by_key(&partition, |(partition, _)| *partition) {
            Ok(at) => self.next[at].1 = self.next[at].1.max(next_offset),
            Err(at) => self.next.insert(at, (partition, next_offset)),
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The fences by ascending partition.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (i32, i64)> + '_ {
        self.next.iter().copied()
    }

    /// Appends a fence of a partition beyond all held.
    pub(crate) fn push(&mut self, generation: u64, partition: i32, next_offset: i64) {
        self.generation = generation;
        self.next.push((partition, next_offset));
    }
}
