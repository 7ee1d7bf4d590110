//! Where a source stands over all workers: this worker's part, the others' reports, and what nobody reads.

use crate::progress::{Progress, seconds_since};
use crate::source::scan::{PartitionExtent, TopicDescription};
use crate::source::{Stream, StreamError};
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_ingest_api::wire::{PartitionStatus, SourceStatus};
use ondol_vocabulary::EventTime;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long each question to the stream or the store may hold a status up.
const PATIENCE: Duration = Duration::from_secs(3);

/// A partition that has not moved for so long is asked what its next record's time is.
const STILL: Duration = Duration::from_secs(2);

/// What `topic` is now, if the stream tells in time. Unknown ends are no reason to hide the rest.
pub async fn description(stream: &dyn Stream, topic: &str) -> Option<TopicDescription> {
    match tokio::time::timeout(PATIENCE, stream.describe(topic)).await {
        Ok(Ok(description)) => description,
        Ok(Err(error)) => {
            tracing::debug!(topic, %error, "a topic's ends are not known");
            None
        }
        Err(_) => None,
    }
}

/// This worker's part. Partitions that stand still have their next record's time looked up.
pub async fn own(
    stream: &dyn Stream,
    progress: &Progress,
    (source, topic, worker): (&str, &str, &str),
    extents: &[PartitionExtent],
    now: EventTime,
) -> SourceStatus {
    let waiting = progress.waiting(extents, STILL);
    for (partition, timestamp) in first_times(stream, topic, &waiting).await {
        if let Some(place) = waiting.iter().find(|place| place.partition == partition) {
            progress.learn(partition, place.next_offset, timestamp);
        }
    }
    progress.status(source, topic, worker, extents, now)
}

/// The timestamp of the first record at or past each place, where there is one.
async fn first_times(stream: &dyn Stream, topic: &str, places: &[PartitionPosition]) -> BTreeMap<i32, EventTime> {
    let mut times = BTreeMap::new();
    if places.is_empty() {
        return times;
    }
    let look = async {
        let mut scan = stream.scan(topic, places.to_vec()).await?;
        while times.len() < places.len() {
            let chunk = scan.next(Duration::from_millis(200)).await?;
            for record in &chunk.records {
                times.entry(record.position.partition).or_insert(record.timestamp);
            }
            if chunk.at_end {
                break;
            }
        }
        Ok::<(), StreamError>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, look).await {
        tracing::debug!(topic, %error, "the times of waiting records are not known");
    }
    times
}

/// Adds to this worker's part what `others` tell of theirs.
pub fn merge(mut status: SourceStatus, others: &[SourceStatus], extents: &[PartitionExtent]) -> SourceStatus {
    for other in others {
        status.events = status.events.saturating_add(other.events);
        status.dead_letters = status.dead_letters.saturating_add(other.dead_letters);
        status.late_events = status.late_events.saturating_add(other.late_events);
        status.skipped_events = status.skipped_events.saturating_add(other.skipped_events);
        status.watermark = status.watermark.max(other.watermark);
        if status.error.is_none() {
            status.error.clone_from(&other.error);
        }
        for partition in &other.partitions {
            if status
                .partitions
                .iter()
                .all(|known| known.partition != partition.partition)
            {
                status.partitions.push(current(partition, extents));
            }
        }
    }
    status
}

/// A partition as its worker reported it, with the topic's end as it is now.
fn current(reported: &PartitionStatus, extents: &[PartitionExtent]) -> PartitionStatus {
    let extent = extents.iter().find(|extent| extent.partition == reported.partition);
    let end = extent.map(|extent| extent.end).or(reported.end);
    let lag_events = end.map(|end| end.saturating_sub(reported.delivered).max(0));
    PartitionStatus {
        end,
        lag_events,
        lag_seconds: if lag_events == Some(0) {
            Some(0.0)
        } else {
            reported.lag_seconds
        },
        ..reported.clone()
    }
}

