//! The spine as one view sees it: its rows by entity, each entity's by time, and entities found by key.
//!
//! Entities are numbered in order of first appearance; the rows that name none (a part of the key is null) stand behind
//! them all, as an entity to which nothing happens. A key's canonical bytes are mostly few: up to 16 of them are one
//! integer, hashed and compared in registers, and a lookup touches one place in memory. Longer ones lie in one buffer.
//! Integers that lie close together, as those do that a database has counted out, are places in a list: it is a tenth of
//! the size of a hash table, and most often stays in the processor's cache.

use super::dense::{Dense, each_integer};
use crate::error::JobError;
use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::{DataType as ArrowType, Int32Type, Int64Type};
use hashbrown::HashTable;
use ondol_vocabulary::key::EntityKeyColumns;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// Stands for no entity.
pub(crate) const NO_ENTITY: u32 = u32::MAX;

/// A spine whose rows' keys are known by number.
pub(crate) struct KeyedRows {
    keys: Keys,
    /// By row; [`NO_ENTITY`] where a part of the key is null.
    entities: Vec<u32>,
}

/// A spine grouped by one view's key.
pub(crate) struct Entities {
    keys: Keys,
    /// Spine rows by entity, and by time within each.
    rows: Vec<u32>,
    /// Their moments.
    times: Vec<i64>,
    /// Where each entity's rows end.
    ends: Vec<u32>,
}

/// Entities by key.
#[derive(Default)]
struct Keys {
    count: u32,
    /// If all keys are integers that lie close together: then nothing else holds any.
    dense: Option<Dense>,
    short: HashTable<(u128, u32)>,
    /// Those with keys that no integer holds.
    long: HashTable<u32>,
    /// By entity, empty for short keys.
    bytes: Vec<u8>,
    byte_ends: Vec<usize>,
}

/// A key of canonical bytes, which tell their own end: zeros behind them make no other key.
enum Key<'a> {
    Short(u128),
    Long(&'a [u8]),
}

const SHORT_BYTES: usize = 16;
/// Bytes of a text that fit into an integer behind its tag and length.
const MOST_SHORT_TEXT: usize = SHORT_BYTES - 2;

impl<'a> Key<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let mut short = [0u8; SHORT_BYTES];
        match short.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Self::Short(u128::from_le_bytes(short))
            }
            None => Self::Long(bytes),
        }
    }
}

/// The canonical bytes of an integer, as an integer.
fn of_integer(value: i64) -> u128 {
    (u128::from(value as u64) << 8) | 2
}

/// The integer whose canonical bytes these are.
fn as_integer(key: u128) -> Option<i64> {
    let value = (key >> 8) as u64 as i64;
    (of_integer(value) == key).then_some(value)
}

