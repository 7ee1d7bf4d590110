//! Everything that can be wrong with a spine is told before any work starts, with the remedy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod support;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, TimestampMicrosecondArray, UInt64Array};
use ondol_pipelines_api::wire::{AsOf, JobQuery, JobState};
use ondol_pipelines_api::{Pipelines, PipelinesError};
use ondol_vocabulary::ViewState;
use std::sync::Arc;
use support::{Bench, FakeStore, batch, config, floats, integers, moments, request, strings};

const DEFINITIONS: &str = r#"
[source.events]
kafka = "events"
time = "ts"
schema = { k = "string", id = "i32", amount = "f64", ts = "timestamp" }

[view.w]
from = "events"
key = "k"
features.count = "count() over 1h"

[model.m]
inputs = { k = "string", id = "i32", amount = "f64", when = "timestamp" }
features = ["w.count", "amount", "id", "when"]
"#;

async fn bench(folder: &std::path::Path) -> Bench {
    Bench::open(
        Arc::new(FakeStore::with(DEFINITIONS, ViewState::Active)),
        config(folder),
    )
    .await
}

/// A good spine with some columns replaced or added.
fn spine(changes: Vec<(&'static str, ArrayRef)>) -> RecordBatch {
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("k", strings([Some("a"), None])),
        ("id", integers([Some(1), None])),
        ("amount", floats([Some(1.0), None])),
        ("when", moments([1, 2])),
        ("time", moments([1, 2])),
    ];
    for (name, array) in changes {
        match columns.iter_mut().find(|(existing, _)| *existing == name) {
            Some(column) => column.1 = array,
            None => columns.push((name, array)),
        }
    }
    batch(columns)
}

fn without(name: &str) -> RecordBatch {
    let spine = spine(vec![]);
    let kept: Vec<usize> = (0..spine.num_columns())
        .filter(|&at| spine.schema().field(at).name() != name)
        .collect();
    spine.project(&kept).unwrap()
}

#[tokio::test]
async fn each_fault_is_named_with_its_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let bench = bench(folder.path()).await;
    let naive: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1, 2]));
    let gap: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None]).with_timezone("UTC"));
    let truths: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
    let wide: ArrayRef = Arc::new(UInt64Array::from(vec![1, 1 << 54]));
    let cases: Vec<(RecordBatch, &[&str])> = vec![
        (
            without("amount"),
            &["column `amount` is missing: the model needs it as f64"],
        ),
        (
            spine(vec![("k", integers([Some(1), None]))]),
            &["column `k` is Int64, the model needs string: cast it in the spine"],
        ),
        (
            spine(vec![("amount", truths)]),
            &["column `amount` is Boolean, the model needs f64: cast it in the spine"],
        ),
        (
            spine(vec![("amount", wide)]),
            &["column `amount` in row 2: the integer is too great for a float to hold exactly"],
        ),
        (
            spine(vec![("id", integers([Some(1 << 40), None]))]),
            &["column `id` can't be cast to i32"],
        ),
        (
            spine(vec![("id", Arc::new(Float64Array::from(vec![1.0, 2.0])))]),
            &["column `id` is Float64, the model needs i32"],
        ),
        (
            spine(vec![("time", naive.clone())]),
            &["time column `time` has timestamps without a time zone"],
        ),
        (
            spine(vec![("when", naive)]),
            &["column `when` has timestamps without a time zone"],
        ),
        (
            spine(vec![("time", gap)]),
            &["time column `time` is null in row 2: every row needs a moment"],
        ),
        (
            spine(vec![(
                "time",
                strings([Some("2013-01-01T00:00:00Z"), Some("2013-01-01 00:00:00")]),
            )]),
            &["time column `time` in row 2: naive timestamp `2013-01-01 00:00:00`: add `Z`"],
        ),
        (
            spine(vec![("time", strings([Some("soon"), Some("later")]))]),
            &["time column `time` in row 1: `soon` is not an RFC 3339 timestamp"],
        ),
        (
            spine(vec![("time", integers([Some(1), Some(2)]))]),
            &["time column `time` is Int64, the model needs timestamp"],
        ),
        (
            spine(vec![("w.count", integers([Some(1), Some(2)]))]),
            &["column `w.count` has the name of a feature that is computed"],
        ),
        (
            spine(vec![("k", integers([None, None])), ("amount", strings([None, None]))]),
            &["column `k` is Int64", "column `amount` is Utf8"],
        ),
    ];
    for (spine, reasons) in cases {
        let problems = bench.problems(request("m", AsOf::KnownAt, spine)).await;
        assert_eq!(problems.len(), reasons.len(), "{problems:?}");
        for (problem, reason) in problems.iter().zip(reasons) {
            assert!(problem.starts_with(reason), "{problem} does not start with {reason}");
        }
    }
    assert_eq!(bench.service.jobs(JobQuery::default()).await.unwrap().jobs, []);
    bench.close().await;
}

