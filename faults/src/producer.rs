//! Produces messages at a steady rate while things break, and keeps a record of every acknowledgement.

use crate::event::{Generator, Message, NUMBER, VERDICT};
use anyhow::{Context as _, Result};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(20);
/// How long the end waits for acknowledgements.
const FLUSH: Duration = Duration::from_secs(180);
/// Event time that a whole run covers, up to the present.
const SPAN_US: i64 = 26 * 3_600 * 1_000_000;

/// What was acknowledged, by position: the message's number.
pub(crate) type Acknowledged = BTreeMap<(i32, i64), u64>;

/// What came of producing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Produced {
    pub(crate) acknowledged: Acknowledged,
    /// First offset of each partition beyond what is acknowledged.
    pub(crate) ends: BTreeMap<i32, i64>,
    /// Messages that Kafka did not acknowledge in time: they may stand in the topic or not.
    pub(crate) unknown: u64,
}

/// A producer at work.
pub(crate) struct Producer {
    produced: Arc<Mutex<Produced>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

/// Tells how far the producer has come.
#[derive(Clone)]
pub(crate) struct Reached(Arc<Mutex<Produced>>);

impl Reached {
    /// First offset of each partition beyond what is acknowledged.
    pub(crate) fn ends(&self) -> BTreeMap<i32, i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ends.clone()
    }
}

struct Context(Arc<Mutex<Produced>>);

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<u64>;

    #[allow(clippy::needless_pass_by_value, reason = "the trait's shape")]
    fn delivery(&self, result: &DeliveryResult<'_>, number: Self::DeliveryOpaque) {
        let mut produced = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) => {
                let (partition, offset) = (message.partition(), message.offset());
                produced.acknowledged.insert((partition, offset), *number);
                let end = produced.ends.entry(partition).or_default();
                *end = (*end).max(offset + 1);
            }
            Err(_) => produced.unknown += 1,
        }
    }
}

impl Producer {
    /// Starts producing to `topic`, `rate` messages a second. Event time runs up to the present within `expected`.
    pub(crate) fn start(
        bootstrap: &str,
        topic: &str,
        generator: Generator,
        rate: u32,
        expected: Duration,
    ) -> Result<Self> {
        let produced = Arc::new(Mutex::new(Produced::default()));
        let client: ThreadedProducer<Context> = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("message.timeout.ms", "150000")
            .set("reconnect.backoff.max.ms", "1000")
            .set("log_level", "0")
            .create_with_context(Context(Arc::clone(&produced)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let run = Run {
            client,
            topic: topic.to_owned(),
            generator,
            stop: Arc::clone(&stop),
            rate,
            base_us: wall_us() - SPAN_US,
            speed: SPAN_US as f64 / expected.as_micros().max(1) as f64,
        };
        let thread = std::thread::Builder::new()
            .name("producer".to_owned())
            .spawn(move || run.run())?;
        Ok(Self { produced, stop, thread })
    }

    /// How far it has come, for those who wait for it.
    pub(crate) fn reached(&self) -> Reached {
        Reached(Arc::clone(&self.produced))
    }

    /// Ends producing, waits for what is under way, and tells what came of it.
    pub(crate) fn stop(self) -> Result<Produced> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.map_err(|_| anyhow::anyhow!("the producer panicked"))??;
        let produced = self.produced.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(produced.clone())
    }
}

struct Run {
    client: ThreadedProducer<Context>,
    topic: String,
    generator: Generator,
    stop: Arc<AtomicBool>,
    rate: u32,
    base_us: i64,
    speed: f64,
}

impl Run {
    fn run(mut self) -> Result<()> {
        let started = Instant::now();
        let mut due = 0.0;
        let mut last = started;
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
            due += last.elapsed().as_secs_f64() * f64::from(self.rate);
            last = Instant::now();
            while due >= 1.0 {
                due -= 1.0;
                let wall_us = wall_us();
                let passed_us = started.elapsed().as_micros() as f64 * self.speed;
                let event_us = (self.base_us + passed_us as i64).min(wall_us);
                let message = self.generator.next(event_us, wall_us);
                self.send(&message)?;
            }
        }
        self.client.flush(FLUSH).context("messages were left without an answer")
    }

    /// Hands a message to the client, waiting while its queue is full.
    fn send(&self, message: &Message) -> Result<()> {
        let number = message.number.to_string();
        let header = |key, value| Header {
            key,
            value: Some(value),
        };
        let headers = OwnedHeaders::new()
            .insert(header(VERDICT, message.verdict))
            .insert(header(NUMBER, number.as_str()));
        let mut record = BaseRecord::with_opaque_to(&self.topic, Box::new(message.number))
            .key(message.key.as_str())
            .headers(headers);
        record.payload = message.payload.as_deref();
        loop {
            match self.client.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(TICK);
                }
                Err((error, _)) => return Err(error).context("a message can't be produced"),
            }
        }
    }
}

/// The wall clock in microseconds.
pub(crate) fn wall_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}
