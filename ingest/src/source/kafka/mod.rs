//! Apache Kafka as a stream, through librdkafka.
//!
//! A reader is a member of a classic consumer group with cooperative rebalances; [`poller`] is the thread that owns
//! the consumer, [`reader`] its asynchronous face. Kafka's own committed offsets are never read: where to resume is the
//! feature store's to say.
//!
//! The generation is the cluster's id and the topic's name, as librdkafka does not tell topic ids. A topic that was
//! deleted and created again under its name is noticed when the position lies beyond its end, and refused.

mod lane;
mod poller;
mod reader;
mod rebalance;
mod scan;
mod settings;

use super::scan::{Keep, Scan, TopicDescription};
use super::{Header, NewRecord, Reader, Stream, StreamError, check_topic_name};
use crate::config::KafkaConfig;
use async_trait::async_trait;
use futures::future::join_all;
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_vocabulary::{EventTime, SourcePosition};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{FutureProducer, FutureRecord};
use settings::{Settings, default};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one question to the brokers may take.
const REQUEST: Duration = Duration::from_secs(5);
/// How long an append waits for room in the producer's queue.
const QUEUE_WAIT: Duration = Duration::from_secs(5);
/// Records of one append that are under way at once.
const APPEND_WINDOW: usize = 10_000;

/// Kafka.
pub struct KafkaStream {
    config: KafkaConfig,
    settings: Settings,
    producer: FutureProducer,
    lookup: Arc<BaseConsumer>,
    /// Topics known to exist: asked once each.
    topics: Mutex<HashSet<String>>,
}

impl KafkaStream {
    /// Connects in the background; only settings are checked here.
    ///
    /// # Errors
    /// When `properties` holds an unknown or reserved setting, or an impossible value.
    pub fn new(config: &KafkaConfig) -> Result<Self, StreamError> {
        let settings = Settings::new(config)?;
        let invalid = |error: KafkaError| StreamError::Config(format!("kafka settings are not valid: {error}"));
        let producer = settings.producer().create().map_err(invalid)?;
        let lookup = settings.base().create().map_err(invalid)?;
        Ok(Self {
            config: config.clone(),
            settings,
            producer,
            lookup: Arc::new(lookup),
            topics: Mutex::default(),
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&BaseConsumer) -> Result<T, StreamError> + Send + 'static,
    ) -> Result<T, StreamError> {
        let lookup = Arc::clone(&self.lookup);
        let work = move || {
            let outcome = work(&lookup);
            // Nobody else serves this client's events: let them not pile up.
            while lookup.poll(Duration::ZERO).is_some() {}
            outcome
        };
        let stopped = |error| StreamError::Unavailable(format!("a request to Kafka was stopped: {error}"));
        tokio::task::spawn_blocking(work).await.map_err(stopped)?
    }

    async fn ensure_topic(&self, topic: &str) -> Result<(), StreamError> {
        check_topic_name(topic)?;
        if self
            .topics
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(topic)
        {
            return Ok(());
        }
        let name = topic.to_owned();
        if self.blocking(move |lookup| partitions(lookup, &name)).await?.is_empty() {
            self.create_topic(topic, self.config.partitions, &[]).await?;
        }
        self.topics
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(topic.to_owned());
        Ok(())
    }

    async fn create_topic(&self, topic: &str, partitions: i32, settings: &[(&str, String)]) -> Result<(), StreamError> {
        let admin: AdminClient<DefaultClientContext> = self.settings.base().create().map_err(|e| failed(&e))?;
        let replication = TopicReplication::Fixed(self.config.replication);
        let new = settings
            .iter()
            .fold(NewTopic::new(topic, partitions, replication), |new, (key, value)| {
                new.set(key, value)
            });
        let options = AdminOptions::new()
            .operation_timeout(Some(REQUEST))
            .request_timeout(Some(REQUEST * 2));
        let results = admin
            .create_topics([&new], &options)
            .await
            .map_err(|error| failed(&error))?;
        for result in results {
            match result {
                Ok(_) => tracing::info!(topic, partitions, "topic created"),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => {
                    return Err(StreamError::Unavailable(format!(
                        "topic `{topic}` can't be created: {code}"
                    )));
                }
            }
        }
        Ok(())
    }

    async fn produce(&self, topic: &str, records: &[NewRecord]) -> Result<BTreeMap<i32, i64>, StreamError> {
        let sends = records.iter().map(|record| {
            let mut message =
                FutureRecord::<[u8], [u8]>::to(topic).timestamp(record.timestamp.micros().div_euclid(1000));
            message.key = record.key.as_deref();
            message.payload = record.value.as_deref();
            message.headers = headers_of(record);
            self.producer.send(message, QUEUE_WAIT)
        });
        let mut last = BTreeMap::new();
        for sent in join_all(sends).await {
            let delivery = sent.map_err(|(error, _)| refused(topic, &error, records))?;
            let offset = last.entry(delivery.partition).or_insert(delivery.offset);
            *offset = delivery.offset.max(*offset);
        }
        Ok(last)
    }
}

#[async_trait]
impl Stream for KafkaStream {
    async fn reader(&self, topic: &str, reader: &str) -> Result<Box<dyn Reader>, StreamError> {
        check_topic_name(topic)?;
        let mut config = self.settings.consumer(&format!("{}.{reader}", self.config.group));
        // Tells how much waits in librdkafka's own queue.
        default(&mut config, "statistics.interval.ms", "5000");
        Ok(Box::new(reader::KafkaReader::start(
            config,
            topic,
            Arc::clone(&self.lookup),
        )?))
    }

