//! What every stream must do, run against each implementation.

use crate::setup::{NOON_US, keyed, record, topic};
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_ingest::source::scan::{tail, visit};
use ondol_ingest::source::{NewRecord, Reader, ReaderEvent, Stream, StreamError};
use ondol_vocabulary::EventTime;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

type Read = (i32, i64, Vec<u8>);

/// Reads until `count` records came, beginning assigned partitions at `positions`.
async fn read(
    reader: &mut Box<dyn Reader>,
    positions: &[PartitionPosition],
    count: usize,
) -> Result<Vec<Read>, StreamError> {
    let mut records = Vec::new();
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    while records.len() < count {
        let event = tokio::time::timeout(Duration::from_secs(60), reader.next())
            .await
            .expect("something happens")?;
        match event {
            ReaderEvent::Assigned { partitions, .. } => {
                let mine = positions
                    .iter()
                    .filter(|position| partitions.contains(&position.partition));
                reader.begin(mine.copied().collect()).await?;
            }
            ReaderEvent::Records(run) => {
                let expected = next.insert(run.partition, run.to);
                assert!(expected.is_none_or(|expected| expected == run.from), "runs touch");
                records.extend(
                    run.iter()
                        .map(|r| (run.partition, r.offset, r.value.unwrap_or_default().to_vec())),
                );
            }
            ReaderEvent::Trouble { .. } => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    Ok(records)
}

fn beginning(ends: &[PartitionPosition]) -> Vec<PartitionPosition> {
    ends.iter()
        .map(|end| PartitionPosition {
            partition: end.partition,
            next_offset: 0,
        })
        .collect()
}

fn numbers(from: usize, to: usize) -> Vec<ondol_ingest::source::NewRecord> {
    (from..to).map(|n| keyed(&n.to_string(), n.to_string())).collect()
}

fn values(records: &[Read]) -> BTreeSet<usize> {
    records
        .iter()
        .map(|(_, _, value)| std::str::from_utf8(value).unwrap().parse().unwrap())
        .collect()
}

pub(crate) async fn what_was_appended_is_read_once_and_in_order(stream: &dyn Stream) {
    let topic = topic();
    for from in (0..3000).step_by(1000) {
        stream.append(&topic, numbers(from, from + 1000)).await.unwrap();
    }
    let ends = stream.ends(&topic).await.unwrap();
    assert_eq!(ends.iter().map(|end| end.next_offset).sum::<i64>(), 3000);
    assert!(
        ends.len() > 1 && ends.iter().all(|end| end.next_offset > 0),
        "keys spread over partitions: {ends:?}"
    );
    let mut reader = stream.reader(&topic, "a").await.unwrap();
    let records = read(&mut reader, &beginning(&ends), 3000).await.unwrap();
    assert_eq!(values(&records), (0..3000).collect());
    let mut last: BTreeMap<i32, (i64, usize)> = BTreeMap::new();
    for (partition, offset, value) in &records {
        let value = std::str::from_utf8(value).unwrap().parse().unwrap();
        let before = last.insert(*partition, (*offset, value));
        assert!(
            before.is_none_or(|(at, number)| at + 1 == *offset && number < value),
            "a partition keeps its order"
        );
    }
    reader.close(Vec::new()).await;
}

pub(crate) async fn a_reader_starts_where_it_is_told(stream: &dyn Stream) {
    let topic = topic();
    stream.append(&topic, numbers(0, 400)).await.unwrap();
    let ends = stream.ends(&topic).await.unwrap();
    let start: Vec<_> = ends
        .iter()
        .map(|end| PartitionPosition {
            next_offset: end.next_offset - 3,
            ..*end
        })
        .collect();
    let mut reader = stream.reader(&topic, "a").await.unwrap();
    let records = read(&mut reader, &start, 3 * ends.len()).await.unwrap();
    for end in &ends {
        let offsets: Vec<_> = records.iter().filter(|r| r.0 == end.partition).map(|r| r.1).collect();
        assert_eq!(offsets, (end.next_offset - 3..end.next_offset).collect::<Vec<_>>());
    }
    reader.close(Vec::new()).await;
}

pub(crate) async fn a_seek_goes_back_and_nothing_read_before_follows(stream: &dyn Stream) {
    let topic = topic();
    let one_partition = |from: usize, to: usize| (from..to).map(|n| keyed("k", n.to_string())).collect::<Vec<_>>();
    stream.append(&topic, one_partition(0, 1000)).await.unwrap();
    let ends = stream.ends(&topic).await.unwrap();
    let mut reader = stream.reader(&topic, "a").await.unwrap();
    let first = read(&mut reader, &beginning(&ends), 500).await.unwrap();
    let partition = first[0].0;
    for target in [10, 700, 0] {
        reader.seek(partition, target).await.unwrap();
        let records = read(&mut reader, &[], 1000 - target as usize).await.unwrap();
        let offsets: Vec<_> = records.iter().map(|r| r.1).collect();
        assert_eq!(offsets, (target..1000).collect::<Vec<_>>());
    }
    reader.close(Vec::new()).await;
}

pub(crate) async fn a_reader_at_the_end_is_told_of_new_records(stream: &dyn Stream) {
    let topic = topic();
    stream.append(&topic, numbers(0, 10)).await.unwrap();
    let ends = stream.ends(&topic).await.unwrap();
    let mut reader = stream.reader(&topic, "a").await.unwrap();
    read(&mut reader, &beginning(&ends), 10).await.unwrap();
    for round in 1..5 {
        stream
            .append(&topic, numbers(round * 10, round * 10 + 10))
            .await
            .unwrap();
        let records = read(&mut reader, &[], 10).await.unwrap();
        assert_eq!(values(&records), (round * 10..round * 10 + 10).collect());
    }
    reader.close(Vec::new()).await;
}

pub(crate) async fn records_of_one_key_share_a_partition_and_receipts_name_the_last_positions(stream: &dyn Stream) {
    let topic = topic();
    let first = stream
        .append(&topic, vec![keyed("k", "1"), keyed("k", "2")])
        .await
        .unwrap();
    let second = stream.append(&topic, vec![keyed("k", "3")]).await.unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].offset, second[0].offset), (1, 2));
    assert_eq!(first[0].partition, second[0].partition);
    let spread = stream
        .append(&topic, (0..10).map(|_| record("x")).collect())
        .await
        .unwrap();
    let ends = stream.ends(&topic).await.unwrap();
    for position in spread {
        let end = ends.iter().find(|end| end.partition == position.partition).unwrap();
        assert_eq!(position.offset + 1, end.next_offset);
    }
}

