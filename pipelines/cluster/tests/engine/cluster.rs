//! Training sets on a cluster: a scheduler and two executors as processes.

use crate::joins::{assert_same, training_set};
use crate::lake::{events, lake, spine};
use crate::processes::Cluster;
use ondol_pipelines_api::wire::AsOf;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_training_set_on_a_cluster_is_the_embedded_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &events(5_000, 40)).await;
    let cluster = Cluster::start(folder.path(), 2);
    for as_of in [AsOf::KnownAt, AsOf::EventTime] {
        let embedded = training_set(folder.path(), store.clone(), None, spine(1_000, 40), as_of)
            .await
            .unwrap();
        let engine = Some(cluster.engine(folder.path(), 6));
        let joined = training_set(folder.path(), store.clone(), engine, spine(1_000, 40), as_of)
            .await
            .unwrap();
        assert_same(&embedded, &joined);
    }
    let left = std::fs::read_dir(folder.path().join("exchange")).unwrap();
    assert_eq!(left.count(), 0, "spines are removed from the exchange folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_killed_in_the_middle_does_not_lose_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &events(150_000, 400)).await;
    let embedded = training_set(folder.path(), store.clone(), None, spine(20_000, 400), AsOf::KnownAt)
        .await
        .unwrap();
    let mut cluster = Cluster::start(folder.path(), 2);
    let engine = Some(cluster.engine(folder.path(), 12));
    let path = folder.path().to_owned();
    let running = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(training_set(&path, store, engine, spine(20_000, 400), AsOf::KnownAt))
    });
    // It is in the middle once both have written something for others.
    let wrote = |number: usize| files(&folder.path().join(format!("executor-{number}"))) > 0;
    let deadline = Instant::now() + Duration::from_secs(240);
    while !(wrote(0) && wrote(1)) {
        assert!(Instant::now() < deadline, "the executors wrote nothing");
        assert!(!running.is_finished(), "it was over before both had worked");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    cluster.executor(0).kill();
    let joined = running.join().unwrap().unwrap();
    assert_same(&embedded, &joined);
}

fn files(folder: &Path) -> usize {
    let mut found = 0;
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => found += 1,
                Err(_) => {}
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_scheduler_the_job_says_where_one_should_be() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &events(100, 5)).await;
    let mut cluster = Cluster::start(folder.path(), 0);
    let engine = Some(cluster.engine(folder.path(), 2));
    cluster.scheduler().kill();
    let error = training_set(folder.path(), store, engine, spine(50, 5), AsOf::KnownAt)
        .await
        .unwrap_err();
    assert!(error.contains("ondol-cluster scheduler"), "{error}");
    assert!(error.contains("127.0.0.1"), "{error}");
}