    async fn append(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<SourcePosition>, StreamError> {
        self.ensure_topic(topic).await?;
        let mut last = BTreeMap::new();
        for window in records.chunks(APPEND_WINDOW) {
            last.extend(self.produce(topic, window).await?);
        }
        Ok(last
            .into_iter()
            .map(|(partition, offset)| SourcePosition { partition, offset })
            .collect())
    }

    async fn describe(&self, topic: &str) -> Result<Option<TopicDescription>, StreamError> {
        check_topic_name(topic)?;
        let topic = topic.to_owned();
        self.blocking(move |lookup| scan::describe(lookup, &topic)).await
    }

    async fn offsets_at(&self, topic: &str, time: EventTime) -> Result<Vec<PartitionPosition>, StreamError> {
        check_topic_name(topic)?;
        let topic = topic.to_owned();
        self.blocking(move |lookup| scan::offsets_at(lookup, &topic, time))
            .await
    }

    async fn scan(&self, topic: &str, from: Vec<PartitionPosition>) -> Result<Box<dyn Scan>, StreamError> {
        check_topic_name(topic)?;
        // A group must be named although none is joined.
        let mut config = self.settings.consumer(&format!("{}.scan", self.config.group));
        config.set("enable.partition.eof", "true");
        let topic = topic.to_owned();
        let open = move |_: &BaseConsumer| scan::KafkaScan::open(&config, &topic, &from);
        Ok(Box::new(self.blocking(open).await?))
    }

    async fn create_own(&self, topic: &str, keep: Keep) -> Result<(), StreamError> {
        check_topic_name(topic)?;
        let settings = match keep {
            Keep::NewestOfEachKey => vec![("cleanup.policy", "compact".to_owned())],
            Keep::For(age) => ["retention.ms", "segment.ms"]
                .map(|key| (key, age.as_millis().to_string()))
                .to_vec(),
        };
        let name = topic.to_owned();
        if self.blocking(move |lookup| partitions(lookup, &name)).await?.is_empty() {
            self.create_topic(topic, 1, &settings).await?;
        }
        Ok(())
    }

    fn namespace(&self) -> &str {
        &self.config.group
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// The partitions of `topic`; none when it does not exist.
fn partitions<C: rdkafka::consumer::ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
) -> Result<Vec<i32>, StreamError> {
    let metadata = client
        .fetch_metadata(Some(topic), REQUEST)
        .map_err(|error| failed(&error))?;
    let found = metadata
        .topics()
        .iter()
        .find(|found| found.name() == topic && found.error().is_none());
    Ok(found.map_or(Vec::new(), |found| {
        found.partitions().iter().map(|partition| partition.id()).collect()
    }))
}

/// First offset kept and first offset not written. Tried again for a while: a partition that was just created, or that
/// changes its leader, can't tell at once.
fn watermarks<C: rdkafka::consumer::ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), StreamError> {
    let deadline = Instant::now() + REQUEST;
    loop {
        match client.fetch_watermarks(topic, partition, REQUEST) {
            Ok(watermarks) => return Ok(watermarks),
            Err(error) if Instant::now() >= deadline => return Err(failed(&error)),
            Err(error) => tracing::debug!(topic, partition, %error, "a partition does not tell its ends yet"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn headers_of(record: &NewRecord) -> Option<OwnedHeaders> {
    let insert = |headers: OwnedHeaders, header: &Header| {
        headers.insert(rdkafka::message::Header {
            key: &header.name,
            value: header.value.as_deref(),
        })
    };
    (!record.headers.is_empty()).then(|| record.headers.iter().fold(OwnedHeaders::new(), insert))
}

fn failed(error: &KafkaError) -> StreamError {
    StreamError::Unavailable(format!("Kafka: {error}"))
}

fn refused(topic: &str, error: &KafkaError, records: &[NewRecord]) -> StreamError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => StreamError::Overloaded(format!(
            "too many records for topic `{topic}` wait for Kafka: try again shortly"
        )),
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => StreamError::TooLarge {
            size_bytes: records.iter().map(NewRecord::size_bytes).max().unwrap_or_default(),
            limit_bytes: 1_000_000,
        },
        _ => StreamError::Unavailable(format!("Kafka did not take records for topic `{topic}`: {error}")),
    }
}
