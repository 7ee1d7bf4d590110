//! The gateway's configuration. Every key is documented here; the reference page is generated from these words.

use crate::access::AccessConfig;
use crate::features::StoreBreakerConfig;
use crate::models::Room;
use crate::runtime::library::{LibrarySearch, VARIABLE, beside_the_program};
use crate::runtime::loader::BatchingConfig;
use crate::runtime::onnx::OnnxOptions;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Configuration of the model gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelGatewayConfig {
    /// Folder of the artifacts (by SHA-256) or of this replica's copies of them, the SQLite database and the last good
    /// registry snapshot.
    pub data_dir: PathBuf,
    /// Where artifacts are kept: a folder or `s3://bucket/prefix`, one for all replicas. Empty: `data_dir`/artifacts. Of
    /// what lies in a bucket each replica keeps copies in `data_dir`/artifacts, so that it starts without the bucket.
    pub artifacts: String,
    /// URL of the model database: `sqlite:///path/models.db?mode=rwc` or `postgres://…`. Empty: a SQLite file in
    /// `data_dir`.
    pub database: String,
    /// The ONNX Runtime library, or the folder that holds it. Empty: `ORT_DYLIB_PATH`, then `data_dir`/onnxruntime,
    /// then the folder `onnxruntime` beside the program, then the Python environment.
    pub onnxruntime: String,
    /// The Python interpreter whose packages are searched for ONNX Runtime.
    pub python: String,
    /// Sessions a model: how many requests it scores at the same time. Each holds the weights once. 0: one per core.
    pub sessions: usize,
    /// What all loaded models may take together, in MiB: of an ONNX file its size for each of its `sessions` and once more.
    /// At the bound, versions that no request reaches without naming them are unloaded, those first that were not used for
    /// longest, and loaded again by the next request that names them; where those that must stay leave no room, a model is
    /// refused. 0: no bound.
    pub max_model_memory_mib: usize,
    /// Threads that share one run of a model. 1 is best for many small requests.
    pub intra_op_threads: usize,
    /// How long a request may take unless it says otherwise, in milliseconds.
    pub deadline_ms: u64,
    /// Requests under way at most; more are refused at once.
    pub max_in_flight: usize,
    /// Requests of one model under way at most, unless its routing says otherwise; so that a model that hangs starves no
    /// other. 0: a quarter of `max_in_flight`.
    pub max_in_flight_per_model: usize,
    /// Requests of one model that wait for room at most; more are refused at once, and so is one that is likely to wait
    /// past its deadline.
    pub max_queue_per_model: usize,
    /// Requests that wait for one shadow at most; further ones are not scored by it, and counted.
    pub shadow_queue: usize,
    /// How often the model database is looked at for what other replicas registered and routed, in milliseconds.
    pub catalog_refresh_ms: u64,
    /// Rows of one batch at most.
    pub max_batch_rows: usize,
    /// Largest artifact that can be registered, in bytes.
    pub max_artifact_bytes: usize,
    /// Largest body of an Open Inference Protocol request, in bytes.
    pub max_request_bytes: usize,
    /// How requests of a model that arrive together are merged into one run.
    pub batching: BatchingConfig,
    /// When the feature store is not asked for a while.
    pub store_breaker: StoreBreakerConfig,
    /// Who may use the gateway.
    pub access: AccessConfig,
    /// The name under which the feature store is told what live models read: one for all replicas of a gateway, another for
    /// a gateway with a model database of its own.
    pub consumer: String,
    /// The decision log.
    pub decision_log: DecisionLogConfig,
}

/// Configuration of the decision log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecisionLogConfig {
    /// Whether decisions are logged.
    pub enabled: bool,
    /// Decisions waiting at most; further ones are dropped, counted and reported.
    pub queue: usize,
    /// Decisions pushed together at most.
    pub batch: usize,
    /// How long a decision waits for others to be pushed with, in milliseconds.
    pub linger_ms: u64,
    /// How long the shutdown waits for the queue to empty, in milliseconds.
    pub drain_ms: u64,
    /// Bytes of a row at most that a caller sent as the model's own tensors and that is kept; of a larger one the decision
    /// says that its vector was left out.
    pub max_raw_bytes: usize,
}

impl Default for ModelGatewayConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data/model-gateway"),
            artifacts: String::new(),
            database: String::new(),
            onnxruntime: String::new(),
            python: "python3".to_owned(),
            sessions: 0,
            max_model_memory_mib: 0,
            intra_op_threads: 1,
            deadline_ms: 2_000,
            max_in_flight: 1_024,
            max_in_flight_per_model: 0,
            max_queue_per_model: 128,
            shadow_queue: 2_000,
            catalog_refresh_ms: 1_000,
            max_batch_rows: 10_000,
            max_artifact_bytes: 256 << 20,
            max_request_bytes: 16 << 20,
            batching: BatchingConfig::default(),
            store_breaker: StoreBreakerConfig::default(),
            access: AccessConfig::default(),
            consumer: "model-gateway".to_owned(),
            decision_log: DecisionLogConfig::default(),
        }
    }
}

impl Default for DecisionLogConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            queue: 20_000,
            batch: 500,
            linger_ms: 50,
            drain_ms: 5_000,
            max_raw_bytes: 16 << 10,
        }
    }
}

impl ModelGatewayConfig {
    /// The model database's URL.
    pub fn database_url(&self) -> String {
        if self.database.is_empty() {
            format!("sqlite://{}?mode=rwc", self.data_dir.join("models.db").display())
        } else {
            self.database.clone()
        }
    }

    /// The folder of this replica's artifacts, or of its copies of those in a bucket.
    pub fn artifacts_dir(&self) -> PathBuf {
        self.data_dir.join("artifacts")
    }

    /// Where artifacts are kept.
    pub fn artifacts_place(&self) -> String {
        if self.artifacts.is_empty() {
            self.artifacts_dir().display().to_string()
        } else {
            self.artifacts.clone()
        }
    }

    /// What a model may have under way unless its routing says otherwise, and what all of them may take.
    pub fn room(&self) -> Room {
        let in_flight = match self.max_in_flight_per_model {
            0 => self.max_in_flight.div_ceil(4),
            most => most,
        };
        Room {
            in_flight,
            queue: self.max_queue_per_model,
            memory_bytes: match self.max_model_memory_mib {
                0 => None,
                most => Some(most.saturating_mul(1 << 20)),
            },
        }
    }

    /// How models are loaded. Reads [`VARIABLE`]: the one environment variable that is not ours.
    pub fn onnx_options(&self) -> OnnxOptions {
        let named = match self.onnxruntime.as_str() {
            "" => std::env::var_os(VARIABLE)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            path => Some(PathBuf::from(path)),
        };
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        OnnxOptions {
            library: LibrarySearch {
                named,
                managed: std::iter::once(self.data_dir.join("onnxruntime"))
                    .chain(beside_the_program())
                    .collect(),
                python: PathBuf::from(&self.python),
            },
            sessions: if self.sessions == 0 { cores() } else { self.sessions },
            intra_op_threads: self.intra_op_threads.max(1),
        }
    }
}
