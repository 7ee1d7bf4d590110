//! The operator in little memory: it answers what it answers in much, and leaves nothing.

use super::*;
use crate::spine::{ROW, TIME};
use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{concat_batches, sort_to_indices, take_record_batch};
use datafusion::catalog::TableProvider;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool, UnboundedMemoryPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt;
use ondol_feature_store_api::wire::{DefinitionFile, DefinitionFiles};
use ondol_jobs::event_files::{EventFiles, EventRange};
use ondol_pipelines_api::wire::AsOf;
use ondol_vocabulary::{SourceOrigin, TableFormat};
use parquet::arrow::ArrowWriter;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MINUTE: i64 = 60_000_000;
const EVENTS: i64 = 300_000;
const ROWS: i64 = 3_000;
const PARTITIONS: usize = 2;
/// What the events take that features are made of: moments, arrival, amounts, entities.
const EVENT_BYTES: u64 = EVENTS as u64 * 28;

const DEFINITIONS: &str = r#"
[source.events]
kafka = "events"
arrival = "event-time"
time = "ts"
schema = { k = "string", amount = "f64", ts = "timestamp" }

[view.w]
from = "events"
key = "k"
features.n_1h = "count() over 1h"
features.sum_24h = "sum(amount) over 24h"
features.last = "last(amount)"
"#;

/// Of nine events one is of a key of its own share, the others all of one key: a crowd that no partition has room for.
fn key(number: i64) -> String {
    match number % 9 {
        0 => format!("key-{}", number % 5_000),
        _ => "key-0".to_owned(),
    }
}

