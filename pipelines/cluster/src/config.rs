//! Where training sets' joins run.

use serde::{Deserialize, Serialize};

/// The engine of training sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// `embedded`, or a cluster's scheduler as `ballista://host:port`.
    pub engine: String,
    /// A folder that this service and the cluster's executors all reach, for what they exchange: a path on a shared file
    /// system, or `s3://bucket/prefix`. Absent: `exchange` in the pipelines' data folder, which serves a cluster on one
    /// machine.
    pub exchange: Option<String>,
    /// Parts into which a join is cut at least: as many of them run at the same time as executors have cores.
    pub partitions: usize,
    /// What one part may hold of memory, in MiB: more events, more parts.
    pub partition_memory_mib: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            engine: EMBEDDED.to_owned(),
            exchange: None,
            partitions: 16,
            partition_memory_mib: 512,
        }
    }
}

/// The engine in the service's own process.
pub const EMBEDDED: &str = "embedded";

impl EngineConfig {
    /// Whether joins run in the service's own process.
    pub fn is_embedded(&self) -> bool {
        self.engine == EMBEDDED
    }
}
