//! Rows that the online store lost come back from the log, exactly, while the views serve.

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
use ondol_feature_store_api::wire::{Rebuild, RebuildRequest, RebuildState};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_testkit::redis_cluster::RedisCluster;
use ondol_testkit::unique_name;
use ondol_vocabulary::{FeatureStatus, Value};
use std::path::Path;
use std::time::Duration;
use store::{DEFINITIONS, HOUR, Payment, START, Store, embedded};
use topic::{Outcome, PARTITIONS, Topic, outcome};

const EVENTS: usize = 120;

fn a_topic() -> Topic {
    let event = |partition: i32, offset: i64| Payment {
        partition,
        offset,
        card: Some(format!("card {}", offset % 11)),
        merchant: offset % 5,
        amount: offset as f64 / 3.0,
        ts: START + offset * HOUR / 4,
        ingested_at: START + offset * HOUR / 4,
    };
    Topic {
        partitions: (0..PARTITIONS as i32)
            .map(|partition| (0..EVENTS as i64).map(|offset| event(partition, offset)).collect())
            .collect(),
    }
}

fn on_redis(folder: &Path, url: String, rebuilds: bool) -> FeatureStoreConfig {
    FeatureStoreConfig {
        online: Some(url),
        online_prefix: unique_name("rebuild"),
        rebuild_after_loss: rebuilds,
        keep_discarded_rows_ms: 0,
        ..embedded(folder)
    }
}

