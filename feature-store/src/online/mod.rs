//! Online rows: one packed value per (view version, entity), read and replaced whole.
//!
//! The store knows nothing of what a value means. A writer reads rows, computes their successors and replaces each
//! only if it still is what was read ([`OnlineStore::compare_and_set`]); whoever loses reads again. Fences inside the
//! rows make repetition harmless, so neither locks nor transactions across keys are needed.
//!
//! | implementation | for | a batch of writes is | [`OnlineStore::sync`] |
//! |---|---|---|---|
//! | [`EmbeddedStore`] | one process, no set-up | kept in memory | one transaction of every row that changed, to disk |
//! | [`RedisStore`] | several replicas | a script per batch (per entity on a cluster) | writes a mark, waits for replicas and the append-only file as configured |
//!
//! Both pass the suite in `tests/online_store.rs`. A store that can lose what it acknowledged says so: see [`Life`] and
//! [`Mark`], and [`Continuity`] for what is made of them.

pub mod continuity;
pub mod embedded;
pub mod key;
pub mod redis;
pub(crate) mod value;

pub use continuity::Continuity;
pub use embedded::EmbeddedStore;
pub use key::RowKey;
pub use redis::RedisStore;

use async_trait::async_trait;
use bytes::Bytes;
use ondol_feature_store_api::FeatureStoreError;
use ondol_vocabulary::EntityKey;
use std::sync::Arc;
use std::time::Duration;

/// One conditional replacement of a row.
#[derive(Clone, Debug)]
pub struct RowWrite {
    /// Which row.
    pub key: RowKey,
    /// What was read before; `None`: there was no row. The write happens only if that is still so.
    pub expected: Option<Bytes>,
    /// What replaces it.
    pub value: Bytes,
}

/// A store of online rows. Dropping a future abandons the wait; a write that was sent may still be applied.
#[async_trait]
pub trait OnlineStore: Send + Sync + 'static {
    /// The rows of `keys`, in their order, in one round trip.
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Bytes>>, FeatureStoreError>;

    /// Replaces each row that still is what its writer expects, and returns the indexes of those that are not,
    /// ascending. Atomic for each row, not across rows; a key must not appear twice. Refused as unavailable when the
    /// store is no longer in `life`: rows that earlier writes left there may be gone. A write may be sent again when no
    /// answer came: then it may be among the losers and be there, which whoever reads again finds in the row's fences.
    async fn compare_and_set(&self, life: &Life, writes: Vec<RowWrite>) -> Result<Vec<usize>, FeatureStoreError>;

    /// Makes everything written so far survive a crash of whatever holds the rows, as far as the store can; and writes
    /// a mark on each shard behind it, by which [`Self::marks`] tells later whether it did survive. Refused as
    /// unavailable when the store is no longer in `life`. No marks from a store that loses nothing it has synced.
    async fn sync(&self, life: &Life) -> Result<Vec<Mark>, FeatureStoreError>;

    /// The marks that these shards hold now; none where there is no mark.
    async fn marks(&self, shards: &[String]) -> Result<Vec<Option<u64>>, FeatureStoreError>;

    /// Every row of a view version, by entity key. For tests and repair: it holds the whole view in memory.
    async fn scan(&self, view_id: u32) -> Result<Vec<(EntityKey, Bytes)>, FeatureStoreError>;

    /// Removes every row of a view version, some at a time with `pause` in between; repeating it finishes one that was
    /// interrupted.
    async fn delete_view(&self, view_id: u32, pause: Duration) -> Result<(), FeatureStoreError>;

    /// Names the life of whatever holds the rows. Writes of an earlier life may be gone; whether those that a
    /// [`Self::sync`] covered are, its marks tell.
    async fn life(&self) -> Result<Life, FeatureStoreError>;

    /// How many commands have failed. Whatever holds the rows can't have begun a new life, as far as reads can tell, while
    /// this stays as it is: it takes the connections that they are made on with it.
    fn failures(&self) -> u64 {
        0
    }

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), FeatureStoreError>;
}

/// Names one life of a store: two lives never share a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life(pub Arc<str>);

/// A number that a shard holds, which rises with every sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Names the shard, for as long as its keys live somewhere.
    pub shard: String,
    /// Greater than every earlier one of the shard.
    pub value: u64,
}

/// Rows deleted between two pauses.
pub(crate) const DELETED_AT_A_TIME: usize = 1_000;

/// How to open an online store.
#[derive(Clone, Debug)]
pub struct OnlineConfig {
    /// Where: a file path, `redis://…`, or `redis-cluster://host:port,host:port`.
    pub url: String,
    /// Starts every key in Redis.
    pub prefix: String,
    /// Bound of a command in Redis.
    pub timeout: Duration,
    /// Memory of the embedded store: half of it caches pages, half holds rows written lately.
    pub cache_bytes: usize,
    /// Replicas of each Redis primary that must have confirmed what a sync covers.
    pub wait_replicas: u32,
}

/// Opens the store that `config.url` names. A Redis that does not answer yet is no error: its commands are.
pub async fn open(config: &OnlineConfig) -> Result<Arc<dyn OnlineStore>, FeatureStoreError> {
    if config.url.starts_with("redis") && config.url.contains("://") {
        return Ok(Arc::new(RedisStore::open(config).await?));
    }
    let path = config.url.strip_prefix("file://").unwrap_or(&config.url).to_owned();
    let cache_bytes = config.cache_bytes;
    let store = blocking(move || EmbeddedStore::open(path.as_ref(), cache_bytes)).await?;
    Ok(Arc::new(store))
}

/// Runs `work` where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FeatureStoreError> + Send + 'static,
) -> Result<T, FeatureStoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(FeatureStoreError::Internal {
            detail: format!("a blocking task ended early: {error}"),
        }),
    }
}
