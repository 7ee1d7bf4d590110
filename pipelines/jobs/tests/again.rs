//! A training set made again from its manifest: the same rows after appends, compaction, vacuum and new definitions, or
//! a refusal that says what is gone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod support;

use arrow::array::RecordBatch;
use ondol_pipelines_api::wire::{AsOf, Job, JobState, Manifest, TablePin, TrainingSetRequest};
use ondol_pipelines_api::{Pipelines, PipelinesError};
use ondol_vocabulary::ViewState;
use std::path::Path;
use std::sync::Arc;
use support::oracle::{DEFINITIONS, Event, HOUR, MINUTE};
use support::{Bench, FakeStore, append_log, batch, cells, compact_log, config, floats, integers, moments, strings};

/// 2013-01-01T22:00:00Z.
const START: i64 = 1_357_077_600_000_000;

fn events(numbers: std::ops::Range<i64>) -> Vec<Event> {
    let event = |number: i64| Event {
        key: Some(format!("key-{}", number % 3)),
        amount: Some(number as f64 / 4.0),
        n: Some(number),
        flag: Some(number % 2 == 0),
        time: START + number * 7 * MINUTE,
        known: START + number * 7 * MINUTE,
        partition: 0,
        offset: number,
    };
    numbers.map(event).collect()
}

fn spine() -> RecordBatch {
    let rows = 40i64;
    batch(vec![
        ("label", integers((0..rows).map(Some))),
        (
            "k",
            strings((0..rows).map(|row| ["key-0", "key-1", "key-2", "key-9"].get(row as usize % 4).copied())),
        ),
        ("time", moments((0..rows).map(|row| START + row * 20 * MINUTE))),
        (
            "amount",
            floats((0..rows).map(|row| (row % 5 > 0).then_some(row as f64))),
        ),
    ])
}

fn again(manifest: &Manifest, spine: &RecordBatch) -> TrainingSetRequest {
    TrainingSetRequest::from_manifest(manifest, &spine.schema(), vec![spine.clone()]).unwrap()
}

/// A service over a log of two commits; the log's folder.
async fn bench(folder: &Path) -> (Bench, std::path::PathBuf) {
    let log = folder.join("log");
    std::fs::create_dir_all(&log).unwrap();
    support::write_log(&log, &[events(0..60), events(60..100)]).await;
    let store = FakeStore::with(DEFINITIONS, ViewState::Active);
    store.archive("events", &log);
    (Bench::open(Arc::new(store), config(folder)).await, log)
}

async fn built(bench: &Bench) -> (Manifest, RecordBatch) {
    let (job, rows) = bench.build(support::request("m", AsOf::KnownAt, spine())).await;
    (job.manifest.unwrap(), rows)
}

/// The job of `request`, which must be accepted.
async fn ran(bench: &Bench, request: TrainingSetRequest) -> Job {
    let job = bench.service.training_set(request).await.unwrap();
    bench.ended(&job.id).await
}

#[tokio::test]
async fn appends_compaction_and_new_definitions_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, log) = bench(folder.path()).await;
    let (manifest, rows) = built(&bench).await;
    assert_eq!(manifest.tables["events"], "2");

    append_log(&log, &events(100..160)).await;
    let (later, changed) = built(&bench).await;
    assert_ne!(
        changed, rows,
        "the appended events matter to a training set of the present"
    );
    let (_, same) = bench.build(again(&manifest, &spine())).await;
    assert_eq!(same, rows);

    compact_log(&log).await;
    for (manifest, rows) in [(&manifest, &rows), (&later, &changed)] {
        let (_, same) = bench.build(again(manifest, &spine())).await;
        assert_eq!(same, *rows);
    }

    // New versions of everything: other windows under the same names, promoted.
    let newer = DEFINITIONS
        .replace("over 12m", "over 18m")
        .replace("derived.ratio = \"amount /", "derived.ratio = \"1 + amount /");
    let mut snapshot = FakeStore::with(&newer, ViewState::Active)
        .snapshot
        .lock()
        .unwrap()
        .clone();
    snapshot.version = 8;
    for view in &mut snapshot.views {
        view.version += 1;
    }
    *bench.store.snapshot.lock().unwrap() = snapshot;
    let (newest, changed) = built(&bench).await;
    assert_ne!(changed, rows);
    let (job, same) = bench.build(again(&manifest, &spine())).await;
    assert_eq!(same, rows);
    // What it says of itself is the same too, but for the moment.
    let repeated = job.manifest.unwrap();
    let expected = Manifest {
        built_at: repeated.built_at,
        ..manifest.clone()
    };
    assert_eq!(repeated, expected);
    assert_ne!(newest.views, manifest.views);
    bench.close().await;
}

