//! Training sets against a brute-force oracle, and what they keep of their spine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod support;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::DataType as ArrowType;
use ondol_jobs::PipelinesConfig;
use ondol_pipelines_api::Pipelines;
use ondol_pipelines_api::wire::{AsOf, FeatureStatuses, JobQuery, JobState, Manifest, ManifestFeature};
use ondol_vocabulary::{Value, VersionedName, ViewState};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use support::oracle::{DEFINITIONS, Event, HOUR, MINUTE, SECOND, Status, expected, statuses};
use support::{Bench, FakeStore, batch, cells, config, floats, integers, moments, request, strings, write_log};

/// 2013-01-01T22:00:00Z, so that tests cross a date.
const START: i64 = 1_357_077_600_000_000;

fn event(key: &str, amount: f64, time: i64) -> Event {
    Event {
        key: Some(key.to_owned()),
        amount: Some(amount),
        n: Some(1),
        flag: Some(true),
        time,
        known: time,
        partition: 0,
        offset: time,
    }
}

fn spine(rows: &[(Option<&str>, i64, Option<f64>)]) -> RecordBatch {
    batch(vec![
        ("label", integers((0..).map(Some).take(rows.len()))),
        ("k", strings(rows.iter().map(|(key, ..)| *key))),
        ("time", moments(rows.iter().map(|(_, t, _)| *t))),
        ("amount", floats(rows.iter().map(|(.., amount)| *amount))),
    ])
}

/// A service over `commits` of the log of `events`.
async fn bench(folder: &std::path::Path, commits: &[Vec<Event>], config: PipelinesConfig) -> Bench {
    let store = FakeStore::with(DEFINITIONS, ViewState::Active);
    let log = folder.join("log");
    std::fs::create_dir_all(&log).unwrap();
    write_log(&log, commits).await;
    store.archive("events", &log);
    Bench::open(Arc::new(store), config).await
}

fn assert_expected(rows: &RecordBatch, events: &[Event], spine: &[(Option<&str>, i64, Option<f64>)], as_of: AsOf) {
    assert_eq!(rows.num_rows(), spine.len());
    let found = support::table(rows);
    for (row, (key, t, amount)) in spine.iter().enumerate() {
        assert_eq!(found["label"][row], row.to_string(), "order");
        for (name, value) in expected(events, *key, *t, *amount, as_of) {
            let found = &found[name][row];
            let equal = *found == value
                || (found.parse::<f64>().ok().zip(value.parse::<f64>().ok())).is_some_and(|(a, b)| a == b);
            assert!(
                equal,
                "{name} of row {row} ({key:?} at {t}, {as_of:?}): {found} instead of {value}"
            );
        }
    }
}

/// That the manifest counts the statuses of online reads. Rows of which only unread events could tell may be any but fresh
/// with a value.
fn assert_statuses(manifest: &Manifest, events: &[Event], spine: &[(Option<&str>, i64, Option<f64>)], as_of: AsOf) {
    let rows: Vec<_> = spine
        .iter()
        .map(|(key, t, amount)| statuses(events, *key, *t, *amount, as_of))
        .collect();
    for feature in &manifest.features {
        let Some(found) = &feature.statuses else {
            assert!(!feature.name.contains('.') || feature.name.starts_with("derived."));
            continue;
        };
        let count = |status: Status| {
            let is = |row: &&Vec<(&str, Status, bool)>| {
                row.iter().any(|(name, is, _)| *name == feature.name && *is == status)
            };
            rows.iter().filter(is).count() as u64
        };
        let is_default =
            |row: &&Vec<(&str, Status, bool)>| row.iter().any(|(name, _, is)| *name == feature.name && *is);
        let expected = FeatureStatuses {
            fresh: count(Status::Fresh),
            null: count(Status::Null),
            stale: count(Status::Stale),
            missing: count(Status::Missing),
            unread: 0,
            defaults: rows.iter().filter(is_default).count() as u64,
        };
        let all = found.fresh + found.null + found.stale + found.missing + found.unread;
        assert_eq!(all, spine.len() as u64, "{}", feature.name);
        assert_eq!(found.defaults, expected.defaults, "{}", feature.name);
        if found.unread == 0 {
            assert_eq!(*found, expected, "{} {as_of:?}", feature.name);
        } else {
            assert!(found.missing <= expected.missing && expected.missing <= found.missing + found.unread);
            assert!(found.stale <= expected.stale && found.null <= expected.null && found.fresh <= expected.fresh);
        }
    }
}

