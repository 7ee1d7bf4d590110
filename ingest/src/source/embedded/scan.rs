//! Looks at a topic of the embedded log: every partition in turn, waiting at the ends for the next commit.

use super::partition::{Cursor, Partition};
use super::topic::Topic;
use crate::source::scan::{CHUNK_BYTES, CHUNK_ROWS, Chunk, Scan, StoredRecord};
use crate::source::{Headers, StreamError};
use async_trait::async_trait;
use bytes::Bytes;
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_vocabulary::{EventTime, SourcePosition};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub(super) struct EmbeddedScan {
    topic: Arc<Topic>,
    committed: watch::Receiver<u64>,
    /// Taken while a read is under way.
    lanes: Vec<Lane>,
}

struct Lane {
    partition: i32,
    shared: Arc<Partition>,
    from: i64,
    /// Absent before the first read.
    cursor: Option<Cursor>,
}

impl EmbeddedScan {
    pub(super) fn new(topic: Arc<Topic>, from: Vec<PartitionPosition>) -> Self {
        let lane = |place: PartitionPosition| {
            let shared = topic.partitions.get(usize::try_from(place.partition).ok()?)?;
            Some(Lane {
                partition: place.partition,
                shared: Arc::clone(shared),
                from: place.next_offset,
                cursor: None,
            })
        };
        let lanes = from.into_iter().filter_map(lane).collect();
        let committed = topic.committed.clone();
        Self {
            topic,
            committed,
            lanes,
        }
    }
}

#[async_trait]
impl Scan for EmbeddedScan {
    async fn next(&mut self, wait: Duration) -> Result<Chunk, StreamError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            self.committed.borrow_and_update();
            let mut lanes = std::mem::take(&mut self.lanes);
            let work = move || read(&mut lanes).map(|chunk| (lanes, chunk));
            let read = tokio::task::spawn_blocking(work)
                .await
                .map_err(|error| StreamError::Unavailable(format!("reading was stopped: {error}")))?;
            let (lanes, chunk) = read?;
            self.lanes = lanes;
            if !chunk.records.is_empty() {
                return Ok(chunk);
            }
            match tokio::time::timeout_at(deadline, self.committed.changed()).await {
                Ok(Ok(())) => {}
                Err(_) => return Ok(chunk),
                Ok(Err(_)) => {
                    let name = &self.topic.name;
                    return Err(StreamError::Unavailable(format!(
                        "the log of topic `{name}` has stopped"
                    )));
                }
            }
        }
    }
}

fn read(lanes: &mut [Lane]) -> Result<Chunk, StreamError> {
    let mut chunk = Chunk::default();
    let mut size_bytes = 0;
    for lane in lanes.iter_mut() {
        let cursor = match &mut lane.cursor {
            Some(cursor) => cursor,
            empty => empty.insert(Cursor::seek(&lane.shared, lane.from)?),
        };
        let end = lane.shared.end();
        while cursor.offset() < end && chunk.records.len() < CHUNK_ROWS && size_bytes < CHUNK_BYTES {
            cursor.read(&lane.shared, end, &mut |offset, frame| {
                size_bytes += frame.value.map_or(0, <[u8]>::len);
                chunk.records.push(StoredRecord {
                    position: SourcePosition {
                        partition: lane.partition,
                        offset,
                    },
                    timestamp: frame.timestamp,
                    key: frame.key.map(Bytes::copy_from_slice),
                    headers: Headers::new(frame.headers).to_owned(),
                    value: frame.value.map(Bytes::copy_from_slice),
                });
            })?;
        }
    }
    let ended = |lane: &Lane| {
        lane.cursor
            .as_ref()
            .is_some_and(|cursor| cursor.offset() >= lane.shared.end())
    };
    chunk.at_end = lanes.iter().all(ended);
    Ok(chunk)
}

/// First offset of `partition` whose record is not older than `time`; the end when there is none. Reads the partition
/// from its start: there is no index.
pub(super) fn offset_at(partition: &Partition, time: EventTime) -> Result<i64, StreamError> {
    let end = partition.end();
    let mut cursor = Cursor::seek(partition, 0)?;
    let mut found = None;
    while found.is_none() && cursor.offset() < end {
        cursor.read(partition, end, &mut |offset, frame| {
            if found.is_none() && frame.timestamp >= time {
                found = Some(offset);
            }
        })?;
    }
    Ok(found.unwrap_or(end))
}
