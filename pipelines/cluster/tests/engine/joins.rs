//! Joins as plans in one process: what they answer is what the embedded training set answers, to the bit.

use crate::lake::{events, lake, lake_on_s3, spine};
use crate::support::lake::reach_s3;
use crate::support::{FakeStore, config, ended, request};
use arrow::array::RecordBatch;
use ondol_cluster::{EngineConfig, PlanEngine, SqlConfig, SqlService};
use ondol_jobs::PipelinesService;
use ondol_jobs::engine::{Engines, JoinEngine};
use ondol_pipelines_api::Pipelines;
use ondol_pipelines_api::wire::{AsOf, JobRequest, JobState, RecurringTrainingSetRequest};
use ondol_runtime::{Health, ObjectStores, Shutdown, SystemClock};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A service whose joins run on `engine`, or embedded.
pub async fn pipelines(
    folder: &Path,
    store: Arc<FakeStore>,
    engine: Option<Arc<dyn JoinEngine>>,
) -> (PipelinesService, Shutdown) {
    // Before the first place is opened.
    reach_s3();
    let shutdown = Shutdown::new();
    let clock = Arc::new(SystemClock);
    let data = folder.join(format!("pipelines-{}", engine.is_some()));
    let engines = Engines {
        joins: engine,
        sql: None,
    };
    let service = PipelinesService::open_on(engines, config(&data), store, clock, &shutdown, &Health::new())
        .await
        .unwrap();
    (service, shutdown)
}

/// The rows of a training set of `rows`, joined on `engine`, or embedded.
pub async fn training_set(
    folder: &Path,
    store: Arc<FakeStore>,
    engine: Option<Arc<dyn JoinEngine>>,
    rows: RecordBatch,
    as_of: AsOf,
) -> Result<RecordBatch, String> {
    let (service, shutdown) = pipelines(folder, store, engine).await;
    let job = service.training_set(request("m", as_of, rows)).await.unwrap();
    let job = ended(&service, &job.id).await;
    let result = if job.state == JobState::Succeeded {
        let rows = service.result(&job.id).await.unwrap();
        Ok(arrow::compute::concat_batches(&rows.schema, &rows.batches).unwrap())
    } else {
        Err(job.error.unwrap_or_default())
    };
    drop(service);
    assert!(shutdown.drain(Duration::from_secs(60)).await);
    result
}

fn plans() -> Option<Arc<dyn JoinEngine>> {
    let config = EngineConfig {
        engine: "here".to_owned(),
        exchange: String::new(),
        partitions: 5,
        partition_memory_mib: 512,
    };
    Some(Arc::new(PlanEngine::here(config, ObjectStores::of_process())))
}

/// Equal, nulls and the bits of floats included: the IPC bytes are.
pub fn assert_same(left: &RecordBatch, right: &RecordBatch) {
    assert_eq!(left.schema(), right.schema());
    assert_eq!(left, right);
    for (left, right) in left.columns().iter().zip(right.columns()) {
        if let (Some(left), Some(right)) = (
            arrow::array::AsArray::as_primitive_opt::<arrow::datatypes::Float64Type>(left),
            arrow::array::AsArray::as_primitive_opt::<arrow::datatypes::Float64Type>(right),
        ) {
            let bits =
                |array: &arrow::array::Float64Array| array.iter().map(|v| v.map(f64::to_bits)).collect::<Vec<_>>();
            assert_eq!(bits(left), bits(right));
        }
    }
}

