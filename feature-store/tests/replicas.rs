//! Several replicas of the store over one registry, one Redis and one folder of tables: whatever they are delivered, by
//! whom and in which order, the online rows and the log end as those of one store that read each partition once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod clicks;
mod store;
mod topic;

use ondol_feature_store::FeatureStoreConfig;
use ondol_feature_store_api::wire::{DefinitionFile, DefinitionFiles, RebuildRequest, RebuildState};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_testkit::{s3, services, unique_name};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sqlx::Connection;
use std::time::Duration;
use store::{DEFINITIONS, HOUR, Payment, START, Store, embedded};
use topic::{GENERATION, Outcome, PARTITIONS, Topic, outcome, topic};

/// What replicas share, and where they run.
struct Place {
    folder: tempfile::TempDir,
    offline: String,
    registry: String,
    prefix: String,
    opened: usize,
}

impl Place {
    /// With the tables in a folder.
    async fn new() -> Self {
        let server = services::postgres();
        let name = unique_name("replicas");
        sqlx::any::install_default_drivers();
        let mut connection = sqlx::AnyConnection::connect(&server).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .unwrap();
        let (base, _) = server.rsplit_once('/').unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self {
            offline: folder.path().join("offline").display().to_string(),
            folder,
            registry: format!("{base}/{name}"),
            prefix: name,
            opened: 0,
        }
    }

    /// With the tables in a bucket.
    async fn on_s3() -> Self {
        clicks::reach_s3();
        Self {
            offline: format!("s3://{}/tables", s3::bucket()),
            ..Self::new().await
        }
    }

    fn config(&mut self) -> FeatureStoreConfig {
        self.opened += 1;
        FeatureStoreConfig {
            registry: Some(self.registry.clone()),
            online: Some(services::redis()),
            online_prefix: self.prefix.clone(),
            offline: Some(self.offline.clone()),
            keep_discarded_rows_ms: 3_600_000,
            ..embedded(&self.folder.path().join(self.opened.to_string()))
        }
    }

