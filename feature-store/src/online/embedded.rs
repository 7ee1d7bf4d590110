//! The embedded online store: one redb file, owned by one process.
//!
//! Writes are one transaction per call without durability: visible at once, on disk at the next [`OnlineStore::sync`],
//! and after a crash the file is exactly what the last sync left. That is enough, because the event log's position is
//! committed only after a sync, so what a crash takes away is delivered again. Syncs record the allocator's state
//! ("quick repair"), so that reopening after `kill -9` costs milliseconds whatever the size.

use super::{OnlineStore, RowKey, RowWrite, blocking, value};
use async_trait::async_trait;
use bytes::Bytes;
use ondol_feature_store_api::FeatureStoreError;
use ondol_vocabulary::EntityKey;
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use std::fmt::Display;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

/// Rows by [`RowKey::embedded`], in the form of [`value`]. The name carries the version of both formats.
const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows.1");

/// Counts syncs: a durable commit that changes nothing might be skipped, this one never is.
const SYNCS: TableDefinition<'static, (), u64> = TableDefinition::new("syncs");

/// Keys that are read on the caller's thread: each costs a microsecond or two while its page is cached.
const INLINE_KEYS: usize = 256;

/// Rows in one redb file.
pub struct EmbeddedStore {
    database: Arc<Database>,
}

impl EmbeddedStore {
    /// Opens `path`, or creates it. Blocks.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, FeatureStoreError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| cannot_open(path, &error))?;
        }
        let opened = Database::builder().set_cache_size(cache_bytes).create(path);
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => cannot_open(
                path,
                &"another process has it open: stop it, or use Redis to share rows between processes",
            ),
            other => cannot_open(path, &other),
        })?;
        let store = Self {
            database: Arc::new(database),
        };
        // The table must exist before the first read.
        sync(&store.database)?;
        Ok(store)
    }
}

#[async_trait]
impl OnlineStore for EmbeddedStore {
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Bytes>>, FeatureStoreError> {
        if keys.len() <= INLINE_KEYS {
            return get(&self.database, keys);
        }
        let database = Arc::clone(&self.database);
        let keys = keys.to_vec();
        blocking(move || get(&database, &keys)).await
    }

    async fn compare_and_set(&self, _life: u64, writes: Vec<RowWrite>) -> Result<Vec<usize>, FeatureStoreError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let database = Arc::clone(&self.database);
        blocking(move || compare_and_set(&database, &writes)).await
    }

    async fn sync(&self) -> Result<(), FeatureStoreError> {
        let database = Arc::clone(&self.database);
        blocking(move || sync(&database)).await
    }

    async fn scan(&self, view_id: u32) -> Result<Vec<(EntityKey, Bytes)>, FeatureStoreError> {
        let database = Arc::clone(&self.database);
        blocking(move || scan(&database, view_id)).await
    }

    async fn delete_view(&self, view_id: u32) -> Result<(), FeatureStoreError> {
        let database = Arc::clone(&self.database);
        blocking(move || delete_view(&database, view_id)).await
    }

    /// The store lives and dies with its process.
    async fn life(&self) -> Result<u64, FeatureStoreError> {
        Ok(0)
    }

    async fn ping(&self) -> Result<(), FeatureStoreError> {
        self.database.begin_read().map(drop).map_err(failed)
    }
}

fn get(database: &Database, keys: &[RowKey]) -> Result<Vec<Option<Bytes>>, FeatureStoreError> {
    let rows = database
        .begin_read()
        .map_err(failed)?
        .open_table(ROWS)
        .map_err(failed)?;
    let read = |key: &RowKey| {
        let stored = rows.get(key.embedded().as_slice()).map_err(failed)?;
        stored
            .map(|stored| value::open(&Bytes::copy_from_slice(stored.value())))
            .transpose()
    };
    keys.iter().map(read).collect()
}

fn compare_and_set(database: &Database, writes: &[RowWrite]) -> Result<Vec<usize>, FeatureStoreError> {
    let transaction = begin(database, Durability::None)?;
    let mut lost = Vec::new();
    {
        let mut rows = transaction.open_table(ROWS).map_err(failed)?;
        for (index, write) in writes.iter().enumerate() {
            let key = write.key.embedded();
            let held = rows.get(key.as_slice()).map_err(failed)?;
            let expected = value::is_expected(held.as_ref().map(redb::AccessGuard::value), write.expected.as_deref());
            drop(held);
            if expected {
                rows.insert(key.as_slice(), value::seal(&write.value).as_slice())
                    .map_err(failed)?;
            } else {
                lost.push(index);
            }
        }
    }
    transaction.commit().map_err(failed)?;
    Ok(lost)
}

fn sync(database: &Database) -> Result<(), FeatureStoreError> {
    let mut transaction = begin(database, Durability::Immediate)?;
    transaction.set_quick_repair(true);
    {
        transaction.open_table(ROWS).map_err(failed)?;
        let mut syncs = transaction.open_table(SYNCS).map_err(failed)?;
        let count = syncs.get(()).map_err(failed)?.map_or(0, |count| count.value());
        syncs.insert((), count.wrapping_add(1)).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

fn scan(database: &Database, view_id: u32) -> Result<Vec<(EntityKey, Bytes)>, FeatureStoreError> {
    let rows = database
        .begin_read()
        .map_err(failed)?
        .open_table(ROWS)
        .map_err(failed)?;
    let (from, to) = range(view_id);
    let found = rows.range::<&[u8]>((bound(&from), upper(&to))).map_err(failed)?;
    let row = |entry: Result<_, redb::StorageError>| {
        let (key, stored): (redb::AccessGuard<'_, &[u8]>, redb::AccessGuard<'_, &[u8]>) = entry.map_err(failed)?;
        let entity = RowKey::entity_of_embedded(key.value()).unwrap_or_default();
        Ok((entity, value::open(&Bytes::copy_from_slice(stored.value()))?))
    };
    found.map(row).collect()
}

fn delete_view(database: &Database, view_id: u32) -> Result<(), FeatureStoreError> {
    let transaction = begin(database, Durability::None)?;
    {
        let mut rows = transaction.open_table(ROWS).map_err(failed)?;
        let (from, to) = range(view_id);
        rows.retain_in::<&[u8], _>((bound(&from), upper(&to)), |_, _| false)
            .map_err(failed)?;
    }
    transaction.commit().map_err(failed)
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
