//! Compaction against its promise: fewer files, and everything else as it was, for every reader and writer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod clicks;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, Int64Type};
use clicks::{Place, all, at, clicks, deliver, events, header, positions_read};
use futures::TryStreamExt;
use ondol_feature_store::offline::{CompactionConfig, EventLog, Extent, LogScan, VacuumConfig};
use ondol_vocabulary::DataType;
use ondol_vocabulary::definition::Field;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

const SMALL: CompactionConfig = CompactionConfig {
    files: 4,
    target_bytes: 1 << 20,
};

const AT_ONCE: VacuumConfig = VacuumConfig {
    retention: Duration::ZERO,
    keep: None,
    dry_run: false,
};

async fn commits(log: &EventLog, steps: std::ops::Range<i64>) {
    for step in steps {
        deliver(log, &[(0, step * 20, step * 20 + 20), (1, step * 5, step * 5 + 5)])
            .await
            .unwrap();
        log.commit("clicks").await.unwrap();
    }
}

async fn rows_of(scan: &LogScan, columns: &[&str]) -> RecordBatch {
    let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    let batches: Vec<RecordBatch> = scan.read(None, &columns).unwrap().try_collect().await.unwrap();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn positions_of(rows: &RecordBatch) -> Vec<(i32, i64)> {
    let partitions = rows.column_by_name("_partition").unwrap();
    let offsets = rows.column_by_name("_offset").unwrap();
    let partitions = partitions.as_primitive::<Int32Type>().values().iter().copied();
    partitions
        .zip(offsets.as_primitive::<Int64Type>().values().iter().copied())
        .collect()
}

/// Reads a log as a bootstrap does, from scan to scan: every event once, each partition's in order.
#[derive(Default)]
struct Follower {
    read: Option<LogScan>,
    next: BTreeMap<i32, i64>,
}

impl Follower {
    async fn follow(&mut self, log: &EventLog) {
        let now = log.scan("clicks").await.unwrap();
        let scan = match &self.read {
            Some(earlier) => now.clone().since(earlier),
            None => now.clone(),
        };
        if now.version().is_some() {
            let columns = ["_partition".to_owned(), "_offset".to_owned(), "ts".to_owned()];
            let mut batches = scan.read(Some("g1"), &columns).unwrap();
            while let Some(rows) = batches.try_next().await.unwrap() {
                for (partition, offset) in positions_of(&rows) {
                    let next = self.next.entry(partition).or_default();
                    assert_eq!(offset, *next, "partition {partition} goes on at its next offset");
                    *next += 1;
                }
            }
        }
        self.read = Some(now);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_files_hold_the_same_rows_and_older_scans_stay_readable() {
    let place = Place::disk();
    let log = place.open();
    commits(&log, 0..40).await;
    let before = log.scan("clicks").await.unwrap();
    let held = rows_of(
        &before,
        &["_partition", "_offset", "user", "amount", "ts", "_ingested_at"],
    )
    .await;

    let done = log.compact("clicks", SMALL, Extent::Everything).await.unwrap();
    assert_eq!(done.rows, 1_000);
    assert_eq!(
        done.files_after,
        done.files_before - done.files_removed + done.files_added
    );
    assert!(done.files_after <= 32, "{done:?}");
    let again = log.compact("clicks", SMALL, Extent::Due).await.unwrap();
    assert_eq!(again.commits, 0, "the sizes are settled: {again:?}");

    let sorted = |rows: &RecordBatch| {
        let mut rows: Vec<String> = (0..rows.num_rows())
            .map(|row| format!("{:?}", rows.slice(row, 1).columns()))
            .collect();
        rows.sort();
        rows
    };
    for log in [log, place.open()] {
        let after = log.scan("clicks").await.unwrap();
        let merged = rows_of(
            &after,
            &["_partition", "_offset", "user", "amount", "ts", "_ingested_at"],
        )
        .await;
        assert_eq!(sorted(&merged), sorted(&held));
        assert_eq!(log.positions("clicks", "g1").await.unwrap(), [at(0, 800), at(1, 200)]);
        assert_eq!(log.rows("clicks"), Some(1_000));
    }
    let old = rows_of(
        &before,
        &["_partition", "_offset", "user", "amount", "ts", "_ingested_at"],
    )
    .await;
    assert_eq!(sorted(&old), sorted(&held));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_added_since_a_scan_is_read_once_whatever_was_merged_between() {
    let log = Place::disk();
    let (log, _place) = (log.open(), log);
    let mut follower = Follower::default();
    commits(&log, 0..9).await;
    follower.follow(&log).await;
    commits(&log, 9..20).await;
    log.compact("clicks", SMALL, Extent::Everything).await.unwrap();
    follower.follow(&log).await;
    log.compact("clicks", SMALL, Extent::Everything).await.unwrap();
    follower.follow(&log).await;
    assert_eq!(follower.next, BTreeMap::from([(0, 400), (1, 100)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_came_later_is_null_in_merged_rows_of_before() {
    let place = Place::disk();
    let log = place.open();
    commits(&log, 0..3).await;
    let mut wider = clicks();
    wider.schema.push(Field {
        name: "page".to_owned(),
        data_type: DataType::String,
    });
    let pages = events(&[(0, 60, 64)]);
    let page: arrow::array::ArrayRef = std::sync::Arc::new(arrow::array::StringArray::from(vec!["p"; 4]));
    let schema = pages.schema();
    let fields = schema.fields().iter().cloned();
    let fields: Vec<_> = fields
        .chain([std::sync::Arc::new(arrow::datatypes::Field::new(
            "page",
            arrow::datatypes::DataType::Utf8,
            true,
        ))])
        .collect();
    let columns = pages.columns().iter().cloned().chain([page]).collect();
    let pages = RecordBatch::try_new(std::sync::Arc::new(arrow::datatypes::Schema::new(fields)), columns).unwrap();
    log.append(&wider, &header("g1", &[(0, 60, 64)]), &pages).await.unwrap();
    log.commit("clicks").await.unwrap();
    log.compact("clicks", SMALL, Extent::Everything).await.unwrap();
    let rows = rows_of(&log.scan("clicks").await.unwrap(), &["page"]).await;
    assert_eq!(rows.num_rows(), 79);
    assert_eq!(rows.column(0).null_count(), 75);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_two_replicas_and_merges_of_both_lose_nothing_and_double_nothing() {
    two_replicas_commit_and_merge(&Place::disk()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_two_replicas_and_merges_of_both_lose_nothing_and_double_nothing_on_s3() {
    two_replicas_commit_and_merge(&Place::s3()).await;
}

async fn two_replicas_commit_and_merge(place: &Place) {
    let (one, two) = (place.open(), place.open());
    let writes = |log: EventLog, partition: i32| async move {
        for step in 0..40 {
            let range = [(partition, step * 7, step * 7 + 7)];
            log.append(&clicks(), &header("g1", &range), &events(&range))
                .await
                .unwrap();
            log.commit("clicks").await.unwrap();
        }
    };
    let merges = |log: EventLog| async move {
        for _ in 0..12 {
            log.compact("clicks", SMALL, Extent::Due).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let follows = |log: EventLog| async move {
        let mut follower = Follower::default();
        for _ in 0..15 {
            follower.follow(&log).await;
        }
        follower.follow(&log).await;
        follower
    };
    let ((), (), (), (), mut follower) = tokio::join!(
        writes(one.clone(), 0),
        writes(two.clone(), 1),
        merges(one.clone()),
        merges(two.clone()),
        follows(place.open()),
    );
    let log = place.open();
    follower.follow(&log).await;
    assert_eq!(follower.next, BTreeMap::from([(0, 280), (1, 280)]));
    let mut rows = positions_read(&log).await;
    rows.sort_unstable();
    assert_eq!(rows, all(&[(0, 0, 280), (1, 0, 280)]));
}

#[derive(Clone, Debug)]
enum Step {
    Deliver {
        replica: usize,
        partition: i32,
        rows: i64,
    },
    Commit {
        replica: usize,
    },
    Compact {
        replica: usize,
        files: usize,
        target_bytes: u64,
        extent: Extent,
    },
    Vacuum {
        replica: usize,
    },
    Reopen {
        replica: usize,
    },
    Follow {
        replica: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let replica = 0_usize..2;
    let extent = prop_oneof![Just(Extent::Due), Just(Extent::Everything)];
    let target = prop_oneof![Just(6_000_u64), Just(20_000), Just(1 << 20)];
    let step = prop_oneof![
        6 => (replica.clone(), 0_i32..3, 1_i64..40)
            .prop_map(|(replica, partition, rows)| Step::Deliver { replica, partition, rows }),
        6 => replica.clone().prop_map(|replica| Step::Commit { replica }),
        3 => (replica.clone(), 2_usize..5, target, extent)
            .prop_map(|(replica, files, target_bytes, extent)| Step::Compact { replica, files, target_bytes, extent }),
        1 => replica.clone().prop_map(|replica| Step::Vacuum { replica }),
        1 => replica.clone().prop_map(|replica| Step::Reopen { replica }),
        2 => replica.prop_map(|replica| Step::Follow { replica }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Runs the steps; afterwards every event that was delivered and kept is in the log once.
async fn run(steps: Vec<Step>) {
    let place = Place::disk();
    let mut logs = [place.open(), place.open()];
    let mut follower = Follower::default();
    for step in steps {
        match step {
            Step::Deliver {
                replica,
                partition,
                rows,
            } => {
                let held = logs[replica].held("clicks", "g1").await.unwrap();
                let next = held.iter().find(|position| position.partition == partition);
                let from = next.map_or(0, |position| position.next_offset);
                deliver(&logs[replica], &[(partition, from, from + rows)])
                    .await
                    .unwrap();
            }
            Step::Commit { replica } => drop(logs[replica].commit("clicks").await.unwrap()),
            Step::Compact {
                replica,
                files,
                target_bytes,
                extent,
            } => {
                let config = CompactionConfig { files, target_bytes };
                logs[replica].compact("clicks", config, extent).await.unwrap();
            }
            Step::Vacuum { replica } => drop(logs[replica].vacuum("clicks", AT_ONCE).await.unwrap()),
            Step::Reopen { replica } => logs[replica] = place.open(),
            Step::Follow { replica } => follower.follow(&logs[replica]).await,
        }
    }
    for log in &logs {
        log.commit("clicks").await.unwrap();
    }
    let log = place.open();
    follower.follow(&log).await;
    let committed = log.positions("clicks", "g1").await.unwrap();
    let reached: BTreeMap<i32, i64> = committed.iter().map(|at| (at.partition, at.next_offset)).collect();
    assert_eq!(follower.next, reached, "a reader that followed has read all there is");
    let ranges: Vec<(i32, i64, i64)> = reached.iter().map(|(partition, next)| (*partition, 0, *next)).collect();
    if ranges.is_empty() {
        return;
    }
    let mut rows = positions_read(&log).await;
    rows.sort_unstable();
    assert_eq!(rows, all(&ranges));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_merged_when_every_event_is_in_the_log_once_and_read_in_order(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}

/// Not a test: the process that [`a_store_killed_while_it_merges_loses_nothing_and_doubles_nothing`] kills.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_merges_for_ever() {
    let Ok(root) = std::env::var("ONDOL_KILL_TEST_ROOT") else {
        return;
    };
    let log = Place::at(root).open();
    let held = log.positions("clicks", "g1").await.unwrap();
    let from = held.first().map_or(0, |held| held.next_offset);
    println!("ready");
    for step in 0.. {
        let range = [(0, from + step * 20, from + step * 20 + 20)];
        deliver(&log, &range).await.unwrap();
        log.commit("clicks").await.unwrap();
        log.compact("clicks", SMALL, Extent::Due).await.unwrap();
        if step % 8 == 7 {
            log.vacuum("clicks", AT_ONCE).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_killed_while_it_merges_loses_nothing_and_doubles_nothing() {
    let place = Place::disk();
    let mut follower = Follower::default();
    for round in 0..10_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_merges_for_ever", "--nocapture"])
            .env("ONDOL_KILL_TEST_ROOT", place.root())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ready = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .any(|line| line.unwrap().contains("ready"));
        assert!(ready, "the child ended before it was ready");
        std::thread::sleep(Duration::from_millis(30 + rand::random_range(0..250)));
        // Command::kill sends SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();

        let log = place.open();
        follower.follow(&log).await;
        let held = log.positions("clicks", "g1").await.unwrap();
        let next = held.first().map_or(0, |held| held.next_offset);
        assert_eq!(follower.next.get(&0).copied().unwrap_or(0), next, "round {round}");
        let mut rows = positions_read(&log).await;
        rows.sort_unstable();
        assert_eq!(rows, all(&[(0, 0, next)]), "round {round}");
    }
    assert!(follower.next.contains_key(&0), "nothing was ever committed");
}
