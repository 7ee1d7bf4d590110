//! An executor: runs tasks, keeps what they write for other stages, and hands it over.

use super::MESSAGE_BYTES;
use crate::codec::JoinCodec;
use crate::fault::EngineError;
use crate::stores::Stores;
use ballista_core::RuntimeProducer;
use ballista_core::config::TaskSchedulingPolicy;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use ondol_runtime::objects::ObjectStores;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How an executor is run.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// The scheduler's host.
    pub scheduler_host: String,
    /// The scheduler's port.
    pub scheduler_port: u16,
    /// The address to listen on.
    pub bind_host: String,
    /// How the others reach it, if not by the address they see.
    pub host: Option<String>,
    /// The port from which others fetch what tasks wrote.
    pub port: u16,
    /// The port at which it takes tasks.
    pub task_port: u16,
    /// Tasks at the same time. 0: one per core.
    pub cores: usize,
    /// Memory for all tasks, in MiB.
    pub memory_mib: u64,
    /// The folder for what tasks write.
    pub work_dir: PathBuf,
    /// How often it tells that it lives.
    pub heartbeat: Duration,
}

/// Runs an executor until the process is told to end.
///
/// # Errors
/// When it can't start or reach its scheduler.
pub async fn run(options: ExecutorOptions, objects: ObjectStores) -> Result<(), EngineError> {
    std::fs::create_dir_all(&options.work_dir)
        .map_err(|cause| EngineError::Configuration(format!("`--work-dir` {}: {cause}", options.work_dir.display())))?;
    let scheduler = format!("{}:{}", options.scheduler_host, options.scheduler_port);
    let bytes = u32::try_from(MESSAGE_BYTES).unwrap_or(u32::MAX);
    let spill = options.work_dir.clone();
    let runtime: RuntimeProducer = Arc::new(move |_| {
        RuntimeEnvBuilder::new()
            .with_object_store_registry(Arc::new(Stores(objects.clone())))
            .with_temp_file_path(spill.clone())
            .build_arc()
    });
    let config = ExecutorProcessConfig {
        bind_host: options.bind_host,
        external_host: options.host,
        port: options.port,
        grpc_port: options.task_port,
        scheduler_host: options.scheduler_host,
        scheduler_port: options.scheduler_port,
        scheduler_connect_timeout_seconds: 60,
        vcores: options.cores,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        work_dir: Some(options.work_dir.display().to_string()),
        // What a lost scheduler never asked to remove.
        job_data_ttl_seconds: 24 * 3_600,
        job_data_clean_up_interval_seconds: 3_600,
        grpc_max_decoding_message_size: bytes,
        grpc_max_encoding_message_size: bytes,
        executor_heartbeat_interval_seconds: options.heartbeat.as_secs().max(1),
        memory_pool_size: Some(options.memory_mib.saturating_mul(1 << 20)),
        override_runtime_producer: Some(runtime),
        override_physical_codec: Some(Arc::new(JoinCodec::default())),
        ..ExecutorProcessConfig::default()
    };
    start_executor_process(Arc::new(config))
        .await
        .map_err(|cause| EngineError::Cluster {
            address: scheduler,
            detail: cause.to_string(),
        })
}
