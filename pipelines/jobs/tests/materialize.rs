//! Batch sources brought online: every row delivered once, in order, then the views activated.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod support;

use arrow::array::{Array, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_jobs::PipelinesConfig;
use ondol_pipelines_api::wire::{JobQuery, JobState, MaterializeRequest};
use ondol_pipelines_api::{Pipelines, PipelinesError};
use ondol_vocabulary::{PartitionRange, ViewState};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use support::{Bench, FakeStore, batch, config, integers, moments, strings, write_parquet};

const DEFINITIONS: &str = r#"
[source.merchants]
parquet = "LOCATION"
time = "updated_at"
schema = { id = "i64", country = "string", updated_at = "timestamp" }

[source.events]
kafka = "events"
time = "ts"
schema = { k = "string", ts = "timestamp" }

[view.merchant]
from = "merchants"
key = "id"
features.country = "country"

[view.merchant_place]
from = "merchants"
key = "id"
features.abroad = "country <> 'kr'"
"#;

fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    batch(vec![
        ("id", integers(ids.clone().map(Some))),
        ("country", strings(ids.clone().map(|id| (id % 3 > 0).then_some("kr")))),
        ("updated_at", moments(ids.map(|id| id * 1_000_000))),
    ])
}

fn store(location: &Path, state: ViewState) -> Arc<FakeStore> {
    Arc::new(FakeStore::with(
        &DEFINITIONS.replace("LOCATION", location.to_str().unwrap()),
        state,
    ))
}

fn merchants() -> MaterializeRequest {
    MaterializeRequest::of("merchants")
}

#[tokio::test]
async fn every_row_is_delivered_in_touching_ranges_then_views_are_activated() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("merchants");
    write_parquet(&table.join("a.parquet"), &rows(0..25), 10);
    write_parquet(&table.join("b.parquet"), &rows(25..30), 10);
    write_parquet(&table.join("_scratch/c.parquet"), &rows(90..91), 10);
    let store = store(&table, ViewState::Provisioning);
    let unavailable = FeatureStoreError::Unavailable {
        detail: "for a moment".to_owned(),
    };
    store.refusals.lock().unwrap().push(unavailable);
    let bench = Bench::open(
        store.clone(),
        PipelinesConfig {
            delivery_rows: 4,
            ..config(folder.path())
        },
    )
    .await;
    let job = bench.service.materialize(merchants()).await.unwrap();
    let job = bench.ended(&job.id).await;
    assert_eq!((job.state, job.error.as_deref()), (JobState::Succeeded, None));
    assert_eq!((job.kind.as_str(), job.subject.as_str()), ("materialize", "merchants"));
    let deliveries = std::mem::take(&mut *store.deliveries.lock().unwrap());
    let mut next = 0;
    for delivery in &deliveries {
        assert_eq!(
            (delivery.header.source.as_str(), delivery.header.source_version),
            ("merchants", 3)
        );
        assert_eq!(delivery.header.generation, deliveries[0].header.generation);
        let [PartitionRange { partition: 0, from, to }] = delivery.header.ranges[..] else {
            panic!("one range")
        };
        assert_eq!((from, to), (next, next + delivery.events.num_rows() as i64));
        assert!(delivery.events.num_rows() <= 4);
        let names: Vec<String> = delivery
            .events
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        assert_eq!(
            names,
            ["id", "country", "updated_at", "_partition", "_offset", "_ingested_at"]
        );
        assert_eq!(
            delivery.events.column(0).as_primitive::<Int64Type>().values(),
            &(from..to).collect::<Vec<_>>()[..]
        );
        assert_eq!(delivery.events.column(4), delivery.events.column(0));
        assert_eq!(delivery.events.column(5), delivery.events.column(2));
        next = to;
    }
    assert_eq!(next, 30);
    assert_eq!(*store.activated.lock().unwrap(), [1, 2]);
    // Nothing is new: nothing is delivered.
    let job = bench.service.materialize(merchants()).await.unwrap();
    let job = bench.ended(&job.id).await;
    assert_eq!((job.state, job.rows_done), (JobState::Succeeded, 0));
    assert_eq!(job.stage, "0 rows delivered, 30 skipped");
    assert!(store.deliveries.lock().unwrap().is_empty());
    bench.close().await;
}

