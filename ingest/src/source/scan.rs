//! Looking at a topic without reading it as a source: what it holds now, and its records from any place on, outside of
//! every consumer group. Dead letters, operators' orders and workers' reports are read this way.

use super::{Header, Stream, StreamError};
use async_trait::async_trait;
use bytes::Bytes;
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_vocabulary::{EventTime, SourcePosition};
use std::sync::Arc;
use std::time::Duration;

/// Most records, and about most bytes, that one [`Scan::next`] gives.
pub(super) const CHUNK_ROWS: usize = 2048;
pub(super) const CHUNK_BYTES: usize = 4 << 20;
/// How long a look at what is there waits for the stream altogether.
const LOOK: Duration = Duration::from_secs(15);
/// How long one step of it waits.
const STEP: Duration = Duration::from_millis(200);

/// What a topic is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Names this life of the topic.
    pub generation: Arc<str>,
    /// Its partitions, in order.
    pub partitions: Vec<PartitionExtent>,
}

/// What a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionExtent {
    /// The partition.
    pub partition: i32,
    /// First offset kept.
    pub begin: i64,
    /// First offset not yet written.
    pub end: i64,
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Where it stands.
    pub position: SourcePosition,
    /// When the stream, or its producer, says it was written.
    pub timestamp: EventTime,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its headers.
    pub headers: Vec<Header>,
    /// The message; none for a tombstone.
    pub value: Option<Bytes>,
}

/// What one step of a scan gave.
#[derive(Debug, Default)]
pub struct Chunk {
    /// In the order of each partition.
    pub records: Vec<StoredRecord>,
    /// Whether every partition has been read to its present end.
    pub at_end: bool,
}

/// Records from given places on. Dropping [`Scan::next`] loses what it was reading: drop the scan with it.
#[async_trait]
pub trait Scan: Send {
    /// What comes next: a bounded number of records; none when none came within `wait`.
    async fn next(&mut self, wait: Duration) -> Result<Chunk, StreamError>;
}

/// When the stream may forget records of a topic that belongs to ingest itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All but the newest of each key.
    NewestOfEachKey,
    /// Those older than this.
    For(Duration),
}

/// Every record of `topic` from `from` on that is there now, given to `visit` until it answers `false`.
///
/// # Errors
/// When the stream can't be read, or does not come to an end in time.
pub async fn visit(
    stream: &dyn Stream,
    topic: &str,
    from: Vec<PartitionPosition>,
    mut visit: impl FnMut(StoredRecord) -> bool + Send,
) -> Result<(), StreamError> {
    if from.is_empty() {
        return Ok(());
    }
    let mut scan = stream.scan(topic, from).await?;
    let mut silent_since = tokio::time::Instant::now();
    loop {
        let chunk = scan.next(STEP).await?;
        if !chunk.records.is_empty() {
            silent_since = tokio::time::Instant::now();
        }
        for record in chunk.records {
            if !visit(record) {
                return Ok(());
            }
        }
        if chunk.at_end {
            return Ok(());
        }
        if silent_since.elapsed() > LOOK {
            return Err(StreamError::Unavailable(format!(
                "topic `{topic}` gave nothing for {LOOK:?} and did not come to its end"
            )));
        }
    }
}

/// The last records of each partition, at most `limit` of them each, oldest first; empty when the topic does not exist.
///
/// # Errors
/// When the stream can't be read.
pub async fn tail(stream: &dyn Stream, topic: &str, limit: usize) -> Result<Vec<StoredRecord>, StreamError> {
    let Some(description) = stream.describe(topic).await? else {
        return Ok(Vec::new());
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let held = description.partitions.iter().filter(|extent| extent.begin < extent.end);
    let from = held.map(|extent| PartitionPosition {
        partition: extent.partition,
        next_offset: extent.end.saturating_sub(limit).max(extent.begin),
    });
    let mut records = Vec::new();
    visit(stream, topic, from.collect(), |record| {
        records.push(record);
        true
    })
    .await?;
    records.sort_by_key(|record| record.position);
    Ok(records)
}
