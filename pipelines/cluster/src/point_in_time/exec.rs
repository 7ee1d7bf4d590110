//! The join of one partition: its spine rows are gathered, its events brought together by entity as they come, in as much
//! memory as there is for them, the rest in a file.
//!
//! That work is CPU work of seconds, and it waits for its input: a thread of its own does it, which holds none that others
//! wait for.

use super::OF_DATA;
use super::node::columns;
use super::spec::Join;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt8Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation, human_readable_size};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements,
    PlanProperties, SendableRecordBatchStream,
};
use futures::{StreamExt, TryStreamExt};
use ondol_jobs::point_in_time::{Answers, Done, JobError, JoinTask, Room};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How much more than its spine a join holds of it: rows by entity, and where each stands.
const SPINE_COPIES: usize = 2;
/// Bytes of a value that is answered, about.
const VALUE_BYTES: usize = 16;
/// The least memory for events that a join takes for its share.
const LEAST_BYTES: usize = 1 << 20;
/// Batches of events that wait to be taken.
const BATCHES_AHEAD: usize = 2;

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
        let pool = Arc::clone(context.memory_pool());
        let work = Work {
            join: self.join.clone(),
            schema: self.schema(),
            spine_memory: MemoryConsumer::new(format!("PointInTimeExec[{partition}] spine")).register(&pool),
            pool,
            spill: spill_folder(&context),
            spilled: MetricBuilder::new(&self.metrics).spilled_bytes(partition),
            held: MetricBuilder::new(&self.metrics).counter("events_peak_bytes", partition),
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
    pool: Arc<dyn MemoryPool>,
    spine_memory: MemoryReservation,
    spill: PathBuf,
    spilled: Count,
    held: Count,
    metrics: BaselineMetrics,
    batch_rows: usize,
}

/// What is on its way to the thread that joins: a batch of events, or none after the last. Whoever gives up sends nothing.
type Message = Option<RecordBatch>;

impl Work {
    async fn run(
        mut self,
        spine: SendableRecordBatchStream,
        mut events: SendableRecordBatchStream,
    ) -> Result<Vec<RecordBatch>> {
        let spine = self.gather(spine).await?;
        // A partition without spine rows needs no events; the stream is left where it stands.
        if spine.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let memory = self.room_for_events()?;
        let (to_join, batches) = mpsc::channel(BATCHES_AHEAD);
        let (done, joined) = oneshot::channel();
        let work = move || {
            let rows = self.join_all(&spine, memory.size(), batches, || !done.is_closed());
            // Before anybody goes on.
            drop((self, memory));
            // Whoever does not wait any more has given up.
            let _ = done.send(rows);
        };
        std::thread::Builder::new()
            .name("point-in-time".to_owned())
            .spawn(work)
            .map_err(|cause| DataFusionError::Execution(format!("no thread for a join: {cause}")))?;
        while let Some(batch) = events.next().await {
            // It has failed then, and says why.
            if to_join.send(Some(batch?)).await.is_err() {
                break;
            }
        }
        // As above.
        let _ = to_join.send(None).await;
        let panicked = |_| DataFusionError::Internal("a join panicked".to_owned());
        joined.await.map_err(panicked)?
    }

    /// The spine's rows in one batch.
    async fn gather(&mut self, mut input: SendableRecordBatchStream) -> Result<RecordBatch> {
        let schema = input.schema();
        let values = (self.schema.fields().len() - schema.fields().len()).saturating_mul(VALUE_BYTES);
        let mut batches = Vec::new();
        while let Some(batch) = input.next().await {
            let batch = batch?;
            let answered = batch.num_rows().saturating_mul(values);
            let spine = batch.get_array_memory_size().saturating_mul(SPINE_COPIES);
            self.spine_memory.try_grow(spine.saturating_add(answered))?;
            batches.push(batch);
        }
        Ok(concat_batches(&schema, &batches)?)
    }

    /// Memory for events: as much as the join was planned with, or what the pool can give.
    fn room_for_events(&self) -> Result<MemoryReservation> {
        let wanted = usize::try_from(self.join.spec.memory_bytes).unwrap_or(usize::MAX);
        let memory = MemoryConsumer::new(self.spine_memory.consumer().name().replace("spine", "events"))
            .with_can_spill(true)
            .register(&self.pool);
        let mut bytes = wanted;
        while let Err(refused) = memory.try_grow(bytes) {
            bytes /= 2;
            if bytes < LEAST_BYTES {
                return Err(refused.context(format!(
                    "a join needs at least {} for events beside its spine: give executors more memory (`--memory-mib`), or cut \
                     the join into more parts (`join_partitions`)",
                    human_readable_size(LEAST_BYTES)
                )));
            }
        }
        Ok(memory)
    }

    /// The rows of `spine` with their features, in batches.
    fn join_all(
        &self,
        spine: &RecordBatch,
        memory_bytes: usize,
        mut events: mpsc::Receiver<Message>,
        is_wanted: impl Fn() -> bool,
    ) -> Result<Vec<RecordBatch>> {
        let column = |name: &str| -> Result<ArrayRef> {
            let missing = || DataFusionError::Internal(format!("the spine has no column `{name}`"));
            spine.column_by_name(name).cloned().ok_or_else(missing)
        };
        let keys = self.join.keys().map(column).collect::<Result<Vec<_>>>()?;
        let times = column(&self.join.spec.time)?;
        let times = times
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or_else(|| DataFusionError::Internal(format!("the spine's moments are {}", times.data_type())))?;
        let task = JoinTask {
            view: &self.join.view,
            keys: &keys,
            times,
            as_of: self.join.spec.range.as_of,
            room: Room {
                events: self.join.spec.events,
                memory_bytes: memory_bytes as u64,
                spill: &self.spill,
            },
        };
        let (begun, mut waited) = (Instant::now(), Duration::ZERO);
        let events = std::iter::from_fn(|| {
            let asked = Instant::now();
            let next = events.blocking_recv();
            waited += asked.elapsed();
            next.map_or(Some(Err(JobError::Cancelled)), |next| next.map(Ok))
        });
        let done = task.run(events, is_wanted).map_err(fault)?;
        self.metrics
            .elapsed_compute()
            .add_duration(begun.elapsed().saturating_sub(waited));
        self.rows(spine, done)
    }

    fn rows(&self, spine: &RecordBatch, done: Done) -> Result<Vec<RecordBatch>> {
        if done.spilled_bytes > 0 {
            tracing::info!(
                view = self.join.spec.view.name,
                spilled_bytes = done.spilled_bytes,
                "a join's events went to disk: its partition is larger than its memory"
            );
        }
        self.spilled
            .add(usize::try_from(done.spilled_bytes).unwrap_or(usize::MAX));
        self.held.add(usize::try_from(done.peak_bytes).unwrap_or(usize::MAX));
        let Answers { values, worth } = done.answers;
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

/// The folder for what memory has no room for: the engine's.
fn spill_folder(context: &TaskContext) -> PathBuf {
    let folders = context.runtime_env().disk_manager.temp_dir_paths();
    folders.into_iter().next().unwrap_or_else(std::env::temp_dir)
}

/// Why a join failed: by the events, wherever it runs, or by where it runs.
fn fault(cause: JobError) -> DataFusionError {
    match cause {
        JobError::Storage { .. } | JobError::Cancelled => DataFusionError::Execution(cause.to_string()),
        of_data => DataFusionError::Execution(format!("{OF_DATA}{of_data}")),
    }
}
