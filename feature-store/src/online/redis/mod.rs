//! Online rows in Redis, one server or a cluster, shared by any number of replicas.
//!
//! A read is one `MGET`, alone or with reads that came at the same time ([`gathering`]). A conditional write is a script
//! that compares the digest a value starts with (see [`super::value`]) and sets the keys that still match; on one server
//! a script takes a batch of keys, on a cluster the rows of one entity, which share a slot by their hash tag. Scripts are
//! sent by hash, and loaded where the server does not know them.
//!
//! Reads and writes have a connection each, so that a large batch of writes does not stand in front of a small read.
//! Both reconnect by themselves; a command that fails meanwhile is [`FeatureStoreError::Unavailable`], and repeating
//! it is safe.
//!
//! A server that restarts, or a replica that takes over, may lack writes that were acknowledged. [`OnlineStore::life`]
//! changes then, scripts refuse writes of the earlier life, and the writer asks ingest for everything uncommitted again.
//!
//! Durability of what is committed is the servers': [`OnlineStore::sync`] waits for replicas (`WAIT`) as configured, and
//! for the append-only file (`WAITAOF`, Redis 7.2) where that is on. Elsewhere rows survive what the servers' own
//! persistence survives (`appendfsync always` loses nothing); this is logged once. Each sync leaves a mark on every shard
//! behind the rows it covers, so that a loss is known and the rows are built again from the log.

mod gathering;
mod link;
mod rows;
mod topology;

use super::{DELETED_AT_A_TIME, Life, Mark, OnlineConfig, OnlineStore, RowKey, RowWrite, value};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use gathering::Keys;
use hashbrown::HashMap;
use link::{Link, Node, address_of, failed};
use ondol_feature_store_api::FeatureStoreError;
use ondol_vocabulary::EntityKey;
use redis::{Cmd, FromRedisValue, RedisError, Script, Value, cmd};
use rows::Rows;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use topology::Primary;

/// Keys of one `MGET`, and of one script: bounds how long the server is busy with one command.
const KEYS_PER_COMMAND: usize = 256;

/// Scripts in flight at once for one batch.
const SCRIPTS_IN_FLIGHT: usize = 64;

/// Where the server's history is not among those of the first argument, refuses. Sets each key that still holds the
/// expected digest (empty: is absent); answers the 1-based places of the others.
const COMPARE_AND_SET: &str = r"
local history = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if not string.find(ARGV[1], history, 1, true) then
  return redis.error_reply('RESTARTED it may lack what it held before')
