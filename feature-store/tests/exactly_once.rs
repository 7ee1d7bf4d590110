//! Whatever is killed, redelivered or split, the online rows and the log end as those of a store that read each
//! partition once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod redis_server;
mod store;
mod topic;

use ondol_feature_store::FeatureStoreConfig;
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_testkit::{services, unique_name};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::{DEFINITIONS, HOUR, Payment, START, Store, embedded};
use topic::{GENERATION, Outcome, PARTITIONS, Topic, outcome, topic};

#[derive(Clone, Debug)]
enum Step {
    /// Delivers the next events of each partition, at most so many.
    Deliver([usize; PARTITIONS]),
    /// Delivers from some events before the next ones: an overlap.
    Repeat([usize; PARTITIONS]),
    /// Commits.
    Flush,
    /// Kills the process and starts it again; then ingest resumes where the store says. Sometimes the killed one was
    /// only slow, and writes once more.
    Kill { zombie: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let counts = || prop::array::uniform3(0usize..8);
    let step = prop_oneof![
        4 => counts().prop_map(Step::Deliver),
        1 => counts().prop_map(Step::Repeat),
        1 => Just(Step::Flush),
        2 => any::<bool>().prop_map(|zombie| Step::Kill { zombie }),
    ];
    prop::collection::vec(step, 1..14)
}

/// A folder as a killed process leaves it: no destructor has run, nothing was flushed.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

struct Run {
    folder: tempfile::TempDir,
    online: Option<(String, String)>,
    lives: usize,
}

impl Run {
    fn new(online: Option<(String, String)>) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            online,
            lives: 0,
        }
    }

    fn life(&self, number: usize) -> PathBuf {
        self.folder.path().join(number.to_string())
    }

    fn config(&self) -> FeatureStoreConfig {
        let config = embedded(&self.life(self.lives));
        match &self.online {
            Some((url, prefix)) => FeatureStoreConfig {
                online: Some(url.clone()),
                online_prefix: prefix.clone(),
                ..config
            },
            None => config,
        }
    }

    async fn start(&self) -> Store {
        Store::open(&self.config()).await
    }

    async fn restart(&mut self) -> Store {
        copy_folder(&self.life(self.lives), &self.life(self.lives + 1));
        self.lives += 1;
        self.start().await
    }
}

async fn disturbed(topic: &Topic, steps: &[Step], online: Option<(String, String)>) -> Outcome {
    let mut run = Run::new(online);
    let mut store = run.start().await;
    store.apply(DEFINITIONS).await;
    let mut dead = Vec::new();
    let mut next = [0; PARTITIONS];
    for step in steps {
        match step {
            Step::Deliver(counts) => {
                let to = topic.plus(&next, counts);
                store.write(topic.delivery(&next, &to)).await.unwrap();
                next = to;
            }
            Step::Repeat(counts) => {
                let from = std::array::from_fn(|partition| next[partition].saturating_sub(counts[partition]));
                store.write(topic.delivery(&from, &next)).await.unwrap();
            }
            Step::Flush => {
                let receipt = store.service.flush("payments").await.unwrap();
                assert_eq!(receipt.written, receipt.durable);
            }
            Step::Kill { zombie } => {
                let successor = run.restart().await;
                if *zombie {
                    let to = topic.plus(&next, &[2; PARTITIONS]);
                    store.write(topic.delivery(&next, &to)).await.unwrap();
                }
                dead.push(std::mem::replace(&mut store, successor));
                next = [0; PARTITIONS];
                for position in store.service.resume("payments", GENERATION).await.unwrap() {
                    let partition = position.partition as usize;
                    next[partition] = topic.place(partition, position.next_offset);
                }
            }
        }
    }
    store.write(topic.delivery(&next, &topic.ends())).await.unwrap();
    let outcome = outcome(&store).await;
    for view in ["card", "merchant", "shop"] {
        let view_id = store.view_id(view).await;
        store
            .service
            .online()
            .delete_view(view_id, Duration::ZERO)
            .await
            .unwrap();
    }
    for store in dead.into_iter().chain([store]) {
        store.stop().await;
    }
    outcome
}

