//! Rows written lately, in memory: what the file does not hold yet, and what it was given last.
//!
//! Two generations of rows. Writes go to the *fresh* one; settling makes it the *settled* one, which goes to the file in
//! one transaction and then stays for readers until the next generation takes its place. A row is looked for in the
//! fresh generation, then in the settled one, then in the file, in this order: whatever a generation drops is in the
//! file before.
//!
//! A generation that could not be written stays until it is, and no other takes its place meanwhile: so memory holds at
//! most two.

use crate::online::RowKey;
use bytes::Bytes;
use hashbrown::HashMap;
use std::sync::Arc;

/// Of a row in memory beside its key and value: its place in the table and two allocations.
const OVERHEAD_BYTES: usize = 128;

/// One generation.
pub(super) type Rows = HashMap<RowKey, Bytes>;

/// Both generations.
#[derive(Default)]
pub(super) struct Recent {
    fresh: Rows,
    fresh_bytes: usize,
    settled: Arc<Rows>,
    /// Whether the settled generation is not in the file yet.
    unwritten: bool,
}

impl Recent {
    /// The row's value, if it was written lately.
    pub(super) fn get(&self, key: &RowKey) -> Option<&Bytes> {
        self.fresh.get(key).or_else(|| self.settled.get(key))
    }

    /// Takes in a row.
    pub(super) fn insert(&mut self, key: RowKey, value: Bytes) {
        let (key_bytes, value_bytes) = (key.entity.as_bytes().len(), value.len());
        match self.fresh.insert(key, value) {
            Some(before) => self.fresh_bytes = self.fresh_bytes + value_bytes - before.len(),
            None => self.fresh_bytes += OVERHEAD_BYTES + key_bytes + value_bytes,
        }
    }

    /// Memory of the fresh generation.
    pub(super) const fn fresh_bytes(&self) -> usize {
        self.fresh_bytes
    }

    /// Whether a generation could not be written.
    pub(super) const fn is_unwritten(&self) -> bool {
        self.unwritten
    }

    /// The generation that must be written next, if there is one; the fresh one becomes it if the one before is in the
    /// file. [`Self::written`] tells that it is.
    pub(super) fn settle(&mut self) -> Option<Arc<Rows>> {
        if !self.unwritten {
            if self.fresh.is_empty() {
                return None;
            }
            // As many rows are to be expected again.
            let room = Rows::with_capacity(self.fresh.len());
            self.settled = Arc::new(std::mem::replace(&mut self.fresh, room));
            self.fresh_bytes = 0;
            self.unwritten = true;
        }
        Some(Arc::clone(&self.settled))
    }

    /// The settled generation is in the file.
    pub(super) const fn written(&mut self) {
        self.unwritten = false;
    }

    /// Forgets the rows of a view version, which were settled and written before.
    pub(super) fn forget(&mut self, view_id: u32) {
        if self.settled.keys().any(|key| key.view_id == view_id) {
            let mut settled = Rows::clone(&self.settled);
            settled.retain(|key, _| key.view_id != view_id);
            self.settled = Arc::new(settled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ondol_vocabulary::EntityKey;

    fn key(name: &str) -> RowKey {
        RowKey::new(1, EntityKey::from_bytes(name.as_bytes().to_vec()))
    }

    #[test]
    fn a_row_is_seen_from_its_writing_until_the_generation_after_it_is_settled() {
        let mut recent = Recent::default();
        recent.insert(key("a"), Bytes::from_static(b"1"));
        assert_eq!(recent.settle().unwrap().len(), 1);
        recent.insert(key("a"), Bytes::from_static(b"2"));
        assert_eq!(recent.get(&key("a")).unwrap(), "2");
        recent.written();
        recent.insert(key("b"), Bytes::from_static(b"3"));
        assert_eq!(recent.settle().unwrap().len(), 2);
        recent.written();
        assert!(recent.settle().is_none());
        assert_eq!(recent.get(&key("a")).unwrap(), "2");
        recent.insert(key("c"), Bytes::new());
        assert!(recent.settle().is_some());
        assert!(recent.get(&key("a")).is_none());
    }

    #[test]
    fn a_generation_that_was_not_written_is_not_replaced() {
        let mut recent = Recent::default();
        recent.insert(key("a"), Bytes::from_static(b"1"));
        assert!(recent.settle().unwrap().contains_key(&key("a")));
        recent.insert(key("b"), Bytes::from_static(b"2"));
        let again = recent.settle().unwrap();
        assert!(again.contains_key(&key("a")) && !again.contains_key(&key("b")));
        recent.written();
        assert!(recent.settle().unwrap().contains_key(&key("b")));
    }

    #[test]
    fn memory_is_counted_by_row_and_not_by_write() {
        let mut recent = Recent::default();
        recent.insert(key("a"), Bytes::from_static(b"12345"));
        let first = recent.fresh_bytes();
        recent.insert(key("a"), Bytes::from_static(b"123"));
        assert_eq!(recent.fresh_bytes(), first - 2);
        assert!(recent.settle().is_some());
        assert_eq!(recent.fresh_bytes(), 0);
    }
}