/// Multiplied and folded: the bits of keys differ in few places.
fn hash_of(key: u128) -> u64 {
    let (low, high) = (key as u64, (key >> 64) as u64);
    let product = u128::from(low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(high ^ 0xd6e8_feb8_6659_fd93);
    let folded = (product as u64) ^ ((product >> 64) as u64);
    (folded ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Keys {
    fn long_bytes(&self, entity: u32) -> &[u8] {
        let entity = entity as usize;
        let start = entity
            .checked_sub(1)
            .and_then(|previous| self.byte_ends.get(previous))
            .copied()
            .unwrap_or(0);
        let end = self.byte_ends.get(entity).copied().unwrap_or(start);
        self.bytes.get(start..end).unwrap_or_default()
    }

    fn find_short(&self, key: u128) -> Option<u32> {
        if let Some(dense) = &self.dense {
            let entity = as_integer(key).map_or(NO_ENTITY, |key| dense.find(key));
            return (entity != NO_ENTITY).then_some(entity);
        }
        self.short
            .find(hash_of(key), |(known, _)| *known == key)
            .map(|(_, entity)| *entity)
    }

    fn find(&self, key: &Key<'_>) -> Option<u32> {
        match key {
            Key::Short(key) => self.find_short(*key),
            Key::Long(key) => self
                .long
                .find(xxh3_64(key), |entity| self.long_bytes(*entity) == *key)
                .copied(),
        }
    }

    fn intern(&mut self, key: &Key<'_>) -> u32 {
        if let Some(entity) = self.find(key) {
            return entity;
        }
        // A spine has at most u32::MAX rows, so entities fit.
        let entity = self.count;
        self.count += 1;
        match key {
            Key::Short(key) => {
                self.byte_ends.push(self.bytes.len());
                self.short
                    .insert_unique(hash_of(*key), (*key, entity), |(known, _)| hash_of(*known));
            }
            Key::Long(key) => {
                self.bytes.extend_from_slice(key);
                self.byte_ends.push(self.bytes.len());
                let (bytes, ends) = (&self.bytes, &self.byte_ends);
                let rehash = |other: &u32| {
                    let other = *other as usize;
                    let start = other
                        .checked_sub(1)
                        .and_then(|previous| ends.get(previous))
                        .copied()
                        .unwrap_or(0);
                    let end = ends.get(other).copied().unwrap_or(start);
                    xxh3_64(bytes.get(start..end).unwrap_or_default())
                };
                self.long.insert_unique(xxh3_64(key), entity, rehash);
            }
        }
        entity
    }
}

impl KeyedRows {
    /// Of rows with `keys`: for each batch of the spine its key columns, in the view's order.
    pub(crate) fn of(keys: &[Vec<&ArrayRef>]) -> Result<Self, JobError> {
        let rows = keys
            .iter()
            .filter_map(|columns| columns.first())
            .map(|column| column.len())
            .sum();
        let mut entities: Vec<u32> = Vec::with_capacity(rows);
        if let Some(dense) = Dense::of(keys) {
            return Ok(Self::of_integers(dense, keys, entities));
        }
        let mut known = Keys::default();
        let mut buffer = Vec::with_capacity(32);
        for columns in keys {
            if let [column] = columns.as_slice()
                && let Some(texts) = column.as_string_opt::<i32>()
            {
                each_text(texts, |key| {
                    entities.push(key.map_or(NO_ENTITY, |key| known.intern(&key)));
                });
                continue;
            }
            let rows = columns.first().map_or(0, |column| column.len());
            let columns = EntityKeyColumns::new(columns.iter().copied()).map_err(JobError::internal)?;
            for row in 0..rows {
                entities.push(match columns.encode(row, &mut buffer) {
                    true => known.intern(&Key::of(&buffer)),
                    false => NO_ENTITY,
                });
            }
        }
        Ok(Self { keys: known, entities })
    }

    /// Of integers that have a place each.
    fn of_integers(mut dense: Dense, keys: &[Vec<&ArrayRef>], mut entities: Vec<u32>) -> Self {
        let mut count = 0;
        for column in keys.iter().flatten() {
            each_integer(column, |value| {
                let place = value.map(|value| value.wrapping_sub(dense.least) as u64 as usize);
                let Some(entity) = place.and_then(|place| dense.entities.get_mut(place)) else {
                    entities.push(NO_ENTITY);
                    return;
                };
                if *entity == NO_ENTITY {
                    *entity = count;
                    count += 1;
                }
                entities.push(*entity);
            });
        }
        let keys = Keys {
            count,
            dense: Some(dense),
            ..Keys::default()
        };
        Self { keys, entities }
    }

    /// Rows' entities, [`NO_ENTITY`] where they name none.
    pub(crate) fn entities(&self) -> &[u32] {
        &self.entities
    }

    /// Number of entities that are named.
    pub(crate) fn count(&self) -> usize {
        self.keys.count as usize
    }

    /// As [`Entities::find`].
    pub(crate) fn find(&self, columns: &[&ArrayRef], found: &mut Vec<u32>) -> Result<(), JobError> {
        self.keys.find_all(columns, found)
    }

    /// Grouped, and each group in order of `times`.
    pub(crate) fn grouped(self, times: &[i64]) -> Result<Entities, JobError> {
        if self.entities.len() != times.len() {
            return Err(JobError::internal(format!(
                "{} keys for {} rows",
                self.entities.len(),
                times.len()
            )));
        }
        let (rows, ends) = by_entity(&self.entities, self.count(), times);
        let times = rows.iter().map(|row| times[*row as usize]).collect();
        Ok(Entities {
            keys: self.keys,
            rows,
            times,
            ends,
        })
    }
}

impl Entities {
    /// Groups rows at `times` by their `keys`: for each batch of the spine its key columns, in the view's order.
    pub(crate) fn group(keys: &[Vec<&ArrayRef>], times: &[i64]) -> Result<Self, JobError> {
        KeyedRows::of(keys)?.grouped(times)
    }

    /// Number of entities, with the one that rows without a key make.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The entity that rows without a key make, which may have none.
    pub(crate) fn nobody(&self) -> usize {
        self.ends.len().saturating_sub(1)
    }

    /// Number of rows.
    pub(crate) fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// Where the rows of the entities `entities` stand.
    pub(crate) fn slots(&self, entities: &Range<usize>) -> Range<usize> {
        let end = |entity: usize| entity.checked_sub(1).map_or(0, |previous| self.ends[previous] as usize);
        end(entities.start)..end(entities.end.max(entities.start))
    }

    /// The entity whose row stands at `place`.
    pub(crate) fn entity_at(&self, place: usize) -> usize {
        self.ends.partition_point(|end| *end as usize <= place)
    }

    /// The spine's rows, by place.
    pub(crate) fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Their moments, by place: ascending within an entity.
    pub(crate) fn times(&self) -> &[i64] {
        &self.times
    }

    /// The first place of `entity` whose moment is not before `visible`.
    #[inline]
    pub(crate) fn first_seeing(&self, entity: u32, visible: i64) -> Option<usize> {
        let entity = entity as usize;
        let start = entity.checked_sub(1).map_or(0, |previous| self.ends[previous] as usize);
        let end = self.ends[entity] as usize;
        let moments = &self.times[start..end];
        // Most often in the middle of few.
        let at = match moments.len() {
            0..=16 => moments.iter().take_while(|moment| **moment < visible).count(),
            _ => moments.partition_point(|moment| *moment < visible),
        };
        (at < moments.len()).then_some(start + at)
    }

    /// The entity of each row of `columns`, key columns in the view's order: [`NO_ENTITY`] where the spine has none.
    pub(crate) fn find(&self, columns: &[&ArrayRef], found: &mut Vec<u32>) -> Result<(), JobError> {
        self.keys.find_all(columns, found)
    }
}

impl Keys {
    fn find_all(&self, columns: &[&ArrayRef], found: &mut Vec<u32>) -> Result<(), JobError> {
        found.clear();
        let none = |entity: Option<u32>| entity.unwrap_or(NO_ENTITY);
        match columns {
            [column] if *column.data_type() == ArrowType::Utf8 => {
                each_text(column.as_string(), |key| {
                    found.push(none(key.and_then(|key| self.find(&key))));
                });
            }
            [column] if *column.data_type() == ArrowType::Int64 => {
                let values = column.as_primitive::<Int64Type>().values().iter();
                match &self.dense {
                    Some(dense) => found.extend(values.map(|value| dense.find(*value))),
                    None => found.extend(values.map(|value| none(self.find_short(of_integer(*value))))),
                }
                blank(found, column);
            }
            [column] if *column.data_type() == ArrowType::Int32 => {
                let values = column.as_primitive::<Int32Type>();
                let wide = values.values().iter().map(|value| of_integer(i64::from(*value)));
                found.extend(wide.map(|key| none(self.find_short(key))));
                blank(found, column);
            }
            columns => {
                let rows = columns.first().map_or(0, |column| column.len());
                let columns = EntityKeyColumns::new(columns.iter().copied()).map_err(JobError::internal)?;
                let mut buffer = Vec::with_capacity(32);
                found.extend((0..rows).map(|row| match columns.encode(row, &mut buffer) {
                    true => none(self.find(&Key::of(&buffer))),
                    false => NO_ENTITY,
                }));
            }
        }
        Ok(())
    }
}

/// Calls `take` with the key of each of `texts`, none where it is null.
#[inline]
fn each_text(texts: &StringArray, mut take: impl FnMut(Option<Key<'_>>)) {
    let mut buffer = Vec::with_capacity(64);
    let (data, offsets) = (texts.value_data(), texts.value_offsets());
    for row in 0..texts.len() {
        if texts.is_null(row) {
            take(None);
            continue;
        }
        let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
        match end - start {
            length @ 0..=MOST_SHORT_TEXT => {
                // The tag of text and its length come first.
                let bytes = match data.get(start..).and_then(|data| data.first_chunk()) {
                    Some(bytes) => u128::from_le_bytes(*bytes) & ((1 << (8 * length)) - 1),
                    None => short_of(&data[start..end]),
                };
                take(Some(Key::Short((bytes << 16) | (length as u128) << 8 | 1)));
            }
            mut length => {
                buffer.clear();
                buffer.push(1);
                while length >= 0x80 {
                    buffer.push((length as u8 & 0x7f) | 0x80);
                    length >>= 7;
                }
                buffer.push(length as u8);
                buffer.extend_from_slice(&data[start..end]);
                take(Some(Key::of(&buffer)));
            }
        }
    }
}

/// The first bytes as an integer, zeros behind them.
fn short_of(bytes: &[u8]) -> u128 {
    let mut short = [0u8; SHORT_BYTES];
    short.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    u128::from_le_bytes(short)
}

/// Nulls name no entity.
fn blank(found: &mut [u32], column: &ArrayRef) {
    if column.null_count() > 0 {
        for (row, entity) in found.iter_mut().enumerate() {
            if column.is_null(row) {
                *entity = NO_ENTITY;
            }
        }
    }
}

/// A counting sort of rows by entity, then by time; and where each entity's end. Rows without an entity come last.
fn by_entity(of_row: &[u32], entities: usize, times: &[i64]) -> (Vec<u32>, Vec<u32>) {
    let place = |entity: u32| (entity as usize).min(entities);
    let mut next = vec![0u32; entities + 2];
    for entity in of_row {
        next[place(*entity) + 1] += 1;
    }
    for entity in 0..=entities {
        next[entity + 1] += next[entity];
    }
    let ends = next[1..].to_vec();
    let mut rows = vec![0u32; of_row.len()];
    for (row, entity) in (0..).zip(of_row) {
        let at = &mut next[place(*entity)];
        rows[*at as usize] = row;
        *at += 1;
    }
    let mut start = 0;
    for end in &ends {
        let group = &mut rows[start..*end as usize];
        let time = |row: &u32| times[*row as usize];
        if !group.is_sorted_by_key(time) {
            // Stable, so that rows of one moment keep the spine's order: none of them depends on it, but runs repeat.
            group.sort_by_key(time);
        }
        start = *end as usize;
    }
    (rows, ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, Int64Array};
    use std::sync::Arc;

    fn found(entities: &Entities, columns: &[ArrayRef]) -> Vec<u32> {
        let mut found = Vec::new();
        entities.find(&columns.iter().collect::<Vec<_>>(), &mut found).unwrap();
        found
    }

    #[test]
    fn rows_are_grouped_by_entity_and_time_and_those_without_a_key_come_last() {
        let keys: ArrayRef = Arc::new(StringArray::from(vec![
            Some("b"),
            None,
            Some("a"),
            Some("b"),
            Some("b"),
        ]));
        let entities = Entities::group(&[vec![&keys]], &[30, 5, 20, 10, 30]).unwrap();
        assert_eq!(entities.len(), 3);
        assert_eq!(entities.rows(), [3, 0, 4, 2, 1]);
        assert_eq!(entities.times(), [10, 30, 30, 20, 5]);
        assert_eq!(entities.slots(&(1..3)), 3..5);
        assert_eq!(entities.first_seeing(0, 11), Some(1));
        assert_eq!(entities.first_seeing(0, 31), None);
    }

    #[test]
    fn every_way_to_look_a_key_up_finds_the_same_entity() {
        let texts: Vec<String> = (0..300).map(|length| "x".repeat(length)).collect();
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(&texts));
        let entities = Entities::group(&[vec![&keys]], &vec![0; texts.len()]).unwrap();
        assert_eq!(found(&entities, &[keys]), (0..300).collect::<Vec<_>>());
        let others: ArrayRef = Arc::new(StringArray::from(vec![Some("y"), None, Some("xxxxxxxxxxxxxxxxxxxy")]));
        assert_eq!(found(&entities, &[others]), [NO_ENTITY; 3]);

        let narrow: ArrayRef = Arc::new(Int32Array::from(vec![Some(-7), Some(7), None]));
        let wide: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), Some(-7), None, Some(i64::MAX)]));
        let entities = Entities::group(&[vec![&narrow]], &[0; 3]).unwrap();
        assert_eq!(found(&entities, &[wide]), [1, 0, NO_ENTITY, NO_ENTITY]);
        assert_eq!(found(&entities, &[narrow]), [0, 1, NO_ENTITY]);
    }
}