#[tokio::test]
async fn a_column_twice_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bench = bench(folder.path()).await;
    let once = spine(vec![]);
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("k", strings([Some("a"), None])),
        ("id", integers([None, None])),
        ("k", strings([None, None])),
    ];
    columns.extend(["amount", "when", "time"].map(|name| (name, once.column_by_name(name).unwrap().clone())));
    let problems = bench.problems(request("m", AsOf::KnownAt, batch(columns))).await;
    assert_eq!(problems, ["column `k` appears twice: rename one of them"]);
    bench.close().await;
}

#[tokio::test]
async fn the_time_column_is_found_by_option_by_name_or_by_being_the_only_one() {
    let folder = tempfile::tempdir().unwrap();
    let bench = bench(folder.path()).await;
    let named = |name: &str| {
        let mut request = request("m", AsOf::KnownAt, spine(vec![]));
        request.options.time_column = Some(name.to_owned());
        request
    };
    for (request, column) in [
        (named("when"), "when"),
        (request("m", AsOf::KnownAt, spine(vec![])), "time"),
        (request("m", AsOf::KnownAt, without("time")), "when"),
    ] {
        let (job, _) = bench.build(request).await;
        assert_eq!(job.manifest.unwrap().time_column, column);
    }
    let problems = bench.problems(named("wehn")).await;
    assert_eq!(
        problems,
        ["time column `wehn` is missing: the spine has k, id, amount, when, time"]
    );
    let two = batch(vec![
        ("k", strings([None])),
        ("id", integers([None])),
        ("amount", floats([None])),
        ("when", moments([1])),
        ("then", moments([1])),
    ]);
    let problems = bench.problems(request("m", AsOf::KnownAt, two)).await;
    assert_eq!(
        problems,
        ["several columns hold timestamps (when, then): name one with `time_column`"]
    );
    bench.close().await;
}

#[tokio::test]
async fn an_unknown_model_gets_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = FakeStore::with(&DEFINITIONS.replace("model.m", "model.fraud"), ViewState::Active);
    let bench = Bench::open(Arc::new(store), config(folder.path())).await;
    let refused = bench
        .service
        .training_set(request("fruad", AsOf::KnownAt, spine(vec![])))
        .await;
    let unknown = PipelinesError::Unknown {
        kind: "model".to_owned(),
        name: "fruad".to_owned(),
        suggestion: Some("fraud".to_owned()),
    };
    assert_eq!(refused, Err(unknown));
    bench.close().await;
}

#[tokio::test]
async fn a_model_whose_view_is_not_active_yet_can_be_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(FakeStore::with(DEFINITIONS, ViewState::Provisioning));
    let bench = Bench::open(store.clone(), config(folder.path())).await;
    let refused = bench
        .service
        .training_set(request("m", AsOf::KnownAt, spine(vec![])))
        .await;
    assert!(
        matches!(refused, Err(PipelinesError::Unavailable { .. })),
        "{refused:?}"
    );
    store.snapshot.lock().unwrap().views[0].state = ViewState::Active;
    let (job, _) = bench.build(request("m", AsOf::KnownAt, spine(vec![]))).await;
    assert_eq!(job.state, JobState::Succeeded);
    bench.close().await;
}
