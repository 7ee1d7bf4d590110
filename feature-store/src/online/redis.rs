//! Online rows in Redis, one server or a cluster, shared by any number of replicas.
//!
//! A read is one `MGET`. A conditional write is a script that compares the digest a value starts with (see
//! [`super::value`]) and sets the keys that still match; on one server a script takes a batch of keys, on a cluster the
//! rows of one entity, which share a slot by their hash tag. Scripts are sent by hash, and loaded where the server
//! does not know them.
//!
//! Reads and writes have a connection each, so that a large batch of writes does not stand in front of a small read.
//! Both reconnect by themselves; a command that fails meanwhile is [`FeatureStoreError::Unavailable`], and repeating
//! it is safe.
//!
//! A server that restarts, or a replica that takes over, may lack writes it had acknowledged. [`OnlineStore::life`]
//! changes then, scripts refuse writes of the earlier life, and the writer asks ingest for everything uncommitted again.
//!
//! Durability of what is committed is the server's: [`OnlineStore::sync`] waits for the append-only file (`WAITAOF`, Redis 7.2) where that
//! is on. Elsewhere rows survive what the server's own persistence survives (`appendfsync always` loses nothing); this
//! is logged once, because after a loss the rows must be built again from the log.

use super::{OnlineConfig, OnlineStore, RowKey, RowWrite, value};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use hashbrown::HashMap;
use ondol_feature_store_api::FeatureStoreError;
use ondol_vocabulary::EntityKey;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::io::tcp::TcpSettings;
use redis::{Cmd, FromRedisValue, IntoConnectionInfo, RedisError, Script, cmd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// Keys of one `MGET`, and of one script: bounds how long the server is busy with one command.
const KEYS_PER_COMMAND: usize = 256;

/// Scripts in flight at once for one batch.
const SCRIPTS_IN_FLIGHT: usize = 64;

/// Where the server's run id is not among those of the first argument, refuses. Sets each key that still holds the
/// expected digest (empty: is absent); answers the 1-based places of the others.
const COMPARE_AND_SET: &str = r"
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if not string.find(ARGV[1], run, 1, true) then
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

/// Rows in Redis.
pub struct RedisStore {
    reads: Link,
    writes: Link,
    syncs: Link,
    script: Script,
    prefix: String,
    /// The server's address, without credentials: for messages.
    address: String,
    timeout: Duration,
    waits_for_file: AtomicBool,
    /// The life that was asked for last, and the servers' run ids in it.
    life: Mutex<(u64, Arc<str>)>,
}

/// A connection that reconnects by itself. Clones share it.
#[derive(Clone)]
enum Link {
    Server(ConnectionManager),
    Cluster(ClusterConnection),
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
        let store = Self {
            reads: open()?,
            writes: open()?,
            syncs: open()?,
            script: Script::new(COMPARE_AND_SET),
            prefix: config.prefix.clone(),
            timeout: config.timeout,
            waits_for_file: AtomicBool::new(!config.url.starts_with("redis-cluster://")),
            life: Mutex::new((0, "".into())),
            address,
        };
        if let Err(error) = store.ping().await {
            tracing::warn!(address = store.address, %error, "redis does not answer yet: the service waits for it");
        }
        Ok(store)
    }

    /// The rows of at most [`KEYS_PER_COMMAND`] keys.
    async fn get_some(&self, keys: &[RowKey]) -> Result<Vec<Option<Bytes>>, FeatureStoreError> {
        let mut command = cmd("MGET");
        for key in keys {
            command.arg(key.redis(&self.prefix));
        }
        let stored: Vec<Option<Vec<u8>>> = self.query(&self.reads, &command).await?;
        if stored.len() != keys.len() {
            let detail = format!(
                "redis at {} answered {} of {} rows",
                self.address,
                stored.len(),
                keys.len()
            );
            return Err(FeatureStoreError::Internal { detail });
        }
        stored
            .into_iter()
            .map(|stored| stored.map(|stored| value::open(&Bytes::from(stored))).transpose())
            .collect()
    }

    /// One script over `indexes` of `writes`; the indexes that lost.
    async fn set_some(
        &self,
        run_ids: &str,
        writes: &[RowWrite],
        indexes: Vec<usize>,
    ) -> Result<Vec<usize>, FeatureStoreError> {
        let mut call = self.script.prepare_invoke();
        call.arg(run_ids);
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
        let lost: Vec<usize> = match self.writes.clone() {
            Link::Server(mut link) => call.invoke_async(&mut link).await,
            Link::Cluster(mut link) => call.invoke_async(&mut link).await,
        }
        .map_err(|error| failed(&self.address, &error))?;
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

    fn life_asked(&self) -> MutexGuard<'_, (u64, Arc<str>)> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every key of a view version, from every primary.
    async fn keys_of(&self, view_id: u32) -> Result<Vec<Vec<u8>>, FeatureStoreError> {
        let pattern = RowKey::redis_pattern(&self.prefix, view_id);
        let mut keys = Vec::new();
        for node in self.primaries().await? {
            let mut cursor = 0u64;
            loop {
                let mut command = cmd("SCAN");
                command.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1_000);
                let (next, found): (u64, Vec<Vec<u8>>) = self.query_at(&node, &command).await?;
                keys.extend(found.into_iter().filter(|key| {
                    // The glob is a first sieve: an entity's own bytes may look like the end of another key.
                    RowKey::entity_of_redis(key, &self.prefix, view_id).is_some()
                }));
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// Addresses of the cluster's primaries; one `None` for a single server.
    async fn primaries(&self) -> Result<Vec<Option<(String, u16)>>, FeatureStoreError> {
        if matches!(self.reads, Link::Server(_)) {
            return Ok(vec![None]);
        }
        let mut command = cmd("CLUSTER");
        command.arg("NODES");
        let table: String = self.query_at(&None, &command).await?;
        let primary = |line: &str| {
            let mut fields = line.split(' ');
            let address = fields.nth(1)?.split(['@', ',']).next()?;
            let flags = fields.next()?;
            let (host, port) = address.rsplit_once(':')?;
            let serves = flags.split(',').any(|flag| flag == "master") && !flags.contains("fail");
            serves.then(|| port.parse().ok().map(|port| Some((host.to_owned(), port))))?
        };
        Ok(table.lines().filter_map(primary).collect())
    }

    async fn query<T: FromRedisValue>(&self, link: &Link, command: &Cmd) -> Result<T, FeatureStoreError> {
        match link.clone() {
            Link::Server(mut link) => command.query_async(&mut link).await,
            Link::Cluster(mut link) => command.query_async(&mut link).await,
        }
        .map_err(|error| failed(&self.address, &error))
    }

    /// As [`Self::query`], at one node of a cluster (any, when `None`).
    async fn query_at<T: FromRedisValue>(
        &self,
        node: &Option<(String, u16)>,
        command: &Cmd,
    ) -> Result<T, FeatureStoreError> {
        let Link::Cluster(mut link) = self.reads.clone() else {
            return self.query(&self.reads, command).await;
        };
        let route = match node.clone() {
            Some((host, port)) => SingleNodeRoutingInfo::ByAddress { host, port },
            None => SingleNodeRoutingInfo::RandomPrimary,
        };
        let answer = link
            .route_command(command.clone(), RoutingInfo::SingleNode(route))
            .await;
        let answer = answer.and_then(|value| redis::from_redis_value(value).map_err(RedisError::from));
        answer.map_err(|error| failed(&self.address, &error))
    }
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

    async fn compare_and_set(&self, life: u64, writes: Vec<RowWrite>) -> Result<Vec<usize>, FeatureStoreError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let (present, run_ids) = self.life_asked().clone();
        if present != life {
            let detail = format!("redis at {} restarted since the rows were read", self.address);
            return Err(FeatureStoreError::Unavailable { detail });
        }
        let calls = self
            .groups(&writes)
            .into_iter()
            .map(|indexes| self.set_some(&run_ids, &writes, indexes));
        let calls: Vec<_> = calls.collect();
        let lost: Vec<Vec<usize>> = futures::stream::iter(calls)
            .buffer_unordered(SCRIPTS_IN_FLIGHT)
            .try_collect()
            .await?;
        let mut lost: Vec<usize> = lost.into_iter().flatten().collect();
        lost.sort_unstable();
        Ok(lost)
    }

    async fn sync(&self) -> Result<(), FeatureStoreError> {
        if !self.waits_for_file.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Link::Server(mut link) = self.syncs.clone() else {
            return Ok(());
        };
        // The file is written in the server's own order, so waiting for a marker waits for every row before it,
        // whichever connection wrote them.
        let marker: Result<(), RedisError> = cmd("SET")
            .arg(format!("{}:sync", self.prefix))
            .arg(1)
            .query_async(&mut link)
            .await;
        marker.map_err(|error| failed(&self.address, &error))?;
        let mut wait = cmd("WAITAOF");
        wait.arg(1)
            .arg(0)
            .arg(u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX));
        let waited: Result<(u64, u64), RedisError> = wait.query_async(&mut link).await;
        match waited {
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

    async fn delete_view(&self, view_id: u32) -> Result<(), FeatureStoreError> {
        for key in self.keys_of(view_id).await? {
            let mut command = cmd("UNLINK");
            command.arg(key);
            let _removed: i64 = self.query(&self.writes, &command).await?;
        }
        Ok(())
    }

    /// The servers' run ids: one changes when a server restarts, or a replica takes its place.
    async fn life(&self) -> Result<u64, FeatureStoreError> {
        let mut command = cmd("INFO");
        command.arg("server");
        let mut ids = Vec::new();
        for node in self.primaries().await? {
            let text: String = self.query_at(&node, &command).await?;
            let id = text.lines().find_map(|line| line.strip_prefix("run_id:"));
            ids.push(
                id.map(|id| id.trim().to_owned())
                    .ok_or_else(|| FeatureStoreError::Internal {
                        detail: format!("redis at {} does not tell its run id", self.address),
                    })?,
            );
        }
        ids.sort_unstable();
        let ids = ids.join(",");
        let life = xxh3_64(ids.as_bytes());
        *self.life_asked() = (life, ids.into());
        Ok(life)
    }

    async fn ping(&self) -> Result<(), FeatureStoreError> {
        self.query::<String>(&self.reads, &cmd("PING")).await.map(drop)
    }
}

impl Link {
    fn open(config: &OnlineConfig) -> Result<Self, RedisError> {
        // Off by default in this client; without it small commands wait for the server's delayed acknowledgement.
        let tcp = TcpSettings::default().set_nodelay(true);
        match config.url.strip_prefix("redis-cluster://") {
            Some(nodes) => {
                let nodes = nodes.split(',').map(|node| format!("redis://{node}"));
                let client = ClusterClientBuilder::new(nodes)
                    .tcp_settings(tcp)
                    .connection_timeout(config.timeout)
                    .response_timeout(config.timeout)
                    .retries(3)
                    .build()?;
                let settings = redis::cluster::ClusterConfig::new();
                Ok(Self::Cluster(client.get_pending_async_connection_with_config(settings)))
            }
            None => {
                let info = config.url.as_str().into_connection_info()?.set_tcp_settings(tcp);
                let settings = ConnectionManagerConfig::new()
                    .set_connection_timeout(Some(config.timeout))
                    .set_response_timeout(Some(config.timeout))
                    .set_min_delay(Duration::from_millis(50))
                    .set_max_delay(Duration::from_secs(1))
                    .set_number_of_retries(3)
                    .set_pipeline_buffer_size(1_024);
                let client = redis::Client::open(info)?;
                Ok(Self::Server(client.get_connection_manager_lazy(settings)?))
            }
        }
    }
}

/// The URL's hosts, without user and password.
fn address_of(url: &str) -> String {
    let hosts = url.split_once("://").map_or(url, |(_, rest)| rest);
    let bare = |host: &str| host.rsplit_once('@').map_or(host, |(_, host)| host).to_owned();
    hosts.split(',').map(bare).collect::<Vec<_>>().join(",")
}

fn failed(address: &str, error: &RedisError) -> FeatureStoreError {
    FeatureStoreError::Unavailable {
        detail: format!("redis at {address}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_out_of_messages() {
        assert_eq!(address_of("redis://user:secret@cache:6379/1"), "cache:6379/1");
        assert_eq!(address_of("redis-cluster://u:p@a:1,u:p@b:2"), "a:1,b:2");
    }
}
