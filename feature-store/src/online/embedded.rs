//! The embedded online store: one redb file, owned by one process, and the rows written lately in memory.
//!
//! A write is visible at once and in the file at the next [`OnlineStore::sync`], and after a crash the file is exactly
//! what the last sync left. That is enough, because the event log's position is committed only after a sync, so what a
//! crash takes away is delivered again. Syncs record the allocator's state ("quick repair"), so that reopening after
//! `kill -9` costs milliseconds whatever the size.
//!
//! So between two syncs rows live in memory ([`recent`]), and a sync writes each row that changed once, in the order of
//! the keys: a transaction per delivery would copy nearly every page of the file for every few thousand events. When they
//! take more than their share of the cache, they go to the file early, without waiting for the disk.
//!
//! Three locks, taken in this order: `settling` by whoever writes to the file, `writing` by whoever changes rows, and
//! `recent` for as long as a few lookups take, so that readers hardly wait.

mod recent;

use super::{DELETED_AT_A_TIME, Life, Mark, OnlineStore, RowKey, RowWrite, blocking, value};
use async_trait::async_trait;
use bytes::Bytes;
use ondol_feature_store_api::FeatureStoreError;
use ondol_vocabulary::EntityKey;
use recent::{Recent, Rows};
use redb::{
    Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use std::fmt::Display;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

/// Rows by [`RowKey::embedded`], in the form of [`value`]. The name carries the version of both formats.
const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows.1");

/// Counts syncs: a durable commit that changes nothing might be skipped, this one never is.
const SYNCS: TableDefinition<'static, (), u64> = TableDefinition::new("syncs");

/// Keys that are read on the caller's thread: each costs a microsecond or two while its page is cached.
const INLINE_KEYS: usize = 256;

/// Rows taken in while readers wait.
const ROWS_AT_ONCE: usize = 256;

/// Rows in one redb file.
pub struct EmbeddedStore {
    rows: Arc<Stored>,
}

/// The file, and what is on its way there.
struct Stored {
    database: Database,
    recent: RwLock<Recent>,
    writing: Mutex<()>,
    settling: Mutex<()>,
    /// Rows in memory that are not being written yet are bounded by this, give or take a delivery.
    max_fresh_bytes: usize,
}

impl EmbeddedStore {
    /// Opens `path`, or creates it. Half of `cache_bytes` caches pages, half holds recent rows. Blocks.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, FeatureStoreError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| cannot_open(path, &error))?;
        }
        let opened = Database::builder().set_cache_size(cache_bytes / 2).create(path);
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => cannot_open(
                path,
                &"another process has it open: stop it, or use Redis to share rows between processes",
            ),
            other => cannot_open(path, &other),
        })?;
        let rows = Stored {
            database,
            recent: RwLock::default(),
            writing: Mutex::default(),
            settling: Mutex::default(),
            max_fresh_bytes: cache_bytes / 4,
        };
        // The table must exist before the first read.
        rows.sync()?;
        Ok(Self { rows: Arc::new(rows) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Stored) -> Result<T, FeatureStoreError> + Send + 'static,
    ) -> Result<T, FeatureStoreError> {
        let rows = Arc::clone(&self.rows);
        blocking(move || work(&rows)).await
    }
}

#[async_trait]
impl OnlineStore for EmbeddedStore {
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Bytes>>, FeatureStoreError> {
        if keys.len() <= INLINE_KEYS {
            return self.rows.get(keys);
        }
        let keys = keys.to_vec();
        self.blocking(move |rows| rows.get(&keys)).await
    }