prop_compose! {
    /// Events over three hours, on a grid so that times tie; late by up to four hours, ahead by up to one.
    fn any_event()(
        key in prop::option::weighted(0.95, 0..5u8),
        amount in prop::option::weighted(0.8, -20..20i32),
        n in prop::option::weighted(0.8, -5..5i64),
        flag in prop::option::weighted(0.8, any::<bool>()),
        slot in 0..360i64,
        late in prop_oneof![3 => Just(0i64), 2 => 1..40 * MINUTE, 1 => 1..4 * HOUR, 1 => -MINUTE..0],
        partition in 0..3,
    ) -> Event {
        let time = START + slot * 30 * SECOND;
        Event {
            key: key.map(|key| format!("key-{key}")),
            amount: amount.map(|amount| f64::from(amount) / 4.0),
            n, flag, time, known: time + late, partition, offset: 0,
        }
    }
}

/// Rows on and off the grid, of known and unknown keys, some without a key.
fn any_row() -> impl Strategy<Value = (Option<u8>, i64, Option<f64>)> {
    let t = prop_oneof![(0..400i64).prop_map(|slot| slot * 30 * SECOND), 0..4 * HOUR];
    (
        prop::option::weighted(0.9, 0..7u8),
        t,
        prop::option::of((0..9i32).prop_map(f64::from)),
    )
        .prop_map(|(key, t, amount)| (key, START + t, amount))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_training_set_is_what_brute_force_says(
        mut events in prop::collection::vec(any_event(), 0..120),
        mut rows in prop::collection::vec(any_row(), 0..60),
        cuts in prop::collection::vec(0..120usize, 0..3),
        passes in any::<bool>(),
    ) {
        for (offset, event) in (0..).zip(&mut events) {
            event.offset = offset;
        }
        // Duplicates in the spine.
        rows.extend(rows.clone().into_iter().step_by(5));
        let mut commits: Vec<Vec<Event>> = vec![Vec::new()];
        for (at, event) in events.iter().enumerate() {
            if cuts.contains(&at) {
                commits.push(Vec::new());
            }
            commits.last_mut().unwrap().push(event.clone());
        }
        commits.retain(|commit| !commit.is_empty());
        let names: Vec<(Option<String>, i64, Option<f64>)> =
            rows.into_iter().map(|(key, t, amount)| (key.map(|key| format!("key-{key}")), t, amount)).collect();
        let rows: Vec<(Option<&str>, i64, Option<f64>)> =
            names.iter().map(|(key, t, amount)| (key.as_deref(), *t, *amount)).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let mut config = config(folder.path());
            config.batch_rows = 7;
            // No memory at all: an entity a pass.
            config.event_memory_mib = if passes { 0 } else { 1 };
            let bench = bench(folder.path(), &commits, config).await;
            for (as_of, exact_status) in [(AsOf::KnownAt, true), (AsOf::KnownAt, false), (AsOf::EventTime, true)] {
                let mut request = request("m", as_of, spine(&rows));
                request.options.exact_status = exact_status;
                let (job, found) = bench.build(request).await;
                assert_expected(&found, &events, &rows, as_of);
                let manifest = job.manifest.unwrap();
                assert_statuses(&manifest, &events, &rows, as_of);
                let unread = |feature: &ManifestFeature| feature.statuses.as_ref().is_some_and(|counts| counts.unread > 0);
                assert!(!exact_status || !manifest.features.iter().any(unread));
            }
            bench.close().await;
        });
    }
}

#[tokio::test]
async fn an_entity_with_most_of_the_rows_and_many_with_few_come_out_alike() {
    let folder = tempfile::tempdir().unwrap();
    let keys: Vec<String> = (0..200).map(|key| format!("key-{key}")).collect();
    let mut events = Vec::new();
    let mut rows: Vec<(Option<&str>, i64, Option<f64>)> = Vec::new();
    for step in 0..1_500i64 {
        let t = START + step * 7 * SECOND;
        events.push(event("key-0", (step % 9) as f64, t));
        events.push(event(&keys[(step % 200) as usize], 1.0, t));
        rows.push((Some("key-0"), t, Some(2.0)));
        rows.push((Some(&keys[(step * 7 % 200) as usize]), t + SECOND, None));
    }
    for (offset, event) in (0..).zip(&mut events) {
        event.offset = offset;
    }
    let bench = bench(folder.path(), std::slice::from_ref(&events), config(folder.path())).await;
    let (job, found) = bench.build(request("m", AsOf::KnownAt, spine(&rows))).await;
    assert_expected(&found, &events, &rows, AsOf::KnownAt);
    assert_eq!(job.manifest.unwrap().rows, 3_000);
    bench.close().await;
}

