//! One suite for every online store: what the writer and the reader rely on, proved on each implementation.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod redis_server;

use bytes::Bytes;
use ondol_feature_store::online::{self, OnlineConfig, OnlineStore, RowKey, RowWrite};
use ondol_feature_store_api::FeatureStoreError;
use ondol_testkit::redis_cluster::RedisCluster;
use ondol_testkit::{services, unique_name};
use ondol_vocabulary::{EntityKey, Value};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn config(url: String) -> OnlineConfig {
    OnlineConfig {
        url,
        prefix: unique_name("online"),
        timeout: Duration::from_secs(15),
        cache_bytes: 16 << 20,
        wait_replicas: 0,
    }
}

fn key(view_id: u32, name: &str) -> RowKey {
    RowKey::new(
        view_id,
        EntityKey::from_values(&[Value::String(name.to_owned())])
            .unwrap()
            .unwrap(),
    )
}

fn write(key: &RowKey, expected: Option<&str>, value: &str) -> RowWrite {
    RowWrite {
        key: key.clone(),
        expected: expected.map(|expected| Bytes::copy_from_slice(expected.as_bytes())),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

/// As a writer that begins now: in the present life.
async fn set(store: &dyn OnlineStore, writes: Vec<RowWrite>) -> Result<Vec<usize>, FeatureStoreError> {
    store.compare_and_set(&store.life().await?, writes).await
}

async fn values(store: &dyn OnlineStore, keys: &[RowKey]) -> Vec<Option<String>> {
    let rows = store.get(keys).await.unwrap();
    rows.into_iter()
        .map(|row| row.map(|row| String::from_utf8(row.to_vec()).unwrap()))
        .collect()
}

async fn a_row_is_replaced_only_if_it_is_as_expected(store: &dyn OnlineStore) {
    let (a, b) = (key(1, "a"), key(1, "b"));
    let lost = set(store, vec![write(&a, None, "a1"), write(&b, Some("never"), "b1")])
        .await
        .unwrap();
    assert_eq!(lost, [1]);
    let lost = set(store, vec![write(&a, None, "a2"), write(&b, None, "b2")])
        .await
        .unwrap();
    assert_eq!(lost, [0]);
    let lost = set(store, vec![write(&a, Some("a1"), "a3"), write(&b, Some("b1"), "b3")])
        .await
        .unwrap();
    assert_eq!(lost, [1]);
    let found = values(store, &[b, key(1, "absent"), a.clone(), a]).await;
    assert_eq!(
        found,
        [
            Some("b2".to_owned()),
            None,
            Some("a3".to_owned()),
            Some("a3".to_owned())
        ]
    );
}

async fn an_empty_batch_is_no_work(store: &dyn OnlineStore) {
    assert!(store.get(&[]).await.unwrap().is_empty());
    assert!(set(store, Vec::new()).await.unwrap().is_empty());
}

async fn an_empty_value_is_a_row(store: &dyn OnlineStore) {
    let row = key(2, "empty");
    assert!(set(store, vec![write(&row, None, "")]).await.unwrap().is_empty());
    assert_eq!(values(store, std::slice::from_ref(&row)).await, [Some(String::new())]);
    assert_eq!(set(store, vec![write(&row, None, "x")]).await.unwrap(), [0]);
    assert!(set(store, vec![write(&row, Some(""), "x")]).await.unwrap().is_empty());
}

async fn batches_larger_than_one_command_are_whole(store: &dyn OnlineStore) {
    let keys: Vec<RowKey> = (0..1_500)
        .map(|number| key(3, &format!("entity {number} {{%}}")))
        .collect();
    let first = keys.iter().map(|key| write(key, None, "1")).collect();
    assert!(set(store, first).await.unwrap().is_empty());
    // Every third expects the wrong value and loses.
    let expected = |index: usize| if index.is_multiple_of(3) { "0" } else { "1" };
    let second = keys
        .iter()
        .enumerate()
        .map(|(index, key)| write(key, Some(expected(index)), "2"))
        .collect();
    let lost = set(store, second).await.unwrap();
    assert_eq!(lost, (0..1_500).step_by(3).collect::<Vec<_>>());
    let found = values(store, &keys).await;
    for (index, value) in found.into_iter().enumerate() {
        assert_eq!(value.unwrap(), if index.is_multiple_of(3) { "1" } else { "2" });
    }
}

async fn a_view_is_scanned_and_deleted_alone(store: &dyn OnlineStore) {
    let rows = |view_id: u32| ["x", "y{", "z%7B}"].map(|name| key(view_id, name));
    for view_id in [10, 11, u32::MAX] {
        let writes = rows(view_id)
            .iter()
            .map(|key| write(key, None, &view_id.to_string()))
            .collect();
        assert!(set(store, writes).await.unwrap().is_empty());
    }
    for view_id in [10, 11, u32::MAX] {
        let mut expected = rows(view_id).map(|key| (key.entity, Bytes::from(view_id.to_string())));
        expected.sort_by(|left, right| left.0.cmp(&right.0));
        assert_eq!(store.scan(view_id).await.unwrap(), expected);
    }
    store.delete_view(11, Duration::ZERO).await.unwrap();
    assert!(store.scan(11).await.unwrap().is_empty());
    assert_eq!(store.scan(10).await.unwrap().len(), 3);
    assert_eq!(store.scan(u32::MAX).await.unwrap().len(), 3);
    assert!(store.scan(1_011).await.unwrap().is_empty());
}

/// Writers that add one to shared counters, each reading again when it lost: nothing is lost and nothing counts twice.
async fn concurrent_increments_are_all_kept(store: &Arc<dyn OnlineStore>) {
    const WRITERS: usize = 8;
    const ROUNDS: usize = 25;
    let keys: Vec<RowKey> = (0..5).map(|number| key(20, &format!("counter {number}"))).collect();
    let tasks = (0..WRITERS).map(|_| {
        let (store, keys) = (Arc::clone(store), keys.clone());
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let mut pending = keys.clone();
                while !pending.is_empty() {
                    let held = store.get(&pending).await.unwrap();
                    let next = |held: &Option<Bytes>| {
                        let count: u64 = held
                            .as_ref()
                            .map_or(0, |held| std::str::from_utf8(held).unwrap().parse().unwrap());
                        Bytes::from((count + 1).to_string())
                    };
                    let writes = pending.iter().zip(&held);
                    let writes = writes.map(|(key, held)| RowWrite {
                        key: key.clone(),
                        expected: held.clone(),
                        value: next(held),
                    });
                    let lost = set(store.as_ref(), writes.collect()).await.unwrap();
                    pending = lost.into_iter().map(|index| pending[index].clone()).collect();
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let counts = values(store.as_ref(), &keys).await;
    assert_eq!(counts, vec![Some((WRITERS * ROUNDS).to_string()); keys.len()]);
}

async fn suite(store: Arc<dyn OnlineStore>) {
    store.ping().await.unwrap();
    a_row_is_replaced_only_if_it_is_as_expected(store.as_ref()).await;
    an_empty_batch_is_no_work(store.as_ref()).await;
    an_empty_value_is_a_row(store.as_ref()).await;
    batches_larger_than_one_command_are_whole(store.as_ref()).await;
    a_view_is_scanned_and_deleted_alone(store.as_ref()).await;
    concurrent_increments_are_all_kept(&store).await;
    store.sync(&store.life().await.unwrap()).await.unwrap();
    for view_id in [1, 2, 3, 10, 20, u32::MAX] {
        store.delete_view(view_id, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_embedded_store_passes_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nested/online.redb").display().to_string();
    suite(online::open(&config(path)).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn redis_passes_the_suite() {
    suite(online::open(&config(services::redis())).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_redis_cluster_passes_the_suite_also_after_a_failover() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = folder.path().to_owned();
    let cluster = tokio::task::spawn_blocking(move || RedisCluster::start(&nodes, 3, &[]));
    let mut cluster = cluster.await.unwrap();
    let store = online::open(&config(cluster.url())).await.unwrap();
    suite(Arc::clone(&store)).await;
    let life = store.life().await.unwrap();
    let row = key(1, "before");
    assert!(
        set(store.as_ref(), vec![write(&row, None, "1")])
            .await
            .unwrap()
            .is_empty()
    );
    let marks = store.sync(&life).await.unwrap();
    assert_eq!(marks.len(), 3);
    tokio::time::sleep(Duration::from_millis(500)).await;

    let _cluster = tokio::task::spawn_blocking(move || {
        cluster.kill_primary(1);
        cluster
    })
    .await
    .unwrap();
    let mut present = store.life().await;
    for _ in 0..400 {
        if present.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        present = store.life().await;
    }
    assert_ne!(present.unwrap(), life);
    let shards: Vec<String> = marks.iter().map(|mark| mark.shard.clone()).collect();
    let held: Vec<Option<u64>> = marks.iter().map(|mark| Some(mark.value)).collect();
    assert_eq!(
        store.marks(&shards).await.unwrap(),
        held,
        "the replica had received everything"
    );
    let refused = store.sync(&life).await.unwrap_err().to_string();
    assert!(refused.contains("RESTARTED"), "{refused}");
    assert_eq!(
        values(store.as_ref(), std::slice::from_ref(&row)).await,
        [Some("1".to_owned())]
    );
    store.delete_view(1, Duration::ZERO).await.unwrap();
    settled(store.as_ref()).await;
    suite(store).await;
}

/// Returns once commands to every node are answered at once. A client finds a new primary by commands that fail, and a
/// write that it sends twice may find its own row there: then it loses, and who reads again sees that. Fences make that
/// harmless for rows; plain values have none.
async fn settled(store: &dyn OnlineStore) {
    const QUICK: Duration = Duration::from_millis(100);
    let keys: Vec<RowKey> = (0..512).map(|number| key(40, &format!("settled {number}"))).collect();
    let mut quick = 0;
    for _ in 0..1_000 {
        let begun = Instant::now();
        let read = store.get(&keys).await;
        let writes = keys.iter().map(|key| write(key, Some("never"), "1")).collect();
        let lost = set(store, writes).await;
        let is_quick = read.is_ok() && lost.is_ok() && begun.elapsed() < QUICK;
        quick = if is_quick { quick + 1 } else { 0 };
        if quick == 20 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the cluster does not settle");
}

#[tokio::test]
async fn a_sync_waits_for_as_many_replicas_as_it_is_told_to() {
    let server = redis_server::RedisServer::start(&[]);
    let waiting = OnlineConfig {
        wait_replicas: 1,
        timeout: Duration::from_millis(500),
        ..config(server.url())
    };
    let store = online::open(&waiting).await.unwrap();
    let refused = store.sync(&store.life().await.unwrap()).await.unwrap_err().to_string();
    assert!(refused.contains("0 of 1 replicas confirmed"), "{refused}");
    let follower = redis_server::RedisServer::start(&["--replicaof", &format!("127.0.0.1 {}", server.port)]);
    for _ in 0..400 {
        // The first replica ever attached begins a new history.
        if store.sync(&store.life().await.unwrap()).await.is_ok() {
            drop(follower);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the replica never confirmed");
}

#[tokio::test]
async fn a_server_that_restarts_begins_a_new_life() {
    let mut server = redis_server::RedisServer::start(&[]);
    let store = online::open(&config(server.url())).await.unwrap();
    let first = store.life().await.unwrap();
    assert_eq!(store.life().await.unwrap(), first);
    server.replace();
    let mut second = store.life().await;
    for _ in 0..100 {
        if second.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        second = store.life().await;
    }
    assert_ne!(second.unwrap(), first);
    let late = store
        .compare_and_set(&first, vec![write(&key(1, "a"), None, "1")])
        .await
        .unwrap_err();
    assert!(late.to_string().contains("RESTARTED"), "{late}");
    assert!(
        set(store.as_ref(), vec![write(&key(1, "a"), None, "1")])
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_writer_that_has_not_noticed_the_restart_is_refused_by_the_server() {
    let mut server = redis_server::RedisServer::start(&[]);
    let store = online::open(&config(server.url())).await.unwrap();
    let life = store.life().await.unwrap();
    server.replace();
    for _ in 0..100 {
        let error = store
            .compare_and_set(&life, vec![write(&key(1, "a"), None, "1")])
            .await
            .unwrap_err()
            .to_string();
        if error.contains("RESTARTED") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the server never answered");
}

#[tokio::test]
async fn what_was_synced_survives_a_kill_and_nothing_else_need() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("online.redb");
    let store = online::open(&config(path.display().to_string())).await.unwrap();
    let (kept, open) = (key(1, "kept"), key(1, "open"));
    set(store.as_ref(), vec![write(&kept, None, "1")]).await.unwrap();
    store.sync(&store.life().await.unwrap()).await.unwrap();
    set(
        store.as_ref(),
        vec![write(&kept, Some("1"), "2"), write(&open, None, "1")],
    )
    .await
    .unwrap();
    // The file as a killed process leaves it: no destructor has run.
    let killed = folder.path().join("killed.redb");
    std::fs::copy(&path, &killed).unwrap();
    let reopened = online::open(&config(killed.display().to_string())).await.unwrap();
    assert_eq!(
        values(reopened.as_ref(), &[kept.clone(), open.clone()]).await,
        [Some("1".to_owned()), None]
    );
    // It goes on from there.
    set(reopened.as_ref(), vec![write(&open, None, "3")]).await.unwrap();
    reopened.sync(&reopened.life().await.unwrap()).await.unwrap();
    assert_eq!(values(reopened.as_ref(), &[open]).await, [Some("3".to_owned())]);
}

#[tokio::test]
async fn a_second_process_is_told_that_the_file_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("online.redb").display().to_string();
    let _first = online::open(&config(path.clone())).await.unwrap();
    let error = online::open(&config(path)).await.err().unwrap().to_string();
    assert!(error.contains("another process"), "{error}");
}

#[tokio::test]
async fn a_redis_that_is_down_is_unavailable_and_names_no_password() {
    let store = online::open(&config("redis://user:secret@127.0.0.1:1/".to_owned()))
        .await
        .unwrap();
    let error = store.get(&[key(1, "a")]).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("unavailable: redis at 127.0.0.1:1/") && !text.contains("secret"),
        "{text}"
    );
}

#[tokio::test]
async fn a_damaged_row_is_an_error() {
    let config = config(services::redis());
    let store = online::open(&config).await.unwrap();
    let row = key(1, "damaged");
    set(store.as_ref(), vec![write(&row, None, "value")]).await.unwrap();
    let client = redis::Client::open(config.url.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let _: () = redis::cmd("APPEND")
        .arg(row.redis(&config.prefix))
        .arg("!")
        .query_async(&mut connection)
        .await
        .unwrap();
    let error = store.get(std::slice::from_ref(&row)).await.unwrap_err().to_string();
    assert!(error.contains("does not match its digest"), "{error}");
    store.delete_view(1, Duration::ZERO).await.unwrap();
}
