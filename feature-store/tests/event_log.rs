//! The event log against its promises, wherever its tables are: positions and rows move together, whatever is redelivered,
//! killed, raced for or read by others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod clicks;

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Schema};
use clicks::{Place, all, at, clicks, deliver, events, header, positions_read};
use futures::TryStreamExt;
use ondol_feature_store::offline::{CompactionConfig, Extent, Outcome};
use ondol_feature_store_api::FeatureStoreError;
use ondol_testkit::s3;
use ondol_vocabulary::DataType;
use ondol_vocabulary::definition::Field;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Each of these functions is a test on a local disk and one on S3.
macro_rules! everywhere {
    ($($promise:ident),* $(,)?) => {
        mod on_disk {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                super::$promise(&super::Place::disk()).await;
            })*
        }
        mod on_s3 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                super::$promise(&super::Place::s3()).await;
            })*
        }
    };
}

everywhere!(
    rows_and_positions_survive_a_restart_together,
    a_redelivery_changes_nothing_and_a_gap_is_refused,
    positions_move_over_dead_letters_without_rows,
    each_commit_reads_back_in_offset_order_although_its_files_split_by_date,
    positions_survive_checkpoints,
    a_new_life_of_the_topic_starts_its_offsets_anew,
    a_column_added_to_the_source_is_null_in_older_rows,
    a_second_writer_lets_go_of_what_the_first_has_committed_and_commits_the_rest,
    writers_that_race_for_the_table_lose_nothing_and_commit_nothing_twice,
    a_commit_that_a_joined_view_has_not_absorbed_does_not_stand,
    a_commit_dropped_halfway_neither_loses_nor_repeats_its_rows,
    whatever_is_redelivered_every_event_is_in_the_log_once,
    duckdb_polars_and_pandas_read_the_same_rows,
    kill_9_never_separates_rows_from_positions,
);

async fn rows_and_positions_survive_a_restart_together(place: &Place) {
    let log = place.open();
    deliver(&log, &[(0, 0, 100), (1, 0, 50)]).await.unwrap();
    assert_eq!(log.written("clicks").await.unwrap(), [at(0, 100), at(1, 50)]);
    assert_eq!(log.durable("clicks").await.unwrap(), []);
    assert_eq!(log.commit("clicks").await.unwrap(), [at(0, 100), at(1, 50)]);
    deliver(&log, &[(0, 100, 130)]).await.unwrap();
    drop(log);

    let log = place.open();
    assert_eq!(log.positions("clicks", "g1").await.unwrap(), [at(0, 100), at(1, 50)]);
    assert_eq!(log.positions("clicks", "another life").await.unwrap(), []);
    let mut rows = positions_read(&log).await;
    rows.sort_unstable();
    assert_eq!(rows, all(&[(0, 0, 100), (1, 0, 50)]));
    let tables = log.tables().await.unwrap();
    assert_eq!((tables[0].source.as_str(), tables[0].rows), ("clicks", Some(150)));
}

async fn a_redelivery_changes_nothing_and_a_gap_is_refused(place: &Place) {
    let log = place.open();
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

async fn positions_move_over_dead_letters_without_rows(place: &Place) {
    let log = place.open();
    let nothing = events(&[]);
    log.append(&clicks(), &header("g1", &[(0, 0, 7)]), &nothing)
        .await
        .unwrap();
    log.commit("clicks").await.unwrap();
    drop(log);
    assert_eq!(place.open().positions("clicks", "g1").await.unwrap(), [at(0, 7)]);
}

async fn each_commit_reads_back_in_offset_order_although_its_files_split_by_date(place: &Place) {
    let log = place.open();
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
    let objects = place.objects().await;
    let dates = objects.iter().filter_map(|path| path.strip_prefix("_event_date="));
    let dates: BTreeSet<&str> = dates.map(|path| path.split('/').next().unwrap()).collect();
    assert!(dates.len() > 2, "files stand in folders by event date: {objects:?}");
}

async fn positions_survive_checkpoints(place: &Place) {
    let log = place.open();
    deliver(&log, &[(7, 0, 3)]).await.unwrap();
    for step in 0..205 {
        deliver(&log, &[(0, step * 4, step * 4 + 4)]).await.unwrap();
        log.commit("clicks").await.unwrap();
    }
    let objects = place.objects().await;
    let checkpoints = objects.iter().filter(|path| path.ends_with(".checkpoint.parquet"));
    assert!(checkpoints.count() >= 2);
    let log = place.open();
    assert_eq!(log.positions("clicks", "g1").await.unwrap(), [at(0, 820), at(7, 3)]);
    assert_eq!(positions_read(&log).await.len(), 823);
}

async fn a_new_life_of_the_topic_starts_its_offsets_anew(place: &Place) {
    let log = place.open();
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
    let scan = place.open().scan("clicks").await.unwrap();
    assert_eq!(scan.generations(), ["g1", "g2"]);
    let rows = scan.read(Some("g2"), &["_offset".to_owned()]).unwrap();
    let rows: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 9);
}

