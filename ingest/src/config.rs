//! Ingest's configuration. Every key is documented where it is declared.

pub use ondol_runtime::Secret;

use ondol_vocabulary::EventTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Configuration of the ingest service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IngestConfig {
    /// Where topics live.
    pub stream: StreamConfig,
    /// Where the schemas are that messages name by id.
    pub schema_registry: SchemaRegistryConfig,
    /// Bounds and waits.
    pub limits: Limits,
    /// A file that keeps the last definitions seen, so that a restart goes on while the registry is down. Without one,
    /// a restart waits for the registry.
    pub snapshot_file: Option<PathBuf>,
    /// The name of this worker in the status, unique among its group; absent takes the machine's name and the process's
    /// number.
    pub worker: Option<String>,
    /// Where a source starts of which the feature store holds nothing, by source: `beginning` (the default), `end`, or a
    /// moment by the records' timestamps. What lies before is recorded as skipped.
    pub start: BTreeMap<String, StartAt>,
}

/// Where a source starts that was never read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StartAt {
    /// With the first event that the topic holds.
    #[default]
    Beginning,
    /// Behind the last event that the topic holds when the source is first read.
    End,
    /// With the first record that is not older than this.
    At(EventTime),
}

impl TryFrom<String> for StartAt {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "beginning" => Ok(Self::Beginning),
            "end" => Ok(Self::End),
            moment => EventTime::parse(moment).map(Self::At).map_err(|error| {
                format!("a source starts at `beginning`, at `end` or at a moment, not at `{moment}`: {error}")
            }),
        }
    }
}

impl From<StartAt> for String {
    fn from(start: StartAt) -> Self {
        start.to_string()
    }
}

impl fmt::Display for StartAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beginning => f.write_str("beginning"),
            Self::End => f.write_str("end"),
            Self::At(moment) => moment.fmt(f),
        }
    }
}

/// Where topics live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StreamConfig {
    /// A durable log in a directory of this machine; one process at a time.
    Embedded(EmbeddedConfig),
    /// Apache Kafka, or a compatible system.
    Kafka(KafkaConfig),
}

/// The embedded log's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EmbeddedConfig {
    /// The directory; created when missing.
    pub dir: PathBuf,
    /// Partitions of a topic that is created; existing topics keep theirs.
    pub partitions: u32,
    /// A segment file is closed once it is this large.
    pub segment_bytes: u64,
    /// Closed segments are deleted, oldest first, while a partition holds more than this; absent keeps everything.
    pub retention_bytes: Option<u64>,
    /// Closed segments last written longer ago than this are deleted; absent keeps everything.
    pub retention_hours: Option<u64>,
}

/// Kafka's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KafkaConfig {
    /// `host:port` of one or more brokers, separated by commas.
    pub bootstrap: String,
    /// Start of the consumer groups' names: source `s` is read by group `{group}.s`, so that a source that starts or
    /// stops rebalances no other one, and two sources may read one topic.
    pub group: String,
    /// Partitions of topics that ingest creates (pushed events, dead letters).
    pub partitions: i32,
    /// Replicas of topics that ingest creates; -1 is the broker's default.
    pub replication: i32,
    /// Most KiB that one source's consumer fetches ahead of being read.
    pub fetch_queue_kib: u32,
    /// More settings of librdkafka, by its names, for example `security.protocol`. Settings that ingest relies on
    /// can't be set here. A value may name a file or a variable that holds it, so that no secret stands here:
    /// `${file:/run/secrets/kafka-password}`, `${env:KAFKA_PASSWORD}`.
    pub properties: BTreeMap<String, Secret>,
}

/// The schema registry's settings: any that speaks Confluent's protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SchemaRegistryConfig {
    /// Its URL, or several separated by commas, tried in turn. Empty: there is none.
    pub url: String,
    /// The user, for basic authentication.
    pub username: Option<String>,
    /// The user's password, or `${file:…}` or `${env:…}` to read it from a file or a variable.
    pub password: Option<Secret>,
    /// A token for bearer authentication instead; may be read as the password may.
    pub token: Option<Secret>,
    /// A PEM file of certificates to trust beside the system's.
    pub ca: Option<PathBuf>,
}

/// Bounds and waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// A batch is closed once it holds this many events (the run of records that fills it is not split).
    pub max_batch_rows: usize,
    /// A batch is closed once its messages have this many bytes.
    pub max_batch_bytes: usize,
    /// A batch is closed this long after its first event came.
    pub max_batch_wait_ms: u64,
    /// A larger message becomes a dead letter.
    pub max_event_bytes: usize,
    /// At shutdown and when partitions are revoked: how long to wait for what is in flight. The rest is redelivered.
    pub drain_timeout_ms: u64,
    /// After this long without events, what was delivered is flushed.
    pub flush_idle_ms: u64,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self::Embedded(EmbeddedConfig::default())
    }
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from(".ondol/stream"),
            partitions: 4,
            segment_bytes: 64 << 20,
            retention_bytes: None,
            retention_hours: None,
        }
    }
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            bootstrap: "localhost:9092".to_owned(),
            group: "ondol-ingest".to_owned(),
            partitions: 4,
            replication: -1,
            fetch_queue_kib: 32 << 10,
            properties: BTreeMap::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_batch_rows: 8192,
            max_batch_bytes: 8 << 20,
            max_batch_wait_ms: 5,
            max_event_bytes: 1 << 20,
            drain_timeout_ms: 10_000,
            flush_idle_ms: 1_000,
        }
    }
}

impl Limits {
    pub(crate) const fn max_batch_wait(&self) -> Duration {
        Duration::from_millis(self.max_batch_wait_ms)
    }

    pub(crate) const fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }

    pub(crate) const fn flush_idle(&self) -> Duration {
        Duration::from_millis(self.flush_idle_ms)
    }
}
