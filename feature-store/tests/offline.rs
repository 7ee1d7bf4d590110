//! The event log against its promises: positions and rows move together, whatever is redelivered, killed or read by
//! others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Int32Type, Int64Type, Schema};
use futures::TryStreamExt;
use ondol_feature_store::offline::{EventLog, EventLogConfig, Outcome};
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::{DeliveryHeader, PartitionPosition};
use ondol_vocabulary::definition::Field;
use ondol_vocabulary::{Arrival, DataType, PartitionRange, SourceDefinition, SourceOrigin, StreamFormat};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const DAY_US: i64 = 86_400_000_000;

fn clicks() -> SourceDefinition {
    let field = |name: &str, data_type| Field {
        name: name.to_owned(),
        data_type,
    };
    SourceDefinition {
        name: "clicks".to_owned(),
        origin: SourceOrigin::Stream {
            topic: "clicks".to_owned(),
            format: StreamFormat::Json,
            shape: ondol_vocabulary::MessageShape::default(),
        },
        time: "ts".to_owned(),
        late_us: 0,
        arrival: Arrival::Ingest,
        schema: vec![
            field("user", DataType::String),
            field("amount", DataType::F64),
            field("ts", DataType::Timestamp),
        ],
    }
}

fn header(generation: &str, ranges: &[(i32, i64, i64)]) -> DeliveryHeader {
    DeliveryHeader {
        source: "clicks".to_owned(),
        source_version: 1,
        generation: generation.to_owned(),
        ranges: ranges
            .iter()
            .map(|&(partition, from, to)| PartitionRange { partition, from, to })
            .collect(),
    }
}

