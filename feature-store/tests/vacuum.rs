//! Vacuum against its promise: what no version in the retention needs is gone, everything else is there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod clicks;

use arrow::array::RecordBatch;
use clicks::{Place, all, at, deliver, positions_read};
use futures::TryStreamExt;
use ondol_feature_store::offline::{CompactionConfig, EventLog, Extent, LogScan, VacuumConfig};
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::maintenance::Vacuum;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const NOW: VacuumConfig = VacuumConfig {
    retention: Duration::ZERO,
    keep: None,
    dry_run: false,
};

async fn commits(log: &EventLog, steps: std::ops::Range<i64>) {
    for step in steps {
        deliver(log, &[(0, step * 20, step * 20 + 20)]).await.unwrap();
        log.commit("clicks").await.unwrap();
    }
}

async fn merge(log: &EventLog) {
    let config = CompactionConfig::default();
    assert!(log.compact("clicks", config, Extent::Everything).await.unwrap().commits > 0);
}

async fn vacuum(log: &EventLog, config: VacuumConfig) -> Vacuum {
    log.vacuum("clicks", config).await.unwrap()
}

async fn rows_of(scan: &LogScan) -> Result<usize, FeatureStoreError> {
    let batches: Vec<RecordBatch> = scan.read(None, &scan.columns())?.try_collect().await?;
    Ok(batches.iter().map(RecordBatch::num_rows).sum())
}

fn table(place: &Place) -> PathBuf {
    Path::new(place.root()).join("clicks")
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_str().unwrap().ends_with(ending) {
            found.push(path);
        }
    }
    found
}

