//! The service end to end, on the embedded stream, with a feature store that misbehaves.

use crate::setup::{Boxed, NOON_US, embedded, event, events, push, snapshot, until};
use crate::store::FakeStore;
use ondol_ingest::config::{IngestConfig, Limits};
use ondol_ingest_api::wire::PushRequest;
use ondol_ingest_api::{Ingest, IngestError};
use ondol_vocabulary::{Arrival, SourceOrigin};
use std::sync::Arc;
use std::sync::atomic::Ordering;

async fn delivered(store: &FakeStore, count: usize) {
    until(&format!("{count} events are delivered"), async || {
        store.count() >= count
    })
    .await;
    assert_eq!(store.numbers(), (0..count as i64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_start_reads_from_the_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let stream = embedded(dir.path());
    stream.append("t", events(0, 5000)).await.unwrap();
    let store = FakeStore::new(snapshot("t"));
    let ingest = Boxed::start(stream, &store);
    delivered(&store, 5000).await;
    assert_eq!(store.repeats(), 0);
    assert!(
        store.rows().iter().all(|row| row.ingested_at == NOON_US),
        "accepted when the injected clock said"
    );
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_resumes_where_the_store_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let store = FakeStore::new(snapshot("t"));
    for round in 0..3 {
        let stream = embedded(dir.path());
        stream
            .append("t", events(round * 1000, (round + 1) * 1000))
            .await
            .unwrap();
        let ingest = Boxed::start(stream, &store);
        delivered(&store, (round as usize + 1) * 1000).await;
        ingest.stop().await;
    }
    assert_eq!(
        store.repeats(),
        0,
        "the shutdown flushed, so nothing is delivered again"
    );
    assert_eq!(
        store
            .generations()
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushed_events_arrive_and_the_receipt_says_when_to_look() {
    let dir = tempfile::tempdir().unwrap();
    let store = FakeStore::new(snapshot("t"));
    let ingest = Boxed::start(embedded(dir.path()), &store);
    until("the service is ready", async || ingest.health.is_ready()).await;
    let receipt = ingest.service.push("s", push(&[&event(0), &event(1)])).await.unwrap();
    let position = receipt.positions[0];
    until("delivered passes the receipt", async || {
        let status = ingest.service.status().await.unwrap();
        let partition = status[0]
            .partitions
            .iter()
            .find(|place| place.partition == position.partition);
        partition.is_some_and(|place| place.delivered > position.offset && place.durable > position.offset)
    })
    .await;
    let status = ingest.service.status().await.unwrap().remove(0);
    assert_eq!(
        (status.source.as_str(), status.topic.as_str(), status.events),
        ("s", "t", 2)
    );
    assert_eq!(status.watermark.unwrap().to_string(), "2013-01-01T05:17:00Z");
    assert!(status.partitions.iter().all(|place| place.end == Some(place.delivered)));
    assert_eq!(store.numbers(), [0, 1]);
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_to_an_unknown_source_suggests_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let mut definitions = snapshot("t");
    definitions.sources[0].definition.name = "transactions".to_owned();
    definitions.views.clear();
    let store = FakeStore::new(definitions);
    let ingest = Boxed::start(embedded(dir.path()), &store);
    until("the service is ready", async || ingest.health.is_ready()).await;
    let error = ingest.service.push("transaction", push(&["{}"])).await.unwrap_err();
    let suggestion = Some("transactions".to_owned());
    assert_eq!(
        error,
        IngestError::UnknownSource {
            name: "transaction".to_owned(),
            suggestion
        }
    );
    let error = ingest
        .service
        .push("transactions", PushRequest::default())
        .await
        .unwrap_err();
    assert!(matches!(error, IngestError::InvalidRequest { .. }));
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_away_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let stream = embedded(dir.path());
    let store = FakeStore::new(snapshot("t"));
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    stream.append("t", events(0, 1000)).await.unwrap();
    delivered(&store, 1000).await;
    store.away.store(true, Ordering::SeqCst);
    stream.append("t", events(1000, 9000)).await.unwrap();
    until("the status says so", async || {
        let status = ingest.service.status().await.unwrap();
        status[0].error.as_deref() == Some("the feature store is unavailable: away")
    })
    .await;
    store.away.store(false, Ordering::SeqCst);
    delivered(&store, 9000).await;
    until("the status is well again", async || {
        ingest.service.status().await.unwrap()[0].error.is_none()
    })
    .await;
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_what_was_not_durable_gets_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let stream = embedded(dir.path());
    let store = FakeStore::new(snapshot("t"));
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    for round in 0..10 {
        stream
            .append("t", events(round * 700, (round + 1) * 700))
            .await
            .unwrap();
        if round == 3 {
            store.failures.store(3, Ordering::SeqCst);
        }
        until("something more is delivered", async || {
            store.count() >= round as usize * 700 + 100
        })
        .await;
        store.crash();
    }
    stream.append("t", events(7000, 7100)).await.unwrap();
    delivered(&store, 7100).await;
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_one_partition_seeks_it_back_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let stream = embedded(dir.path());
    let store = FakeStore::new(snapshot("t"));
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    stream.append("t", events(0, 2000)).await.unwrap();
    delivered(&store, 2000).await;
    store.forget_from(1, 5);
    stream.append("t", events(2000, 2400)).await.unwrap();
    delivered(&store, 2400).await;
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_source_version_takes_over_at_a_batch_boundary() {
    let dir = tempfile::tempdir().unwrap();
    let stream = embedded(dir.path());
    let store = FakeStore::new(snapshot("t"));
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    stream.append("t", events(0, 100)).await.unwrap();
    delivered(&store, 100).await;
    let mut second = snapshot("t");
    second.version = 2;
    second.sources[0].version = 2;
    second.sources[0].definition.arrival = Arrival::EventTime { delay_us: 7 };
    store.publish(second);
    let mut next = 100;
    until("the new version is in force", async || {
        stream.append("t", events(next, next + 10)).await.unwrap();
        next += 10;
        store.versions() == [1, 2]
    })
    .await;
    delivered(&store, next as usize).await;
    let known = |row: &crate::store::Row| row.ingested_at == NOON_US || row.ingested_at == row.ts + 7;
    assert!(store.rows().iter().all(known));
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_moves_to_another_topic_leaves_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let stream = embedded(dir.path());
    let store = FakeStore::new(snapshot("a"));
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    until("it reads the first topic", async || {
        ingest
            .service
            .status()
            .await
            .unwrap()
            .first()
            .is_some_and(|status| !status.partitions.is_empty())
    })
    .await;
    let mut moved = snapshot("b");
    moved.version = 2;
    store.publish(moved);
    until("it reads the second topic", async || {
        let status = ingest.service.status().await.unwrap();
        status
            .first()
            .is_some_and(|status| status.topic == "b" && !status.partitions.is_empty())
    })
    .await;
    stream.append("a", events(100, 200)).await.unwrap();
    stream.append("b", events(0, 50)).await.unwrap();
    delivered(&store, 50).await;
    let mut gone = snapshot("b");
    gone.version = 3;
    gone.sources.clear();
    store.publish(gone);
    until("no source is left", async || {
        ingest.service.status().await.unwrap().is_empty()
    })
    .await;
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_not_read_by_ingest() {
    let dir = tempfile::tempdir().unwrap();
    let mut definitions = snapshot("t");
    definitions.sources[0].definition.origin = SourceOrigin::Table {
        location: "x".to_owned(),
        format: ondol_vocabulary::TableFormat::Parquet,
    };
    let store = FakeStore::new(definitions);
    let ingest = Boxed::start(embedded(dir.path()), &store);
    until("the service is ready", async || ingest.health.is_ready()).await;
    assert_eq!(ingest.service.status().await.unwrap(), []);
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_without_the_registry_takes_pushes_by_the_kept_definitions() {
    let dir = tempfile::tempdir().unwrap();
    let config = || IngestConfig {
        snapshot_file: Some(dir.path().join("definitions.json")),
        ..IngestConfig::default()
    };
    let store = FakeStore::new(snapshot("t"));
    let ingest = Boxed::start_with(embedded(dir.path()), &store, config());
    until("the service is ready", async || ingest.health.is_ready()).await;
    ingest.stop().await;
    store.away.store(true, Ordering::SeqCst);
    let ingest = Boxed::start_with(embedded(dir.path()), &store, config());
    until("the service is ready", async || ingest.health.is_ready()).await;
    ingest.service.push("s", push(&[&event(0)])).await.unwrap();
    store.away.store(false, Ordering::SeqCst);
    delivered(&store, 1).await;
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_events_travel_in_few_deliveries() {
    let dir = tempfile::tempdir().unwrap();
    let stream = embedded(dir.path());
    stream.append("t", events(0, 20_000)).await.unwrap();
    let store = FakeStore::new(snapshot("t"));
    let config = IngestConfig {
        limits: Limits {
            max_batch_wait_ms: 1000,
            ..Limits::default()
        },
        ..Default::default()
    };
    let ingest = Boxed::start_with(stream, &store, config);
    delivered(&store, 20_000).await;
    assert!(
        store.deliveries() <= 40,
        "{} deliveries of 500 rows or more",
        store.deliveries()
    );
    ingest.stop().await;
}
