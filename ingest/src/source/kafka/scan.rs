//! Looks at a Kafka topic with a consumer of its own that belongs to no group: partitions are assigned by hand, and
//! nothing is committed.

use super::{REQUEST, failed, partitions, watermarks};
use crate::source::scan::{CHUNK_BYTES, CHUNK_ROWS, Chunk, PartitionExtent, Scan, StoredRecord, TopicDescription};
use crate::source::{Header, StreamError};
use async_trait::async_trait;
use bytes::Bytes;
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_vocabulary::{EventTime, SourcePosition};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(super) struct KafkaScan(Arc<Mutex<State>>);

/// The end of a partition is what a scan looks for: the library would log each as an error.
struct ScanContext;

impl ClientContext for ScanContext {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            tracing::warn!(%error, reason, "librdkafka");
        }
    }
}

impl ConsumerContext for ScanContext {}

struct State {
    consumer: BaseConsumer<ScanContext>,
    /// Partitions that have not been read to their end.
    open: HashSet<i32>,
    partitions: HashSet<i32>,
}

impl KafkaScan {
    /// Blocks for a moment.
    pub(super) fn open(config: &ClientConfig, topic: &str, from: &[PartitionPosition]) -> Result<Self, StreamError> {
        let consumer: BaseConsumer<ScanContext> = config
            .create_with_context(ScanContext)
            .map_err(|error| failed(&error))?;
        let mut assignment = TopicPartitionList::new();
        for place in from {
            assignment
                .add_partition_offset(topic, place.partition, Offset::Offset(place.next_offset))
                .map_err(|error| failed(&error))?;
        }
        consumer.assign(&assignment).map_err(|error| failed(&error))?;
        let partitions: HashSet<i32> = from.iter().map(|place| place.partition).collect();
        Ok(Self(Arc::new(Mutex::new(State {
            consumer,
            open: partitions.clone(),
            partitions,
        }))))
    }
}

#[async_trait]
impl Scan for KafkaScan {
    async fn next(&mut self, wait: Duration) -> Result<Chunk, StreamError> {
        let state = Arc::clone(&self.0);
        // Nothing panics while the lock is held, and only one call at a time holds it.
        let work = move || state.lock().unwrap_or_else(PoisonError::into_inner).read(wait);
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| StreamError::Unavailable(format!("reading was stopped: {error}")))?
    }
}

impl State {
    fn read(&mut self, wait: Duration) -> Result<Chunk, StreamError> {
        let deadline = Instant::now() + wait;
        let mut chunk = Chunk::default();
        let mut size_bytes = 0;
        while chunk.records.len() < CHUNK_ROWS && size_bytes < CHUNK_BYTES {
            let left = deadline.saturating_duration_since(Instant::now());
            // What is there already is taken without waiting for more.
            let wait = if chunk.records.is_empty() { left } else { Duration::ZERO };
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    let record = stored(&message);
                    drop(message);
                    size_bytes += record.value.as_ref().map_or(0, Bytes::len);
                    self.open.insert(record.position.partition);
                    chunk.records.push(record);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.open.remove(&partition);
                    if self.open.is_empty() {
                        break;
                    }
                }
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    return Err(StreamError::Unavailable(format!("Kafka: {code}")));
                }
                // Brokers come and go; the caller's patience bounds the wait.
                Some(Err(error)) => {
                    tracing::debug!(%error, "reading a topic goes on after an error");
                    if left.is_zero() {
                        break;
                    }
                }
            }
        }
        chunk.at_end = self.open.is_empty() || self.partitions.is_empty();
        Ok(chunk)
    }
}

fn stored(message: &BorrowedMessage<'_>) -> StoredRecord {
    let millis = message.timestamp().to_millis().unwrap_or_default();
    StoredRecord {
        position: SourcePosition {
            partition: message.partition(),
            offset: message.offset(),
        },
        timestamp: EventTime::from_micros(millis.saturating_mul(1000)),
        key: message.key().map(Bytes::copy_from_slice),
        headers: headers(message),
        value: message.payload().map(Bytes::copy_from_slice),
    }
}

fn headers(message: &BorrowedMessage<'_>) -> Vec<Header> {
    let header = |header: rdkafka::message::Header<'_, &[u8]>| Header {
        name: header.key.to_owned(),
        value: header.value.map(Bytes::copy_from_slice),
    };
    message
        .headers()
        .iter()
        .flat_map(|headers| headers.iter())
        .map(header)
        .collect()
}

/// What `topic` is now; none when it does not exist.
pub(super) fn describe(lookup: &BaseConsumer, topic: &str) -> Result<Option<TopicDescription>, StreamError> {
    let found = partitions(lookup, topic)?;
    if found.is_empty() {
        return Ok(None);
    }
    let extent = |partition: i32| {
        let (begin, end) = watermarks(lookup, topic, partition)?;
        Ok(PartitionExtent { partition, begin, end })
    };
    let partitions = found.into_iter().map(extent).collect::<Result<_, StreamError>>()?;
    Ok(Some(TopicDescription {
        generation: generation(lookup, topic)?,
        partitions,
    }))
}

/// Names this life of the topic, as far as Kafka tells.
pub(super) fn generation(lookup: &BaseConsumer, topic: &str) -> Result<Arc<str>, StreamError> {
    match lookup.client().fetch_cluster_id(REQUEST) {
        Some(cluster) => Ok(format!("{cluster}/{topic}").into()),
        None => Err(StreamError::Unavailable(
            "Kafka does not tell its cluster id: trying again".to_owned(),
        )),
    }
}

/// First offset of each partition whose record is not older than `time`; the end where there is none.
pub(super) fn offsets_at(
    lookup: &BaseConsumer,
    topic: &str,
    time: EventTime,
) -> Result<Vec<PartitionPosition>, StreamError> {
    let Some(description) = describe(lookup, topic)? else {
        return Ok(Vec::new());
    };
    let mut asked = TopicPartitionList::new();
    // Kafka counts milliseconds: the first one that is not before `time`.
    let millis = time.micros().saturating_add(999).div_euclid(1000);
    for extent in &description.partitions {
        asked
            .add_partition_offset(topic, extent.partition, Offset::Offset(millis))
            .map_err(|error| failed(&error))?;
    }
    let found = lookup
        .offsets_for_times(asked, REQUEST)
        .map_err(|error| failed(&error))?;
    let place = |extent: &PartitionExtent| {
        let offset = match found
            .find_partition(topic, extent.partition)
            .map(|found| found.offset())
        {
            Some(Offset::Offset(offset)) => offset,
            _ => extent.end,
        };
        PartitionPosition {
            partition: extent.partition,
            next_offset: offset,
        }
    };
    Ok(description.partitions.iter().map(place).collect())
}