fn age(path: &Path, by: Duration) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_files_go_once_their_versions_are_out_of_the_retention() {
    let place = Place::disk();
    let log = place.open();
    commits(&log, 0..12).await;
    let old = log.scan("clicks").await.unwrap();
    merge(&log).await;
    let kept = vacuum(&log, VacuumConfig { retention: DAY, ..NOW }).await;
    assert_eq!((kept.files_deleted, kept.oldest_version), (0, Some(0)));
    assert_eq!(
        rows_of(&old).await.unwrap(),
        240,
        "versions in the retention stay readable"
    );

    let told = vacuum(&log, VacuumConfig { dry_run: true, ..NOW }).await;
    assert_eq!(rows_of(&old).await.unwrap(), 240, "a dry run deletes nothing");
    let gone = vacuum(&log, NOW).await;
    assert_eq!(
        (told.files_deleted, told.bytes_deleted),
        (gone.files_deleted, gone.bytes_deleted)
    );
    assert_eq!(files(&table(&place), ".parquet").len() as u64, gone.files_kept);
    assert_eq!(gone.oldest_version, gone.version);
    assert!(gone.files_deleted >= 12, "{gone:?}");
    let refused = rows_of(&old).await.unwrap_err();
    assert!(
        matches!(&refused, FeatureStoreError::Unavailable { detail } if detail.contains("clicks")),
        "{refused}"
    );
    let again = vacuum(&log, NOW).await;
    assert_eq!((again.files_deleted, again.log_entries_deleted), (0, 0));
    for log in [log, place.open()] {
        let mut rows = positions_read(&log).await;
        rows.sort_unstable();
        assert_eq!(rows, all(&[(0, 0, 240)]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_at_the_horizon_stays_readable_and_what_was_merged_before_it_goes() {
    let place = Place::disk();
    let log = place.open();
    commits(&log, 0..10).await;
    merge(&log).await;
    let merged_early = vacuum(&log, VacuumConfig { dry_run: true, ..NOW }).await.files_deleted;
    commits(&log, 10..20).await;
    for path in files(&table(&place), ".parquet")
        .iter()
        .chain(&files(&table(&place), ".json"))
    {
        age(path, 3 * DAY);
    }
    let horizon = log.scan("clicks").await.unwrap();
    merge(&log).await;
    commits(&log, 20..22).await;
    let done = vacuum(&log, VacuumConfig { retention: DAY, ..NOW }).await;
    assert_eq!(done.oldest_version, horizon.version().map(|version| version as i64));
    assert_eq!(done.files_deleted, merged_early);
    assert_eq!(rows_of(&horizon).await.unwrap(), 400);
    assert_eq!(rows_of(&log.scan("clicks").await.unwrap()).await.unwrap(), 440);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_behind_goes_and_what_a_commit_may_be_about_to_name_stays() {
    let place = Place::disk();
    let log = place.open();
    commits(&log, 0..2).await;
    let folder = files(&table(&place), ".parquet")[0].parent().unwrap().to_path_buf();
    let (left, fresh) = (folder.join("part-left.parquet"), folder.join("part-fresh.parquet"));
    for path in [&left, &fresh] {
        std::fs::write(path, b"half a file").unwrap();
    }
    age(&left, 2 * HOUR);
    assert_eq!(vacuum(&log, NOW).await.files_deleted, 1);
    assert!(fresh.exists() && !left.exists());
    assert_eq!(
        vacuum(&log, VacuumConfig { retention: DAY, ..NOW }).await.files_deleted,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn event_dates_that_are_not_kept_leave_the_table_and_positions_stay() {
    let place = Place::disk();
    let log = place.open();
    commits(&log, 0..5).await;
    // Events lie on the first to the third of January 2013.
    let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1_357_000_000) + DAY;
    let keep = SystemTime::now().duration_since(second).unwrap();
    let config = VacuumConfig {
        keep: Some(keep),
        ..NOW
    };
    let told = vacuum(
        &log,
        VacuumConfig {
            dry_run: true,
            ..config
        },
    )
    .await;
    assert_eq!(log.rows("clicks"), Some(100));
    let done = vacuum(&log, config).await;
    assert_eq!(done.dates_dropped, ["2013-01-01"]);
    assert_eq!(
        (told.dates_dropped, told.rows_dropped),
        (done.dates_dropped, done.rows_dropped)
    );
    assert_eq!(log.rows("clicks"), Some(100 - done.rows_dropped));
    assert_eq!(positions_read(&log).await.len() as u64, 100 - done.rows_dropped);
    assert_eq!(log.positions("clicks", "g1").await.unwrap(), [at(0, 100)]);
    deliver(&log, &[(0, 0, 100)]).await.unwrap();
    log.commit("clicks").await.unwrap();
    assert_eq!(
        positions_read(&log).await.len() as u64,
        100 - done.rows_dropped,
        "a redelivery adds nothing"
    );
    assert_eq!(vacuum(&log, config).await.dates_dropped.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_log_entries_go_and_every_version_from_the_horizon_on_loads() {
    let place = Place::disk();
    let log = place.open();
    commits(&log, 0..320).await;
    let before = files(&table(&place).join("_delta_log"), ".json").len();
    for path in files(&table(&place).join("_delta_log"), "") {
        age(&path, 2 * DAY);
    }
    commits(&log, 320..325).await;
    let done = vacuum(&log, VacuumConfig { retention: DAY, ..NOW }).await;
    assert!(done.log_entries_deleted > 290, "{done:?}");
    assert!(files(&table(&place).join("_delta_log"), ".json").len() < before - 290);
    let fresh = place.open();
    assert_eq!(fresh.positions("clicks", "g1").await.unwrap(), [at(0, 6_500)]);
    assert_eq!(rows_of(&fresh.scan("clicks").await.unwrap()).await.unwrap(), 6_500);
    // The entries that are left do not all make a version: the oldest of them that does is the first checkpoint.
    let again = vacuum(
        &log,
        VacuumConfig {
            retention: 30 * DAY,
            ..NOW
        },
    )
    .await;
    assert_eq!(
        (again.oldest_version, again.log_entries_deleted),
        (done.oldest_version.map(|_| 299), 0)
    );
    commits(&log, 325..326).await;
    assert_eq!(fresh.positions("clicks", "g1").await.unwrap(), [at(0, 6_520)]);
}

#[tokio::test]
async fn a_source_without_a_table_has_nothing_to_delete() {
    let place = Place::disk();
    let done = vacuum(&place.open(), NOW).await;
    assert_eq!(
        done,
        Vacuum {
            source: "clicks".to_owned(),
            ..Vacuum::default()
        }
    );
}