#[tokio::test]
async fn an_event_that_arrived_late_is_unknown_until_it_did() {
    let folder = tempfile::tempdir().unwrap();
    let mut late = event("a", 5.0, START);
    late.known = START + 10 * MINUTE;
    let bench = bench(folder.path(), &[vec![late]], config(folder.path())).await;
    let rows = [
        (Some("a"), START + MINUTE, None),
        (Some("a"), START + 10 * MINUTE, None),
    ];
    let (_, known) = bench.build(request("m", AsOf::KnownAt, spine(&rows))).await;
    assert_eq!(cells(&known, "w.count_12m"), ["0", "1"]);
    let (_, happened) = bench.build(request("m", AsOf::EventTime, spine(&rows))).await;
    assert_eq!(cells(&happened, "w.count_12m"), ["1", "1"]);
    bench.close().await;
}

#[tokio::test]
async fn the_spine_is_kept_in_types_and_order_and_the_vector_follows() {
    let folder = tempfile::tempdir().unwrap();
    let bench = bench(folder.path(), &[vec![event("a", 4.0, START)]], config(folder.path())).await;
    let narrow: ArrayRef = Arc::new(arrow::array::Float32Array::from(vec![2.0, 3.0]));
    let words: ArrayRef = Arc::new(arrow::array::LargeStringArray::from(vec!["a", "b"]));
    let naive: ArrayRef = Arc::new(arrow::array::TimestampSecondArray::from(vec![1, 2]));
    let seconds = [START / SECOND + 1, START / SECOND + 2];
    let seconds: ArrayRef =
        Arc::new(arrow::array::TimestampSecondArray::from(seconds.to_vec()).with_timezone("+09:00"));
    let spine = batch(vec![
        ("amount", narrow),
        ("seen", naive),
        ("ts", seconds),
        ("k", words),
        ("late", integers([Some(1), None])),
    ]);
    let (job, found) = bench.build(request("m", AsOf::KnownAt, spine.clone())).await;
    for (index, field) in spine.schema().fields().iter().enumerate() {
        assert_eq!(found.schema().field(index), field.as_ref());
        assert_eq!(found.column(index), spine.column(index));
    }
    let names: Vec<String> = found
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    assert_eq!(names[5..7], ["w.count_12m", "w.sum_2h"]);
    assert_eq!(names.iter().filter(|name| *name == "amount").count(), 1);
    assert_eq!(cells(&found, "derived.ratio"), ["0.5", "null"]);
    let manifest = job.manifest.unwrap();
    assert_eq!(manifest.format, 2);
    assert_eq!(manifest.model, VersionedName::new("m", 5));
    assert_eq!(manifest.registry_version, 7);
    assert_eq!(
        manifest.views,
        ["w", "ever", "fresh", "otherwise", "kept"].map(|view| VersionedName::new(view, 2))
    );
    let ratio = manifest
        .features
        .iter()
        .find(|feature| feature.name == "derived.ratio")
        .unwrap();
    let half = || Some(Value::F64(0.5));
    let statistics = ratio.statistics.as_ref().unwrap();
    assert_eq!((ratio.nulls, statistics.count, statistics.distinct), (1, 1, Some(1)));
    assert_eq!(
        [&statistics.min, &statistics.max, &statistics.mean],
        [&half(), &half(), &half()]
    );
    assert_eq!(manifest.tables["events"], "1");
    assert_eq!(manifest.time_column, "ts");
    assert_eq!(manifest.spine_columns, ["amount", "seen", "ts", "k", "late"]);
    assert_eq!(manifest.rows, 2);
    let nulls: Vec<(&str, u64)> = manifest.features.iter().map(|f| (f.name.as_str(), f.nulls)).collect();
    assert_eq!(nulls[..2], [("w.count_12m", 0), ("w.sum_2h", 1)]);
    assert_eq!(
        nulls[nulls.len() - 3..],
        [("amount", 0), ("derived.ratio", 1), ("derived.more", 0)]
    );
    assert_eq!(*bench.store.flushed.lock().unwrap(), ["events"]);
    bench.close().await;
}

