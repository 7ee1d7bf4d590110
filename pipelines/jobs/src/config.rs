//! Where the pipelines keep things, and their bounds.

use crate::training_set::Limits;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The pipelines' configuration. The defaults keep everything embedded under [`Self::data_dir`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PipelinesConfig {
    /// The folder of results, and of the ledger when that is embedded.
    pub data_dir: PathBuf,
    /// The job ledger's database: `sqlite://path`, which one process has to itself, or
    /// `postgres://user:password@host/database`, which several share. Absent: `pipelines.db` in the data folder.
    pub ledger: Option<String>,
    /// Where the spines of jobs are kept: a folder or `s3://bucket/prefix`. Instances with one ledger share it. Absent:
    /// `spines` in the data folder.
    pub spines: Option<String>,
    /// Where the rows of finished training sets are kept: a folder or `s3://bucket/prefix`. Instances with one ledger share
    /// it. Absent: `training-sets` in the data folder.
    pub results: Option<String>,
    /// Jobs that run at the same time; each uses all of [`Self::threads`].
    pub concurrent_jobs: usize,
    /// Of these kinds of jobs, fewer may run at the same time.
    pub concurrent_of_kind: BTreeMap<String, usize>,
    /// Jobs that may wait for their turn; more are refused.
    pub queued_jobs: usize,
    /// Memory that running jobs share, in MiB; a job waits until there is room for it. One that would not fit at all
    /// gets all of it.
    pub memory_mib: u64,
    /// Times that a job is started before it is given up, when each attempt ends with the process at work on it.
    pub attempts: u32,
    /// How long a job stays its instance's without a sign of life, in milliseconds. Then another takes it over.
    pub lease_ms: u64,
    /// Compute threads of a job. 0: one per core.
    pub threads: usize,
    /// Memory for the events of one training set's join, in MiB. Events beyond it go to a file in the data folder and are
    /// read again in their turn.
    pub event_memory_mib: u64,
    /// Where training sets are joined: `embedded`, or on a cluster, whose scheduler is at `ballista://host:port`.
    pub engine: String,
    /// The folder for what this service and a cluster's executors exchange, which all of them reach: `s3://bucket/prefix`,
    /// or a path on a file system they share. Absent: `exchange` in the data folder, for a cluster on one machine.
    pub exchange: Option<String>,
    /// Parts into which a cluster's join is cut at least; as many run at the same time as its executors have cores.
    pub join_partitions: usize,
    /// What one such part may hold of memory, in MiB: the more events, the more parts.
    pub join_partition_mib: u64,
    /// Rows decoded from a file at a time.
    pub batch_rows: usize,
    /// Rows of a batch source sent to the feature store at a time.
    pub delivery_rows: usize,
    /// How long a finished training set can be fetched, in minutes.
    pub result_minutes: u64,
    /// How long the spine of a job that has ended is kept, so that it can be submitted again, in hours.
    pub spine_hours: u64,
    /// How long idempotency keys are kept, in hours.
    pub key_hours: u64,
    /// How long a finished job stays in the list, in days.
    pub ledger_days: u64,
    /// Whether views that are new get a job by themselves: one that brings their batch source online, or follows how the
    /// feature store builds their rows from the log.
    pub reconcile: bool,
    /// Whether finished training sets can be fetched over Arrow Flight, on the same port.
    pub flight: bool,
}

/// The engine in the service's own process.
const EMBEDDED: &str = "embedded";

impl Default for PipelinesConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("ondol-data"),
            ledger: None,
            spines: None,
            results: None,
            concurrent_jobs: 1,
            concurrent_of_kind: BTreeMap::new(),
            queued_jobs: 32,
            memory_mib: 4_096,
            attempts: 3,
            lease_ms: 15_000,
            threads: 0,
            event_memory_mib: 1_024,
            engine: EMBEDDED.to_owned(),
            exchange: None,
            join_partitions: 16,
            join_partition_mib: 512,
            batch_rows: 16_384,
            delivery_rows: 8_192,
            result_minutes: 60,
            spine_hours: 24,
            key_hours: 24,
            ledger_days: 30,
            reconcile: true,
            flight: true,
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

    /// Whether training sets are joined in the service's own process.
    pub fn is_embedded(&self) -> bool {
        self.engine == EMBEDDED
    }

    /// The folder for what a cluster exchanges.
    pub fn exchange_place(&self) -> String {
        let here = || self.data_dir.join("exchange").display().to_string();
        self.exchange.clone().unwrap_or_else(here)
    }

    /// This instance's folder of training sets: those that are not finished, and all where no other place is configured.
    pub(crate) fn results_dir(&self) -> PathBuf {
        self.data_dir.join("training-sets")
    }

    /// Where finished training sets are kept.
    pub(crate) fn results_place(&self) -> String {
        let embedded = || self.results_dir().display().to_string();
        self.results.clone().unwrap_or_else(embedded)
    }

    /// Where spines are kept.
    pub(crate) fn spines_place(&self) -> String {
        let embedded = || Path::new(&self.data_dir).join("spines").display().to_string();
        self.spines.clone().unwrap_or_else(embedded)
    }

    /// How long a lease on a job is. Long enough to be renewed in time by a busy machine.
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.max(200))
    }

    pub(crate) fn spine_age(&self) -> Duration {
        Duration::from_secs(self.spine_hours.saturating_mul(3_600))
    }

    pub(crate) fn key_age(&self) -> Duration {
        Duration::from_secs(self.key_hours.saturating_mul(3_600))
    }

    /// What one training set may take of the machine.
    pub(crate) fn limits(&self) -> Limits {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        Limits {
            threads: if self.threads == 0 { cores() } else { self.threads },
            memory_bytes: self.event_memory_mib.saturating_mul(1 << 20),
            batch_rows: self.batch_rows.max(1),
            spill: self.data_dir.join("spill"),
        }
    }

    pub(crate) fn result_age(&self) -> Duration {
        Duration::from_secs(self.result_minutes.saturating_mul(60))
    }

    pub(crate) fn ledger_age(&self) -> Duration {
        Duration::from_secs(self.ledger_days.saturating_mul(86_400))
    }
}
