//! The engine: its memory, its disk, its threads, and a session of it for each query.

use super::SqlConfig;
use super::catalog::{CATALOG, OfflineTables, SCHEMA};
use crate::fault::EngineError;
use crate::stores::Stores;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use ondol_pipelines_api::sql::SqlRequest;
use ondol_runtime::objects::ObjectStores;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use tokio::runtime::{Builder, Handle, Runtime};

/// Bytes of Parquet footers kept for the next query.
const FOOTER_CACHE_BYTES: usize = 16 << 20;
/// Consumers named when memory runs out.
const NAMED_CONSUMERS: usize = 3;

/// What all queries share.
pub(super) struct Engine {
    environment: Arc<RuntimeEnv>,
    threads: usize,
    /// Started with the first query.
    runtime: OnceLock<Threads>,
}

/// The compute threads. A runtime may not be dropped by a thread of another one: it is left to end by itself.
struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Engine {
    /// With the bounds of `config`.
    pub(super) fn new(config: &SqlConfig, objects: ObjectStores) -> Result<Self, EngineError> {
        let bytes = usize::try_from(config.memory_mib.saturating_mul(1 << 20)).unwrap_or(usize::MAX);
        let named = NonZeroUsize::new(NAMED_CONSUMERS).unwrap_or(NonZeroUsize::MIN);
        let disk = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![config.spill_dir.clone()]))
            .with_max_temp_directory_size(config.spill_mib.saturating_mul(1 << 20));
        std::fs::create_dir_all(&config.spill_dir).map_err(|cause| {
            EngineError::Configuration(format!(
                "`sql.spill_dir` {} can't be created: {cause}",
                config.spill_dir.display()
            ))
        })?;
        let environment = RuntimeEnvBuilder::new()
            .with_object_store_registry(Arc::new(Stores(objects)))
            .with_memory_pool(Arc::new(TrackConsumersPool::new(FairSpillPool::new(bytes), named)))
            .with_disk_manager_builder(disk)
            .with_metadata_cache_limit(FOOTER_CACHE_BYTES)
            .build_arc()?;
        Ok(Self {
            environment,
            threads: config.compute_threads(),
            runtime: OnceLock::new(),
        })
    }

    /// The threads on which queries run.
    pub(super) fn threads(&self) -> Result<Handle, ondol_pipelines_api::PipelinesError> {
        if let Some(Threads(Some(runtime))) = self.runtime.get() {
            return Ok(runtime.handle().clone());
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(self.threads)
            .thread_name("ondol-sql")
            .enable_all()
            .build()
            .map_err(|cause| ondol_pipelines_api::PipelinesError::Unavailable {
                detail: format!("threads for queries can't be started: {cause}"),
            })?;
        // Of two first queries at once, one's threads are dropped unused.
        let Threads(runtime) = self.runtime.get_or_init(|| Threads(Some(runtime)));
        runtime.as_ref().map(|runtime| runtime.handle().clone()).ok_or_else(|| {
            ondol_pipelines_api::PipelinesError::Unavailable {
                detail: "the pipelines are shutting down".to_owned(),
            }
        })
    }

    /// A session for one query.
    pub(super) fn session(&self) -> Session {
        Session {
            environment: Arc::clone(&self.environment),
            threads: self.threads,
        }
    }
}

/// One query's view of the engine.
pub(super) struct Session {
    environment: Arc<RuntimeEnv>,
    threads: usize,
}

impl Session {
    /// Plans `request` over `tables` and starts it.
    pub(super) async fn start(
        &self,
        request: &SqlRequest,
        tables: Arc<OfflineTables>,
    ) -> Result<SendableRecordBatchStream> {
        let context = self.context(tables)?;
        let state = context.state();
        let plan = state.create_logical_plan(&request.query).await?;
        read_only(&plan)?;
        let plan = match request.max_rows {
            Some(rows) if is_query(&plan) => {
                let rows = usize::try_from(rows).unwrap_or(usize::MAX);
                LogicalPlanBuilder::from(plan).limit(0, Some(rows))?.build()?
            }
            _ => plan,
        };
        let plan = state.create_physical_plan(&plan).await?;
        execute_stream(plan, context.task_ctx())
    }

    fn context(&self, tables: Arc<OfflineTables>) -> Result<SessionContext> {
        let mut config = SessionConfig::new()
            .with_default_catalog_and_schema(CATALOG, SCHEMA)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(true)
            .with_target_partitions(self.threads)
            .set_bool("datafusion.execution.parquet.pushdown_filters", true)
            // Texts come out as every reader knows them.
            .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
        config.options_mut().execution.parquet.schema_force_view_types = false;
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(config)
            .with_runtime_env(Arc::clone(&self.environment))
            .build();
        let context = SessionContext::new_with_state(state);
        context.register_catalog(CATALOG, tables.catalog()?);
        Ok(context)
    }
}

/// Refuses everything that is not a question.
fn read_only(plan: &LogicalPlan) -> Result<()> {
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(plan)
        .map_err(|cause| DataFusionError::Plan(format!("{}: only queries are answered", cause.strip_backtrace())))
}

fn is_query(plan: &LogicalPlan) -> bool {
    !matches!(
        plan,
        LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::DescribeTable(_)
    )
}
