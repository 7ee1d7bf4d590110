//! The bounds of queries.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// What queries over offline tables may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SqlConfig {
    /// Queries that run at the same time; more are refused.
    pub concurrent_queries: usize,
    /// Memory that all queries together hold for sorting, grouping and joining, in MiB. Beyond it they spill to disk.
    pub memory_mib: u64,
    /// The folder for what does not fit in memory. Emptied when a query ends.
    pub spill_dir: PathBuf,
    /// How much may be spilled at a time, in MiB.
    pub spill_mib: u64,
    /// Threads that compute. 0: one per core.
    pub threads: usize,
    /// How long a query may take, in seconds.
    pub timeout_s: u64,
    /// Rows that an answer may have.
    pub max_rows: u64,
}

impl Default for SqlConfig {
    fn default() -> Self {
        Self {
            concurrent_queries: 4,
            memory_mib: 512,
            spill_dir: PathBuf::from("ondol-data/sql-spill"),
            spill_mib: 10_240,
            threads: 0,
            timeout_s: 300,
            max_rows: 10_000_000,
        }
    }
}

impl SqlConfig {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s.max(1))
    }

    /// Threads that compute.
    pub(crate) fn compute_threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        if self.threads == 0 { cores() } else { self.threads }
    }
}
