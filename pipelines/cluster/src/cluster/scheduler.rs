//! The scheduler: takes plans, cuts them into stages, gives their tasks to executors.

use super::MESSAGE_BYTES;
use crate::codec::JoinCodec;
use crate::fault::EngineError;
use ballista_core::config::TaskSchedulingPolicy;
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// How a scheduler is run.
#[derive(Clone, Debug)]
pub struct SchedulerOptions {
    /// How executors and services reach it, if not by the address it listens on.
    pub host: Option<String>,
    /// How long an executor may be silent before its tasks run elsewhere.
    pub executor_timeout: Duration,
}

/// Serves a scheduler on `listener` until the process ends.
///
/// # Errors
/// When it can't start, or its server fails.
pub async fn run(listener: TcpListener, options: SchedulerOptions) -> Result<(), EngineError> {
    let address = listener
        .local_addr()
        .map_err(|cause| EngineError::Internal(cause.to_string()))?;
    let seconds = options.executor_timeout.as_secs().max(1);
    let bytes = u32::try_from(MESSAGE_BYTES).unwrap_or(u32::MAX);
    let config = SchedulerConfig {
        external_host: options.host.unwrap_or_else(|| address.ip().to_string()),
        bind_host: address.ip().to_string(),
        bind_port: address.port(),
        // Executors are told, and tell that they live: a scheduler that is polled would take a busy one for dead.
        scheduling_policy: TaskSchedulingPolicy::PushStaged,
        grpc_server_max_decoding_message_size: bytes,
        grpc_server_max_encoding_message_size: bytes,
        grpc_client_max_message_size: bytes,
        executor_timeout_seconds: seconds,
        expire_dead_executor_interval_seconds: (seconds / 3).max(1),
        no_executors_grace_period_seconds: seconds.saturating_mul(4),
        override_physical_codec: Some(Arc::new(JoinCodec::default())),
        ..SchedulerConfig::default()
    };
    let failed = |cause: ballista_core::error::BallistaError| cluster_error(address, &cause);
    config.validate().map_err(failed)?;
    let cluster = BallistaCluster::new_from_config(&config).await.map_err(failed)?;
    let scheduler = create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, Arc::new(config))
        .await
        .map_err(failed)?;
    start_grpc_service_with_listener(listener, scheduler)
        .await
        .map_err(failed)
}

fn cluster_error(address: SocketAddr, cause: &ballista_core::error::BallistaError) -> EngineError {
    EngineError::Cluster {
        address: address.to_string(),
        detail: cause.to_string(),
    }
}