/// One event at each offset of the ranges; event times walk over several days, out of step with offsets.
fn events(ranges: &[(i32, i64, i64)]) -> RecordBatch {
    let positions: Vec<(i32, i64)> = ranges
        .iter()
        .flat_map(|&(partition, from, to)| (from..to).map(move |offset| (partition, offset)))
        .collect();
    let utc = |values: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as ArrayRef;
    let time = |&(partition, offset): &(i32, i64)| {
        1_357_000_000_000_000 + (offset * 7 % 3) * DAY_US + offset * 1_000_003 + i64::from(partition)
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "user",
            Arc::new(StringArray::from_iter_values(
                positions.iter().map(|(_, offset)| format!("u{}", offset % 10)),
            )),
        ),
        (
            "amount",
            Arc::new(Float64Array::from_iter(
                positions.iter().map(|(_, o)| (o % 5 != 0).then(|| *o as f64 / 3.0)),
            )),
        ),
        ("ts", utc(positions.iter().map(time).collect())),
        (
            "_partition",
            Arc::new(Int32Array::from_iter_values(
                positions.iter().map(|(partition, _)| *partition),
            )),
        ),
        (
            "_offset",
            Arc::new(Int64Array::from_iter_values(
                positions.iter().map(|(_, offset)| *offset),
            )),
        ),
        (
            "_ingested_at",
            utc(positions.iter().map(|position| time(position) + 5).collect()),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn open(root: &Path) -> EventLog {
    EventLog::open(root.to_str().unwrap(), EventLogConfig::default()).unwrap()
}

async fn deliver(log: &EventLog, ranges: &[(i32, i64, i64)]) -> Result<(), FeatureStoreError> {
    log.append(&clicks(), &header("g1", ranges), &events(ranges)).await
}

async fn positions_read(log: &EventLog) -> Vec<(i32, i64)> {
    let columns = ["_partition".to_owned(), "_offset".to_owned()];
    let batches: Vec<RecordBatch> = log.read("clicks", &columns).await.unwrap().try_collect().await.unwrap();
    let pairs = |batch: &RecordBatch| -> Vec<(i32, i64)> {
        let partitions = batch.column(0).as_primitive::<Int32Type>().values().to_vec();
        partitions
            .into_iter()
            .zip(batch.column(1).as_primitive::<Int64Type>().values().to_vec())
            .collect()
    };
    batches.iter().flat_map(pairs).collect()
}

fn all(ranges: &[(i32, i64, i64)]) -> Vec<(i32, i64)> {
    ranges
        .iter()
        .flat_map(|&(partition, from, to)| (from..to).map(move |offset| (partition, offset)))
        .collect()
}

fn at(partition: i32, next_offset: i64) -> PartitionPosition {
    PartitionPosition { partition, next_offset }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_positions_survive_a_restart_together() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    deliver(&log, &[(0, 0, 100), (1, 0, 50)]).await.unwrap();
    assert_eq!(log.written("clicks").await.unwrap(), [at(0, 100), at(1, 50)]);
    assert_eq!(log.durable("clicks").await.unwrap(), []);
    assert_eq!(log.commit("clicks").await.unwrap(), [at(0, 100), at(1, 50)]);
    deliver(&log, &[(0, 100, 130)]).await.unwrap();
    drop(log);

    let log = open(folder.path());
    assert_eq!(log.positions("clicks", "g1").await.unwrap(), [at(0, 100), at(1, 50)]);
    assert_eq!(log.positions("clicks", "another life").await.unwrap(), []);
    let mut rows = positions_read(&log).await;
    rows.sort_unstable();
    assert_eq!(rows, all(&[(0, 0, 100), (1, 0, 50)]));
    let tables = log.tables().await.unwrap();
    assert_eq!((tables[0].source.as_str(), tables[0].rows), ("clicks", Some(150)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_changes_nothing_and_a_gap_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    deliver(&log, &[(0, 10, 20)]).await.unwrap();
    deliver(&log, &[(0, 10, 20)]).await.unwrap();
    deliver(&log, &[(0, 15, 25)]).await.unwrap();
    log.commit("clicks").await.unwrap();
    deliver(&log, &[(0, 12, 22)]).await.unwrap();
    log.commit("clicks").await.unwrap();
    let gap = deliver(&log, &[(0, 26, 30)]).await.unwrap_err();
    assert!(
        matches!(
            gap,
            FeatureStoreError::Gap {
                expected: 25,
                from: 26,
                ..
            }
        ),
        "{gap}"
    );
    assert_eq!(positions_read(&log).await, all(&[(0, 10, 25)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_move_over_dead_letters_without_rows() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let nothing = events(&[]);
    log.append(&clicks(), &header("g1", &[(0, 0, 7)]), &nothing)
        .await
        .unwrap();
    log.commit("clicks").await.unwrap();
    drop(log);
    assert_eq!(open(folder.path()).positions("clicks", "g1").await.unwrap(), [at(0, 7)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_commit_reads_back_in_offset_order_although_its_files_split_by_date() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    for step in 0..3 {
        deliver(&log, &[(0, step * 40, step * 40 + 40), (1, step * 10, step * 10 + 10)])
            .await
            .unwrap();
        log.commit("clicks").await.unwrap();
    }
    let rows = positions_read(&log).await;
    for partition in [0, 1] {
        let offsets: Vec<i64> = rows.iter().filter(|row| row.0 == partition).map(|row| row.1).collect();
        assert!(offsets.is_sorted(), "partition {partition}: {offsets:?}");
    }
    assert_eq!(rows.len(), 150);
    let dates = std::fs::read_dir(folder.path().join("clicks")).unwrap().count();
    assert!(dates > 2, "files stand in folders by event date");
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_survive_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    deliver(&log, &[(7, 0, 3)]).await.unwrap();
    for step in 0..25 {
        deliver(&log, &[(0, step * 4, step * 4 + 4)]).await.unwrap();
        log.commit("clicks").await.unwrap();
    }
    let logged = std::fs::read_dir(folder.path().join("clicks/_delta_log")).unwrap();
    let checkpoints = logged.filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .ends_with(".checkpoint.parquet")
    });
    assert!(checkpoints.count() >= 2);
    let log = open(folder.path());
    assert_eq!(log.positions("clicks", "g1").await.unwrap(), [at(0, 100), at(7, 3)]);
    assert_eq!(positions_read(&log).await.len(), 103);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_life_of_the_topic_starts_its_offsets_anew() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    deliver(&log, &[(0, 0, 30)]).await.unwrap();
    log.append(&clicks(), &header("g2", &[(0, 0, 5)]), &events(&[(0, 0, 5)]))
        .await
        .unwrap();
    log.commit("clicks").await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    log.append(&clicks(), &header("g2", &[(0, 5, 9)]), &events(&[(0, 5, 9)]))
        .await
        .unwrap();
    log.commit("clicks").await.unwrap();
    assert_eq!(log.durable("clicks").await.unwrap(), [at(0, 9)]);
    let scan = open(folder.path()).scan("clicks").await.unwrap();
    assert_eq!(scan.generations(), ["g1", "g2"]);
    let mut rows = 0;
    for commit in scan.commits(Some("g2")) {
        rows += scan
            .read(&commit, Some("g2"), &["_offset".to_owned()])
            .await
            .unwrap()
            .num_rows();
    }
    assert_eq!(rows, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_added_to_the_source_is_null_in_older_rows() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    deliver(&log, &[(0, 0, 4)]).await.unwrap();
    log.commit("clicks").await.unwrap();

    let mut wider = clicks();
    wider.schema.insert(
        1,
        Field {
            name: "country".to_owned(),
            data_type: DataType::String,
        },
    );
    let batch = events(&[(0, 4, 6)]);
    let mut columns = batch.columns().to_vec();
    let mut fields = batch.schema().fields().to_vec();
    columns.push(Arc::new(StringArray::from(vec!["KR", "DE"])));
    fields.push(Arc::new(ArrowField::new("country", ArrowType::Utf8, true)));
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    log.append(&wider, &header("g1", &[(0, 4, 6)]), &batch).await.unwrap();
    log.commit("clicks").await.unwrap();
    // A delivery decoded by the older source version still fits.
    deliver(&log, &[(0, 6, 7)]).await.unwrap();
    log.commit("clicks").await.unwrap();

    let columns = ["country".to_owned()];
    let batches: Vec<RecordBatch> = open(folder.path())
        .read("clicks", &columns)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let countries: Vec<Option<String>> = batches
        .iter()
        .flat_map(|batch| {
            batch
                .column(0)
                .as_string::<i32>()
                .iter()
                .map(|v| v.map(str::to_owned))
                .collect::<Vec<_>>()
        })
        .collect();
    let expected = [
        None,
        None,
        None,
        None,
        Some("KR".to_owned()),
        Some("DE".to_owned()),
        None,
    ];
    assert_eq!(countries, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_writer_lets_go_of_what_the_first_has_committed_and_commits_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (open(folder.path()), open(folder.path()));
    deliver(&first, &[(0, 0, 1)]).await.unwrap();
    first.commit("clicks").await.unwrap();
    assert_eq!(second.positions("clicks", "g1").await.unwrap(), [at(0, 1)]);
    deliver(&first, &[(0, 1, 10)]).await.unwrap();
    deliver(&second, &[(0, 1, 6)]).await.unwrap();
    first.commit("clicks").await.unwrap();
    assert_eq!(second.commit("clicks").await.unwrap(), [at(0, 10)]);
    assert_eq!(positions_read(&open(folder.path())).await, all(&[(0, 0, 10)]));
    // What reaches past the other's commit is kept, exactly.
    deliver(&first, &[(0, 10, 12)]).await.unwrap();
    deliver(&second, &[(0, 10, 20)]).await.unwrap();
    first.commit("clicks").await.unwrap();
    assert_eq!(second.commit("clicks").await.unwrap(), [at(0, 20)]);
    assert_eq!(positions_read(&open(folder.path())).await, all(&[(0, 0, 20)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_race_for_the_table_lose_nothing_and_commit_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    // All create the table, all deliver every partition, in steps of their own.
    let writers = (0..4).map(|writer| {
        let log = open(folder.path());
        tokio::spawn(async move {
            for partition in 0..3 {
                let mut from = 0;
                while from < 60 {
                    let to = (from + 7 + writer * 3).min(60);
                    match deliver(&log, &[(partition, from, to)]).await {
                        Ok(()) => from = to,
                        Err(FeatureStoreError::Gap { expected, .. }) => from = expected,
                        Err(error) => panic!("{error}"),
                    }
                    log.commit("clicks").await.unwrap();
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let mut read = positions_read(&open(folder.path())).await;
    read.sort_unstable();
    assert_eq!(read, all(&[(0, 0, 60), (1, 0, 60), (2, 0, 60)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_a_joined_view_has_not_absorbed_does_not_stand() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (open(folder.path()), open(folder.path()));
    deliver(&first, &[(0, 0, 5)]).await.unwrap();
    first.commit("clicks").await.unwrap();
    deliver(&first, &[(0, 5, 9)]).await.unwrap();
    second.join(&clicks(), 7, &BTreeSet::from([7])).await.unwrap();
    let covers = |views: &BTreeSet<u32>| !views.contains(&7);
    let outcome = first.commit_after("clicks", async { Ok(()) }, &covers).await.unwrap();
    assert_eq!(outcome, Outcome::Uncovered(BTreeSet::from([7])));
    assert_eq!(second.positions("clicks", "g1").await.unwrap(), [at(0, 5)]);
    first.commit("clicks").await.unwrap();
    assert_eq!(positions_read(&second).await, all(&[(0, 0, 9)]));
    // A view that nobody reads any more is forgotten by the next one that joins.
    second.join(&clicks(), 8, &BTreeSet::from([8])).await.unwrap();
    assert_eq!(second.joined("clicks").await.unwrap(), BTreeSet::from([8]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_buffer_refuses_until_it_is_committed() {
    let folder = tempfile::tempdir().unwrap();
    let config = EventLogConfig {
        max_buffered_rows: 10,
        commit_rows: 5,
        ..EventLogConfig::default()
    };
    let log = EventLog::open(folder.path().to_str().unwrap(), config).unwrap();
    assert!(log.due().is_empty());
    deliver(&log, &[(0, 0, 12)]).await.unwrap();
    assert_eq!(log.due(), ["clicks"]);
    let error = deliver(&log, &[(0, 12, 13)]).await.unwrap_err();
    assert!(matches!(error, FeatureStoreError::Unavailable { .. }), "{error}");
    log.commit("clicks").await.unwrap();
    assert!(log.due().is_empty());
    deliver(&log, &[(0, 12, 13)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_row_makes_a_commit_due() {
    let folder = tempfile::tempdir().unwrap();
    for (commit_interval, due) in [(Duration::from_secs(3600), vec![]), (Duration::ZERO, vec!["clicks"])] {
        let config = EventLogConfig {
            commit_interval,
            ..EventLogConfig::default()
        };
        let log = EventLog::open(folder.path().to_str().unwrap(), config).unwrap();
        assert!(log.due().is_empty());
        deliver(&log, &[(0, 0, 1)]).await.unwrap();
        assert_eq!(log.due(), due);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_commit_keeps_its_rows_for_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    deliver(&log, &[(0, 0, 5)]).await.unwrap();
    log.commit("clicks").await.unwrap();
    deliver(&log, &[(0, 5, 8)]).await.unwrap();
    // The disk goes away: a file stands where the log's folder was.
    let (logged, hidden) = (folder.path().join("clicks/_delta_log"), folder.path().join("hidden"));
    std::fs::rename(&logged, &hidden).unwrap();
    std::fs::write(&logged, "").unwrap();
    let error = log.commit("clicks").await.unwrap_err();
    assert!(matches!(error, FeatureStoreError::Unavailable { .. }), "{error}");
    assert_eq!(log.durable("clicks").await.unwrap(), [at(0, 5)]);
    deliver(&log, &[(0, 8, 9)]).await.unwrap();
    std::fs::remove_file(&logged).unwrap();
    std::fs::rename(&hidden, &logged).unwrap();
    assert_eq!(log.commit("clicks").await.unwrap(), [at(0, 9)]);
    assert_eq!(positions_read(&log).await, all(&[(0, 0, 9)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_dropped_halfway_neither_loses_nor_repeats_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let mut next = 0;
    for _ in 0..60 {
        deliver(&log, &[(0, next, next + 9)]).await.unwrap();
        next += 9;
        let patience = Duration::from_micros(rand::random_range(0..20_000));
        drop(tokio::time::timeout(patience, log.commit("clicks")).await);
    }
    // A dropped commit's last write may still land and win over the next one, which then says so.
    let mut attempts = 0;
    while let Err(error) = log.commit("clicks").await {
        attempts += 1;
        assert!(attempts < 5, "{error}");
    }
    assert_eq!(log.durable("clicks").await.unwrap(), [at(0, next)]);
    assert_eq!(positions_read(&open(folder.path())).await, all(&[(0, 0, next)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_redelivered_every_event_is_in_the_log_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    let mut held = [0_i64; 3];
    for _ in 0..300 {
        let partition = rand::random_range(0..3_usize);
        let from = (held[partition] - rand::random_range(0..20)).max(0);
        let to = from + rand::random_range(0..30);
        deliver(&log, &[(partition as i32, from, to)]).await.unwrap();
        held[partition] = held[partition].max(to);
        match rand::random_range(0..20) {
            0..3 => drop(log.commit("clicks").await.unwrap()),
            3 => {
                // A restart forgets what was not committed, and ingest resumes from what was.
                log = open(folder.path());
                held = [0; 3];
                for position in log.positions("clicks", "g1").await.unwrap() {
                    held[position.partition as usize] = position.next_offset;
                }
            }
            _ => {}
        }
    }
    log.commit("clicks").await.unwrap();
    let mut rows = positions_read(&log).await;
    rows.sort_unstable();
    assert_eq!(rows, all(&[(0, 0, held[0]), (1, 0, held[1]), (2, 0, held[2])]));
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_polars_and_pandas_read_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    for step in 0..13 {
        deliver(&log, &[(0, step * 20, step * 20 + 20), (1, step * 5, step * 5 + 5)])
            .await
            .unwrap();
        log.commit("clicks").await.unwrap();
    }
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers/check_readers.py");
    let output = Command::new(ondol_testkit::services::python())
        .arg(check)
        .arg(folder.path().join("clicks"))
        .args([
            "--rows",
            "325",
            "--position",
            "ondol/clicks/g1/0=260",
            "--position",
            "ondol/clicks/g1/1=65",
        ])
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

/// Not a test of its own: the process that `kill_9_never_separates_rows_from_positions` starts and kills. It appends
/// and commits from where the log stands, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_appends_for_ever() {
    let Ok(root) = std::env::var("ONDOL_KILL_TEST_ROOT") else {
        return;
    };
    let log = open(Path::new(&root));
    let held = log.positions("clicks", "g1").await.unwrap();
    let from = |partition| {
        held.iter()
            .find(|held| held.partition == partition)
            .map_or(0, |held| held.next_offset)
    };
    let (mut a, mut b) = (from(0), from(1));
    println!("ready");
    loop {
        deliver(&log, &[(0, a, a + 17), (1, b, b + 3)]).await.unwrap();
        (a, b) = (a + 17, b + 3);
        log.commit("clicks").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_never_separates_rows_from_positions() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = (0, 0);
    for round in 0..20_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_appends_for_ever", "--nocapture"])
            .env("ONDOL_KILL_TEST_ROOT", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ready = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .any(|line| line.unwrap().contains("ready"));
        assert!(ready, "the child ended before it was ready");
        std::thread::sleep(Duration::from_millis(20 + rand::random_range(0..150)));
        // Command::kill sends SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();

        let log = open(folder.path());
        let held = log.positions("clicks", "g1").await.unwrap();
        let next = |partition| {
            held.iter()
                .find(|held| held.partition == partition)
                .map_or(0, |held| held.next_offset)
        };
        let now = (next(0), next(1));
        assert!(
            now.0 >= before.0 && now.1 >= before.1,
            "round {round}: {before:?} → {now:?}"
        );
        before = now;
        let mut rows = positions_read(&log).await;
        rows.sort_unstable();
        assert_eq!(rows, all(&[(0, 0, now.0), (1, 0, now.1)]), "round {round}");
    }
    assert!(before.0 > 0, "nothing was ever committed");
}