async fn undisturbed(topic: &Topic) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&embedded(folder.path())).await;
    store.apply(DEFINITIONS).await;
    store
        .write(topic.delivery(&[0; PARTITIONS], &topic.ends()))
        .await
        .unwrap();
    let outcome = outcome(&store).await;
    store.stop().await;
    outcome
}

fn check(cases: u32, online: impl Fn() -> Option<(String, String)>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&(topic(), steps()), |(topic, steps)| {
        let (found, expected) =
            runtime.block_on(async { (disturbed(&topic, &steps, online()).await, undisturbed(&topic).await) });
        prop_assert_eq!(found, expected);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn kills_and_repeats_change_nothing_embedded() {
    check(16, || None);
}

#[test]
fn kills_repeats_and_zombies_change_nothing_in_redis() {
    check(16, || Some((services::redis(), unique_name("exactly_once"))));
}

/// Ingest as it runs on while the store behind it restarts: it knows where it was, and goes back where it is told.
async fn deliver_from(store: &Store, topic: &Topic, mut next: [usize; PARTITIONS]) {
    for _ in 0..600 {
        match store.write(topic.delivery(&next, &topic.ends())).await {
            Ok(()) => return,
            Err(FeatureStoreError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(FeatureStoreError::Gap {
                partition, expected, ..
            }) => {
                next[partition as usize] = topic.place(partition as usize, expected);
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the store never took the delivery");
}

fn a_topic() -> Topic {
    let event = |partition: i32, offset: i64| Payment {
        partition,
        offset,
        card: Some(format!("card {}", offset % 4)),
        merchant: offset % 3,
        amount: offset as f64 / 3.0,
        ts: START + offset * HOUR / 4,
        ingested_at: START + offset * HOUR / 4,
    };
    Topic {
        partitions: (0..3)
            .map(|partition| (0..40).map(|offset| event(partition, offset)).collect())
            .collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_killed_before_its_first_commit_asks_for_everything_again() {
    let topic = a_topic();
    let mut run = Run::new(None);
    let store = run.start().await;
    store.apply(DEFINITIONS).await;
    store
        .write(topic.delivery(&[0; PARTITIONS], &[20; PARTITIONS]))
        .await
        .unwrap();
    let successor = run.restart().await;
    deliver_from(&successor, &topic, [20; PARTITIONS]).await;
    assert_eq!(outcome(&successor).await, undisturbed(&topic).await);
    store.stop().await;
    successor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_empty_handed_gets_the_uncommitted_events_again() {
    let topic = a_topic();
    let mut server = redis_server::RedisServer::start(&[]);
    let run = Run::new(Some((server.url(), unique_name("restart"))));
    let store = run.start().await;
    store.apply(DEFINITIONS).await;
    store
        .write(topic.delivery(&[0; PARTITIONS], &[20; PARTITIONS]))
        .await
        .unwrap();
    server.replace();
    let refused = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let refused = store.service.flush("payments").await.unwrap_err().to_string();
            if refused.contains("asked for again") {
                return refused;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    refused.await.unwrap();
    deliver_from(&store, &topic, [20; PARTITIONS]).await;
    assert_eq!(outcome(&store).await, undisturbed(&topic).await);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_while_nothing_is_uncommitted_goes_on() {
    let topic = a_topic();
    let mut server = redis_server::RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let run = Run::new(Some((server.url(), unique_name("restart"))));
    let store = run.start().await;
    store.apply(DEFINITIONS).await;
    store
        .write(topic.delivery(&[0; PARTITIONS], &[20; PARTITIONS]))
        .await
        .unwrap();
    store.service.flush("payments").await.unwrap();
    server.replace();
    deliver_from(&store, &topic, [20; PARTITIONS]).await;
    assert_eq!(outcome(&store).await, undisturbed(&topic).await);
    store.stop().await;
}