    async fn compare_and_set(&self, _life: &Life, writes: Vec<RowWrite>) -> Result<Vec<usize>, FeatureStoreError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        self.blocking(move |rows| rows.compare_and_set(writes)).await
    }

    async fn sync(&self, _life: &Life) -> Result<Vec<Mark>, FeatureStoreError> {
        self.blocking(Stored::sync).await?;
        Ok(Vec::new())
    }

    async fn marks(&self, shards: &[String]) -> Result<Vec<Option<u64>>, FeatureStoreError> {
        Ok(vec![None; shards.len()])
    }

    async fn scan(&self, view_id: u32) -> Result<Vec<(EntityKey, Bytes)>, FeatureStoreError> {
        self.blocking(move |rows| rows.scan(view_id)).await
    }

    async fn delete_view(&self, view_id: u32, pause: Duration) -> Result<(), FeatureStoreError> {
        while self.blocking(move |rows| rows.delete_some(view_id)).await? {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// The store lives and dies with its process.
    async fn life(&self) -> Result<Life, FeatureStoreError> {
        Ok(Life("".into()))
    }

    async fn ping(&self) -> Result<(), FeatureStoreError> {
        self.rows.database.begin_read().map(drop).map_err(failed)
    }
}

impl Stored {
    fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Bytes>>, FeatureStoreError> {
        let mut found: Vec<Option<Bytes>> = {
            let recent = self.recent();
            keys.iter().map(|key| recent.get(key).cloned()).collect()
        };
        if found.iter().all(Option::is_some) {
            return Ok(found);
        }
        // Opened after the lookups: whatever left memory before them is in the file.
        let rows = self.file()?;
        for (key, found) in keys.iter().zip(&mut found) {
            if found.is_none() {
                let stored = rows.get(key.embedded().as_slice()).map_err(failed)?;
                *found = stored
                    .map(|stored| value::open(Bytes::copy_from_slice(stored.value())))
                    .transpose()?;
            }
        }
        Ok(found)
    }

    fn compare_and_set(&self, writes: Vec<RowWrite>) -> Result<Vec<usize>, FeatureStoreError> {
        if self.recent().fresh_bytes() > self.max_fresh_bytes {
            self.settle(Durability::None)?;
        }
        let _writing = locked(&self.writing);
        let lost = self.unexpected(&writes)?;
        let mut places = lost.iter().copied().peekable();
        let won = (0..)
            .zip(writes)
            .filter(|(index, _)| places.next_if_eq(index).is_none());
        let mut won = won.map(|(_, write)| write).peekable();
        while won.peek().is_some() {
            let mut recent = self.recent_mut();
            for write in won.by_ref().take(ROWS_AT_ONCE) {
                recent.insert(write.key, write.value);
            }
        }
        Ok(lost)
    }

    /// The indexes of the writes whose rows are not as expected. Only the holder of `writing` may ask: nobody else
    /// changes rows meanwhile.
    fn unexpected(&self, writes: &[RowWrite]) -> Result<Vec<usize>, FeatureStoreError> {
        let mut lost = Vec::new();
        let mut elsewhere = Vec::new();
        {
            let recent = self.recent();
            for (index, write) in writes.iter().enumerate() {
                match recent.get(&write.key) {
                    Some(held) if write.expected.as_ref().is_some_and(|expected| is_same(held, expected)) => {}
                    Some(_) => lost.push(index),
                    None => elsewhere.push(index),
                }
            }
        }
        if elsewhere.is_empty() {
            return Ok(lost);
        }
        let rows = self.file()?;
        for index in elsewhere {
            let Some(write) = writes.get(index) else { continue };
            let held = rows.get(write.key.embedded().as_slice()).map_err(failed)?;
            let held = held.as_ref().map(redb::AccessGuard::value);
            if !value::is_expected(held, write.expected.as_deref()) {
                lost.push(index);
            }
        }
        lost.sort_unstable();
        Ok(lost)
    }

    fn sync(&self) -> Result<(), FeatureStoreError> {
        self.settle(Durability::Immediate)
    }

    /// Writes everything that was in memory when it began to the file.
    fn settle(&self, durability: Durability) -> Result<(), FeatureStoreError> {
        let _settling = locked(&self.settling);
        self.settle_in_turn(durability)
    }

    /// As [`Self::settle`], for whoever holds `settling`.
    fn settle_in_turn(&self, durability: Durability) -> Result<(), FeatureStoreError> {
        if self.recent().is_unwritten() {
            // Left behind by a failure. The rows that are newer follow in a transaction of their own.
            self.write_settled(Durability::None)?;
        }
        self.write_settled(durability)
    }

    fn write_settled(&self, durability: Durability) -> Result<(), FeatureStoreError> {
        let rows = self.recent_mut().settle();
        let mut transaction = begin(&self.database, durability)?;
        let durable = matches!(durability, Durability::Immediate);
        transaction.set_quick_repair(durable);
        write(&transaction, rows.as_deref(), durable)?;
        transaction.commit().map_err(failed)?;
        self.recent_mut().written();
        Ok(())
    }

    fn scan(&self, view_id: u32) -> Result<Vec<(EntityKey, Bytes)>, FeatureStoreError> {
        self.settle(Durability::None)?;
        let rows = self.file()?;
        let (from, to) = range(view_id);
        let found = rows.range::<&[u8]>((bound(&from), upper(&to))).map_err(failed)?;
        let row = |entry: Result<_, redb::StorageError>| {
            let (key, stored): (redb::AccessGuard<'_, &[u8]>, redb::AccessGuard<'_, &[u8]>) = entry.map_err(failed)?;
            let entity = RowKey::entity_of_embedded(key.value()).unwrap_or_default();
            Ok((entity, value::open(Bytes::copy_from_slice(stored.value()))?))
        };
        found.map(row).collect()
    }

    /// Whether there may be more.
    fn delete_some(&self, view_id: u32) -> Result<bool, FeatureStoreError> {
        let _settling = locked(&self.settling);
        let _writing = locked(&self.writing);
        self.settle_in_turn(Durability::None)?;
        let transaction = begin(&self.database, Durability::None)?;
        let mut deleted = 0;
        {
            let mut rows = transaction.open_table(ROWS).map_err(failed)?;
            let (from, to) = range(view_id);
            let gone = rows.extract_from_if::<&[u8], _>((bound(&from), upper(&to)), |_, _| true);
            for row in gone.map_err(failed)?.take(DELETED_AT_A_TIME) {
                row.map_err(failed)?;
                deleted += 1;
            }
        }
        transaction.commit().map_err(failed)?;
        self.recent_mut().forget(view_id);
        Ok(deleted == DELETED_AT_A_TIME)
    }

    fn file(&self) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>, FeatureStoreError> {
        self.database
            .begin_read()
            .map_err(failed)?
            .open_table(ROWS)
            .map_err(failed)
    }

    // A panic can't leave the generations half-changed, so a poisoned lock is as good as any.
    fn recent(&self) -> RwLockReadGuard<'_, Recent> {
        self.recent.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent_mut(&self) -> RwLockWriteGuard<'_, Recent> {
        self.recent.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the bytes are equal; mostly they are the very same, as the writer got them from here.
fn is_same(held: &Bytes, expected: &Bytes) -> bool {
    (held.as_ptr() == expected.as_ptr() && held.len() == expected.len()) || held == expected
}

fn locked(lock: &Mutex<()>) -> MutexGuard<'_, ()> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes `rows` in the order of their keys, so that each page is copied once; a durable write is counted.
fn write(transaction: &WriteTransaction, rows: Option<&Rows>, durable: bool) -> Result<(), FeatureStoreError> {
    let mut table = transaction.open_table(ROWS).map_err(failed)?;
    let rows = rows.into_iter().flatten();
    let mut rows: Vec<(Vec<u8>, &Bytes)> = rows.map(|(key, value)| (key.embedded(), value)).collect();
    rows.sort_unstable_by(|left, right| left.0.cmp(&right.0));
    for (key, value) in rows {
        table
            .insert(key.as_slice(), value::seal(value).as_slice())
            .map_err(failed)?;
    }
    if durable {
        let mut syncs = transaction.open_table(SYNCS).map_err(failed)?;
        let count = syncs.get(()).map_err(failed)?.map_or(0, |count| count.value());
        syncs.insert((), count.wrapping_add(1)).map_err(failed)?;
    }
    Ok(())
}

fn begin(database: &Database, durability: Durability) -> Result<WriteTransaction, FeatureStoreError> {
    let mut transaction = database.begin_write().map_err(failed)?;
    transaction.set_durability(durability).map_err(failed)?;
    Ok(transaction)
}

/// The keys of a view: from its id to the next one's; none after the last id.
fn range(view_id: u32) -> ([u8; 4], Option<[u8; 4]>) {
    (view_id.to_be_bytes(), view_id.checked_add(1).map(u32::to_be_bytes))
}

fn bound(from: &[u8; 4]) -> Bound<&[u8]> {
    Bound::Included(from.as_slice())
}

fn upper(to: &Option<[u8; 4]>) -> Bound<&[u8]> {
    to.as_ref()
        .map_or(Bound::Unbounded, |to| Bound::Excluded(to.as_slice()))
}

fn cannot_open(path: &Path, error: &dyn Display) -> FeatureStoreError {
    FeatureStoreError::Unavailable {
        detail: format!("can't open the online store `{}`: {error}", path.display()),
    }
}

fn failed(error: impl Into<redb::Error>) -> FeatureStoreError {
    FeatureStoreError::Unavailable {
        detail: format!("the embedded online store failed: {}", error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(number: u32, expected: Option<&str>, value: &str) -> RowWrite {
        RowWrite {
            key: RowKey::new(1, EntityKey::from_bytes(number.to_be_bytes().to_vec())),
            expected: expected.map(|expected| Bytes::copy_from_slice(expected.as_bytes())),
            value: Bytes::copy_from_slice(value.as_bytes()),
        }
    }

    #[test]
    fn rows_beyond_the_memory_go_to_the_file_and_are_compared_and_read_from_there() {
        let folder = tempfile::tempdir().unwrap();
        let rows = EmbeddedStore::open(&folder.path().join("online.redb"), 64 << 10)
            .unwrap()
            .rows;
        let long = "x".repeat(500);
        for start in (0..2_000).step_by(100) {
            let writes = (start..start + 100).map(|number| write(number, None, &long));
            assert!(rows.compare_and_set(writes.collect()).unwrap().is_empty());
            assert!(rows.recent().fresh_bytes() <= rows.max_fresh_bytes + 100 * 1_000);
        }
        // The first hundred left memory long ago; the last are still there.
        assert!(rows.recent().get(&write(0, None, "").key).is_none());
        assert!(rows.recent().get(&write(1_999, None, "").key).is_some());
        let second = [
            write(0, Some(&long), "2"),
            write(1, Some("never"), "2"),
            write(2, None, "2"),
        ];
        let last = [write(1_999, Some(&long), "2"), write(1_998, None, "2")];
        let lost = rows.compare_and_set(second.into_iter().chain(last).collect());
        assert_eq!(lost.unwrap(), [1, 2, 4]);
        rows.sync().unwrap();
        let keys: Vec<RowKey> = (0..2_000).map(|number| write(number, None, "").key).collect();
        let found = rows.get(&keys).unwrap();
        let lengths: Vec<usize> = found.into_iter().map(|row| row.unwrap().len()).collect();
        assert_eq!(
            (lengths[0], lengths[1], lengths[1_998], lengths[1_999]),
            (1, 500, 500, 1)
        );
        assert_eq!(rows.scan(1).unwrap().len(), 2_000);
        while rows.delete_some(1).unwrap() {}
        assert!(rows.scan(1).unwrap().is_empty());
        assert!(rows.get(&keys[..1]).unwrap()[0].is_none());
    }
}
