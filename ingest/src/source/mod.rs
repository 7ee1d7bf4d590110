//! A stream behind one trait: topics of partitions of records, read from any position, appended to durably.
//!
//! Two implementations pass one suite (`tests/stream`): [`embedded`], a thin log of our own, and [`kafka`]. What only
//! Kafka does (rebalances, lost assignments) reaches the caller as [`ReaderEvent`]s that the embedded log never sends.

pub mod embedded;
pub mod headers;
pub mod kafka;
mod record;
pub mod scan;

pub use headers::{Header, Headers};
pub use record::{NewRecord, Record, Records};

use async_trait::async_trait;
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_vocabulary::{EventTime, SourcePosition};
use scan::{Keep, Scan, TopicDescription};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A stream: where topics live.
#[async_trait]
pub trait Stream: Send + Sync + 'static {
    /// A reader of `topic`. `reader` names the reader among those of the process: readers of the same name in several
    /// processes share the partitions where the stream can (Kafka), and each name sees every record.
    async fn reader(&self, topic: &str, reader: &str) -> Result<Box<dyn Reader>, StreamError>;

    /// Appends records and returns once they are durable: the last position written in each partition that took some.
    /// A missing topic is created. After an error some of the records may have been written nevertheless.
    async fn append(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<SourcePosition>, StreamError>;

    /// What `topic` is now; none when it does not exist.
    async fn describe(&self, topic: &str) -> Result<Option<TopicDescription>, StreamError>;

    /// First offset of each partition whose record is not older than `time`; the partition's end where there is none.
    async fn offsets_at(&self, topic: &str, time: EventTime) -> Result<Vec<PartitionPosition>, StreamError>;

    /// Records of the listed partitions from these places on, outside of every group of readers.
    async fn scan(&self, topic: &str, from: Vec<PartitionPosition>) -> Result<Box<dyn Scan>, StreamError>;

    /// Creates a topic that belongs to ingest itself, if it is missing, to keep no more than `keep` says.
    async fn create_own(&self, topic: &str, keep: Keep) -> Result<(), StreamError>;

    /// Starts the names of topics that belong to ingest itself: workers of the same name share them.
    fn namespace(&self) -> &str;

    /// Whether other processes may read the same topics.
    fn is_shared(&self) -> bool;

    /// First offset not yet written, for each partition; empty when the topic does not exist.
    async fn ends(&self, topic: &str) -> Result<Vec<PartitionPosition>, StreamError> {
        let description = self.describe(topic).await?;
        let extents = description
            .map(|description| description.partitions)
            .unwrap_or_default();
        let end = |extent: &scan::PartitionExtent| PartitionPosition {
            partition: extent.partition,
            next_offset: extent.end,
        };
        Ok(extents.iter().map(end).collect())
    }
}

/// Reads one topic. Fetches no more than a bounded number of records ahead of [`Reader::next`]: a caller that must
/// wait just does not ask, and the stream holds its partitions meanwhile.
#[async_trait]
pub trait Reader: Send {
    /// What happens next. Cancel safe. An error is final: the topic can't be read on.
    async fn next(&mut self) -> Result<ReaderEvent, StreamError>;

    /// What happens next besides records: for a caller that has no room for them, and yet must hear when partitions go.
    /// Cancel safe.
    async fn notice(&mut self) -> Result<ReaderEvent, StreamError>;

    /// Starts the partitions of the last [`ReaderEvent::Assigned`], all of which `positions` lists. A partition's first
    /// range starts at the position listed, whatever the topic still holds.
    async fn begin(&mut self, positions: Vec<PartitionPosition>) -> Result<(), StreamError>;

    /// While held, no records come and none are fetched; everything else that happens is reported as ever.
    async fn hold(&mut self, held: bool) -> Result<(), StreamError>;

    /// What the reader has fetched and not given out; stays up to date.
    fn fetching(&self) -> Arc<Fetching>;

    /// Continues `partition` at `offset`; nothing read before comes after this.
    async fn seek(&mut self, partition: i32, offset: i64) -> Result<(), StreamError>;

