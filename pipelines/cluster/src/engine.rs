//! Training sets' joins as a plan: in this process, or on a cluster.

use crate::config::EngineConfig;
use crate::fault::EngineError;
use crate::point_in_time::{Join, JoinSpec, PlannerWithJoins, PointInTimeNode};
use crate::spine;
use crate::stores::Stores;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{UInt8Type, UInt32Type};
use async_trait::async_trait;
use datafusion::datasource::provider_as_source;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use ondol_jobs::engine::{JoinEngine, JoinRequest, JoinedRows, JoinedView, Stop};
use ondol_jobs::point_in_time::JobError;
use ondol_runtime::objects::ObjectStores;
use std::sync::Arc;

/// What decoded events take of memory, against their files' size: they come out of compression, and are joined.
const MEMORY_PER_FILE_BYTE: u64 = 12;

/// Bytes of a value that a row of the spine is answered, about; and how often rows are held while they pass from stage to stage.
const VALUE_BYTES: usize = 16;
const SPINE_COPIES: u64 = 3;

/// How a plan's joins are cut, and what a part may hold of events.
#[derive(Clone, Copy)]
struct PartitionRoom {
    partitions: usize,
    memory_bytes: u64,
}

/// Where a plan runs.
enum Target {
    Here,
    #[cfg(feature = "client")]
    Cluster(crate::cluster::Cluster),
}

/// Joins views to spines as plans of DataFusion.
pub struct PlanEngine {
    objects: ObjectStores,
    config: EngineConfig,
    target: Target,
}

impl PlanEngine {
    /// In this process: for comparison, and for tests.
    pub fn here(config: EngineConfig, objects: ObjectStores) -> Self {
        Self {
            objects,
            config,
            target: Target::Here,
        }
    }

    /// On the cluster whose scheduler is at `config.engine`.
    ///
    /// # Errors
    /// When the configuration names no cluster.
    #[cfg(feature = "client")]
    pub fn cluster(config: &EngineConfig, objects: ObjectStores) -> Result<Self, EngineError> {
        let target = Target::Cluster(crate::cluster::Cluster::new(config, &objects)?);
        Ok(Self {
            objects,
            config: config.clone(),
            target,
        })
    }

    async fn run(&self, request: JoinRequest, stop: Stop<'_>) -> Result<Vec<JoinedRows>, EngineError> {
        let widths: Vec<usize> = request.views.iter().map(|join| join.view.features.len()).collect();
        let partitions = self.partitions(&request);
        let room = PartitionRoom {
            partitions,
            memory_bytes: self.memory_bytes(),
        };
        let batches = match &self.target {
            Target::Here => {
                let context = self.context(SessionConfig::new(), partitions)?;
                let spine = provider_as_source(spine::in_memory(&request, partitions)?);
                let plan = plan(&context, spine, request, room).await?;
                let stream = datafusion::physical_plan::execute_stream(plan, context.task_ctx())?;
                tokio::select! {
                    rows = stream.try_collect::<Vec<_>>() => rows?,
                    () = stop => return Err(EngineError::Stopped),
                }
            }
            #[cfg(feature = "client")]
            Target::Cluster(cluster) => {
                let context = self.context(crate::cluster::session_config(), partitions)?;
                let spine = cluster.send_spine(&request, partitions).await?;
                let plan = plan(&context, provider_as_source(spine.table()), request, room).await?;
                let rows = cluster.run(plan, &context, stop).await;
                spine.remove().await;
                rows?
            }
        };
        batches.iter().map(|batch| joined(batch, &widths)).collect()
    }

    /// Partitions of the joins: enough that one's events, and its rows of the spine, fit its share of memory about.
    fn partitions(&self, request: &JoinRequest) -> usize {
        let events = request.views.iter().map(|join| join.events.bytes()).max().unwrap_or(0);
        let keys: usize = request.keys.iter().map(|(_, keys)| keys.get_array_memory_size()).sum();
        let features: usize = request.views.iter().map(|join| join.view.features.len() + 1).sum();
        let values = request.times.len().saturating_mul(features.saturating_mul(VALUE_BYTES));
        let spine = (keys.saturating_add(values) as u64).saturating_mul(SPINE_COPIES);
        let needed = events.saturating_mul(MEMORY_PER_FILE_BYTE).max(spine);
        let needed = needed.div_ceil(self.memory_bytes());
        usize::try_from(needed)
            .unwrap_or(usize::MAX)
            .clamp(self.config.partitions.max(1), 4_096)
    }

    /// Bytes that a partition may hold of events.
    fn memory_bytes(&self) -> u64 {
        self.config.partition_memory_mib.max(1).saturating_mul(1 << 20)
    }

    fn context(&self, config: SessionConfig, partitions: usize) -> Result<SessionContext, EngineError> {
        let environment = RuntimeEnvBuilder::new()
            .with_object_store_registry(Arc::new(Stores(self.objects.clone())))
            .build_arc()?;
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(
                config
                    .with_target_partitions(partitions)
                    .with_round_robin_repartition(false),
            )
            .with_query_planner(Arc::new(PlannerWithJoins))
            .with_runtime_env(environment)
            .build();
        Ok(SessionContext::new_with_state(state))
    }
}

#[async_trait]
impl JoinEngine for PlanEngine {
    async fn join(&self, request: JoinRequest, stop: Stop<'_>) -> Result<Vec<JoinedRows>, JobError> {
        self.run(request, stop)
            .await
            .map_err(|error| JobError::Engine(error.to_string()))
    }
}

/// The plan of `request`: the spine through a join for each view.
async fn plan(
    context: &SessionContext,
    spine: Arc<dyn datafusion::logical_expr::TableSource>,
    request: JoinRequest,
    room: PartitionRoom,
) -> Result<Arc<dyn ExecutionPlan>, EngineError> {
    let mut plan: LogicalPlan = LogicalPlanBuilder::scan("spine", spine, None)?.build()?;
    for join in request.views {
        let spec = JoinSpec {
            view: join.view,
            source: join.source,
            range: join.range,
            time: spine::TIME.to_owned(),
            events: join.events.rows().div_ceil(room.partitions as u64),
            memory_bytes: room.memory_bytes,
        };
        plan = PointInTimeNode::new(Join::compile(spec)?, Arc::new(join.events), plan)?.plan();
    }
    Ok(context.state().create_physical_plan(&plan).await?)
}

/// A batch of the plan's rows: the row's number first, last each view's features and what rows are worth to it.
fn joined(batch: &RecordBatch, widths: &[usize]) -> Result<JoinedRows, EngineError> {
    let odd = || EngineError::Internal(format!("a plan answered {}", batch.schema()));
    let rows = batch.column_by_name(spine::ROW).ok_or_else(odd)?;
    let rows = rows.as_primitive_opt::<UInt32Type>().ok_or_else(odd)?.clone();
    let columns: usize = widths.iter().map(|width| width + 1).sum();
    let mut next = batch.num_columns().checked_sub(columns).ok_or_else(odd)?;
    let views = widths.iter().map(|width| {
        let values: Vec<ArrayRef> = batch.columns().iter().skip(next).take(*width).cloned().collect();
        next += width;
        let worth = batch
            .columns()
            .get(next)
            .and_then(|column| column.as_primitive_opt::<UInt8Type>());
        next += 1;
        let worth = worth.ok_or_else(odd)?.clone();
        Ok(JoinedView { values, worth })
    });
    let views = views.collect::<Result<_, EngineError>>()?;
    Ok(JoinedRows { rows, views })
}