#[tokio::test]
async fn texts_with_a_zone_are_moments_and_dictionaries_are_texts() {
    let folder = tempfile::tempdir().unwrap();
    let bench = bench(folder.path(), &[vec![event("a", 4.0, START)]], config(folder.path())).await;
    let keys: StringArray = vec!["a", "a", "b"].into();
    let keys = arrow::compute::cast(
        &keys,
        &ArrowType::Dictionary(Box::new(ArrowType::Int32), Box::new(ArrowType::Utf8)),
    );
    let spine = batch(vec![
        ("k", keys.unwrap()),
        ("amount", integers([Some(1), Some(2), None])),
        (
            "event_time",
            strings([
                Some("2013-01-01T22:00:00Z"),
                Some("2013-01-02T07:00:00.000001+09:00"),
                Some("2013-01-01T22:00:01Z"),
            ]),
        ),
    ]);
    let (_, found) = bench.build(request("m", AsOf::KnownAt, spine)).await;
    assert_eq!(cells(&found, "w.count_12m"), ["0", "1", "0"]);
    assert_eq!(cells(&found, "derived.ratio"), ["null", "0.5", "null"]);
    bench.close().await;
}

#[tokio::test]
async fn a_stream_without_a_log_and_a_spine_without_rows_are_no_errors() {
    let folder = tempfile::tempdir().unwrap();
    let store = FakeStore::with(DEFINITIONS, ViewState::Active);
    let bench = Bench::open(Arc::new(store), config(folder.path())).await;
    let (_, found) = bench
        .build(request("m", AsOf::KnownAt, spine(&[(Some("a"), START, Some(1.0))])))
        .await;
    assert_eq!(cells(&found, "w.count_12m"), ["0"]);
    let (job, found) = bench.build(request("m", AsOf::KnownAt, spine(&[]))).await;
    assert_eq!(found.num_rows(), 0);
    assert_eq!(
        found.schema().field_with_name("w.count_12m").unwrap().data_type(),
        &ArrowType::Int64
    );
    assert_eq!(job.manifest.unwrap().rows, 0);
    bench.close().await;
}

const TABLES: &str = r#"
[source.merchants]
parquet = "LOCATION"
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

#[tokio::test]
async fn a_parquet_table_of_other_types_is_read_as_declared() {
    let folder = tempfile::tempdir().unwrap();
    let tables = folder.path().join("merchants");
    let times =
        arrow::array::TimestampNanosecondArray::from(vec![START * 1000, (START + HOUR) * 1000]).with_timezone("UTC");
    let rows = batch(vec![
        ("id", Arc::new(arrow::array::Int32Array::from(vec![7, 7]))),
        (
            "country",
            Arc::new(arrow::array::LargeStringArray::from(vec!["kr", "nz"])),
        ),
        ("risk", Arc::new(arrow::array::Float32Array::from(vec![0.5, 0.25]))),
        ("unused", integers([None, None])),
        ("updated_at", Arc::new(times)),
    ]);
    support::write_parquet(&tables.join("part-1.parquet"), &rows, 1);
    let store = FakeStore::with(&TABLES.replace("LOCATION", tables.to_str().unwrap()), ViewState::Active);
    let bench = Bench::open(Arc::new(store), config(folder.path())).await;
    let spine = |t: &[i64]| {
        batch(vec![
            ("id", integers(t.iter().map(|_| Some(7)))),
            ("t", moments(t.to_vec())),
        ])
    };
    let (job, found) = bench
        .build(request(
            "m",
            AsOf::KnownAt,
            spine(&[START, START + 1, START + 2 * HOUR]),
        ))
        .await;
    assert_eq!(cells(&found, "merchant.country"), ["null", "kr", "nz"]);
    assert_eq!(cells(&found, "merchant.risk"), ["null", "0.5", "0.25"]);
    let before = job.manifest.unwrap().tables["merchants"].clone();
    // A second file ties with the first one's last row. Rows of a table have no order: each value decides for itself.
    let tie = batch(vec![
        ("id", integers([Some(7)])),
        ("country", strings([Some("se")])),
        ("risk", floats([None])),
        ("updated_at", moments([START + HOUR])),
    ]);
    support::write_parquet(&tables.join("part-2.parquet"), &tie, 1);
    let (job, found) = bench
        .build(request("m", AsOf::KnownAt, spine(&[START + 2 * HOUR])))
        .await;
    assert_eq!(
        (cells(&found, "merchant.country"), cells(&found, "merchant.risk")),
        (vec!["se".to_owned()], vec!["0.25".to_owned()])
    );
    assert_ne!(job.manifest.unwrap().tables["merchants"], before);
    bench.close().await;
}

