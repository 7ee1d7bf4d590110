//! Where the pipelines keep things, and their bounds.

use crate::training_set::Limits;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The pipelines' configuration. The defaults keep everything embedded under [`Self::data_dir`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PipelinesConfig {
    /// The folder of results, and of the ledger when that is embedded.
    pub data_dir: PathBuf,
    /// The job ledger's database: `sqlite://path` or `postgres://user:password@host/database`. One service at a time
    /// may use it. Absent: `pipelines.db` in the data folder.
    pub ledger: Option<String>,
    /// Jobs that run at the same time; each uses all of [`Self::threads`].
    pub concurrent_jobs: usize,
    /// Jobs that may wait for their turn; more are refused. Each holds its spine in memory.
    pub queued_jobs: usize,
    /// Compute threads of a job. 0: one per core.
    pub threads: usize,
    /// Events that a training set holds at a time, in MiB. When there are more, files are read in several passes, each
    /// for a part of the entities.
    pub event_memory_mib: u64,
    /// Rows decoded from a file at a time.
    pub batch_rows: usize,
    /// Rows of a batch source sent to the feature store at a time.
    pub delivery_rows: usize,
    /// How long a finished training set can be fetched, in minutes.
    pub result_minutes: u64,
    /// How long a finished job stays in the list, in days.
    pub ledger_days: u64,
    /// Whether batch sources are brought online by themselves when a view over them is new.
    pub reconcile: bool,
}

impl Default for PipelinesConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("ondol-data"),
            ledger: None,
            concurrent_jobs: 1,
            queued_jobs: 32,
            threads: 0,
            event_memory_mib: 1_024,
            batch_rows: 16_384,
            delivery_rows: 8_192,
            result_minutes: 60,
            ledger_days: 30,
            reconcile: true,
        }
    }
}

impl PipelinesConfig {
    /// Everything embedded under `data_dir`.
    pub fn embedded(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            ..Self::default()
        }
    }

    /// The ledger's URL.
    pub fn ledger_url(&self) -> String {
        let embedded = || format!("sqlite://{}", Path::new(&self.data_dir).join("pipelines.db").display());
        self.ledger.clone().unwrap_or_else(embedded)
    }

    /// The folder of finished training sets.
    pub fn results_dir(&self) -> PathBuf {
        self.data_dir.join("training-sets")
    }

    /// What one training set may take of the machine.
    pub(crate) fn limits(&self) -> Limits {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        Limits {
            threads: if self.threads == 0 { cores() } else { self.threads },
            memory_bytes: self.event_memory_mib.saturating_mul(1 << 20),
            batch_rows: self.batch_rows.max(1),
        }
    }

    pub(crate) fn result_age(&self) -> Duration {
        Duration::from_secs(self.result_minutes.saturating_mul(60))
    }

    pub(crate) fn ledger_age(&self) -> Duration {
        Duration::from_secs(self.ledger_days.saturating_mul(86_400))
    }
}