#[tokio::test]
async fn a_row_without_a_time_is_left_out_and_its_number_covered() {
    let folder = tempfile::tempdir().unwrap();
    let times = TimestampMicrosecondArray::from(vec![Some(1), None, Some(3), None]).with_timezone("UTC");
    let rows = batch(vec![
        ("id", integers([Some(0), Some(1), Some(2), Some(3)])),
        ("country", strings([None, None, None, None])),
        ("updated_at", Arc::new(times)),
    ]);
    let path = folder.path().join("merchants.parquet");
    write_parquet(&path, &rows, 10);
    let store = store(&path, ViewState::Provisioning);
    let bench = Bench::open(store.clone(), config(folder.path())).await;
    let job = bench.service.materialize(merchants()).await.unwrap();
    assert_eq!(bench.ended(&job.id).await.state, JobState::Succeeded);
    let deliveries = store.deliveries.lock().unwrap().clone();
    let ranges: Vec<(i64, i64)> = deliveries
        .iter()
        .map(|d| (d.header.ranges[0].from, d.header.ranges[0].to))
        .collect();
    assert_eq!(ranges, [(0, 3), (3, 4)]);
    assert_eq!(
        deliveries[0].events.column(4).as_primitive::<Int64Type>().values(),
        &[0, 2]
    );
    assert_eq!(
        deliveries[0]
            .events
            .column(2)
            .as_primitive::<TimestampMicrosecondType>()
            .values(),
        &[1, 3]
    );
    assert_eq!(deliveries[0].events.column(2).null_count(), 0);
    bench.close().await;
}

#[tokio::test]
async fn a_waiting_view_is_provisioned_by_itself_once_its_table_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("merchants");
    std::fs::create_dir_all(&table).unwrap();
    let store = store(&table, ViewState::Provisioning);
    let bench = Bench::open(
        store.clone(),
        PipelinesConfig {
            reconcile: true,
            ..config(folder.path())
        },
    )
    .await;
    let failed = loop {
        match bench.service.jobs(JobQuery::default()).await.unwrap().jobs.pop() {
            Some(job) => break bench.ended(&job.id).await,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    assert_eq!(failed.state, JobState::Failed);
    assert!(failed.error.unwrap().contains("there is no .parquet file"));
    assert!(store.activated.lock().unwrap().is_empty());
    write_parquet(&table.join("a.parquet"), &rows(0..3), 10);
    let provisioned = async || {
        while store
            .snapshot()
            .await
            .unwrap()
            .views
            .iter()
            .any(|view| view.state != ViewState::Active)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), provisioned())
        .await
        .unwrap();
    assert_eq!(*store.activated.lock().unwrap(), [1, 2]);
    bench.close().await;
}

#[tokio::test]
async fn a_delivery_that_is_refused_for_good_fails_the_job_and_activates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("merchants.parquet");
    write_parquet(&path, &rows(0..3), 10);
    let store = store(&path, ViewState::Provisioning);
    let refusal = FeatureStoreError::InvalidRequest {
        detail: "not like this".to_owned(),
    };
    store.refusals.lock().unwrap().push(refusal);
    let bench = Bench::open(store.clone(), config(folder.path())).await;
    let job = bench.service.materialize(merchants()).await.unwrap();
    let job = bench.ended(&job.id).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(job.error.unwrap().contains("not like this"));
    assert!(store.activated.lock().unwrap().is_empty());
    bench.close().await;
}

#[tokio::test]
async fn streams_and_strangers_are_not_materialized() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(store(folder.path(), ViewState::Active), config(folder.path())).await;
    let ask = |source: &str| bench.service.materialize(MaterializeRequest::of(source));
    assert!(matches!(
        ask("events").await,
        Err(PipelinesError::InvalidRequest { .. })
    ));
    let unknown = PipelinesError::Unknown {
        kind: "source".to_owned(),
        name: "merchant".to_owned(),
        suggestion: Some("merchants".to_owned()),
    };
    assert_eq!(ask("merchant").await, Err(unknown));
    bench.close().await;
}