    /// Answers [`ReaderEvent::Revoking`]: the caller is done with `partitions`, durably up to `durable`.
    async fn release(&mut self, partitions: Vec<i32>, durable: Vec<PartitionPosition>) -> Result<(), StreamError>;

    /// Tells the stream how far the reader is durably, for lag tools; nothing is resumed from it. Never waits.
    fn commit(&mut self, durable: &[PartitionPosition]);

    /// Leaves, committing `durable` first.
    async fn close(self: Box<Self>, durable: Vec<PartitionPosition>);
}

/// The state of a reader's fetching, for status and metrics.
#[derive(Debug, Default)]
pub struct Fetching {
    stopped: AtomicBool,
    queued_bytes: AtomicU64,
}

impl Fetching {
    /// Whether nothing is fetched: the reader is held, or nobody takes what is there.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Bytes fetched that wait to be read, as far as the stream tells.
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    fn set_stopped(&self, stopped: bool) {
        self.stopped.store(stopped, Ordering::Relaxed);
    }

    fn set_queued_bytes(&self, bytes: u64) {
        self.queued_bytes.store(bytes, Ordering::Relaxed);
    }
}

/// What a reader reports.
#[derive(Debug)]
pub enum ReaderEvent {
    /// Partitions were added. Answer with [`Reader::begin`].
    Assigned {
        /// The added ones, possibly none.
        partitions: Vec<i32>,
        /// Names this life of the topic.
        generation: Arc<str>,
    },
    /// Records of one partition.
    Records(Records),
    /// Partitions are about to go to another reader. Finish what was read of them, then [`Reader::release`].
    Revoking {
        /// Which ones.
        partitions: Vec<i32>,
    },
    /// Partitions are already another reader's. Drop what was read of them and commit nothing.
    Lost {
        /// Which ones.
        partitions: Vec<i32>,
    },
    /// Something keeps the reader from reading now; it goes on trying.
    Trouble {
        /// What, and the remedy.
        detail: String,
    },
}

/// What can go wrong with a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The name can't be a topic's.
    #[error("`{0}` can't name a topic: use 1 to 249 letters, digits, `.`, `_` and `-`")]
    TopicName(String),
    /// The stream's settings contradict themselves.
    #[error("{0}")]
    Config(String),
    /// The stored position lies beyond the topic: offsets of two lives of the topic can't be compared.
    #[error(
        "topic `{topic}` was recreated or lost data: partition {partition} continues at offset {position}, but the \
         topic ends at {end}; restore the topic, or define the source anew under another name"
    )]
    Recreated {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where reading should continue.
        position: i64,
        /// Where the partition ends.
        end: i64,
    },
    /// Stored bytes that were acknowledged are damaged.
    #[error("{path} is damaged at byte {byte}: restore the file from a copy, or move its topic away to start it anew")]
    Corrupt {
        /// The file.
        path: String,
        /// Where.
        byte: u64,
    },
    /// A record is larger than the stream takes.
    #[error("a record of {size_bytes} bytes is larger than the {limit_bytes} the stream takes")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
        /// The bound.
        limit_bytes: usize,
    },
    /// The bound on waiting appends was hit.
    #[error("{0}")]
    Overloaded(String),
    /// The stream can't answer now.
    #[error("{0}")]
    Unavailable(String),
}

/// Whether `topic` can name a topic (Kafka's rule; it also keeps the name one safe path component).
pub fn check_topic_name(topic: &str) -> Result<(), StreamError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=249).contains(&topic.len()) && topic.bytes().all(allowed) && topic != "." && topic != ".." {
        Ok(())
    } else {
        Err(StreamError::TopicName(topic.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_name_is_one_safe_path_component() {
        for bad in ["", ".", "..", "a/b", "a b", "\u{e9}", &"x".repeat(250)] {
            assert_eq!(check_topic_name(bad), Err(StreamError::TopicName(bad.to_owned())));
        }
        assert_eq!(check_topic_name("flights.v1_departures-x"), Ok(()));
    }
}