#[tokio::test]
async fn another_spine_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, _) = bench(folder.path()).await;
    let (manifest, _) = built(&bench).await;
    let spine = spine();
    let reversed = arrow::compute::take_record_batch(
        &spine,
        &arrow::array::UInt32Array::from_iter_values((0..spine.num_rows() as u32).rev()),
    );
    let narrow = arrow::compute::cast(spine.column(3), &arrow::datatypes::DataType::Float32).unwrap();
    let mut columns = spine.columns().to_vec();
    columns[3] = narrow;
    let names = ["label", "k", "time", "amount"];
    let narrow = batch(names.into_iter().zip(columns).collect());
    for (other, reason) in [
        (
            reversed.unwrap(),
            "the spine is not the one of the manifest: the digest of its rows is sha256:",
        ),
        (spine.slice(0, 39), "the spine is not the one of the manifest"),
        (
            spine.project(&[0, 1, 2]).unwrap(),
            "column `amount` of the manifest's spine is missing",
        ),
        (
            spine.project(&[1, 0, 2, 3]).unwrap(),
            "the columns stand in another order: label, k, time, amount",
        ),
        (
            narrow,
            "column `amount` is Float32, in the manifest's spine it was Float64",
        ),
    ] {
        let problems = bench.problems(again(&manifest, &other)).await;
        assert!(problems[0].contains(reason), "{problems:?}");
    }
    // However it is cut into batches, it is the same spine.
    let mut cut = again(&manifest, &spine);
    let whole = cut.spine.remove(0);
    cut.spine = (0..whole.num_rows()).map(|row| whole.slice(row, 1)).collect();
    assert_eq!(ran(&bench, cut).await.state, JobState::Succeeded);
    bench.close().await;
}

#[tokio::test]
async fn what_is_no_manifest_or_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, _) = bench(folder.path()).await;
    let (manifest, _) = built(&bench).await;
    let mut first_form = manifest.clone();
    (first_form.format, first_form.snapshot) = (1, None);
    let mut future = manifest.clone();
    future.format = 3;
    let mut other_model = again(&manifest, &spine());
    other_model.options.model = "other".to_owned();
    let mut garbage = again(&manifest, &spine());
    let metadata = std::collections::HashMap::from([("ondol.manifest".to_owned(), "{}".to_owned())]);
    garbage.spine_schema = Arc::new(garbage.spine_schema.as_ref().clone().with_metadata(metadata));
    for (request, reason) in [
        (again(&first_form, &spine()), "pins neither tables nor definitions"),
        (again(&future, &spine()), "of form 3"),
        (other_model, "the manifest is of model `m`, the request names `other`"),
        (garbage, "is not one of a training set"),
    ] {
        match bench.service.training_set(request).await {
            Err(PipelinesError::InvalidRequest { detail }) => assert!(detail.contains(reason), "{detail}"),
            other => panic!("not refused: {other:?}"),
        }
    }
    bench.close().await;
}

#[tokio::test]
async fn what_a_vacuum_removed_is_named_with_source_version_and_moment() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, log) = bench(folder.path()).await;
    let (manifest, _) = built(&bench).await;
    compact_log(&log).await;
    let removed = support::vacuum_log(&log).await;
    assert!(removed > 0);
    let job = ran(&bench, again(&manifest, &spine())).await;
    assert_eq!(job.state, JobState::Failed);
    let error = job.error.unwrap();
    for part in [
        "source `events`: version 2, which the manifest pins, can't be read any more",
        "files are gone, since the vacuum of 20",
        "build a new training set",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(bench.service.result(&job.id).await.is_err());
    bench.close().await;
}

#[tokio::test]
async fn a_log_that_was_created_anew_is_not_taken_for_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, log) = bench(folder.path()).await;
    let (manifest, _) = built(&bench).await;
    std::fs::remove_dir_all(&log).unwrap();
    std::fs::create_dir_all(&log).unwrap();
    support::write_log(&log, &[events(0..60), events(60..100)]).await;
    let job = ran(&bench, again(&manifest, &spine())).await;
    assert!(job.error.as_ref().unwrap().contains("created anew"), "{:?}", job.error);
    bench.store.tables.lock().unwrap().clear();
    let job = ran(&bench, again(&manifest, &spine())).await;
    assert!(
        job.error.as_ref().unwrap().contains("no log of this source"),
        "{:?}",
        job.error
    );
    bench.close().await;
}

#[tokio::test]
async fn rows_that_came_out_otherwise_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, _) = bench(folder.path()).await;
    let (mut manifest, _) = built(&bench).await;
    manifest.snapshot.as_mut().unwrap().result.digest = "sha256:00".to_owned();
    let job = ran(&bench, again(&manifest, &spine())).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(
        job.error.as_ref().unwrap().contains("can't be made again"),
        "{:?}",
        job.error
    );
    assert!(bench.service.result(&job.id).await.is_err());
    bench.close().await;
}

