//! What of the event log has to do with this process and its disk: its buffer's bounds, and a disk that goes away.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod clicks;

use clicks::{Place, all, at, deliver, positions_read};
use ondol_feature_store::offline::{EventLog, EventLogConfig};
use ondol_feature_store_api::FeatureStoreError;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn open(root: &Path) -> EventLog {
    EventLog::open(root.to_str().unwrap(), EventLogConfig::default()).unwrap()
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

/// Names the folder of the process that a full disk is tried in.
const FULL_DISK: &str = "ONDOL_FULL_DISK_ROOT";

#[test]
fn a_full_disk_fails_the_commit_keeps_its_rows_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    // A file may not grow beyond 64 blocks of half a KiB (of one KiB by some shells): as a full disk, with an error
    // instead of a signal.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -S -f 64; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_on_a_full_disk", "--nocapture"])
        .env(FULL_DISK, folder.path())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

/// Not a test of its own: the process whose disk is full.
#[tokio::test(flavor = "multi_thread")]
async fn child_on_a_full_disk() {
    let Ok(root) = std::env::var(FULL_DISK) else { return };
    let place = Place::at(root);
    let log = open(Path::new(place.root()));
    deliver(&log, &[(0, 0, 5)]).await.unwrap();
    log.commit("clicks").await.unwrap();
    let before = place.objects().await;
    deliver(&log, &[(0, 5, 60_000)]).await.unwrap();
    let error = log.commit("clicks").await.unwrap_err();
    assert!(matches!(error, FeatureStoreError::Unavailable { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("part-") && text.contains("free space on its disk"),
        "{text}"
    );
    assert_eq!(log.durable("clicks").await.unwrap(), [at(0, 5)]);
    let written: Vec<String> = place
        .objects()
        .await
        .into_iter()
        .filter(|path| !before.contains(path))
        .collect();
    assert!(written.iter().all(|path| !path.contains("_delta_log")), "{written:?}");
    // Somebody makes room.
    let id = std::process::id().to_string();
    let freed = Command::new("prlimit")
        .args(["--pid", &id, "--fsize=unlimited"])
        .status()
        .unwrap();
    assert!(freed.success());
    assert_eq!(log.commit("clicks").await.unwrap(), [at(0, 60_000)]);
    assert_eq!(positions_read(&log).await.len(), 60_000);
}