pub(crate) async fn the_tail_is_the_last_records_of_each_partition(stream: &dyn Stream) {
    let topic = topic();
    assert_eq!(tail(stream, &topic, 5).await.unwrap(), Vec::new());
    stream.append(&topic, numbers(0, 200)).await.unwrap();
    let ends = stream.ends(&topic).await.unwrap();
    let tail = tail(stream, &topic, 5).await.unwrap();
    for end in ends {
        let offsets: Vec<_> = tail
            .iter()
            .filter(|r| r.position.partition == end.partition)
            .map(|r| r.position.offset)
            .collect();
        assert_eq!(
            offsets,
            ((end.next_offset - 5).max(0)..end.next_offset).collect::<Vec<_>>()
        );
    }
}

pub(crate) async fn a_scan_reads_everything_from_its_places_and_goes_on_with_what_comes(stream: &dyn Stream) {
    let topic = topic();
    stream.append(&topic, numbers(0, 3000)).await.unwrap();
    let ends = stream.ends(&topic).await.unwrap();
    let mut records = Vec::new();
    visit(stream, &topic, beginning(&ends), |record| {
        records.push((
            record.position.partition,
            record.position.offset,
            record.value.unwrap().to_vec(),
        ));
        true
    })
    .await
    .unwrap();
    assert_eq!(values(&records), (0..3000).collect());
    let mut scan = stream.scan(&topic, ends).await.unwrap();
    stream.append(&topic, numbers(3000, 3010)).await.unwrap();
    let mut late = 0;
    while late < 10 {
        let chunk = scan.next(Duration::from_secs(5)).await.unwrap();
        late += chunk.records.len();
        assert!(chunk.records.iter().all(|record| record.key == record.value));
    }
}

