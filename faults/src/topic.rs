//! Topics read again from beginning to end, with a plain consumer that belongs to no group: what stands there is the
//! truth that the stores are held to.

use crate::event::{NUMBER, VERDICT};
use anyhow::{Context as _, Result, bail};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long one question to the brokers may take.
const REQUEST: Duration = Duration::from_secs(5);
/// How long reading a topic may go without a record.
const PATIENCE: Duration = Duration::from_secs(60);

/// A message as it stands in a topic.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: i64,
    pub(crate) payload: Option<Vec<u8>>,
    /// What its producer said must become of it; empty where another program wrote it.
    pub(crate) verdict: String,
    pub(crate) number: Option<u64>,
}

/// Waits until all brokers are there, then makes `topic` with `partitions` on three brokers.
pub(crate) async fn create(bootstrap: &str, topic: &str, partitions: i32) -> Result<()> {
    let client: AdminClient<DefaultClientContext> = config(bootstrap).create()?;
    let deadline = Instant::now() + Duration::from_secs(120);
    let new = [NewTopic::new(topic, partitions, TopicReplication::Fixed(3))];
    let options = AdminOptions::new().operation_timeout(Some(REQUEST));
    loop {
        let outcome = match client.create_topics(&new, &options).await {
            Ok(results) if results.iter().all(Result::is_ok) => return Ok(()),
            Ok(results) => format!("{results:?}"),
            Err(error) => error.to_string(),
        };
        if Instant::now() > deadline {
            bail!("topic `{topic}` can't be created: {outcome}");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// The number of the broker that leads `partition` of `topic`.
pub(crate) fn leader(bootstrap: &str, topic: &str, partition: i32) -> Result<i32> {
    let consumer: BaseConsumer = config(bootstrap).create()?;
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST)?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    let leader = partitions
        .filter(|candidate| candidate.id() == partition)
        .map(rdkafka::metadata::MetadataPartition::leader)
        .next();
    leader
        .filter(|leader| *leader > 0)
        .context("the partition has no leader now")
}

/// First offset not written, of each partition.
pub(crate) fn ends(bootstrap: &str, topic: &str) -> Result<BTreeMap<i32, i64>> {
    let consumer: BaseConsumer = config(bootstrap).create()?;
    ends_of(&consumer, topic)
}

/// Every record of `topic`, in the order of partitions and offsets; nothing if the topic does not exist.
pub(crate) fn read(bootstrap: &str, topic: &str) -> Result<Vec<Record>> {
    let consumer: BaseConsumer = config(bootstrap)
        .set("group.id", "ondol-faults-reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true")
        .create()?;
    let ends = ends_of(&consumer, topic)?;
    let mut list = TopicPartitionList::new();
    let mut open = BTreeSet::new();
    for (&partition, &end) in &ends {
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
        if end > 0 {
            open.insert(partition);
        }
    }
    consumer.assign(&list)?;
    let mut records = Vec::new();
    let mut deadline = Instant::now() + PATIENCE;
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(200)) {
            None if Instant::now() > deadline => bail!("topic `{topic}` can't be read to its end: {open:?} are open"),
            None => {}
            Some(Ok(message)) => {
                deadline = Instant::now() + PATIENCE;
                records.push(record(&message));
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
            // Brokers may still be electing; the deadline bounds the wait.
            Some(Err(_)) => {}
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    Ok(records)
}

fn record(message: &impl Message) -> Record {
    let header = |name: &str| {
        let headers = message.headers()?;
        let found = headers.iter().find(|header| header.key == name)?;
        Some(String::from_utf8_lossy(found.value?).into_owned())
    };
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
        payload: message.payload().map(<[u8]>::to_vec),
        verdict: header(VERDICT).unwrap_or_default(),
        number: header(NUMBER).and_then(|number| number.parse().ok()),
    }
}

fn ends_of(consumer: &BaseConsumer, topic: &str) -> Result<BTreeMap<i32, i64>> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST)?;
    let partitions = metadata
        .topics()
        .iter()
        .filter(|found| found.error().is_none())
        .flat_map(|topic| topic.partitions());
    let mut ends = BTreeMap::new();
    for partition in partitions {
        let (_, end) = consumer.fetch_watermarks(topic, partition.id(), REQUEST)?;
        ends.insert(partition.id(), end);
    }
    Ok(ends)
}

fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("reconnect.backoff.max.ms", "1000")
        .set("log_level", "0");
    config
}