end
local lost = {}
for i = 1, #KEYS do
  if redis.call('GETRANGE', KEYS[i], 0, 7) == ARGV[2 * i] then
    redis.call('SET', KEYS[i], ARGV[2 * i + 1])
  else
    lost[#lost + 1] = i
  end
end
return lost
";

/// Where the server's history is not among those of the first argument, refuses. Raises the mark.
const RAISE_MARK: &str = r"
local history = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if not string.find(ARGV[1], history, 1, true) then
  return redis.error_reply('RESTARTED it may lack what it held before')
end
return redis.call('INCR', KEYS[1])
";

/// Rows in Redis.
pub struct RedisStore {
    rows: Rows,
    reads: Link,
    writes: Link,
    syncs: Link,
    script: Script,
    prefix: String,
    /// The server's address, without credentials: for messages.
    address: String,
    timeout: Duration,
    waits_for_file: AtomicBool,
    wait_replicas: u32,
    /// How many commands have failed.
    failures: Arc<AtomicU64>,
}

impl RedisStore {
    /// Prepares the connections that `config.url` names: `redis://…`, or `redis-cluster://host:port,host:port`.
    /// They are made by the first command, so a server that is down now is no error here.
    pub async fn open(config: &OnlineConfig) -> Result<Self, FeatureStoreError> {
        if config.prefix.contains(['{', '}']) {
            return Err(FeatureStoreError::InvalidRequest {
                detail: format!(
                    "online key prefix `{}` must not contain braces: they mark the slot",
                    config.prefix
                ),
            });
        }
        let address = address_of(&config.url);
        let open = || Link::open(config).map_err(|error| failed(&address, &error));
        let reads = open()?;
        let failures = Arc::new(AtomicU64::new(0));
        let store = Self {
            rows: Rows::new(reads.clone(), &address, Arc::clone(&failures)),
            reads,
            writes: open()?,
            syncs: open()?,
            script: Script::new(COMPARE_AND_SET),
            prefix: config.prefix.clone(),
            timeout: config.timeout,
            waits_for_file: AtomicBool::new(true),
            wait_replicas: config.wait_replicas,
            failures,
            address,
        };
        if let Err(error) = store.ping().await {
            tracing::warn!(address = store.address, %error, "redis does not answer yet: the service waits for it");
        }
        Ok(store)
    }

    /// The rows of at most [`KEYS_PER_COMMAND`] keys.
    async fn get_some(&self, keys: &[RowKey]) -> Result<Vec<Option<Bytes>>, FeatureStoreError> {
        let mut wanted = Keys::default();
        for key in keys {
            wanted.push(|bytes| key.push_redis(&self.prefix, bytes));
        }
        let stored = self.rows.get(wanted).await?;
        stored
            .into_iter()
            .map(|stored| stored.map(value::open).transpose())
            .collect()
    }

    /// One script over `indexes` of `writes`; the indexes that lost.
    async fn set_some(
        &self,
        life: &Life,
        writes: &[RowWrite],
        indexes: Vec<usize>,
    ) -> Result<Vec<usize>, FeatureStoreError> {
        let mut call = self.script.prepare_invoke();
        call.arg(life.0.as_ref());
        for write in indexes.iter().filter_map(|&index| writes.get(index)) {
            call.key(write.key.redis(&self.prefix));
            call.arg(
                write
                    .expected
                    .as_deref()
                    .map_or_else(Vec::new, |expected| value::digest(expected).to_vec()),
            );
            call.arg(value::seal(&write.value));
        }
        let lost: Result<Vec<usize>, RedisError> = self.writes.invoke(&call).await;
        let lost = lost.map_err(|error| failed(&self.address, &error))?;
        Ok(lost
            .into_iter()
            .filter_map(|place| indexes.get(place.checked_sub(1)?).copied())
            .collect())
    }

    /// The writes that travel in one script each.
    fn groups(&self, writes: &[RowWrite]) -> Vec<Vec<usize>> {
        match &self.writes {
            Link::Server(_) => {
                let indexes: Vec<usize> = (0..writes.len()).collect();
                indexes.chunks(KEYS_PER_COMMAND).map(<[usize]>::to_vec).collect()
            }
            Link::Cluster(_) => {
                let mut groups: HashMap<&EntityKey, Vec<usize>> = HashMap::new();
                for (index, write) in writes.iter().enumerate() {
                    groups.entry(&write.key.entity).or_default().push(index);
                }
                groups.into_values().collect()
            }
        }
    }

    /// Every key of a view version, from every primary.
    async fn keys_of(&self, view_id: u32) -> Result<Vec<Vec<u8>>, FeatureStoreError> {
        let mut keys = Vec::new();
        for primary in self.primaries().await? {
            let mut cursor = 0;
            loop {
                let found;
                (cursor, found) = self.some_keys_of(view_id, &primary.node, cursor).await?;
                keys.extend(found);
                if cursor == 0 {
                    break;
                }
            }
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// Keys of a view version from one node, and where to go on; 0 at the end.
    async fn some_keys_of(
        &self,
        view_id: u32,
        node: &Node,
        cursor: u64,
    ) -> Result<(u64, Vec<Vec<u8>>), FeatureStoreError> {
        let mut command = cmd("SCAN");
        command.arg(cursor).arg("MATCH");
        command.arg(RowKey::redis_pattern(&self.prefix, view_id));
        command.arg("COUNT").arg(DELETED_AT_A_TIME);
        let (next, mut found): (u64, Vec<Vec<u8>>) = self.query_at(&self.reads, node, &command).await?;
        // The glob is a first sieve: an entity's own bytes may look like the end of another key.
        found.retain(|key| RowKey::entity_of_redis(key, &self.prefix, view_id).is_some());
        Ok((next, found))
    }

    /// Raises the mark of one shard, and waits for what it is to survive with.
    ///
    /// Both waits are for what their connection wrote last, whatever others wrote; so all three commands go over one,
    /// even where it breaks in between. What they wait for is the mark, and so every row before it.
    async fn sync_shard(&self, life: &Life, primary: &Primary) -> Result<Mark, FeatureStoreError> {
        let shard = primary.shard();
        let mut raise = cmd("EVAL");
        raise.arg(RAISE_MARK).arg(1).arg(self.mark(&shard)).arg(life.0.as_ref());
        let mut commands = vec![raise];
        let waits_for_replicas = self.wait_replicas > 0;
        let waits_for_file = self.waits_for_file.load(Ordering::Relaxed);
        let wait_ms = self.wait_ms(u32::from(waits_for_replicas) + u32::from(waits_for_file));
        if waits_for_replicas {
            let mut wait = cmd("WAIT");
            wait.arg(self.wait_replicas).arg(wait_ms);
            commands.push(wait);
        }
        if waits_for_file {
            let mut wait = cmd("WAITAOF");
            wait.arg(1).arg(0).arg(wait_ms);
            commands.push(wait);
        }
        let failed = |error: RedisError| failed(&self.address, &error);
        let answers = self.syncs.query_all_at(&primary.node, commands).await.map_err(failed)?;
        let mut answers = answers.into_iter();
        let value = answer(answers.next()).map_err(failed)?;
        if waits_for_replicas {
            self.check_replicas(answer(answers.next()).map_err(failed)?)?;
        }
        if waits_for_file {
            self.check_file(answer(answers.next()))?;
        }
        Ok(Mark { shard, value })
    }

    fn check_replicas(&self, confirmed: u32) -> Result<(), FeatureStoreError> {
        if confirmed < self.wait_replicas {
            return Err(FeatureStoreError::Unavailable {
                detail: format!(
                    "redis at {}: {confirmed} of {} replicas confirmed what was written, in time",
                    self.address, self.wait_replicas
                ),
            });
        }
        Ok(())
    }

    fn check_file(&self, written: Result<(u64, u64), RedisError>) -> Result<(), FeatureStoreError> {
        match written {
            Ok((1.., _)) => Ok(()),
            Ok((0, _)) => Err(FeatureStoreError::Unavailable {
                detail: format!("redis at {} has not written its append-only file in time", self.address),
            }),
            // No such command before 7.2, and none without the file.
            Err(error) if error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::ResponseError) => {
                self.waits_for_file.store(false, Ordering::Relaxed);
                tracing::warn!(
                    address = self.address,
                    %error,
                    "redis can't confirm that rows are on disk: they survive what its own persistence survives"
                );
                Ok(())
            }
            Err(error) => Err(failed(&self.address, &error)),
        }
    }

    /// How long each of `waits` may last: together less than the client waits for any answer.
    fn wait_ms(&self, waits: u32) -> u64 {
        u64::try_from(self.timeout.as_millis() * 3 / 4 / u128::from(waits.max(1)))
            .unwrap_or(u64::MAX)
            .max(1)
    }

    fn mark(&self, shard: &str) -> String {
        format!("{}:mark:{{{shard}}}", self.prefix)
    }

    async fn primaries(&self) -> Result<Vec<Primary>, FeatureStoreError> {
        self.counted(topology::primaries(&self.reads, &self.address).await)
    }

    /// Takes note of a failure. A connection that broke says so to one command, and the next has another connection.
    fn counted<T, E>(&self, outcome: Result<T, E>) -> Result<T, E> {
        if outcome.is_err() {
            self.failures.fetch_add(1, Ordering::Release);
        }
        outcome
    }

    async fn query<T: FromRedisValue>(&self, link: &Link, command: &Cmd) -> Result<T, FeatureStoreError> {
        let answer = self.counted(link.query(command).await);
        answer.map_err(|error| failed(&self.address, &error))
    }

    async fn query_at<T: FromRedisValue>(
        &self,
        link: &Link,
        node: &Node,
        command: &Cmd,
    ) -> Result<T, FeatureStoreError> {
        let answer = self.counted(link.query_at(node, command).await);
        answer.map_err(|error| failed(&self.address, &error))
    }
}

/// The answer to one of several commands.
fn answer<T: FromRedisValue>(answer: Option<Result<Value, RedisError>>) -> Result<T, RedisError> {
    let missing = || RedisError::from((redis::ErrorKind::Parse, "fewer answers than commands"));
    redis::from_redis_value(answer.ok_or_else(missing)??).map_err(RedisError::from)
}

#[async_trait]
impl OnlineStore for RedisStore {
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Bytes>>, FeatureStoreError> {
        match keys {
            [] => Ok(Vec::new()),
            few if few.len() <= KEYS_PER_COMMAND => self.get_some(few).await,
            // Sent one behind the other on one connection: still about one round trip.
            many => {
                let parts = many.chunks(KEYS_PER_COMMAND).map(|part| self.get_some(part));
                let parts = futures::future::try_join_all(parts).await?;
                Ok(parts.into_iter().flatten().collect())
            }
        }
    }

    async fn compare_and_set(&self, life: &Life, writes: Vec<RowWrite>) -> Result<Vec<usize>, FeatureStoreError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let calls = self
            .groups(&writes)
            .into_iter()
            .map(|indexes| self.set_some(life, &writes, indexes));
        let calls: Vec<_> = calls.collect();
        let lost: Vec<Vec<usize>> = futures::stream::iter(calls)
            .buffer_unordered(SCRIPTS_IN_FLIGHT)
            .try_collect()
            .await?;
        let mut lost: Vec<usize> = lost.into_iter().flatten().collect();
        lost.sort_unstable();
        Ok(lost)
    }

    async fn sync(&self, life: &Life) -> Result<Vec<Mark>, FeatureStoreError> {
        let primaries = self.primaries().await?;
        let shards = primaries.iter().map(|primary| self.sync_shard(life, primary));
        futures::future::try_join_all(shards).await
    }

    async fn marks(&self, shards: &[String]) -> Result<Vec<Option<u64>>, FeatureStoreError> {
        let held = shards.iter().map(|shard| {
            let mut command = cmd("GET");
            command.arg(self.mark(shard));
            async move { self.query(&self.reads, &command).await }
        });
        futures::future::try_join_all(held).await
    }

    async fn scan(&self, view_id: u32) -> Result<Vec<(EntityKey, Bytes)>, FeatureStoreError> {
        let keys = self.keys_of(view_id).await?;
        let entities = keys
            .iter()
            .filter_map(|key| RowKey::entity_of_redis(key, &self.prefix, view_id));
        let keys: Vec<RowKey> = entities.map(|entity| RowKey::new(view_id, entity)).collect();
        let rows = self.get(&keys).await?;
        let found = keys
            .into_iter()
            .zip(rows)
            .filter_map(|(key, row)| Some((key.entity, row?)));
        let mut found: Vec<_> = found.collect();
        found.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        Ok(found)
    }

    async fn delete_view(&self, view_id: u32, pause: Duration) -> Result<(), FeatureStoreError> {
        for primary in self.primaries().await? {
            let mut cursor = 0;
            loop {
                let found;
                (cursor, found) = self.some_keys_of(view_id, &primary.node, cursor).await?;
                let unlinks = found.iter().map(|key| {
                    let mut command = cmd("UNLINK");
                    command.arg(key);
                    async move { self.query::<i64>(&self.writes, &command).await }
                });
                futures::future::try_join_all(unlinks).await?;
                if cursor == 0 {
                    break;
                }
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }

    async fn life(&self) -> Result<Life, FeatureStoreError> {
        let primaries = self.primaries().await?;
        self.counted(topology::life(&self.reads, &self.address, &primaries).await)
    }

    fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    async fn ping(&self) -> Result<(), FeatureStoreError> {
        self.query::<String>(&self.reads, &cmd("PING")).await.map(drop)
    }
}
