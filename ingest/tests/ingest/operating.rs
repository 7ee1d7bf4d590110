//! What operators see and ask: status, pauses, skips, starts, and a store that does not answer.

use crate::setup::{Boxed, NOON_US, event, events, kafka_config, keyed, snapshot, topic, until};
use crate::store::FakeStore;
use ondol_ingest::config::{IngestConfig, Limits, StartAt};
use ondol_ingest::source::Stream;
use ondol_ingest::source::kafka::KafkaStream;
use ondol_ingest_api::wire::{
    DeadLetterSummary, PartitionStatus, PauseRequest, SeekReceipt, SeekRequest, SeekTarget, SourceStatus,
};
use ondol_ingest_api::{Ingest, IngestError};
use ondol_vocabulary::{EventTime, PartitionRange};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Opens the same stream again, as another process would.
type Open<'t> = &'t (dyn Fn() -> Arc<dyn Stream> + Sync);

async fn status(ingest: &Boxed) -> SourceStatus {
    ingest.service.status().await.unwrap().remove(0)
}

async fn summary(ingest: &Boxed) -> DeadLetterSummary {
    ingest.service.dead_letter_summary("s").await.unwrap()
}

async fn seek(ingest: &Boxed, to: SeekTarget) -> Result<SeekReceipt, IngestError> {
    let request = SeekRequest {
        to,
        reason: Some("as told".to_owned()),
        dry_run: false,
    };
    ingest.service.seek("s", request).await
}

async fn has(store: &FakeStore, numbers: Vec<i64>) {
    until(&format!("{} events are delivered", numbers.len()), async || {
        store.count() >= numbers.len()
    })
    .await;
    assert_eq!(store.numbers(), numbers);
}

/// Events of one key, which share a partition: offset and number are the same.
fn in_one_partition(from: i64, to: i64) -> Vec<ondol_ingest::source::NewRecord> {
    (from..to).map(|n| keyed("k", event(n))).collect()
}

/// The partition that holds them.
async fn the_partition(ingest: &Boxed) -> PartitionStatus {
    let status = status(ingest).await;
    let full = status.partitions.into_iter().find(|partition| partition.end > Some(0));
    full.expect("one partition holds events")
}

async fn pause(ingest: &Boxed) {
    let reason = Some("a move".to_owned());
    ingest.service.pause("s", PauseRequest { reason }).await.unwrap();
}

async fn a_pause_lasts_through_a_restart_until_it_is_ended(open: Open<'_>) {
    let topic = topic();
    let store = FakeStore::new(snapshot(&topic));
    let stream = open();
    stream.append(&topic, events(0, 500)).await.unwrap();
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    has(&store, (0..500).collect()).await;
    pause(&ingest).await;
    until("everything taken in is durable and nothing is fetched", async || {
        let status = status(&ingest).await;
        let durable = |partition: &PartitionStatus| partition.durable == partition.delivered;
        status.paused.is_some() && status.fetch.stopped && status.partitions.iter().all(durable)
    })
    .await;
    stream.append(&topic, events(500, 900)).await.unwrap();
    ingest.stop().await;
    drop(stream);

    let stream = open();
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    until(
        "the restarted worker has every partition and says that it is paused",
        async || {
            let status = ingest.service.status().await.unwrap();
            let owned = |status: &SourceStatus| {
                let mut partitions = status.partitions.iter();
                status.partitions.len() == 4 && partitions.all(|partition| partition.owner.is_some())
            };
            status
                .first()
                .is_some_and(|status| status.paused.is_some() && owned(status))
        },
    )
    .await;
    ingest.clock.set(NOON_US + 90_000_000);
    until("the lag says how long the first event has waited", async || {
        let status = status(&ingest).await;
        status.lag_events == Some(400) && status.lag_seconds == Some(90.0)
    })
    .await;
    let paused = status(&ingest).await.paused.unwrap();
    assert_eq!(paused.reason.as_deref(), Some("a move"));
    assert_eq!(store.count(), 500, "nothing is delivered while it is paused");
    ingest.service.resume("s").await.unwrap();
    has(&store, (0..900).collect()).await;
    until("nothing is behind", async || {
        let status = status(&ingest).await;
        status.paused.is_none() && status.lag_events == Some(0) && status.lag_seconds == Some(0.0)
    })
    .await;
    assert_eq!(store.repeats(), 0);
    ingest.stop().await;
}