#[tokio::test]
async fn a_training_set_as_a_plan_is_the_embedded_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &events(5_000, 40)).await;
    for as_of in [AsOf::KnownAt, AsOf::EventTime] {
        let embedded = training_set(folder.path(), store.clone(), None, spine(1_000, 40), as_of)
            .await
            .unwrap();
        let plan = training_set(folder.path(), store.clone(), plans(), spine(1_000, 40), as_of)
            .await
            .unwrap();
        assert_eq!(embedded.num_rows(), 1_000);
        assert!(embedded.column_by_name("merchant.risk").unwrap().null_count() < 1_000);
        assert_same(&embedded, &plan);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_over_tables_on_s3_is_the_embedded_one_over_those_on_disk() {
    reach_s3();
    let folder = tempfile::tempdir().unwrap();
    let tables = folder.path().join("tables");
    std::fs::create_dir(&tables).unwrap();
    let disk = lake(&tables, &events(2_000, 40)).await;
    let s3 = lake_on_s3(&tables).await;
    let embedded = training_set(folder.path(), disk, None, spine(500, 40), AsOf::KnownAt)
        .await
        .unwrap();
    let plan = training_set(folder.path(), s3, plans(), spine(500, 40), AsOf::KnownAt)
        .await
        .unwrap();
    assert!(embedded.column_by_name("w.sum_2h").unwrap().null_count() < 500);
    assert_same(&embedded, &plan);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_over_the_log_is_the_spine_of_a_training_set_that_recurs() {
    reach_s3();
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &events(1_000, 20)).await;
    let sql = SqlConfig {
        spill_dir: folder.path().join("spill"),
        ..SqlConfig::default()
    };
    let sql = SqlService::new(sql, store.clone(), ObjectStores::of_process()).unwrap();
    let engines = Engines {
        joins: None,
        sql: Some(Arc::new(sql)),
    };
    let (shutdown, clock) = (Shutdown::new(), Arc::new(SystemClock));
    let data = config(&folder.path().join("data"));
    let service = PipelinesService::open_on(engines, data, store, clock, &shutdown, &Health::new())
        .await
        .unwrap();
    let output = folder.path().join("{end_date}.parquet");
    let request = RecurringTrainingSetRequest {
        model: "m".to_owned(),
        spine_query: Some(
            "select k, concat('m-', n) as m, amount, ts as time, flag as label from events
             where ts < timestamp '{end}' order by _offset"
                .to_owned(),
        ),
        output: output.display().to_string(),
        end: Some(ondol_vocabulary::EventTime::from_micros(
            crate::lake::START + 60 * crate::lake::MINUTE,
        )),
        ..RecurringTrainingSetRequest::default()
    };
    let request = JobRequest::RecurringTrainingSet(request);
    let job = service.submit(request, None).await.unwrap();
    let job = ended(&service, &job.id).await;
    assert_eq!((job.state, job.error), (JobState::Succeeded, None));
    let manifest = job.manifest.unwrap();
    assert_eq!(manifest.rows, 500);
    assert_eq!(manifest.spine_columns, ["k", "m", "amount", "time", "label"]);
    assert!(folder.path().join("2013-01-01.parquet").exists());
    drop(service);
    assert!(shutdown.drain(Duration::from_secs(60)).await);
}

#[tokio::test]
async fn a_spine_over_nothing_gets_the_features_of_the_absent() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &[]).await;
    let embedded = training_set(folder.path(), store.clone(), None, spine(50, 5), AsOf::KnownAt)
        .await
        .unwrap();
    let plan = training_set(folder.path(), store.clone(), plans(), spine(50, 5), AsOf::KnownAt)
        .await
        .unwrap();
    assert_same(&embedded, &plan);
    let none = spine(50, 5).slice(0, 0);
    let plan = training_set(folder.path(), store, plans(), none, AsOf::KnownAt)
        .await
        .unwrap();
    assert_eq!(plan.num_rows(), 0);
}

#[tokio::test]
async fn a_table_of_other_types_is_the_same_error_in_a_plan() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &events(100, 5)).await;
    let odd = crate::support::batch(vec![
        ("m", crate::support::strings([Some("m-1")])),
        ("risk", crate::support::strings([Some("high")])),
        ("updated_at", crate::support::moments([crate::lake::START])),
    ]);
    crate::lake::write_parquet(&folder.path().join("merchants/c.parquet"), &odd);
    let embedded = training_set(folder.path(), store.clone(), None, spine(50, 5), AsOf::KnownAt)
        .await
        .unwrap_err();
    let plan = training_set(folder.path(), store, plans(), spine(50, 5), AsOf::KnownAt)
        .await
        .unwrap_err();
    assert!(embedded.contains("risk"), "{embedded}");
    assert!(plan.contains(&embedded), "{plan} instead of {embedded}");
}
