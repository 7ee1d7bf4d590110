//! The scan of a view's events: files of its source, decoded by the very reader of the embedded training set.
//!
//! It is no Parquet scan of the engine's own because positions and arrival are not columns of every table (the row's
//! number, the event's time and a delay), and because a column of a wrong type must be the same error everywhere.
//!
//! Which files to read is its *input*, a table in memory, and not a list of its own: a cluster's scheduler cuts a plan to
//! the partitions of a task at the leaves, and only at leaves that it knows.

use super::OF_DATA;
use super::spec::Join;
use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
    SendableRecordBatchStream,
};
use futures::StreamExt;
use ondol_jobs::event_files::{EventFiles, event_schema};
use std::fmt;
use std::sync::Arc;
use tokio::sync::mpsc::Sender;

/// The column that holds lists of files.
const LIST: &str = "files";
/// Batches that wait to be taken.
const BATCHES_AHEAD: usize = 2;

/// Reads the files that its input lists: a row of it is a list of files as JSON, a partition of it what one partition here
/// reads.
#[derive(Debug)]
pub(crate) struct EventsExec {
    join: Join,
    lists: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl EventsExec {
    /// Of `files`, in at most `partitions` parts.
    pub(crate) fn of_files(join: Join, mut files: EventFiles, partitions: usize) -> Result<Self> {
        files.narrow(&join.spec.source.time, join.spec.range);
        let lists = files.split(partitions);
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new(LIST, DataType::Utf8, false)]));
        let row = |list: &EventFiles| {
            let text = serde_json::to_string(list).map_err(|cause| DataFusionError::External(Box::new(cause)))?;
            let column = Arc::new(StringArray::from(vec![text]));
            Ok(vec![RecordBatch::try_new(Arc::clone(&schema), vec![column])?])
        };
        let rows = lists.iter().map(row).collect::<Result<Vec<_>>>()?;
        Ok(Self::new(join, MemorySourceConfig::try_new_exec(&rows, schema, None)?))
    }

    /// Of the lists in `lists`.
    pub(crate) fn new(join: Join, lists: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(event_schema(&join.view)),
            Partitioning::UnknownPartitioning(lists.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            join,
            lists,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    pub(crate) fn join(&self) -> &Join {
        &self.join
    }
}

impl DisplayAs for EventsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventsExec: {}", self.join.describe())
    }
}

impl ExecutionPlan for EventsExec {
    fn name(&self) -> &str {
        "EventsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.lists]
    }

    /// A list is read where it stands: it is nothing to spread.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let [lists] = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children).map_err(|children| {
            DataFusionError::Internal(format!("a scan of {} inputs instead of 1", children.len()))
        })?;
        Ok(Arc::new(Self::new(self.join.clone(), lists)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let lists = self.lists.execute(partition, Arc::clone(&context))?;
        let mut output = RecordBatchReceiverStreamBuilder::new(self.schema(), BATCHES_AHEAD);
        let reading = Reading {
            join: self.join.clone(),
            schema: self.schema(),
            sender: output.tx(),
            metrics: BaselineMetrics::new(&self.metrics, partition),
            context,
        };
        output.spawn(reading.read_all(lists));
        Ok(output.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// One partition's reading.
#[derive(Clone)]
struct Reading {
    join: Join,
    schema: SchemaRef,
    sender: Sender<Result<RecordBatch>>,
    metrics: BaselineMetrics,
    context: Arc<TaskContext>,
}

impl Reading {
    async fn read_all(self, mut lists: SendableRecordBatchStream) -> Result<()> {
        while let Some(batch) = lists.next().await {
            let batch = batch?;
            let texts = batch
                .column(0)
                .as_string_opt::<i32>()
                .ok_or_else(|| DataFusionError::Internal("a list of files that is no text".to_owned()))?;
            for text in texts.iter().flatten() {
                let files: EventFiles =
                    serde_json::from_str(text).map_err(|cause| DataFusionError::External(Box::new(cause)))?;
                let (reading, io) = (self.clone(), tokio::runtime::Handle::current());
                // Fetching blocks and decoding is CPU work: a thread of its own.
                tokio::task::spawn_blocking(move || reading.read(&files, &io))
                    .await
                    .map_err(|cause| DataFusionError::Internal(cause.to_string()))??;
            }
        }
        Ok(())
    }

    fn read(&self, files: &EventFiles, io: &tokio::runtime::Handle) -> Result<()> {
        let store = self
            .context
            .runtime_env()
            .object_store(ObjectStoreUrl::parse(files.store_url())?)?;
        let _timer = self.metrics.elapsed_compute().timer();
        let take = |batch: RecordBatch| {
            self.metrics.record_output(batch.num_rows());
            let batch = batch
                .with_schema(Arc::clone(&self.schema))
                .map_err(DataFusionError::from);
            // When nobody reads on, enough was read.
            self.sender.blocking_send(batch).is_ok()
        };
        (files.read(&self.join.view, self.join.spec.range, store, io, take))
            .map_err(|cause| DataFusionError::Execution(format!("{OF_DATA}{cause}")))
    }
}