    async fn open(&mut self) -> Store {
        Store::open(&self.config()).await
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A partition's worker delivers its next events to the replica it is connected to.
    Deliver { partition: usize, count: usize },
    /// A partition's worker connects to another replica and goes on where it was.
    Reconnect { partition: usize, replica: usize },
    /// A partition gets a new worker, which asks a replica where to resume and delivers to it. The old worker writes on.
    Move { partition: usize, replica: usize },
    /// A worker that lost its partition delivers from where it was, to the replica it was connected to.
    Zombie { which: usize, count: usize },
    /// A replica commits.
    Flush { replica: usize },
    /// A replica is never heard of again, with what it holds; another takes its place.
    Replace { replica: usize },
    /// The views change, by a replica.
    Apply { replica: usize, hours: u8 },
    /// The rows of every view are built anew.
    Rebuild { replica: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (partition, replica) = (0..PARTITIONS, 0usize..3);
    let step = prop_oneof![
        8 => (partition.clone(), 1usize..9).prop_map(|(partition, count)| Step::Deliver { partition, count }),
        1 => (partition.clone(), replica.clone()).prop_map(|(partition, replica)| Step::Reconnect { partition, replica }),
        2 => (partition, replica.clone()).prop_map(|(partition, replica)| Step::Move { partition, replica }),
        2 => (0usize..8, 1usize..9).prop_map(|(which, count)| Step::Zombie { which, count }),
        2 => replica.clone().prop_map(|replica| Step::Flush { replica }),
        1 => replica.clone().prop_map(|replica| Step::Replace { replica }),
        1 => (replica.clone(), 1u8..5).prop_map(|(replica, hours)| Step::Apply { replica, hours }),
        1 => replica.prop_map(|replica| Step::Rebuild { replica }),
    ];
    prop::collection::vec(step, 5..40)
}

fn definitions(hours: u8) -> String {
    DEFINITIONS.replace("count() over 1h", &format!("count() over {hours}h"))
}

/// Who delivers a partition: where it is connected, and where it stands.
#[derive(Clone, Copy, Debug)]
struct Worker {
    partition: usize,
    replica: usize,
    next: usize,
}

impl Worker {
    /// Delivers at most `count` events, as ingest does: goes back where it is told to, waits while it must.
    async fn deliver(&mut self, store: &Store, topic: &Topic, count: usize) {
        let to = (self.next + count).min(topic.partitions[self.partition].len());
        for _ in 0..3_000 {
            match store.write(topic.of_partition(self.partition, self.next, to)).await {
                Ok(()) => {
                    self.next = to;
                    return;
                }
                Err(FeatureStoreError::Gap { expected, .. }) => self.next = topic.place(self.partition, expected),
                Err(FeatureStoreError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the store never took the delivery");
    }

    async fn resume(partition: usize, replica: usize, store: &Store, topic: &Topic) -> Self {
        let positions = store.service.resume("payments", GENERATION).await.unwrap();
        let held = positions.iter().find(|position| position.partition == partition as i32);
        Self {
            partition,
            replica,
            next: held.map_or(0, |position| topic.place(partition, position.next_offset)),
        }
    }
}

async fn apply(store: &Store, text: &str) {
    let file = DefinitionFile {
        path: "features.toml".to_owned(),
        text: text.to_owned(),
    };
    let applied = store.service.apply(DefinitionFiles { files: vec![file] }).await;
    applied.unwrap_or_else(|error| panic!("{error}"));
}

async fn flush(store: &Store) {
    for _ in 0..3_000 {
        match store.service.flush("payments").await {
            Ok(_) => return,
            Err(FeatureStoreError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the store never committed");
}

async fn disturbed(mut place: Place, topic: &Topic, steps: &[Step]) -> (Outcome, String) {
    let mut replicas = vec![place.open().await, place.open().await, place.open().await];
    let mut text = definitions(1);
    apply(&replicas[0], &text).await;
    for replica in &replicas {
        replica.streams_serve().await;
    }
    let mut workers: Vec<Worker> = (0..PARTITIONS)
        .map(|partition| Worker {
            partition,
            replica: partition % 3,
            next: 0,
        })
        .collect();
    let (mut zombies, mut dead): (Vec<Worker>, Vec<Store>) = (Vec::new(), Vec::new());
    for step in steps {
        match *step {
            Step::Deliver { partition, count } => {
                let worker = &mut workers[partition];
                worker.deliver(&replicas[worker.replica], topic, count).await;
            }
            Step::Reconnect { partition, replica } => workers[partition].replica = replica,
            Step::Move { partition, replica } => {
                let worker = Worker::resume(partition, replica, &replicas[replica], topic).await;
                zombies.push(std::mem::replace(&mut workers[partition], worker));
            }
            Step::Zombie { which, count } => {
                if !zombies.is_empty() {
                    let which = which % zombies.len();
                    let zombie = &mut zombies[which];
                    zombie.deliver(&replicas[zombie.replica], topic, count).await;
                }
            }
            Step::Flush { replica } => flush(&replicas[replica]).await,
            Step::Replace { replica } => {
                let successor = place.open().await;
                dead.push(std::mem::replace(&mut replicas[replica], successor));
            }
            Step::Apply { replica, hours } => {
                text = definitions(hours);
                apply(&replicas[replica], &text).await;
            }
            Step::Rebuild { replica } => {
                let asked = replicas[replica].service.rebuild(RebuildRequest::default()).await;
                asked.unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }
    for mut worker in workers {
        worker.deliver(&replicas[worker.replica], topic, usize::MAX / 2).await;
    }
    let last = &replicas[0];
    last.service.registry().refresh().await.unwrap();
    last.streams_serve().await;
    // Replicas that hold events which nobody committed commit them, also those that were given up.
    for store in replicas.iter().chain(&dead) {
        flush(store).await;
    }
    last.service.registry().refresh().await.unwrap();
    let outcome = outcome(last).await;
    for store in &replicas {
        store.service.registry().refresh().await.unwrap();
        assert_eq!(
            store.rows("card").await,
            outcome.card,
            "every replica reads the same rows"
        );
    }
    for store in replicas.into_iter().chain(dead) {
        store.stop().await;
    }
    (outcome, text)
}

async fn undisturbed(topic: &Topic, definitions: &str) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&embedded(folder.path())).await;
    store.apply(definitions).await;
    store
        .write(topic.delivery(&[0; PARTITIONS], &topic.ends()))
        .await
        .unwrap();
    let outcome = outcome(&store).await;
    store.stop().await;
    outcome
}

/// Runs `cases` of what may happen to replicas that share what `place` makes.
fn replicas_end_as_one_store_does(cases: u32, place: impl AsyncFn() -> Place) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 40,
        ..Config::default()
    });
    let outcome = runner.run(&(topic(), steps()), |(topic, steps)| {
        let (found, expected) = runtime.block_on(async {
            let (found, text) = disturbed(place().await, &topic, &steps).await;
            (found, undisturbed(&topic, &text).await)
        });
        prop_assert_eq!(found, expected);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn replicas_that_are_delivered_anything_by_anybody_end_as_one_store_does() {
    let cases = std::env::var("ONDOL_TEST_REPLICA_CASES").map_or(8, |cases| cases.parse().unwrap());
    replicas_end_as_one_store_does(cases, async || Place::new().await);
}

#[test]
fn replicas_whose_tables_are_in_a_bucket_end_as_one_store_does() {
    replicas_end_as_one_store_does(3, async || Place::on_s3().await);
}

fn a_topic(events: i64) -> Topic {
    let event = |partition: i32, offset: i64| Payment {
        partition,
        offset,
        card: Some(format!("card {}", offset % 7)),
        merchant: offset % 3,
        amount: offset as f64 / 3.0,
        ts: START + offset * HOUR / 40,
        ingested_at: START + offset * HOUR / 40,
    };
    Topic {
        partitions: (0..PARTITIONS as i32)
            .map(|partition| (0..events).map(|offset| event(partition, offset)).collect())
            .collect(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn views_change_and_are_built_anew_while_three_replicas_take_deliveries() {
    const EVENTS: i64 = 900;
    let topic = a_topic(EVENTS);
    let mut place = Place::new().await;
    let mut replicas = Vec::new();
    for _ in 0..3 {
        let config = FeatureStoreConfig {
            commit_interval_ms: 30,
            ..place.config()
        };
        replicas.push(Store::open(&config).await);
    }
    apply(&replicas[0], &definitions(1)).await;
    for replica in &replicas {
        replica.streams_serve().await;
    }
    let deliver = |partition: usize| {
        let (topic, replicas) = (&topic, &replicas);
        async move {
            let mut worker = Worker {
                partition,
                replica: partition,
                next: 0,
            };
            let mut step = 0;
            while worker.next < EVENTS as usize {
                step += 1;
                // Now and then to another replica.
                worker.replica = (partition + step / 9) % 3;
                worker.deliver(&replicas[worker.replica], topic, 5).await;
            }
        }
    };
    let disturb = async {
        for round in 2..6u8 {
            apply(&replicas[usize::from(round) % 3], &definitions(round)).await;
            replicas[0].service.registry().refresh().await.unwrap();
            replicas[0].streams_serve().await;
            let rebuild = replicas[1].service.rebuild(RebuildRequest {
                names: vec!["payments".to_owned()],
            });
            rebuild.await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::join!(deliver(0), deliver(1), deliver(2), disturb);
    for replica in &replicas {
        replica.service.registry().refresh().await.unwrap();
        replica.streams_serve().await;
        flush(replica).await;
    }
    assert_eq!(outcome(&replicas[2]).await, undisturbed(&topic, &definitions(5)).await);
    let rebuilds = replicas[0].service.rebuilds().await.unwrap();
    assert!(
        rebuilds.iter().all(|rebuild| rebuild.state == RebuildState::Done),
        "{rebuilds:?}"
    );
    for store in replicas {
        store.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_applies_another_serves_at_once() {
    let mut place = Place::new().await;
    let slow = FeatureStoreConfig {
        registry_poll_ms: 3_600_000,
        ..place.config()
    };
    let (first, second) = (place.open().await, Store::open(&slow).await);
    // Nothing polls: only what the database says can tell.
    let before = second.service.snapshot().await.unwrap().version;
    apply(&first, DEFINITIONS).await;
    let told = second
        .service
        .next_snapshot(before, Duration::from_secs(30))
        .await
        .unwrap();
    assert!(told.version > before);
    second.streams_serve().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_done_by_one_replica_and_taken_over_when_that_is_gone() {
    let mut place = Place::new().await;
    let (first, second) = (place.open().await, place.open().await);
    let held = first.service.registry().lock("work").await.unwrap();
    assert!(held.is_some());
    assert!(second.service.registry().lock("work").await.unwrap().is_none());
    assert!(second.service.registry().lock("other work").await.unwrap().is_some());
    drop(held);
    let mut taken = None;
    for _ in 0..200 {
        taken = second.service.registry().lock("work").await.unwrap();
        if taken.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(taken.is_some());
    first.stop().await;
    second.stop().await;
}
