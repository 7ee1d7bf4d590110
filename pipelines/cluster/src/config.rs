//! Where training sets' joins run.

use ondol_jobs::PipelinesConfig;

/// An engine of joins that is not the service's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// A cluster's scheduler as `ballista://host:port`.
    pub engine: String,
    /// A folder that this service and the cluster's executors all reach: a path on a shared file system, or
    /// `s3://bucket/prefix`.
    pub exchange: String,
    /// Parts into which a join is cut at least: as many of them run at the same time as executors have cores.
    pub partitions: usize,
    /// What one part may hold of memory, in MiB: more events, more parts.
    pub partition_memory_mib: u64,
}

impl EngineConfig {
    /// What the service's configuration says of it.
    pub fn of(pipelines: &PipelinesConfig) -> Self {
        Self {
            engine: pipelines.engine.clone(),
            exchange: pipelines.exchange_place(),
            partitions: pipelines.join_partitions,
            partition_memory_mib: pipelines.join_partition_mib,
        }
    }
}
