//! Reads one topic of the embedded log: every partition, from where it is told, following the end by notification.

use super::partition::{Cursor, Partition};
use super::topic::Topic;
use crate::source::{Fetching, Reader, ReaderEvent, Records, StreamError};
use async_trait::async_trait;
use ondol_feature_store_api::wire::PartitionPosition;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(super) struct EmbeddedReader {
    topic: Arc<Topic>,
    committed: watch::Receiver<u64>,
    state: State,
    lanes: Vec<Lane>,
    turn: usize,
    held: bool,
    fetching: Arc<Fetching>,
    /// The read under way, kept here so that a dropped `next` loses nothing.
    reading: Option<JoinHandle<Result<Read, StreamError>>>,
}

#[derive(PartialEq, Eq)]
enum State {
    New,
    Assigned,
    Reading,
}

/// One partition being read.
struct Lane {
    position: i64,
    /// Absent before the first read and after a seek.
    cursor: Option<Cursor>,
    epoch: u64,
}

struct Read {
    index: usize,
    cursor: Cursor,
    records: Records,
}

impl EmbeddedReader {
    pub(super) fn new(topic: Arc<Topic>) -> Self {
        let committed = topic.committed.clone();
        Self {
            topic,
            committed,
            state: State::New,
            lanes: Vec::new(),
            turn: 0,
            held: false,
            fetching: Arc::default(),
            reading: None,
        }
    }

    /// Starts a read of the next partition, in turn, that has something.
    fn start(&mut self) -> bool {
        let count = self.lanes.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            let (Some(lane), Some(partition)) = (self.lanes.get_mut(index), self.topic.partitions.get(index)) else {
                continue;
            };
            if lane.position < partition.end() {
                self.turn = index + 1;
                let partition = Arc::clone(partition);
                let (cursor, from, epoch) = (lane.cursor.take(), lane.position, lane.epoch);
                let read = move || read(&partition, cursor, index, from, epoch);
                self.reading = Some(tokio::task::spawn_blocking(read));
                return true;
            }
        }
        false
    }

    /// Takes the finished read, unless a seek has made it void.
    fn finish(&mut self, read: Read) -> Option<Records> {
        let lane = self.lanes.get_mut(read.index)?;
        if lane.epoch != read.records.epoch {
            return None;
        }
        lane.position = read.records.to;
        lane.cursor = Some(read.cursor);
        (!read.records.is_empty()).then_some(read.records)
    }
}

fn read(
    partition: &Partition,
    cursor: Option<Cursor>,
    index: usize,
    from: i64,
    epoch: u64,
) -> Result<Read, StreamError> {
    let mut cursor = match cursor {
        Some(cursor) => cursor,
        None => Cursor::seek(partition, from)?,
    };
    let mut records = Records::of_epoch(index as i32, from, epoch);
    cursor.read(partition, i64::MAX, &mut |offset, frame| {
        let headers = frame.headers;
        records.push_with(offset, frame.timestamp, frame.key, frame.value, |sink| {
            sink.add_encoded(headers);
        });
    })?;
    Ok(Read { index, cursor, records })
}

#[async_trait]
impl Reader for EmbeddedReader {
    async fn next(&mut self) -> Result<ReaderEvent, StreamError> {
        if self.state == State::New {
            self.state = State::Assigned;
            let partitions = (0..self.topic.partitions.len() as i32).collect();
            return Ok(ReaderEvent::Assigned {
                partitions,
                generation: Arc::clone(&self.topic.generation),
            });
        }
        if self.held {
            // There is nothing else to report. A read under way is finished when the hold ends.
            return std::future::pending().await;
        }
        loop {
            if let Some(reading) = &mut self.reading {
                let read = reading.await;
                self.reading = None;
                let read =
                    read.map_err(|error| StreamError::Unavailable(format!("reading was stopped: {error}")))??;
                if let Some(records) = self.finish(read) {
                    return Ok(ReaderEvent::Records(records));
                }
                continue;
            }
            self.committed.borrow_and_update();
            if !self.start() && self.committed.changed().await.is_err() {
                return Err(StreamError::Unavailable(format!(
                    "the log of topic `{}` has stopped",
                    self.topic.name
                )));
            }
        }
    }

    /// Partitions never go, and are assigned before there is anything to have no room for.
    async fn notice(&mut self) -> Result<ReaderEvent, StreamError> {
        std::future::pending().await
    }

    async fn begin(&mut self, positions: Vec<PartitionPosition>) -> Result<(), StreamError> {
        let place = |partition: i32| positions.iter().find(|place| place.partition == partition);
        self.lanes.clear();
        for (index, partition) in self.topic.partitions.iter().enumerate() {
            let position = place(index as i32).map_or(0, |place| place.next_offset);
            check_within(&self.topic.name, index as i32, position, partition)?;
            self.lanes.push(Lane {
                position,
                cursor: None,
                epoch: 0,
            });
        }
        self.state = State::Reading;
        Ok(())
    }

    async fn hold(&mut self, held: bool) -> Result<(), StreamError> {
        self.held = held;
        self.fetching.set_stopped(held);
        Ok(())
    }

    fn fetching(&self) -> Arc<Fetching> {
        Arc::clone(&self.fetching)
    }

    async fn seek(&mut self, partition: i32, offset: i64) -> Result<(), StreamError> {
        let index = usize::try_from(partition).unwrap_or(usize::MAX);
        if let (Some(lane), Some(shared)) = (self.lanes.get_mut(index), self.topic.partitions.get(index)) {
            check_within(&self.topic.name, partition, offset, shared)?;
            *lane = Lane {
                position: offset,
                cursor: None,
                epoch: lane.epoch + 1,
            };
        }
        Ok(())
    }

    async fn release(&mut self, _partitions: Vec<i32>, _durable: Vec<PartitionPosition>) -> Result<(), StreamError> {
        Ok(())
    }

    fn commit(&mut self, _durable: &[PartitionPosition]) {}

    async fn close(self: Box<Self>, _durable: Vec<PartitionPosition>) {}
}

fn check_within(topic: &str, partition: i32, position: i64, shared: &Partition) -> Result<(), StreamError> {
    let end = shared.end();
    if (0..=end).contains(&position) {
        return Ok(());
    }
    Err(StreamError::Recreated {
        topic: topic.to_owned(),
        partition,
        position,
        end,
    })
}