/// Adds the partitions that nobody reads, as the store's committed positions tell.
pub async fn unowned(
    status: &mut SourceStatus,
    stream: &dyn Stream,
    store: &dyn FeatureStore,
    description: &TopicDescription,
    now: EventTime,
) {
    let known = |extent: &&PartitionExtent| {
        let mut partitions = status.partitions.iter();
        partitions.all(|known| known.partition != extent.partition)
    };
    let missing: Vec<PartitionExtent> = description.partitions.iter().filter(known).copied().collect();
    if missing.is_empty() {
        return;
    }
    let resume = store.resume(&status.source, &description.generation);
    let held = match tokio::time::timeout(PATIENCE, resume).await {
        Ok(Ok(held)) => held,
        Ok(Err(_)) | Err(_) => return,
    };
    let place = |extent: &PartitionExtent| PartitionPosition {
        partition: extent.partition,
        next_offset: held
            .iter()
            .find(|held| held.partition == extent.partition)
            .map_or(0, |held| held.next_offset),
    };
    let behind = |extent: &&PartitionExtent| place(extent).next_offset < extent.end;
    let places: Vec<PartitionPosition> = missing.iter().filter(behind).map(place).collect();
    let times = first_times(stream, &status.topic, &places).await;
    for extent in &missing {
        let position = place(extent).next_offset;
        let lag_events = extent.end.saturating_sub(position).max(0);
        let waiting = times.get(&extent.partition);
        status.partitions.push(PartitionStatus {
            partition: extent.partition,
            delivered: position,
            durable: position,
            end: Some(extent.end),
            lag_events: Some(lag_events),
            lag_seconds: match lag_events {
                0 => Some(0.0),
                _ => waiting.map(|timestamp| seconds_since(*timestamp, now)),
            },
            ..PartitionStatus::default()
        });
    }
}

/// Orders the partitions and sums them up.
pub fn sum_up(status: &mut SourceStatus) {
    status.partitions.sort_by_key(|partition| partition.partition);
    let lags = || status.partitions.iter().filter_map(|partition| partition.lag_events);
    status.lag_events = lags().next().is_some().then(|| lags().sum());
    status.lag_seconds = status
        .partitions
        .iter()
        .filter_map(|partition| partition.lag_seconds)
        .reduce(f64::max);
    let sum = |of: fn(&PartitionStatus) -> f64| status.partitions.iter().map(of).sum();
    status.events_per_second_10s = sum(|partition| partition.events_per_second_10s);
    status.events_per_second_60s = sum(|partition| partition.events_per_second_60s);
    status.dead_letters_60s = status
        .partitions
        .iter()
        .map(|partition| partition.dead_letters_60s)
        .sum();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(partition: i32, delivered: i64, owner: &str) -> PartitionStatus {
        PartitionStatus {
            partition,
            delivered,
            lag_seconds: Some(delivered as f64),
            events_per_second_10s: 1.5,
            owner: Some(owner.to_owned()),
            ..PartitionStatus::default()
        }
    }

    #[test]
    fn a_workers_own_partitions_count_before_what_others_tell_of_them() {
        let status = |partitions, events| SourceStatus {
            partitions,
            events,
            ..SourceStatus::default()
        };
        let own = status(vec![part(1, 10, "me")], 5);
        let other = status(vec![part(1, 3, "it"), part(0, 4, "it")], 7);
        let extent = |partition, end| PartitionExtent {
            partition,
            begin: 0,
            end,
        };
        let mut merged = merge(own, &[other], &[extent(0, 9), extent(1, 10)]);
        sum_up(&mut merged);
        let seen: Vec<_> = merged
            .partitions
            .iter()
            .map(|place| {
                (
                    place.partition,
                    place.delivered,
                    place.lag_events,
                    place.owner.as_deref(),
                )
            })
            .collect();
        assert_eq!(seen, [(0, 4, Some(5), Some("it")), (1, 10, None, Some("me"))]);
        assert_eq!(
            (merged.events, merged.lag_events, merged.lag_seconds),
            (12, Some(5), Some(10.0))
        );
        assert_eq!(merged.events_per_second_10s, 3.0);
    }
}