#[tokio::test]
async fn a_table_that_does_not_fit_its_declaration_fails_the_job_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let naive: ArrayRef = Arc::new(arrow::array::TimestampMicrosecondArray::from(vec![START]));
    let row = |time: ArrayRef, risk: ArrayRef| {
        batch(vec![
            ("id", integers([Some(7)])),
            ("country", strings([None])),
            ("risk", risk),
            ("updated_at", time),
        ])
    };
    let cases = [
        (
            "naive",
            row(naive, floats([None])),
            "column `updated_at` is a timestamp without a time zone",
        ),
        (
            "text",
            row(moments([START]), strings([Some("1")])),
            "column `risk` is Utf8 where the source declares f64",
        ),
        (
            "absent",
            batch(vec![("id", integers([Some(7)]))]),
            "there is no column `updated_at`",
        ),
    ];
    for (name, rows, reason) in cases {
        let path = folder.path().join(name).join("rows.parquet");
        support::write_parquet(&path, &rows, 10);
        let store = FakeStore::with(&TABLES.replace("LOCATION", path.to_str().unwrap()), ViewState::Active);
        let bench = Bench::open(Arc::new(store), config(&folder.path().join(format!("{name}-data")))).await;
        let spine = batch(vec![("id", integers([Some(7)])), ("t", moments([START + 1]))]);
        let job = bench
            .service
            .training_set(request("m", AsOf::KnownAt, spine))
            .await
            .unwrap();
        let job = bench.ended(&job.id).await;
        assert_eq!(job.state, JobState::Failed);
        assert!(job.error.as_ref().unwrap().contains(reason), "{:?}", job.error);
        assert!(bench.service.result(&job.id).await.is_err());
        bench.close().await;
    }
}

#[tokio::test]
async fn progress_is_seen_by_those_who_wait() {
    let folder = tempfile::tempdir().unwrap();
    let bench = bench(folder.path(), &[vec![event("a", 4.0, START)]], config(folder.path())).await;
    let rows = [(Some("a"), START + 1, None)];
    let job = bench
        .service
        .training_set(request("m", AsOf::KnownAt, spine(&rows)))
        .await
        .unwrap();
    assert_eq!((job.state, job.revision), (JobState::Queued, 0));
    let next = bench
        .service
        .job(&job.id, Some(0), Duration::from_secs(60))
        .await
        .unwrap();
    assert!(next.revision > 0);
    let ended = bench.ended(&job.id).await;
    assert!(ended.ended_at >= Some(ended.created_at));
    // An ended job is answered at once, whatever revision was seen.
    assert_eq!(
        bench
            .service
            .job(&job.id, Some(ended.revision), Duration::from_secs(60))
            .await
            .unwrap(),
        ended
    );
    assert_eq!(bench.service.jobs(JobQuery::default()).await.unwrap().jobs, [ended]);
    bench.close().await;
}

/// The data files under `folder` whose path has `part`.
fn files(folder: &std::path::Path, part: &str) -> Vec<std::path::PathBuf> {
    let found = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let folders = found.filter(|path| path.is_dir() && path.to_str().unwrap().contains(part));
    folders
        .flat_map(|path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()))
        .collect()
}

