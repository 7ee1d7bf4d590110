//! Sources in folders and in buckets: the same rows from either, partitioned or not, and no file read that no row needs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod ledger;
mod support;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use ledger::Schema;
use ondol_feature_store_api::wire::OfflineTable;
use ondol_jobs::PipelinesConfig;
use ondol_pipelines_api::Pipelines;
use ondol_pipelines_api::wire::{AsOf, JobState, MaterializeRequest, TrainingSetRequest};
use ondol_runtime::ObjectStores;
use ondol_testkit::s3;
use ondol_vocabulary::ViewState;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use support::lake::{reach_s3, upload};
use support::oracle::Event;
use support::{
    Bench, FakeStore, batch, cells, config, floats, integers, moments, request, strings, table, write_parquet,
};

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;
/// 2013-01-01T00:00:00Z.
const START: i64 = 1_356_998_400_000_000;

const DEFINITIONS: &str = r#"
[source.events]
kafka = "events"
time = "ts"
schema = { k = "string", amount = "f64", n = "i64", flag = "bool", ts = "timestamp" }

[source.merchants]
delta = "ROOT/merchants"
time = "updated_at"
schema = { id = "i64", country = "string", risk = "f64", updated_at = "timestamp" }

[source.trips]
parquet = "ROOT/trips"
time = "at"
schema = { id = "i64", fare = "f64", year = "i32", city = "string", at = "timestamp" }

[view.w]
from = "events"
key = "k"
features.n = "count() over 2d"
features.total = "sum(amount)"

[view.merchant]
from = "merchants"
key = "id"
features.country = "country"
features.risk = "risk"

[view.trip]
from = "trips"
key = "id"
features.fare = "fare"
features.year = "year"
features.city = "city"

[model.m]
inputs = { k = "string", id = "i64" }
features = ["w.*", "merchant.*", "trip.*"]

[model.trips]
inputs = { id = "i64" }
features = ["trip.*"]
"#;

/// A trip a day of ids 1 to 3, in folders by year and city; one city is unknown and one has odd letters.
fn write_trips(folder: &Path) {
    for (days, partition) in [
        (0, "year=2012/city=Seoul"),
        (400, "year=2013/city=S%C3%A3o Paulo"),
        (800, "year=2014/city=__HIVE_DEFAULT_PARTITION__"),
    ] {
        let rows = batch(vec![
            ("id", integers((1..=3).map(Some))),
            ("fare", floats((1..=3).map(|id| Some((days + id) as f64)))),
            ("at", moments((1..=3).map(|id| START + days * DAY + id * HOUR))),
        ]);
        write_parquet(&folder.join(partition).join("part-0.parquet"), &rows, 2);
    }
    // Neither is data, by old custom.
    std::fs::write(folder.join("_SUCCESS"), "").unwrap();
    write_parquet(
        &folder.join("_temporary/part-0.parquet"),
        &batch(vec![("x", integers([None]))]),
        2,
    );
}

async fn write_everything(folder: &Path) {
    let event = |key: &str, amount: f64, time: i64, offset: i64| Event {
        key: Some(key.to_owned()),
        amount: Some(amount),
        n: Some(offset),
        flag: Some(true),
        time,
        known: time + HOUR,
        partition: 0,
        offset,
    };
    let commits: Vec<Vec<Event>> = (0..12)
        .map(|commit| {
            (0..5)
                .map(|at| {
                    let offset = commit * 5 + at;
                    event(
                        ["a", "b"][(offset % 2) as usize],
                        offset as f64 / 3.0,
                        START + offset * 7 * HOUR,
                        offset,
                    )
                })
                .collect()
        })
        .collect();
    for name in ["log", "merchants"] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
    }
    support::write_log(&folder.join("log"), &commits).await;
    let merchants = [
        ("kr", 0.5, START),
        ("nz", 0.25, START + DAY),
        ("se", 0.125, START + 9 * DAY),
    ];
    support::write_delta_merchants(&folder.join("merchants"), &merchants).await;
    write_trips(&folder.join("trips"));
}

async fn bench(root: &str, state: ViewState, data: &Path) -> Bench {
    let store = FakeStore::with(&DEFINITIONS.replace("ROOT", root), state);
    let log = if root.starts_with("s3://") {
        format!("{root}/log/")
    } else {
        url::Url::from_directory_path(Path::new(root).join("log"))
            .unwrap()
            .to_string()
    };
    store.tables.lock().unwrap().push(OfflineTable {
        source: "events".to_owned(),
        url: log,
        version: Some(0),
        rows: None,
    });
    Bench::open(Arc::new(store), config(data)).await
}

