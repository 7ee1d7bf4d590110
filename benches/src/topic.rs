//! A Kafka topic of payments.

use crate::payments::Payments;
use anyhow::{Context as _, Result, bail};
use ondol_vocabulary::EventTime;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const DAY_US: i64 = 86_400_000_000;

/// A topic, deleted by [`Topic::delete`].
pub(crate) struct Topic {
    pub(crate) bootstrap: String,
    pub(crate) name: String,
    pub(crate) partitions: i32,
    /// Mean size of a message.
    pub(crate) message_bytes: u64,
}

impl Topic {
    /// Makes an empty one.
    pub(crate) async fn create(partitions: i32) -> Result<Self> {
        let bootstrap = std::env::var("ONDOL_TEST_KAFKA")
            .context("ONDOL_TEST_KAFKA is not set: run scripts/bench, or scripts/services up")?;
        let name = format!("bench-{:016x}", rand::random::<u64>());
        let admin = admin(&bootstrap)?;
        let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        for outcome in admin.create_topics([&topic], &AdminOptions::new()).await? {
            if let Err((name, code)) = outcome {
                bail!("topic {name} can't be made: {code}");
            }
        }
        Ok(Self {
            bootstrap,
            name,
            partitions,
            message_bytes: 0,
        })
    }

    /// Makes one of `count` payments of the last 7 days, keyed by card.
    pub(crate) async fn produce(count: u64, cards: u32, partitions: i32) -> Result<Self> {
        let topic = Self::create(partitions).await?;
        let (to, from) = (topic.bootstrap.clone(), topic.name.clone());
        let bytes = tokio::task::spawn_blocking(move || produce(&to, &from, count, cards)).await??;
        Ok(Self {
            message_bytes: bytes / count.max(1),
            ..topic
        })
    }

    /// Begins to add `per_second` payments of the present, until told to stop.
    pub(crate) fn load(&self, per_second: f64, cards: u32) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (to, from) = (self.bootstrap.clone(), self.name.clone());
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&sent));
        let task = tokio::task::spawn_blocking(move || produce_at(&to, &from, per_second, cards, &stopped, &counter));
        Load { stop, sent, task }
    }

    pub(crate) async fn delete(self) -> Result<()> {
        admin(&self.bootstrap)?
            .delete_topics(&[&self.name], &AdminOptions::new())
            .await?;
        Ok(())
    }
}

/// Payments on their way, at a steady rate.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    task: JoinHandle<Result<()>>,
}

impl Load {
    /// Payments sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it once all are acknowledged: how many there were.
    pub(crate) async fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await??;
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

fn admin(bootstrap: &str) -> Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", bootstrap).create()?)
}

type Sender = ThreadedProducer<rdkafka::producer::DefaultProducerContext>;

fn sender(bootstrap: &str, linger_ms: &str) -> Result<Sender> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("linger.ms", linger_ms)
        .set("acks", "1")
        .create()?)
}

/// Sends one, waiting while the sender's queue is full.
fn send(sender: &Sender, topic: &str, key: &str, json: &str) -> Result<()> {
    let mut record = BaseRecord::to(topic).key(key).payload(json);
    while let Err((error, back)) = sender.send(record) {
        if !matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) {
            return Err(error.into());
        }
        record = back;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn produce(bootstrap: &str, topic: &str, count: u64, cards: u32) -> Result<u64> {
    let sender = sender(bootstrap, "20")?;
    let now = EventTime::now().micros();
    let mut payments = Payments::new(count, cards, 1_000, now - 7 * DAY_US, now - 60_000_000);
    let mut bytes = 0;
    for _ in 0..count {
        let payment = payments.next();
        let json = payment.json();
        bytes += json.len() as u64;
        send(&sender, topic, &payment.card, &json)?;
    }
    sender.flush(Duration::from_secs(120))?;
    Ok(bytes)
}

fn produce_at(
    bootstrap: &str,
    topic: &str,
    per_second: f64,
    cards: u32,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> Result<()> {
    let sender = sender(bootstrap, "2")?;
    let mut payments = Payments::new(1, cards, 1_000, 0, 0);
    let begun = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let due = (begun.elapsed().as_secs_f64() * per_second) as u64;
        while sent.load(Ordering::Relaxed) < due {
            let payment = payments.next_at(EventTime::now().micros());
            send(&sender, topic, &payment.card, &payment.json())?;
            sent.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    sender.flush(Duration::from_secs(60))?;
    Ok(())
}
