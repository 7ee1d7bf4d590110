//! A Kafka topic of payments.

use crate::payments::Payments;
use anyhow::{Context as _, Result, bail};
use ondol_vocabulary::EventTime;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use std::time::Duration;

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
    /// Makes one of `count` payments of the last 7 days, keyed by card.
    pub(crate) async fn produce(count: u64, cards: u32, partitions: i32) -> Result<Self> {
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
        let (to, from) = (bootstrap.clone(), name.clone());
        let bytes = tokio::task::spawn_blocking(move || produce(&to, &from, count, cards)).await??;
        Ok(Self {
            bootstrap,
            name,
            partitions,
            message_bytes: bytes / count.max(1),
        })
    }

    pub(crate) async fn delete(self) -> Result<()> {
        admin(&self.bootstrap)?
            .delete_topics(&[&self.name], &AdminOptions::new())
            .await?;
        Ok(())
    }
}

fn admin(bootstrap: &str) -> Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", bootstrap).create()?)
}

fn produce(bootstrap: &str, topic: &str, count: u64, cards: u32) -> Result<u64> {
    let producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("linger.ms", "20")
        .set("acks", "1")
        .create()?;
    let now = EventTime::now().micros();
    let mut payments = Payments::new(count, cards, 1_000, now - 7 * DAY_US, now - 60_000_000);
    let mut bytes = 0;
    for _ in 0..count {
        let payment = payments.next();
        let json = payment.json();
        bytes += json.len() as u64;
        let mut record = BaseRecord::to(topic).key(payment.card.as_str()).payload(json.as_str());
        while let Err((error, back)) = producer.send(record) {
            if !matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) {
                return Err(error.into());
            }
            record = back;
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    producer.flush(Duration::from_secs(120))?;
    Ok(bytes)
}
