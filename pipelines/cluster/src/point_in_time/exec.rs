//! The join of one partition: its spine rows and its events gathered, then walked together in time.

use super::OF_DATA;
use super::node::columns;
use super::spec::Join;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt8Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements,
    PlanProperties, SendableRecordBatchStream,
};
use futures::{StreamExt, TryStreamExt};
use ondol_jobs::point_in_time::Answers;
use std::fmt;
use std::sync::Arc;

/// How much more than the events themselves the join of them holds: the columns in order, and what they fold into.
const MEMORY_FACTOR: usize = 3;

/// Joins a view's features to spine rows, partition by partition.
#[derive(Debug)]
pub(crate) struct PointInTimeExec {
    join: Join,
    spine: Arc<dyn ExecutionPlan>,
    events: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl PointInTimeExec {
    /// Of spine rows and events that are partitioned alike.
    pub(crate) fn new(join: Join, spine: Arc<dyn ExecutionPlan>, events: Arc<dyn ExecutionPlan>) -> Result<Self> {
        let schema = join.schema(&spine.schema());
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            // The spine's columns stand where they stood, so what it was partitioned by still holds.
            spine.output_partitioning().clone(),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Ok(Self {
            join,
            spine,
            events,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    pub(crate) fn join(&self) -> &Join {
        &self.join
    }

    fn distributions(&self) -> Result<Vec<Distribution>> {
        Ok(vec![
            Distribution::KeyPartitioned(columns(self.join.keys(), &self.spine.schema())?),
            Distribution::KeyPartitioned(columns(self.join.keys(), &self.events.schema())?),
        ])
    }
}

impl DisplayAs for PointInTimeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PointInTimeExec: {}", self.join.describe())
    }
}

impl ExecutionPlan for PointInTimeExec {
    fn name(&self) -> &str {
        "PointInTimeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        match self.distributions() {
            Ok(distributions) => InputDistributionRequirements::co_partitioned(distributions),
            // A key column that is not there: `execute` says so.
            Err(_) => InputDistributionRequirements::new(vec![Distribution::SinglePartition; 2]),
        }
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false, false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.spine, &self.events]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let [spine, events] = <[Arc<dyn ExecutionPlan>; 2]>::try_from(children).map_err(|children| {
            DataFusionError::Internal(format!("a join of {} inputs instead of 2", children.len()))
        })?;
        Ok(Arc::new(Self::new(self.join.clone(), spine, events)?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.distributions()?;
        let spine = self.spine.execute(partition, Arc::clone(&context))?;
        let events = self.events.execute(partition, Arc::clone(&context))?;
        let work = Work {
            join: self.join.clone(),
            schema: self.schema(),
            memory: MemoryConsumer::new(format!("PointInTimeExec[{partition}]")).register(context.memory_pool()),
            metrics: BaselineMetrics::new(&self.metrics, partition),
            batch_rows: context.session_config().batch_size().max(1),
        };
        let batches = futures::stream::once(work.run(spine, events)).map_ok(|batches| {
            let batches = batches.into_iter().map(Ok);
            futures::stream::iter(batches)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            batches.try_flatten(),
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// One partition's work.
struct Work {
    join: Join,
    schema: SchemaRef,
    memory: MemoryReservation,
    metrics: BaselineMetrics,
    batch_rows: usize,
}

impl Work {
    async fn run(
        mut self,
        spine: SendableRecordBatchStream,
        events: SendableRecordBatchStream,
    ) -> Result<Vec<RecordBatch>> {
        let spine_schema = spine.schema();
        let spine = self.gather(spine, 1).await?;
        let spine = concat_batches(&spine_schema, &spine)?;
        // A partition without spine rows needs no events; the stream is left where it stands.
        let events = if spine.num_rows() == 0 {
            Vec::new()
        } else {
            self.gather(events, MEMORY_FACTOR).await?
        };
        // Folding is CPU work of seconds: it may not hold a thread that others wait for.
        tokio::task::spawn_blocking(move || self.fold(&spine, &events))
            .await
            .map_err(|cause| DataFusionError::Internal(cause.to_string()))?
    }

    async fn gather(&mut self, mut input: SendableRecordBatchStream, factor: usize) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        while let Some(batch) = input.next().await {
            let batch = batch?;
            self.memory
                .try_grow(batch.get_array_memory_size().saturating_mul(factor))?;
            if batch.num_rows() > 0 {
                batches.push(batch);
            }
        }
        Ok(batches)
    }

    fn fold(self, spine: &RecordBatch, events: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
        let _timer = self.metrics.elapsed_compute().timer();
        let column = |name: &str| -> Result<ArrayRef> {
            let missing = || DataFusionError::Internal(format!("the spine has no column `{name}`"));
            spine.column_by_name(name).cloned().ok_or_else(missing)
        };
        let keys = self.join.keys().map(column).collect::<Result<Vec<_>>>()?;
        let times = column(&self.join.spec.time)?;
        let times = times
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or_else(|| DataFusionError::Internal(format!("the spine's moments are {}", times.data_type())))?;
        let as_of = self.join.spec.range.as_of;
        let Answers { values, worth } = ondol_jobs::point_in_time::join(&self.join.view, &keys, times, events, as_of)
            .map_err(|cause| DataFusionError::Execution(format!("{OF_DATA}{cause}")))?;
        let worth: UInt8Array = worth.into_iter().map(|worth| worth as u8).collect::<Vec<u8>>().into();
        let columns = spine.columns().iter().cloned().chain(values);
        let columns = columns.chain([Arc::new(worth) as ArrayRef]).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(spine.num_rows()));
        let joined = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        self.metrics.record_output(joined.num_rows());
        let starts = (0..joined.num_rows()).step_by(self.batch_rows);
        Ok(starts
            .map(|start| joined.slice(start, self.batch_rows.min(joined.num_rows() - start)))
            .collect())
    }
}