fn spine() -> TrainingSetRequest {
    let rows: i64 = 60;
    let ids = (0..rows).map(|row| Some([1, 2, 3, 7][(row % 4) as usize]));
    request(
        "m",
        AsOf::KnownAt,
        batch(vec![
            (
                "k",
                strings((0..rows).map(|row| Some(["a", "b", "c"][(row % 3) as usize]))),
            ),
            ("id", integers(ids)),
            ("t", moments((0..rows).map(|row| START + row * row * 7 * HOUR))),
        ]),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_set_from_s3_equals_one_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake");
    write_everything(&lake).await;
    let bucket = upload(&lake).await;
    let mut built: Vec<HashMap<String, Vec<String>>> = Vec::new();
    for (root, data) in [(lake.to_str().unwrap(), "disk"), (bucket.as_str(), "s3")] {
        let bench = bench(root, ViewState::Active, &folder.path().join(data)).await;
        let (_, rows) = bench.build(spine()).await;
        built.push(table(&rows));
        bench.close().await;
    }
    assert_eq!(built[0], built[1]);
    // And is not empty.
    for (column, some) in [
        ("w.n", "3"),
        ("merchant.country", "nz"),
        ("trip.city", "São Paulo"),
        ("trip.year", "2013"),
    ] {
        assert!(
            built[1][column].iter().any(|cell| cell == some),
            "{column}: {:?}",
            built[1][column]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_source_on_s3_is_delivered_as_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake");
    write_everything(&lake).await;
    let bucket = upload(&lake).await;
    for source in ["merchants", "trips"] {
        let mut delivered: Vec<Vec<RecordBatch>> = Vec::new();
        for (root, data) in [(lake.to_str().unwrap(), "disk"), (bucket.as_str(), "s3")] {
            let data = folder.path().join(format!("{source}-{data}"));
            let bench = bench(root, ViewState::Provisioning, &data).await;
            let job = bench.service.materialize(MaterializeRequest::of(source)).await.unwrap();
            let job = bench.ended(&job.id).await;
            assert_eq!((job.state, job.error), (JobState::Succeeded, None));
            let store = Arc::clone(&bench.store);
            bench.close().await;
            let deliveries = store.deliveries.lock().unwrap();
            delivered.push(deliveries.iter().map(|delivery| delivery.events.clone()).collect());
        }
        assert_eq!(delivered[0], delivered[1], "{source}");
        assert!(delivered[0].iter().map(RecordBatch::num_rows).sum::<usize>() > 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_columns_and_files_that_no_row_can_see_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let trips = folder.path().join("trips");
    write_trips(&trips);
    let spine = |days: i64| {
        let rows = batch(vec![("id", integers([Some(2)])), ("t", moments([START + days * DAY]))]);
        request("trips", AsOf::KnownAt, rows)
    };
    let root = folder.path().to_str().unwrap();
    let bench = bench(root, ViewState::Active, &folder.path().join("data")).await;
    for (days, fare, year, city) in [
        (0, "null", "null", "null"),
        (1, "2", "2012", "Seoul"),
        (401, "402", "2013", "São Paulo"),
        (801, "802", "2014", "null"),
    ] {
        let (_, rows) = bench.build(spine(days)).await;
        let cell = |column: &str| cells(&rows, column).remove(0);
        assert_eq!(
            [cell("trip.year"), cell("trip.city")],
            [year, city],
            "after {days} days"
        );
        assert_eq!(cell("trip.fare").trim_end_matches(".0"), fare, "after {days} days");
    }
    // The rows of 2014 are damaged, their footer is whole: who needs none of them does not notice.
    let damaged = trips.join("year=2014/city=__HIVE_DEFAULT_PARTITION__/part-0.parquet");
    let mut bytes = std::fs::read(&damaged).unwrap();
    let footer = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
    let data = bytes.len() - 8 - footer;
    bytes[4..data].fill(0xff);
    std::fs::write(&damaged, bytes).unwrap();
    bench.build(spine(401)).await;
    let job = bench.service.training_set(spine(801)).await.unwrap();
    let job = bench.ended(&job.id).await;
    let error = job.error.unwrap();
    assert_eq!(job.state, JobState::Failed);
    assert!(
        error.contains("year=2014") && error.contains("it is damaged: write it again, or remove it"),
        "{error}"
    );
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_on_s3_is_named_with_the_remedy() {
    reach_s3();
    let folder = tempfile::tempdir().unwrap();
    let bucket = s3::bucket();
    for (case, root, expected) in [
        (
            "empty",
            format!("s3://{bucket}/nothing"),
            "there is no .parquet file: check the location",
        ),
        (
            "bucket",
            "s3://ondol-no-such-bucket/lake".to_owned(),
            "check the bucket's name",
        ),
    ] {
        let bench = bench(&root, ViewState::Active, &folder.path().join(case)).await;
        let spine = batch(vec![("id", integers([Some(2)])), ("t", moments([START]))]);
        let job = bench
            .service
            .training_set(request("trips", AsOf::KnownAt, spine))
            .await
            .unwrap();
        let job = bench.ended(&job.id).await;
        let error = job.error.unwrap();
        assert!(error.contains(expected) && error.contains(&root), "{case}: {error}");
        assert!(!error.contains(s3::SECRET_ACCESS_KEY), "{error}");
        bench.close().await;
    }
}

/// The names under `prefix` of `root`.
async fn objects(root: &str, prefix: &str) -> Vec<String> {
    let store = ObjectStores::of_process()
        .at(&format!("{root}/{prefix}"))
        .unwrap()
        .store();
    let found: Vec<_> = store.list(None).try_collect().await.unwrap();
    found.into_iter().map(|object| object.location.to_string()).collect()
}

/// Two machines that have nothing in common but a database and a bucket.
#[tokio::test(flavor = "multi_thread")]
async fn instances_share_results_and_spines_by_a_bucket_alone() {
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake");
    write_everything(&lake).await;
    let bucket = upload(&lake).await;
    let schema = Schema::create().await;
    let mut benches = Vec::new();
    for name in ["left", "right"] {
        let store = FakeStore::with(&DEFINITIONS.replace("ROOT", &bucket), ViewState::Active);
        store.tables.lock().unwrap().push(OfflineTable {
            source: "events".to_owned(),
            url: format!("{bucket}/log/"),
            version: Some(0),
            rows: None,
        });
        let config = PipelinesConfig {
            ledger: Some(schema.ledger.clone()),
            spines: Some(format!("{bucket}/spines")),
            results: Some(format!("{bucket}/results")),
            ..config(&folder.path().join(name))
        };
        benches.push(Bench::open(Arc::new(store), config).await);
    }
    let mut rows = Vec::new();
    for number in 0..6 {
        let (here, there) = (&benches[number % 2], &benches[(number + 1) % 2]);
        let job = here.service.training_set(spine()).await.unwrap();
        let job = there.ended(&job.id).await;
        assert_eq!((job.state, job.error), (JobState::Succeeded, None));
        let result = there.service.result(&job.id).await.unwrap();
        assert_eq!(result, here.service.result(&job.id).await.unwrap());
        rows.push(result.batches);
    }
    assert!(rows.iter().all(|other| *other == rows[0]));
    let results = objects(&bucket, "results").await;
    assert_eq!(results.len(), 6, "{results:?}");
    assert!(results.iter().all(|name| name.ends_with("-1.arrows")), "{results:?}");
    for name in ["left", "right"] {
        let left = std::fs::read_dir(folder.path().join(name).join("training-sets")).unwrap();
        assert_eq!(left.count(), 0, "nothing stays on the machine");
    }
    for bench in benches {
        bench.close().await;
    }
    schema.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_its_bucket_refuses_fails_the_job_with_the_remedy() {
    reach_s3();
    let folder = tempfile::tempdir().unwrap();
    write_trips(&folder.path().join("trips"));
    let root = folder.path().to_str().unwrap();
    let store = FakeStore::with(&DEFINITIONS.replace("ROOT", root), ViewState::Active);
    let config = PipelinesConfig {
        results: Some("s3://ondol-no-such-bucket/results".to_owned()),
        ..config(&folder.path().join("data"))
    };
    let bench = Bench::open(Arc::new(store), config).await;
    let spine = batch(vec![("id", integers([Some(2)])), ("t", moments([START]))]);
    let job = bench
        .service
        .training_set(request("trips", AsOf::KnownAt, spine))
        .await
        .unwrap();
    let job = bench.ended(&job.id).await;
    let error = job.error.unwrap();
    assert_eq!(job.state, JobState::Failed);
    assert!(
        error.contains("s3://ondol-no-such-bucket/results") && error.contains("check the bucket's name"),
        "{error}"
    );
    bench.close().await;
}