async fn a_seek_to_the_end_skips_the_backlog_on_record(open: Open<'_>) {
    let topic = topic();
    let store = FakeStore::new(snapshot(&topic));
    let stream = open();
    stream.append(&topic, in_one_partition(0, 100)).await.unwrap();
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    has(&store, (0..100).collect()).await;
    pause(&ingest).await;
    until("it is paused", async || status(&ingest).await.fetch.stopped).await;
    stream.append(&topic, in_one_partition(100, 300)).await.unwrap();
    let dry = SeekRequest {
        to: SeekTarget::End,
        reason: None,
        dry_run: true,
    };
    let told = ingest.service.seek("s", dry).await.unwrap();
    assert_eq!(told.skipped.iter().map(|range| range.events()).sum::<i64>(), 200);
    let receipt = seek(&ingest, SeekTarget::End).await.unwrap();
    assert_eq!(receipt.skipped, told.skipped);
    ingest.service.resume("s").await.unwrap();
    stream.append(&topic, in_one_partition(300, 310)).await.unwrap();
    let kept: Vec<i64> = (0..100).chain(300..310).collect();
    has(&store, kept.clone()).await;
    let skipped = summary(&ingest).await.skipped;
    let partition = the_partition(&ingest).await.partition;
    let range = (partition, 100, 300, "as told");
    assert_eq!(skipped.len(), 1);
    let seen = &skipped[0];
    assert_eq!((seen.partition, seen.from, seen.to, seen.reason.as_str()), range);
    assert_eq!(status(&ingest).await.skipped_events, 200);

    // The store loses everything: the same events are delivered again, and the same are not.
    store.forget_from(partition, 0);
    stream.append(&topic, in_one_partition(310, 311)).await.unwrap();
    has(&store, kept.into_iter().chain([310]).collect()).await;
    assert_eq!(summary(&ingest).await.skipped, skipped);
    ingest.stop().await;
}

async fn one_poison_event_is_left_out(open: Open<'_>) {
    let topic = topic();
    let store = FakeStore::new(snapshot(&topic));
    let stream = open();
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    stream.append(&topic, in_one_partition(0, 10)).await.unwrap();
    has(&store, (0..10).collect()).await;
    pause(&ingest).await;
    until("it is paused", async || status(&ingest).await.fetch.stopped).await;
    stream.append(&topic, in_one_partition(10, 2000)).await.unwrap();
    let partition = the_partition(&ingest).await.partition;
    let range = |from, to| SeekTarget::Range {
        range: PartitionRange { partition, from, to },
    };
    seek(&ingest, range(1000, 1001)).await.unwrap();
    seek(&ingest, range(1500, 1502)).await.unwrap();
    ingest.service.resume("s").await.unwrap();
    let kept = (0..2000).filter(|n| ![1000, 1500, 1501].contains(n)).collect();
    has(&store, kept).await;
    assert_eq!(status(&ingest).await.skipped_events, 3);
    ingest.stop().await;
}

async fn events_that_the_store_never_takes_can_be_skipped(open: Open<'_>) {
    let topic = topic();
    let store = FakeStore::new(snapshot(&topic));
    let stream = open();
    let config = IngestConfig {
        limits: Limits {
            drain_timeout_ms: 300,
            ..Limits::default()
        },
        ..IngestConfig::default()
    };
    let ingest = Boxed::start_with(Arc::clone(&stream), &store, config);
    stream.append(&topic, in_one_partition(0, 10)).await.unwrap();
    has(&store, (0..10).collect()).await;
    store.refuse(Some(10));
    stream.append(&topic, in_one_partition(10, 20)).await.unwrap();
    until("the status says what holds it up", async || {
        status(&ingest).await.error.is_some()
    })
    .await;
    let partition = the_partition(&ingest).await.partition;
    let offset = SeekTarget::Offset { partition, offset: 11 };
    seek(&ingest, offset).await.unwrap();
    has(&store, (0..20).filter(|n| *n != 10).collect()).await;
    until("nothing holds it up", async || status(&ingest).await.error.is_none()).await;
    ingest.stop().await;
}