#[tokio::test]
async fn files_that_no_row_can_see_are_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let day = 24 * HOUR;
    let events: Vec<Event> = (0..3).map(|days| event("a", 1.0, START + days * day)).collect();
    let log = folder.path().join("log");
    std::fs::create_dir_all(&log).unwrap();
    write_log(&log, &[events]).await;
    for date in ["_event_date=2013-01-01", "_event_date=2013-01-03"] {
        let gone = files(&log, date);
        assert_eq!(gone.len(), 1);
        std::fs::remove_file(&gone[0]).unwrap();
    }
    for (features, outcome) in [
        ("\"w.*\"", JobState::Succeeded),
        ("\"w.*\", \"ever.total\"", JobState::Failed),
    ] {
        let all = DEFINITIONS
            .split("features = [")
            .nth(1)
            .unwrap()
            .split(']')
            .next()
            .unwrap();
        let store = FakeStore::with(&DEFINITIONS.replace(all, features), ViewState::Active);
        store.archive("events", &log);
        let bench = Bench::open(Arc::new(store), config(folder.path())).await;
        let rows = [(Some("a"), START + day + MINUTE, None)];
        let job = bench
            .service
            .training_set(request("m", AsOf::KnownAt, spine(&rows)))
            .await
            .unwrap();
        let job = bench.ended(&job.id).await;
        // A sum over all time needs the first day: its absence is noticed.
        assert_eq!(job.state, outcome, "{:?}", job.error);
        if outcome == JobState::Succeeded {
            let found = bench.service.result(&job.id).await.unwrap().batches;
            assert_eq!(cells(&found[0], "w.count_12m"), ["1"]);
        }
        bench.close().await;
    }
}

#[tokio::test]
async fn rows_that_only_old_events_could_tell_of_are_counted_apart_unless_those_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let day = 24 * HOUR;
    let mut events = vec![event("a", 1.0, START), event("b", 1.0, START + day)];
    events[1].flag = None;
    let bench = bench(folder.path(), std::slice::from_ref(&events), config(folder.path())).await;
    let t = START + day + MINUTE;
    let rows = [
        (Some("a"), t, None),
        (Some("b"), t, None),
        (Some("c"), t, None),
        (None, t, None),
    ];
    let counts = |fresh, null, stale, missing, unread, defaults| FeatureStatuses {
        fresh,
        null,
        stale,
        missing,
        unread,
        defaults,
    };
    for (exact_status, expected) in [
        (
            false,
            [
                ("w.count_12m", counts(1, 0, 0, 1, 2, 0)),
                ("w.sum_2h", counts(1, 0, 0, 1, 2, 0)),
                ("ever.total", counts(2, 0, 0, 2, 0, 0)),
                ("otherwise.n", counts(1, 0, 1, 2, 0, 3)),
                ("kept.n", counts(1, 0, 0, 1, 2, 3)),
                ("kept.flag", counts(0, 1, 0, 1, 2, 4)),
            ],
        ),
        (
            true,
            [
                ("w.count_12m", counts(2, 0, 0, 2, 0, 0)),
                ("w.sum_2h", counts(1, 1, 0, 2, 0, 0)),
                ("ever.total", counts(2, 0, 0, 2, 0, 0)),
                ("otherwise.n", counts(1, 0, 1, 2, 0, 3)),
                ("kept.n", counts(1, 0, 1, 2, 0, 3)),
                ("kept.flag", counts(0, 1, 1, 2, 0, 4)),
            ],
        ),
    ] {
        let mut request = request("m", AsOf::KnownAt, spine(&rows));
        request.options.exact_status = exact_status;
        let (job, _) = bench.build(request).await;
        let manifest = job.manifest.unwrap();
        assert_statuses(&manifest, &events, &rows, AsOf::KnownAt);
        for (name, expected) in expected {
            let feature = manifest.features.iter().find(|feature| feature.name == name).unwrap();
            assert_eq!(feature.statuses, Some(expected), "{name}, exact: {exact_status}");
        }
    }
    bench.close().await;
}

#[tokio::test]
async fn a_delta_table_is_read_with_its_partition_columns_at_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("merchants");
    std::fs::create_dir_all(&table).unwrap();
    support::write_delta_merchants(&table, &[("kr", 0.5, START), ("nz", 0.25, START + HOUR)]).await;
    let definitions = TABLES.replace("parquet = \"LOCATION\"", &format!("delta = \"{}\"", table.display()));
    let store = FakeStore::with(&definitions, ViewState::Active);
    let bench = Bench::open(Arc::new(store), config(folder.path())).await;
    let spine = batch(vec![
        ("id", integers([Some(7), Some(7), Some(8)])),
        ("t", moments([START + 1, START + HOUR + 1, START + HOUR + 1])),
    ]);
    let (job, found) = bench.build(request("m", AsOf::KnownAt, spine)).await;
    assert_eq!(cells(&found, "merchant.country"), ["kr", "nz", "null"]);
    assert_eq!(cells(&found, "merchant.risk"), ["0.5", "0.25", "null"]);
    assert_eq!(job.manifest.unwrap().tables["merchants"], "1");
    bench.close().await;
}