pub(crate) async fn an_offset_is_found_by_its_time(stream: &dyn Stream) {
    let topic = topic();
    for second in 0..10 {
        let timestamp = EventTime::from_micros(NOON_US + second * 1_000_000);
        let record = NewRecord {
            timestamp,
            ..keyed("k", second.to_string())
        };
        stream.append(&topic, vec![record]).await.unwrap();
    }
    let full = stream
        .ends(&topic)
        .await
        .unwrap()
        .into_iter()
        .find(|end| end.next_offset == 10)
        .unwrap();
    for (micros, offset) in [(-1, 0), (0, 0), (3_500_000, 4), (9_000_000, 9), (9_000_001, 10)] {
        let found = stream
            .offsets_at(&topic, EventTime::from_micros(NOON_US + micros))
            .await
            .unwrap();
        let found = found.iter().find(|place| place.partition == full.partition).unwrap();
        assert_eq!(found.next_offset, offset, "{micros} µs after the first");
    }
}

pub(crate) async fn a_held_reader_gives_nothing_and_goes_on_where_it_was(stream: &dyn Stream) {
    let topic = topic();
    stream.append(&topic, numbers(0, 10)).await.unwrap();
    let ends = stream.ends(&topic).await.unwrap();
    let mut reader = stream.reader(&topic, "a").await.unwrap();
    let mut records = read(&mut reader, &beginning(&ends), 10).await.unwrap();
    reader.hold(true).await.unwrap();
    stream.append(&topic, numbers(10, 20)).await.unwrap();
    let held = tokio::time::timeout(Duration::from_secs(1), reader.next()).await;
    assert!(held.is_err(), "{held:?}");
    assert!(reader.fetching().is_stopped());
    reader.hold(false).await.unwrap();
    records.extend(read(&mut reader, &[], 10).await.unwrap());
    assert_eq!(values(&records), (0..20).collect());
    reader.close(Vec::new()).await;
}

pub(crate) async fn a_topic_that_does_not_exist_has_no_ends(stream: &dyn Stream) {
    assert_eq!(stream.ends(&topic()).await.unwrap(), Vec::new());
    assert!(matches!(stream.ends("../x").await, Err(StreamError::TopicName(_))));
}

pub(crate) async fn a_position_beyond_the_end_is_refused(stream: &dyn Stream) {
    let topic = topic();
    stream.append(&topic, numbers(0, 100)).await.unwrap();
    let mut beyond = stream.ends(&topic).await.unwrap();
    beyond[1].next_offset += 1;
    let mut reader = stream.reader(&topic, "a").await.unwrap();
    let error = read(&mut reader, &beyond, 100).await.unwrap_err();
    assert!(
        matches!(error, StreamError::Recreated { partition, .. } if partition == beyond[1].partition),
        "{error}"
    );
}

pub(crate) async fn large_records_pass(stream: &dyn Stream) {
    let topic = topic();
    let large = vec![b'7'; 900_000];
    stream
        .append(
            &topic,
            vec![keyed("k", "1"), keyed("k", large.clone()), keyed("k", "3")],
        )
        .await
        .unwrap();
    let ends = stream.ends(&topic).await.unwrap();
    let mut reader = stream.reader(&topic, "a").await.unwrap();
    let records = read(&mut reader, &beginning(&ends), 3).await.unwrap();
    assert!(records[1].2 == large);
    reader.close(Vec::new()).await;
}

macro_rules! suite {
    ($name:ident, $make:expr) => {
        mod $name {
            suite!(@each $make;
                what_was_appended_is_read_once_and_in_order,
                a_reader_starts_where_it_is_told,
                a_seek_goes_back_and_nothing_read_before_follows,
                a_reader_at_the_end_is_told_of_new_records,
                records_of_one_key_share_a_partition_and_receipts_name_the_last_positions,
                the_tail_is_the_last_records_of_each_partition,
                a_scan_reads_everything_from_its_places_and_goes_on_with_what_comes,
                an_offset_is_found_by_its_time,
                a_held_reader_gives_nothing_and_goes_on_where_it_was,
                a_topic_that_does_not_exist_has_no_ends,
                a_position_beyond_the_end_is_refused,
                large_records_pass,
            );
        }
    };
    (@each $make:expr; $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let dir = tempfile::tempdir().unwrap();
                let stream = ($make)(dir.path());
                super::$case(stream.as_ref()).await;
            }
        )*
    };
}

suite!(embedded, crate::setup::embedded);
suite!(kafka, |_: &std::path::Path| crate::setup::kafka());