#[tokio::test]
async fn a_stream_that_had_no_log_yet_has_none_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = FakeStore::with(DEFINITIONS, ViewState::Active);
    let bench = Bench::open(Arc::new(store), config(folder.path())).await;
    let (manifest, rows) = built(&bench).await;
    assert_eq!(manifest.snapshot.as_ref().unwrap().tables["events"], TablePin::Empty);
    let log = folder.path().join("log");
    std::fs::create_dir_all(&log).unwrap();
    support::write_log(&log, &[events(0..60)]).await;
    bench.store.archive("events", &log);
    assert_ne!(built(&bench).await.1, rows);
    let (_, same) = bench.build(again(&manifest, &spine())).await;
    assert_eq!(same, rows);
    bench.close().await;
}

const TABLES: &str = r#"
[source.merchants]
FORMAT = "LOCATION"
time = "updated_at"
schema = { id = "i64", country = "string", risk = "f64", updated_at = "timestamp" }

[view.merchant]
from = "merchants"
key = "id"
features.country = "country"
features.risk = "risk"

[model.m]
inputs = { id = "i64" }
features = ["merchant.*"]
"#;

fn merchants(rows: &[(&str, i64)]) -> RecordBatch {
    batch(vec![
        ("id", integers(rows.iter().map(|_| Some(7)))),
        ("country", strings(rows.iter().map(|(country, _)| Some(*country)))),
        ("risk", floats(rows.iter().map(|_| Some(0.5)))),
        ("updated_at", moments(rows.iter().map(|(_, time)| *time))),
    ])
}

fn merchant_spine() -> RecordBatch {
    batch(vec![
        ("id", integers([Some(7), Some(7), Some(8)])),
        ("t", moments([START + 1, START + HOUR + 1, START + HOUR + 1])),
    ])
}

async fn table_bench(folder: &Path, format: &str, location: &Path) -> Bench {
    let definitions = TABLES
        .replace("FORMAT", format)
        .replace("LOCATION", location.to_str().unwrap());
    let store = FakeStore::with(&definitions, ViewState::Active);
    Bench::open(Arc::new(store), config(folder)).await
}

#[tokio::test]
async fn files_added_to_a_parquet_folder_are_not_read_and_changed_ones_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("merchants");
    support::write_parquet(&table.join("b.parquet"), &merchants(&[("kr", START)]), 1);
    let bench = table_bench(folder.path(), "parquet", &table).await;
    let request = || support::request("m", AsOf::KnownAt, merchant_spine());
    let (job, rows) = bench.build(request()).await;
    let manifest = job.manifest.unwrap();
    assert_eq!(cells(&rows, "merchant.country"), ["kr", "kr", "null"]);

    // Before the pinned file by name, so that its rows would be numbered otherwise, and with a newer row.
    support::write_parquet(&table.join("a.parquet"), &merchants(&[("nz", START + HOUR)]), 1);
    let (_, changed) = bench.build(request()).await;
    assert_eq!(cells(&changed, "merchant.country"), ["kr", "nz", "null"]);
    let (_, same) = bench.build(again(&manifest, &merchant_spine())).await;
    assert_eq!(same, rows);

    support::write_parquet(&table.join("b.parquet"), &merchants(&[("se", START), ("se", START)]), 1);
    let job = ran(&bench, again(&manifest, &merchant_spine())).await;
    let error = job.error.unwrap();
    for part in [
        "source `merchants`: 1 of the 1 files",
        "b.parquet was written again at 20",
        "a Delta table keeps",
    ] {
        assert!(error.contains(part), "{error}");
    }
    std::fs::remove_file(table.join("b.parquet")).unwrap();
    let job = ran(&bench, again(&manifest, &merchant_spine())).await;
    assert!(
        job.error.as_ref().unwrap().contains("b.parquet is gone"),
        "{:?}",
        job.error
    );
    bench.close().await;
}

#[tokio::test]
async fn a_delta_table_is_read_at_the_version_that_was() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("merchants");
    std::fs::create_dir_all(&table).unwrap();
    support::write_delta_merchants(&table, &[("kr", 0.5, START)]).await;
    let bench = table_bench(folder.path(), "delta", &table).await;
    let (job, rows) = bench
        .build(support::request("m", AsOf::KnownAt, merchant_spine()))
        .await;
    let manifest = job.manifest.unwrap();
    support::append_delta_merchants(&table, &[("nz", 0.25, START + HOUR)]).await;
    let (_, changed) = bench
        .build(support::request("m", AsOf::KnownAt, merchant_spine()))
        .await;
    assert_eq!(cells(&changed, "merchant.country"), ["kr", "nz", "null"]);
    let (_, same) = bench.build(again(&manifest, &merchant_spine())).await;
    assert_eq!(same, rows);
    bench.close().await;
}
