//! The spine as one view sees it: its rows grouped by entity, each group by time, and entities found by key.
//!
//! Entities are numbered in order of first appearance. Keys lie in one buffer, so that a million of them are one
//! allocation; a lookup hashes the key's bytes once and compares them once.

use super::spine::Spine;
use crate::error::JobError;
use arrow::array::ArrayRef;
use hashbrown::HashTable;
use ondol_vocabulary::key::EntityKeyColumns;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// A spine grouped by one view's key.
pub(crate) struct Entities {
    table: HashTable<u32>,
    key_bytes: Vec<u8>,
    key_ends: Vec<usize>,
    /// Spine rows by entity, and by time within each.
    rows: Vec<u32>,
    row_ends: Vec<usize>,
    /// Each entity's first and last moment. Beside its rows rather than through them: every event of the source asks.
    spans: Vec<(i64, i64)>,
    /// Rows whose key has a null part: they name no entity.
    keyless: Vec<u32>,
}

impl Entities {
    /// Groups `spine` by the input columns `key`.
    pub(crate) fn group(spine: &Spine, key: &[String]) -> Result<Self, JobError> {
        let mut entities = Self {
            table: HashTable::new(),
            key_bytes: Vec::new(),
            key_ends: Vec::new(),
            rows: Vec::new(),
            row_ends: Vec::new(),
            spans: Vec::new(),
            keyless: Vec::new(),
        };
        let mut of_row: Vec<Option<u32>> = Vec::with_capacity(spine.rows());
        let mut buffer = Vec::with_capacity(32);
        for inputs in &spine.inputs {
            let columns = key.iter().map(|name| {
                inputs
                    .column_by_name(name)
                    .ok_or_else(|| JobError::internal(format!("key `{name}` is no input of the model")))
            });
            let columns: Vec<&ArrayRef> = columns.collect::<Result<_, _>>()?;
            let columns = EntityKeyColumns::new(columns).map_err(JobError::internal)?;
            for row in 0..inputs.num_rows() {
                of_row.push(columns.encode(row, &mut buffer).then(|| entities.intern(&buffer)));
            }
        }
        entities.place_rows(&of_row);
        entities.sort_rows(&spine.times);
        Ok(entities)
    }

    /// Number of entities.
    pub(crate) fn len(&self) -> usize {
        self.key_ends.len()
    }

    /// The entity whose key is `key`, if the spine has it.
    pub(crate) fn find(&self, key: &[u8]) -> Option<u32> {
        self.table
            .find(xxh3_64(key), |&entity| self.key(entity) == key)
            .copied()
    }

    /// The spine rows of `entity`, earliest first.
    pub(crate) fn rows(&self, entity: u32) -> &[u32] {
        self.rows.get(range(&self.row_ends, entity)).unwrap_or_default()
    }

    /// The first and last moment of `entity`'s rows.
    pub(crate) fn span(&self, entity: u32) -> (i64, i64) {
        self.spans.get(entity as usize).copied().unwrap_or((i64::MAX, i64::MIN))
    }

    /// Rows that name no entity.
    pub(crate) fn keyless(&self) -> &[u32] {
        &self.keyless
    }

    fn key(&self, entity: u32) -> &[u8] {
        self.key_bytes.get(range(&self.key_ends, entity)).unwrap_or_default()
    }

    fn intern(&mut self, key: &[u8]) -> u32 {
        let hash = xxh3_64(key);
        if let Some(&entity) = self.table.find(hash, |&entity| self.key(entity) == key) {
            return entity;
        }
        // A spine has at most u32::MAX rows, so entities fit.
        let entity = self.key_ends.len() as u32;
        self.key_bytes.extend_from_slice(key);
        self.key_ends.push(self.key_bytes.len());
        let (bytes, ends) = (&self.key_bytes, &self.key_ends);
        let rehash = |&other: &u32| xxh3_64(bytes.get(range(ends, other)).unwrap_or_default());
        self.table.insert_unique(hash, entity, rehash);
        entity
    }

    /// A counting sort of rows by entity.
    fn place_rows(&mut self, of_row: &[Option<u32>]) {
        let mut next = vec![0usize; self.len()];
        for entity in of_row.iter().flatten() {
            next[*entity as usize] += 1;
        }
        let mut end = 0;
        for count in &mut next {
            let start = end;
            end += *count;
            self.row_ends.push(end);
            *count = start;
        }
        self.rows = vec![0; end];
        for (row, entity) in of_row.iter().enumerate() {
            match entity {
                Some(entity) => {
                    let place = &mut next[*entity as usize];
                    self.rows[*place] = row as u32;
                    *place += 1;
                }
                None => self.keyless.push(row as u32),
            }
        }
    }

    fn sort_rows(&mut self, times: &[i64]) {
        let time = |row: &u32| times.get(*row as usize).copied().unwrap_or(i64::MAX);
        for entity in 0..self.len() as u32 {
            if let Some(group) = self.rows.get_mut(range(&self.row_ends, entity))
                && !group.is_sorted_by_key(time)
            {
                // Stable, so that rows of one moment keep the spine's order: none of them depends on it, but runs
                // repeat exactly.
                group.sort_by_key(time);
            }
            let rows = self.rows(entity);
            let moment = |row: Option<&u32>, none: i64| row.map_or(none, time);
            self.spans
                .push((moment(rows.first(), i64::MAX), moment(rows.last(), i64::MIN)));
        }
    }
}

/// The part of a flat list that belongs to `entity`, where `ends` holds each part's end.
pub(super) fn range(ends: &[usize], entity: u32) -> Range<usize> {
    let entity = entity as usize;
    let start = entity
        .checked_sub(1)
        .and_then(|previous| ends.get(previous))
        .copied()
        .unwrap_or(0);
    start..ends.get(entity).copied().unwrap_or(start)
}