async fn a_column_added_to_the_source_is_null_in_older_rows(place: &Place) {
    let log = place.open();
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
    let batches: Vec<RecordBatch> = place
        .open()
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

async fn a_second_writer_lets_go_of_what_the_first_has_committed_and_commits_the_rest(place: &Place) {
    let (first, second) = (place.open(), place.open());
    deliver(&first, &[(0, 0, 1)]).await.unwrap();
    first.commit("clicks").await.unwrap();
    assert_eq!(second.positions("clicks", "g1").await.unwrap(), [at(0, 1)]);
    deliver(&first, &[(0, 1, 10)]).await.unwrap();
    deliver(&second, &[(0, 1, 6)]).await.unwrap();
    first.commit("clicks").await.unwrap();
    assert_eq!(second.commit("clicks").await.unwrap(), [at(0, 10)]);
    assert_eq!(positions_read(&place.open()).await, all(&[(0, 0, 10)]));
    // What reaches past the other's commit is kept, exactly.
    deliver(&first, &[(0, 10, 12)]).await.unwrap();
    deliver(&second, &[(0, 10, 20)]).await.unwrap();
    first.commit("clicks").await.unwrap();
    assert_eq!(second.commit("clicks").await.unwrap(), [at(0, 20)]);
    assert_eq!(positions_read(&place.open()).await, all(&[(0, 0, 20)]));
}

async fn writers_that_race_for_the_table_lose_nothing_and_commit_nothing_twice(place: &Place) {
    // All create the table, all deliver every partition, in steps of their own.
    let writers = (0..4).map(|writer| {
        let log = place.open();
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
    let mut read = positions_read(&place.open()).await;
    read.sort_unstable();
    assert_eq!(read, all(&[(0, 0, 60), (1, 0, 60), (2, 0, 60)]));
}

async fn a_commit_that_a_joined_view_has_not_absorbed_does_not_stand(place: &Place) {
    let (first, second) = (place.open(), place.open());
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

async fn a_commit_dropped_halfway_neither_loses_nor_repeats_its_rows(place: &Place) {
    let log = place.open();
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
    assert_eq!(positions_read(&place.open()).await, all(&[(0, 0, next)]));
}

async fn whatever_is_redelivered_every_event_is_in_the_log_once(place: &Place) {
    let mut log = place.open();
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
                log = place.open();
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

async fn duckdb_polars_and_pandas_read_the_same_rows(place: &Place) {
    let log = place.open();
    for step in 0..13 {
        deliver(&log, &[(0, step * 20, step * 20 + 20), (1, step * 5, step * 5 + 5)])
            .await
            .unwrap();
        log.commit("clicks").await.unwrap();
        if step == 9 {
            let config = CompactionConfig::default();
            let merged = log.compact("clicks", config, Extent::Everything).await.unwrap();
            assert!(merged.commits > 0, "{merged:?}");
        }
    }
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers/check_readers.py");
    let output = Command::new(ondol_testkit::services::python())
        .arg(check)
        .arg(format!("{}/clicks", place.root()))
        .envs(s3::variables())
        .args([
            "--rows",
            "325",
            "--position",
            "ondol/clicks/g1/0=260",
            "--position",
            "ondol/clicks/g1/1=65",
            // Before the files of ten commits were merged.
            "--older",
            "10=250",
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
    let log = Place::at(root).open();
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

async fn kill_9_never_separates_rows_from_positions(place: &Place) {
    let mut before = (0, 0);
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_appends_for_ever", "--nocapture"])
            .env("ONDOL_KILL_TEST_ROOT", place.root())
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

        let log = place.open();
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