/// Delivers as ingest does: goes back where it is told to, waits while it must.
async fn deliver(store: &Store, topic: &Topic, mut from: [usize; PARTITIONS], to: usize) {
    for _ in 0..1_200 {
        match store.write(topic.delivery(&from, &[to; PARTITIONS])).await {
            Ok(()) => return,
            Err(FeatureStoreError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(FeatureStoreError::Gap {
                partition, expected, ..
            }) => from[partition as usize] = topic.place(partition as usize, expected),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the store never took the delivery");
}

async fn flush(store: &Store, topic: &Topic, to: usize) {
    for _ in 0..1_200 {
        if store.service.flush("payments").await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        // What was not durable may be asked for again.
        deliver(store, topic, [to; PARTITIONS], to).await;
    }
    panic!("the store never committed");
}

async fn states(store: &Store) -> Vec<(String, RebuildState)> {
    let rebuilds = store.service.rebuilds().await.unwrap();
    rebuilds
        .into_iter()
        .map(|rebuild| (rebuild.view, rebuild.state))
        .collect()
}

/// Waits until the streams' views are in `state`.
async fn until(store: &Store, state: RebuildState) {
    for _ in 0..1_200 {
        let found = states(store).await;
        let is = |view: &str| found.iter().any(|(name, found)| name == view && *found == state);
        if is("card") && is("merchant") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never {state:?}: {:?}", states(store).await);
}

async fn undisturbed(topic: &Topic) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&embedded(folder.path())).await;
    store.apply(DEFINITIONS).await;
    deliver(&store, topic, [0; PARTITIONS], EVENTS).await;
    let outcome = outcome(&store).await;
    store.stop().await;
    outcome
}

fn of_payments() -> RebuildRequest {
    RebuildRequest {
        names: vec!["payments".to_owned()],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_built_anew_while_deliveries_go_on_and_the_old_ones_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let topic = a_topic();
    let config = FeatureStoreConfig {
        keep_discarded_rows_ms: 0,
        ..embedded(folder.path())
    };
    let store = Store::open(&config).await;
    store.apply(DEFINITIONS).await;
    deliver(&store, &topic, [0; PARTITIONS], 40).await;
    flush(&store, &topic, 40).await;
    deliver(&store, &topic, [40; PARTITIONS], 60).await;
    let before = store.view_id("card").await;
    // What nobody noticed: the rows are gone.
    store
        .service
        .online()
        .delete_view(before, Duration::ZERO)
        .await
        .unwrap();
    let begun: Vec<Rebuild> = store.service.rebuild(of_payments()).await.unwrap();
    assert_eq!(begun.len(), 2);
    assert!(begun.iter().all(|rebuild| rebuild.source == "payments"));
    // Asked again, it is the same one.
    let again = store.service.rebuild(of_payments()).await.unwrap();
    assert_eq!(again.len(), 2);
    deliver(&store, &topic, [60; PARTITIONS], EVENTS).await;
    until(&store, RebuildState::Done).await;
    assert_eq!(outcome(&store).await, undisturbed(&topic).await);
    assert_ne!(store.view_id("card").await, before);
    for _ in 0..600 {
        if store.service.online().scan(before).await.unwrap().is_empty() {
            store.stop().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the old rows are never deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_nobody_knows_is_refused_with_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&embedded(folder.path())).await;
    store.apply(DEFINITIONS).await;
    let names = vec!["crad".to_owned()];
    let error = store.service.rebuild(RebuildRequest { names }).await.unwrap_err();
    assert!(error.to_string().contains("did you mean `card`"), "{error}");
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_empty_gets_every_row_again_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let topic = a_topic();
    let mut server = redis_server::RedisServer::start(&[]);
    let store = Store::open(&on_redis(folder.path(), server.url(), true)).await;
    store.apply(DEFINITIONS).await;
    deliver(&store, &topic, [0; PARTITIONS], 50).await;
    flush(&store, &topic, 50).await;
    deliver(&store, &topic, [50; PARTITIONS], 70).await;
    server.replace();
    deliver(&store, &topic, [70; PARTITIONS], EVENTS).await;
    until(&store, RebuildState::Done).await;
    flush(&store, &topic, EVENTS).await;
    assert_eq!(outcome(&store).await, undisturbed(&topic).await);
    store.stop().await;
}

/// Whether there is an answer for a card, and what its status is.
async fn status(store: &Store) -> Result<FeatureStatus, FeatureStoreError> {
    let card = [Value::String("card 3".to_owned())];
    let answer = store.read(&["card.last_amount"], &[("card", &card)]).await?;
    Ok(answer.columns[0].status[0])
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_lost_are_not_read_until_they_are_built_anew() {
    let folder = tempfile::tempdir().unwrap();
    let topic = a_topic();
    let mut server = redis_server::RedisServer::start(&[]);
    let config = on_redis(&folder.path().join("refuses"), server.url(), false);
    let store = Store::open(&config).await;
    let other = FeatureStoreConfig {
        serve_lost_rows: true,
        ..on_redis(&folder.path().join("serves"), server.url(), false)
    };
    let other = Store::open(&other).await;
    for store in [&store, &other] {
        store.apply(DEFINITIONS).await;
        deliver(store, &topic, [0; PARTITIONS], 50).await;
        flush(store, &topic, 50).await;
        assert_ne!(status(store).await.unwrap(), FeatureStatus::Missing);
    }
    server.replace();
    // Nobody has written, and nobody has looked: the first to learn of the loss is who reads.
    let refused = async || {
        for _ in 0..20 {
            let error = status(&store).await.unwrap_err();
            assert!(matches!(error, FeatureStoreError::Unavailable { .. }), "{error}");
        }
        let error = status(&store).await.unwrap_err();
        assert!(error.to_string().contains("lost rows of view `card`"), "{error}");
    };
    refused().await;
    // What is written now begins where the loss ended.
    deliver(&store, &topic, [50; PARTITIONS], 70).await;
    refused().await;
    store.service.rebuild(of_payments()).await.unwrap();
    deliver(&store, &topic, [70; PARTITIONS], EVENTS).await;
    until(&store, RebuildState::Done).await;
    assert_ne!(status(&store).await.unwrap(), FeatureStatus::Missing);
    flush(&store, &topic, EVENTS).await;
    assert_eq!(outcome(&store).await, undisturbed(&topic).await);
    store.stop().await;
    // Whoever wants that is told what is there, once the connection is.
    let served = match status(&other).await {
        Err(_) => status(&other).await,
        served => served,
    };
    assert_eq!(served.unwrap(), FeatureStatus::Missing);
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_with_everything_needs_no_rebuild() {
    let folder = tempfile::tempdir().unwrap();
    let topic = a_topic();
    let mut server = redis_server::RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = Store::open(&on_redis(folder.path(), server.url(), true)).await;
    store.apply(DEFINITIONS).await;
    deliver(&store, &topic, [0; PARTITIONS], 50).await;
    flush(&store, &topic, 50).await;
    server.replace();
    deliver(&store, &topic, [50; PARTITIONS], EVENTS).await;
    flush(&store, &topic, EVENTS).await;
    assert_eq!(states(&store).await, []);
    assert_eq!(outcome(&store).await, undisturbed(&topic).await);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_lost_committed_rows_is_noticed_and_repaired_and_one_that_lost_nothing_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let topic = a_topic();
    let nodes = folder.path().join("cluster");
    let mut cluster = tokio::task::spawn_blocking(move || RedisCluster::start(&nodes, 3, &[]))
        .await
        .unwrap();
    let store = Store::open(&on_redis(&folder.path().join("store"), cluster.url(), false)).await;
    store.apply(DEFINITIONS).await;
    deliver(&store, &topic, [0; PARTITIONS], 30).await;
    flush(&store, &topic, 30).await;

    // Everything has reached the replicas: nothing is missing after the failover.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut cluster = tokio::task::spawn_blocking(move || {
        cluster.kill_primary(0);
        cluster.revive(0);
        cluster
    })
    .await
    .unwrap();
    deliver(&store, &topic, [30; PARTITIONS], 60).await;
    flush(&store, &topic, 60).await;
    assert_eq!(states(&store).await, []);

    // A replica that receives nothing any more takes over.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let primary = cluster.primaries()[0];
    let replica = cluster.replica_of(primary);
    cluster
        .node(replica)
        .ask(&["CONFIG", "SET", "masterauth", "wrong"])
        .unwrap();
    cluster
        .node(replica)
        .ask(&["CONFIG", "SET", "masteruser", "nobody"])
        .unwrap();
    cluster
        .node(primary)
        .ask(&["CLIENT", "KILL", "TYPE", "replica"])
        .unwrap();
    deliver(&store, &topic, [60; PARTITIONS], 90).await;
    flush(&store, &topic, 90).await;
    let cluster = tokio::task::spawn_blocking(move || {
        cluster.kill_primary(primary);
        cluster
    })
    .await
    .unwrap();
    deliver(&store, &topic, [90; PARTITIONS], 100).await;
    until(&store, RebuildState::Advised).await;
    store.service.rebuild(of_payments()).await.unwrap();
    deliver(&store, &topic, [100; PARTITIONS], EVENTS).await;
    until(&store, RebuildState::Done).await;
    flush(&store, &topic, EVENTS).await;
    assert_eq!(outcome(&store).await, undisturbed(&topic).await);
    store.stop().await;
    drop(cluster);
}
