//! Where the feature store keeps things, and its bounds.

use crate::offline::{CompactionConfig, EventLogConfig, VacuumConfig};
use crate::online::OnlineConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The feature store's configuration. The defaults keep everything embedded under [`Self::data_dir`]; each part moves
/// on its own by one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureStoreConfig {
    /// The folder of whatever is embedded.
    pub data_dir: PathBuf,
    /// The registry's database: `sqlite://path` or `postgres://user:password@host/database`.
    /// Absent: `registry.db` in the data folder.
    pub registry: Option<String>,
    /// The online store: a file path, `redis://host:port` or `redis-cluster://host:port,host:port`.
    /// Absent: `online.redb` in the data folder.
    pub online: Option<String>,
    /// The offline tables: a folder, or `s3://bucket/prefix`. Absent: `offline` in the data folder.
    pub offline: Option<String>,
    /// Starts every key in Redis, so that several installations can share a server. No braces.
    pub online_prefix: String,
    /// How long a command of Redis may take, in milliseconds.
    pub online_timeout_ms: u64,
    /// Replicas of each Redis primary that must confirm rows before the log commits the events behind them.
    pub online_wait_replicas: u32,
    /// Build rows anew from the log by itself when the online store has lost some that it had acknowledged.
    pub rebuild_after_loss: bool,
    /// Serve views whose rows the online store has lost before they are built anew, as if what was lost had never been.
    /// Otherwise their reads are refused as unavailable.
    pub serve_lost_rows: bool,
    /// How long rows that nobody reads any more are kept, in milliseconds: a replica may yet have to learn of it.
    pub keep_discarded_rows_ms: u64,
    /// Memory of the embedded online store, in MiB: half of it caches pages, half holds rows written lately.
    pub online_cache_mib: usize,
    /// Events of one source that make a commit to its offline table due.
    pub commit_rows: usize,
    /// Age of the oldest uncommitted event that makes a commit due, in milliseconds.
    pub commit_interval_ms: u64,
    /// Merge small files of the offline tables by itself.
    pub compact: bool,
    /// Files of about one size and of one event date that make a merge due.
    pub compact_files: usize,
    /// Size up to which files are merged, in MiB; a merge holds one such file in memory.
    pub compact_target_mib: u64,
    /// How long files of the offline tables that no version needs any more are kept, in milliseconds: so far back
    /// versions stay readable.
    pub vacuum_retention_ms: u64,
    /// How often such files are deleted, in milliseconds; 0 leaves that to `:vacuum`.
    pub vacuum_interval_ms: u64,
    /// Event dates that lie wholly before this long ago are dropped from the offline tables, in milliseconds. Absent:
    /// events are kept for ever.
    pub keep_events_ms: Option<u64>,
    /// The same for single sources, by name.
    pub keep_events_of: BTreeMap<String, u64>,
    /// Uncommitted events of one source beyond which a write commits first: bounds memory when commits are slow.
    pub max_uncommitted_rows: usize,
    /// Deliveries of one source that may wait for their turn; more are refused as unavailable.
    pub max_pending_deliveries: usize,
    /// Entities of one read; more are refused.
    pub max_read_rows: usize,
    /// How often the registry is looked at for changes made by another replica, in milliseconds.
    pub registry_poll_ms: u64,
}

impl Default for FeatureStoreConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("ondol-data"),
            registry: None,
            online: None,
            offline: None,
            online_prefix: "ondol".to_owned(),
            online_timeout_ms: 2_000,
            online_wait_replicas: 0,
            rebuild_after_loss: true,
            serve_lost_rows: false,
            keep_discarded_rows_ms: 60_000,
            online_cache_mib: 256,
            commit_rows: 50_000,
            commit_interval_ms: 1_000,
            compact: true,
            compact_files: 32,
            compact_target_mib: 64,
            vacuum_retention_ms: 7 * 24 * 3_600_000,
            vacuum_interval_ms: 3_600_000,
            keep_events_ms: None,
            keep_events_of: BTreeMap::new(),
            max_uncommitted_rows: 250_000,
            max_pending_deliveries: 64,
            max_read_rows: 10_000,
            registry_poll_ms: 1_000,
        }
    }
}

impl FeatureStoreConfig {
    /// Everything embedded under `data_dir`.
    pub fn embedded(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            ..Self::default()
        }
    }

    /// The registry's URL.
    pub fn registry_url(&self) -> String {
        self.registry
            .clone()
            .unwrap_or_else(|| format!("sqlite://{}", self.under_data("registry.db")))
    }

    /// The offline tables' root.
    pub fn offline_root(&self) -> String {
        self.offline.clone().unwrap_or_else(|| self.under_data("offline"))
    }

    /// How to open the online store.
    pub fn online_config(&self) -> OnlineConfig {
        OnlineConfig {
            url: self.online.clone().unwrap_or_else(|| self.under_data("online.redb")),
            prefix: self.online_prefix.clone(),
            timeout: Duration::from_millis(self.online_timeout_ms.max(1)),
            cache_bytes: self.online_cache_mib.saturating_mul(1 << 20),
            wait_replicas: self.online_wait_replicas,
        }
    }

    /// When the log's commits are due. What it may hold is bounded by the writer, which syncs online rows first.
    pub fn log_config(&self) -> EventLogConfig {
        EventLogConfig {
            commit_rows: self.commit_rows,
            commit_interval: Duration::from_millis(self.commit_interval_ms),
            max_buffered_rows: usize::MAX,
        }
    }

    /// When small files of the offline tables are merged, and how large they may become.
    pub fn compaction_config(&self) -> CompactionConfig {
        CompactionConfig {
            files: self.compact_files.max(2),
            target_bytes: self.compact_target_mib.max(1).saturating_mul(1 << 20),
        }
    }

    /// What of `source`'s table a vacuum may delete.
    pub fn vacuum_config(&self, source: &str) -> VacuumConfig {
        let keep_ms = self.keep_events_of.get(source).copied().or(self.keep_events_ms);
        VacuumConfig {
            retention: Duration::from_millis(self.vacuum_retention_ms),
            keep: keep_ms.map(Duration::from_millis),
            dry_run: false,
        }
    }

    fn under_data(&self, name: &str) -> String {
        Path::new(&self.data_dir).join(name).display().to_string()
    }
}