fn moments(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn texts(values: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn write_events(folder: &Path) {
    for file in 0..3 {
        let numbers = file * EVENTS / 3..(file + 1) * EVENTS / 3;
        let unmarked: ArrayRef = Arc::new(BooleanArray::from(vec![false; numbers.clone().count()]));
        let amounts = numbers.clone().map(|number| (number * 7_919 % 10_007) as f64 / 8.0);
        let columns: [(&str, ArrayRef); 5] = [
            ("k", texts(numbers.clone().map(key))),
            ("amount", Arc::new(Float64Array::from_iter_values(amounts))),
            ("ts", moments(numbers.map(|number| number * MINUTE / 60))),
            ("_late", Arc::clone(&unmarked)),
            ("_deleted", unmarked),
        ];
        let rows =
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
        let out = File::create(folder.join(format!("{file}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(out, rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
    }
}

fn spine() -> Arc<dyn TableProvider> {
    let columns: [(&str, ArrayRef); 3] = [
        (ROW, Arc::new(UInt32Array::from_iter_values(0..ROWS as u32))),
        (TIME, moments((0..ROWS).map(|row| row * 997 % 5_000 * MINUTE))),
        ("k", texts((0..ROWS).map(|row| format!("key-{}", row % 50)))),
    ];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let halves = [0, ROWS as usize / 2].map(|start| vec![rows.slice(start, ROWS as usize / 2)]);
    Arc::new(MemTable::try_new(rows.schema(), halves.to_vec()).unwrap())
}

/// The join's plan over the events in `folder`, whose partitions are to hold `memory_bytes`; and what runs it, in `pool`.
async fn plan(folder: &Path, memory_bytes: u64, pool: Arc<dyn MemoryPool>) -> (Arc<dyn ExecutionPlan>, SessionContext) {
    let file = DefinitionFile {
        path: "test.toml".to_owned(),
        text: DEFINITIONS.to_owned(),
    };
    let definitions = ondol_transform::definition::compile(&DefinitionFiles { files: vec![file] }).unwrap();
    let (source, view) = (definitions.sources[0].clone(), definitions.views[0].clone());
    let mut files = source.clone();
    files.origin = SourceOrigin::Table {
        location: folder.join("events").display().to_string(),
        format: TableFormat::Parquet,
    };
    let files = EventFiles::open(&files, None).await.unwrap();
    let spec = JoinSpec {
        view,
        source,
        range: EventRange {
            from: i64::MIN,
            before: i64::MAX,
            as_of: AsOf::KnownAt,
        },
        time: TIME.to_owned(),
        events: files.rows() / PARTITIONS as u64,
        memory_bytes,
    };
    let environment = RuntimeEnvBuilder::new()
        .with_memory_pool(pool)
        .with_temp_file_path(folder.join("spill"))
        .build_arc()
        .unwrap();
    let state = SessionStateBuilder::new()
        .with_default_features()
        .with_config(SessionConfig::new().with_target_partitions(PARTITIONS))
        .with_query_planner(Arc::new(PlannerWithJoins))
        .with_runtime_env(environment)
        .build();
    let spine = LogicalPlanBuilder::scan("spine", provider_as_source(spine()), None).unwrap();
    let spine = spine.build().unwrap();
    let node = PointInTimeNode::new(Join::compile(spec).unwrap(), Arc::new(files), spine).unwrap();
    let plan = state.create_physical_plan(&node.plan()).await.unwrap();
    (plan, SessionContext::new_with_state(state))
}

/// All rows in the spine's order; and what of their events went to disk and was held at once, in bytes.
async fn joined(folder: &Path, memory_bytes: u64, pool: Arc<dyn MemoryPool>) -> (RecordBatch, usize, usize) {
    let (plan, context) = plan(folder, memory_bytes, Arc::clone(&pool)).await;
    let rows = collect(Arc::clone(&plan), context.task_ctx()).await.unwrap();
    let rows = concat_batches(&plan.schema(), &rows).unwrap();
    let order = sort_to_indices(rows.column_by_name(ROW).unwrap(), None, None).unwrap();
    let metrics = join_of(&plan).metrics().unwrap();
    let peak = metrics
        .iter()
        .filter(|metric| metric.value().name() == "events_peak_bytes");
    let peak = peak.map(|metric| metric.value().as_usize()).max().unwrap();
    let rows = take_record_batch(&rows, &order).unwrap();
    assert_eq!(pool.reserved(), 0, "memory is given back");
    (rows, metrics.spilled_bytes().unwrap(), peak)
}

/// The operator, at the top of the plan or below what brings its partitions together.
fn join_of(plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    match plan.name() {
        "PointInTimeExec" => Arc::clone(plan),
        _ => join_of(plan.children()[0]),
    }
}

fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("events")).unwrap();
    write_events(&folder.path().join("events"));
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_its_memory_spills_and_gives_the_same() {
    let folder = folder();
    let (expected, spilled, _) = joined(folder.path(), 1 << 30, Arc::new(UnboundedMemoryPool::default())).await;
    assert_eq!((expected.num_rows(), spilled), (ROWS as usize, 0));
    let memory = EVENT_BYTES / PARTITIONS as u64 / 10;
    let (rows, spilled, peak) = joined(folder.path(), memory, Arc::new(UnboundedMemoryPool::default())).await;
    assert_eq!(rows, expected);
    assert!(spilled as u64 > EVENT_BYTES / 2, "{spilled} of {EVENT_BYTES} spilled");
    assert!(peak as u64 <= memory, "{peak} of {memory} bytes");
    assert_eq!(files(&folder.path().join("spill")), 0, "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_has_less_than_was_planned_gives_what_it_has() {
    let folder = folder();
    let (expected, ..) = joined(folder.path(), 1 << 30, Arc::new(UnboundedMemoryPool::default())).await;
    let (rows, spilled, _) = joined(folder.path(), 1 << 30, Arc::new(FairSpillPool::new(6 << 20))).await;
    assert_eq!(rows, expected);
    assert!(spilled > 0);
    assert_eq!(files(&folder.path().join("spill")), 0, "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_without_any_says_what_a_join_needs() {
    let folder = folder();
    let (plan, context) = plan(folder.path(), 1 << 30, Arc::new(FairSpillPool::new(1 << 20))).await;
    let error = collect(plan, context.task_ctx()).await.unwrap_err().to_string();
    assert!(error.contains("give executors more memory"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_is_given_up_gives_its_memory_back() {
    let folder = folder();
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    let (plan, context) = plan(folder.path(), 1 << 18, Arc::clone(&pool)).await;
    let mut rows = join_of(&plan).execute(0, context.task_ctx()).unwrap();
    // In the middle of its events.
    tokio::time::timeout(Duration::from_millis(200), rows.next())
        .await
        .unwrap_err();
    assert!(pool.reserved() > 0);
    drop((rows, plan));
    while pool.reserved() > 0 || files(&folder.path().join("spill")) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