async fn going_back_is_refused(open: Open<'_>) {
    let topic = topic();
    let store = FakeStore::new(snapshot(&topic));
    let stream = open();
    stream.append(&topic, in_one_partition(0, 10)).await.unwrap();
    let ingest = Boxed::start(stream, &store);
    has(&store, (0..10).collect()).await;
    until("it is told", async || status(&ingest).await.lag_events == Some(0)).await;
    let error = seek(&ingest, SeekTarget::Beginning).await.unwrap_err();
    assert!(
        matches!(
            error,
            IngestError::SeekBackward {
                delivered: 10,
                to: 0,
                ..
            }
        ),
        "{error}"
    );
    let ahead = SeekTarget::Offset {
        partition: the_partition(&ingest).await.partition,
        offset: 11,
    };
    let error = seek(&ingest, ahead).await.unwrap_err();
    assert!(error.to_string().contains("ends at offset 10"), "{error}");
    assert_eq!(seek(&ingest, SeekTarget::End).await.unwrap().skipped, []);
    ingest.stop().await;
}

async fn a_source_may_start_at_the_end_or_at_a_moment(open: Open<'_>) {
    for (start, kept) in [
        (StartAt::End, 20..30),
        (StartAt::At(EventTime::from_micros(NOON_US + 10_000_000)), 10..30),
    ] {
        let topic = topic();
        let stream = open();
        for n in 0..20 {
            let mut record = keyed("k", event(n));
            record.timestamp = EventTime::from_micros(NOON_US + n * 1_000_000);
            stream.append(&topic, vec![record]).await.unwrap();
        }
        let mut definitions = snapshot(&topic);
        // Each has a name of its own, as orders outlive the worker.
        let name = format!("s{}", kept.start);
        definitions.sources[0].definition.name.clone_from(&name);
        definitions.views.clear();
        let store = FakeStore::new(definitions);
        let config = || IngestConfig {
            start: [(name.clone(), start.clone())].into(),
            ..IngestConfig::default()
        };
        let ingest = Boxed::start_with(Arc::clone(&stream), &store, config());
        until("it stands where it starts", async || {
            let status = ingest.service.status().await.unwrap();
            status
                .first()
                .is_some_and(|status| status.skipped_events == kept.start as u64)
        })
        .await;
        ingest.stop().await;
        let ingest = Boxed::start_with(Arc::clone(&stream), &store, config());
        stream.append(&topic, in_one_partition(20, 30)).await.unwrap();
        has(&store, kept.clone().collect()).await;
        let summary = ingest.service.dead_letter_summary(&name).await.unwrap();
        assert_eq!((summary.skipped[0].from, summary.skipped[0].to), (0, kept.start));
        assert!(summary.skipped[0].reason.starts_with("start = "));
        ingest.stop().await;
    }
}

async fn status_tells_throughput_watermark_and_who_reads(open: Open<'_>) {
    let topic = topic();
    let store = FakeStore::new(snapshot(&topic));
    let stream = open();
    stream.append(&topic, in_one_partition(0, 50)).await.unwrap();
    stream.append(&topic, vec![keyed("k", "bad")]).await.unwrap();
    let ingest = Boxed::start(stream, &store);
    has(&store, (0..50).collect()).await;
    until("the bad event is counted", async || {
        status(&ingest).await.dead_letters == 1
    })
    .await;
    let whole = status(&ingest).await;
    let partition = the_partition(&ingest).await;
    let watermark = Some(EventTime::parse("2013-01-01T05:17:00Z").unwrap());
    assert_eq!((whole.watermark, partition.watermark), (watermark, watermark));
    assert_eq!(
        (whole.events, whole.dead_letters_60s, partition.dead_letters),
        (50, 1, 1)
    );
    assert_eq!(partition.owner.as_ref(), Some(&ingest.worker));
    assert!(partition.events_per_second_60s > 0.0 && whole.events_per_second_60s > 0.0);
    ingest.stop().await;
}

