//! What only Kafka does: groups, rebalances, topics that come late.

use crate::setup::{Boxed, events, kafka, kafka_config, push, snapshot, topic, until};
use crate::store::FakeStore;
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_ingest::config::IngestConfig;
use ondol_ingest::source::kafka::KafkaStream;
use ondol_ingest::source::{ReaderEvent, Stream, StreamError};
use ondol_ingest_api::Ingest;
use ondol_vocabulary::Snapshot;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

async fn delivered(store: &FakeStore, count: usize) {
    until(&format!("{count} events are delivered"), async || {
        store.count() >= count
    })
    .await;
    assert_eq!(store.numbers(), (0..count as i64).collect::<Vec<_>>());
}

/// How many partitions the worker reads itself.
async fn partitions_of(ingest: &Boxed) -> usize {
    let status = ingest.service.status().await.unwrap();
    let partitions = status.iter().flat_map(|status| &status.partitions);
    partitions
        .filter(|partition| partition.owner.as_ref() == Some(&ingest.worker))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_start_reads_kafka_from_the_beginning_and_committed_offsets_follow() {
    let (topic, config) = (topic(), kafka_config());
    let stream: Arc<dyn Stream> = Arc::new(KafkaStream::new(&config).unwrap());
    stream.append(&topic, events(0, 5000)).await.unwrap();
    let store = FakeStore::new(snapshot(&topic));
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    delivered(&store, 5000).await;
    assert_eq!(store.repeats(), 0);
    ingest.stop().await;
    let ends = stream.ends(&topic).await.unwrap();
    let group = format!("{}.s", config.group);
    let committed = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &config.bootstrap)
            .set("group.id", &group)
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        for end in &ends {
            list.add_partition(&topic, end.partition);
        }
        let committed = consumer.committed_offsets(list, Duration::from_secs(30)).unwrap();
        ends.iter().all(|end| {
            committed.find_partition(&topic, end.partition).unwrap().offset() == Offset::Offset(end.next_offset)
        })
    });
    assert!(committed.await.unwrap(), "the group's offsets are the topic's ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn through_rebalances_nothing_is_lost_and_nothing_is_double() {
    let (topic, config) = (topic(), kafka_config());
    let open = || -> Arc<dyn Stream> { Arc::new(KafkaStream::new(&config).unwrap()) };
    let stream = open();
    let store = FakeStore::new(snapshot(&topic));
    stream.append(&topic, events(0, 1000)).await.unwrap();
    let first = Boxed::start(open(), &store);
    until("the first worker has every partition", async || {
        partitions_of(&first).await == 4
    })
    .await;
    let producing = {
        let (stream, topic) = (Arc::clone(&stream), topic.clone());
        tokio::spawn(async move {
            for round in 10..200 {
                stream
                    .append(&topic, events(round * 100, (round + 1) * 100))
                    .await
                    .unwrap();
            }
        })
    };
    let second = Boxed::start(open(), &store);
    until("the second worker has partitions", async || {
        partitions_of(&second).await > 0
    })
    .await;
    until("the first worker gave some up", async || {
        partitions_of(&first).await < 4
    })
    .await;
    first.stop().await;
    until("the second worker has every partition", async || {
        partitions_of(&second).await == 4
    })
    .await;
    let third = Boxed::start(open(), &store);
    until("the third worker has partitions", async || {
        partitions_of(&third).await > 0
    })
    .await;
    producing.await.unwrap();
    delivered(&store, 20_000).await;
    second.stop().await;
    third.stop().await;
    // The fake store refuses gaps and checks ranges: positions were contiguous. A clean hand-over repeats nothing.
    assert_eq!(store.repeats(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_topic_is_waited_for() {
    let topic = topic();
    let store = FakeStore::new(snapshot(&topic));
    let stream = kafka();
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    until("the status says so", async || {
        let status = ingest.service.status().await.unwrap();
        let error = status
            .first()
            .and_then(|status| status.error.clone())
            .unwrap_or_default();
        error.contains("does not exist")
    })
    .await;
    ingest
        .service
        .push("s", push(&[&crate::setup::event(0)]))
        .await
        .unwrap();
    delivered(&store, 1).await;
    assert_eq!(ingest.service.status().await.unwrap()[0].error, None);
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recreated_topic_stops_the_source_with_a_clear_error() {
    let topic = topic();
    let store = FakeStore::new(snapshot(&topic));
    let stream = kafka();
    stream.append(&topic, events(0, 100)).await.unwrap();
    for partition in 0..4 {
        store.forget_from(partition, 1_000_000);
    }
    let ingest = Boxed::start(stream, &store);
    until("the status says so", async || {
        let status = ingest.service.status().await.unwrap();
        let error = status
            .first()
            .and_then(|status| status.error.clone())
            .unwrap_or_default();
        error.contains("was recreated or lost data") && error.contains("1000000")
    })
    .await;
    assert_eq!(store.count(), 0);
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_away_kafka_is_paused_and_nothing_is_lost() {
    let topic = topic();
    let store = FakeStore::new(snapshot(&topic));
    let stream = kafka();
    stream.append(&topic, events(0, 100)).await.unwrap();
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    delivered(&store, 100).await;
    store.away.store(true, Ordering::SeqCst);
    for round in 1..300 {
        stream
            .append(&topic, events(round * 100, (round + 1) * 100))
            .await
            .unwrap();
    }
    until("the status says so", async || {
        ingest.service.status().await.unwrap()[0].error.is_some()
    })
    .await;
    store.away.store(false, Ordering::SeqCst);
    delivered(&store, 30_000).await;
    assert_eq!(store.repeats(), 0);
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_events_gets_them_again_from_kafka() {
    let topic = topic();
    let store = FakeStore::new(snapshot(&topic));
    let stream = kafka();
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    for round in 0..5 {
        stream
            .append(&topic, events(round * 500, (round + 1) * 500))
            .await
            .unwrap();
        until("something more is delivered", async || {
            store.count() > round as usize * 500
        })
        .await;
        store.crash();
    }
    stream.append(&topic, events(2500, 2600)).await.unwrap();
    delivered(&store, 2600).await;
    ingest.stop().await;
}

/// The next thing that is not trouble.
async fn heard(event: impl Future<Output = Result<ReaderEvent, StreamError>>) -> ReaderEvent {
    let event = tokio::time::timeout(Duration::from_secs(90), event).await;
    event.expect("something happens within 90 s").unwrap()
}

fn from_the_beginning(partitions: &[i32]) -> Vec<PartitionPosition> {
    let begin = |&partition: &i32| PartitionPosition {
        partition,
        next_offset: 0,
    };
    partitions.iter().map(begin).collect()
}

/// librdkafka remembers a pause beyond the assignment, so the reader must not forget it either.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn partitions_that_come_and_go_while_reading_is_paused_are_all_read_on() {
    let (topic, config) = (topic(), kafka_config());
    let open = || -> Arc<dyn Stream> { Arc::new(KafkaStream::new(&config).unwrap()) };
    open().append(&topic, events(0, 40_000)).await.unwrap();
    let mut first = open().reader(&topic, "r").await.unwrap();
    let ReaderEvent::Assigned { partitions, .. } = heard(first.notice()).await else {
        panic!("the first reader gets partitions");
    };
    assert_eq!(partitions.len(), 4);
    first.begin(from_the_beginning(&partitions)).await.unwrap();
    until("nobody takes records, so none are fetched", async || {
        first.fetching().is_stopped()
    })
    .await;
    let mut second = open().reader(&topic, "r").await.unwrap();
    let ReaderEvent::Revoking { partitions } = heard(first.notice()).await else {
        panic!("the first reader gives partitions up");
    };
    first.release(partitions, Vec::new()).await.unwrap();
    let ReaderEvent::Assigned { partitions, .. } = heard(second.notice()).await else {
        panic!("the second reader gets them");
    };
    second.begin(from_the_beginning(&partitions)).await.unwrap();
    second.close(Vec::new()).await;
    let ReaderEvent::Assigned { partitions, .. } = heard(first.notice()).await else {
        panic!("the first reader gets them back");
    };
    first.begin(from_the_beginning(&partitions)).await.unwrap();
    let mut seen = BTreeSet::new();
    while seen.len() < 40_000 {
        if let ReaderEvent::Records(run) = heard(first.next()).await {
            seen.extend(run.iter().map(|record| (run.partition, record.offset)));
        }
    }
    first.close(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn partitions_go_while_the_store_does_not_answer() {
    let (topic, config) = (topic(), kafka_config());
    let open = || -> Arc<dyn Stream> { Arc::new(KafkaStream::new(&config).unwrap()) };
    let mut limits = IngestConfig::default();
    // Small batches, so that few events leave no room for more.
    limits.limits.max_batch_rows = 100;
    limits.limits.drain_timeout_ms = 200;
    let stream = open();
    let store = FakeStore::new(snapshot(&topic));
    stream.append(&topic, events(0, 100)).await.unwrap();
    let first = Boxed::start_with(open(), &store, limits.clone());
    delivered(&store, 100).await;
    store.stuck.store(true, Ordering::SeqCst);
    stream.append(&topic, events(100, 40_000)).await.unwrap();
    until("the first worker fetches no more", async || {
        let status = first.service.status().await.unwrap();
        status.iter().any(|status| status.fetch.stopped)
    })
    .await;
    let second = Boxed::start_with(open(), &store, limits);
    until("the second worker has partitions", async || {
        partitions_of(&second).await > 0
    })
    .await;
    second.stop().await;
    until("the first worker has them back", async || {
        partitions_of(&first).await == 4
    })
    .await;
    store.stuck.store(false, Ordering::SeqCst);
    delivered(&store, 40_000).await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sources_may_read_one_topic() {
    let topic = topic();
    let mut both: Snapshot = snapshot(&topic);
    let mut second = both.sources[0].clone();
    second.definition.name = "s2".to_owned();
    both.sources.push(second);
    let store = FakeStore::new(both);
    let stream = kafka();
    stream.append(&topic, events(0, 300)).await.unwrap();
    let ingest = Boxed::start(stream, &store);
    until("both have read all of it", async || {
        let status = ingest.service.status().await.unwrap();
        status.len() == 2 && status.iter().all(|status| status.events == 300)
    })
    .await;
    ingest.stop().await;
}

#[test]
fn a_setting_that_ingest_relies_on_is_refused() {
    let mut config = ondol_ingest::config::KafkaConfig::default();
    config.properties.insert("enable.auto.commit".to_owned(), "true".into());
    let error = KafkaStream::new(&config).err().unwrap();
    assert_eq!(
        error,
        StreamError::Config(
            "kafka property `enable.auto.commit` can't be set: only what is durable is committed".to_owned()
        )
    );
}