/// About 30 MB of events, far more than all bounds together.
async fn a_store_that_does_not_answer_stops_the_fetching(open: Open<'_>) {
    let topic = topic();
    let store = FakeStore::new(snapshot(&topic));
    let stream = open();
    let filler = "x".repeat(10_000);
    for from in (0..3000).step_by(100) {
        let padded = |n: i64| {
            keyed(
                &n.to_string(),
                event(n).replace('{', &format!("{{\"filler\":\"{filler}\",")),
            )
        };
        stream
            .append(&topic, (from..from + 100).map(padded).collect())
            .await
            .unwrap();
    }
    store.stuck.store(true, Ordering::SeqCst);
    let limits = Limits {
        max_batch_bytes: 1 << 20,
        ..Limits::default()
    };
    let config = IngestConfig {
        limits,
        ..IngestConfig::default()
    };
    let ingest = Boxed::start_with(Arc::clone(&stream), &store, config);
    ingest.ready().await;
    let in_flight = async || status(&ingest).await.fetch.in_flight_bytes;
    // The first batches may be small, as they are closed by time; what is pending behind them fills up.
    until("the intake is full", async || in_flight().await > 1 << 20).await;
    if stream.is_shared() {
        until("the partitions are paused", async || {
            status(&ingest).await.fetch.stopped
        })
        .await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let held = status(&ingest).await;
    // Four batches, each closed by the run that fills it; a run has at most 512 KiB and one record more.
    let bound = 4 * ((1 << 20) + (512 << 10) + 20_000);
    assert!(held.fetch.in_flight_bytes <= bound, "{:?}", held.fetch);
    assert!(held.fetch.queued_bytes <= 40 << 20, "{:?}", held.fetch);
    assert_eq!(store.count(), 0);
    assert!(held.lag_events == Some(3000) && held.lag_seconds.is_some(), "{held:?}");
    store.stuck.store(false, Ordering::SeqCst);
    has(&store, (0..3000).collect()).await;
    assert_eq!(store.repeats(), 0);
    until("nothing is in flight", async || in_flight().await == 0).await;
    ingest.stop().await;
}

on_both_streams!(
    a_pause_lasts_through_a_restart_until_it_is_ended,
    a_seek_to_the_end_skips_the_backlog_on_record,
    one_poison_event_is_left_out,
    events_that_the_store_never_takes_can_be_skipped,
    going_back_is_refused,
    a_source_may_start_at_the_end_or_at_a_moment,
    status_tells_throughput_watermark_and_who_reads,
    a_store_that_does_not_answer_stops_the_fetching,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_worker_answers_for_all_and_a_pause_reaches_all() {
    let (topic, config) = (topic(), kafka_config());
    let open = || -> Arc<dyn Stream> { Arc::new(KafkaStream::new(&config).unwrap()) };
    let stream = open();
    let store = FakeStore::new(snapshot(&topic));
    stream.append(&topic, events(0, 1000)).await.unwrap();
    let (first, second) = (Boxed::start(open(), &store), Boxed::start(open(), &store));
    has(&store, (0..1000).collect()).await;
    let owners = async |ingest: &Boxed| {
        let status = status(ingest).await;
        let owners: Vec<_> = status
            .partitions
            .iter()
            .filter_map(|partition| partition.owner.clone())
            .collect();
        owners
    };
    until("both workers tell of all four partitions, shared by both", async || {
        let (one, other) = (owners(&first).await, owners(&second).await);
        let mine = one.iter().filter(|owner| **owner == first.worker).count();
        one.len() == 4 && one == other && mine > 0 && mine < 4
    })
    .await;
    until("both tell the same totals", async || {
        let (one, other) = (status(&first).await, status(&second).await);
        one.events == 1000 && other.events == 1000 && one.watermark.is_some() && one.watermark == other.watermark
    })
    .await;
    pause(&first).await;
    until("both have stopped fetching", async || {
        status(&first).await.fetch.stopped && status(&second).await.fetch.stopped
    })
    .await;
    stream.append(&topic, events(1000, 1100)).await.unwrap();
    let both = SeekRequest {
        to: SeekTarget::End,
        reason: None,
        dry_run: false,
    };
    let skipped = second.service.seek("s", both).await.unwrap().skipped;
    assert_eq!(skipped.iter().map(|range| range.events()).sum::<i64>(), 100);
    second.service.resume("s").await.unwrap();
    stream.append(&topic, events(1100, 1200)).await.unwrap();
    has(&store, (0..1000).chain(1100..1200).collect()).await;
    first.stop().await;
    second.stop().await;
    let late = Boxed::start(open(), &store);
    late.ready().await;
    pause(&late).await;
    until(
        "every partition is told of at once, read by somebody or by nobody",
        async || status(&late).await.partitions.len() == 4,
    )
    .await;
    late.stop().await;
}
