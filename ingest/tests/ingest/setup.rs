//! What the tests share: definitions, streams, a service in a box, and waiting for something to become true.

use crate::store::FakeStore;
use bytes::Bytes;
use ondol_ingest::IngestService;
use ondol_ingest::config::{IngestConfig, KafkaConfig, Limits};
use ondol_ingest::source::embedded::{EmbeddedOptions, EmbeddedStream};
use ondol_ingest::source::kafka::KafkaStream;
use ondol_ingest::source::{NewRecord, Stream};
use ondol_ingest_api::wire::PushRequest;
use ondol_runtime::{Health, ManualClock, Shutdown};
use ondol_vocabulary::{
    Arrival, DataType, EventTime, Field, Snapshot, SourceDefinition, SourceOrigin, SourceVersion, StreamFormat,
    ViewDefinition, ViewState, ViewVersion,
};
use std::sync::Arc;
use std::time::Duration;

/// The clock of every test stands here: 2013-01-01T12:00:00Z.
pub(crate) const NOON_US: i64 = 1_357_041_600_000_000;

pub(crate) fn field(name: &str, data_type: DataType) -> Field {
    Field {
        name: name.to_owned(),
        data_type,
    }
}

/// A snapshot with one stream source `s` over `topic`: `id` (key of view `v`), `n`, `ts`.
pub(crate) fn snapshot(topic: &str) -> Snapshot {
    let definition = SourceDefinition {
        name: "s".to_owned(),
        origin: SourceOrigin::Stream {
            topic: topic.to_owned(),
            format: StreamFormat::Json,
            shape: ondol_vocabulary::MessageShape::default(),
        },
        time: "ts".to_owned(),
        late_us: 0,
        arrival: Arrival::Ingest,
        schema: vec![
            field("id", DataType::String),
            field("n", DataType::I64),
            field("ts", DataType::Timestamp),
        ],
    };
    let view = ViewDefinition {
        name: "v".to_owned(),
        source: "s".to_owned(),
        key: vec![field("id", DataType::String)],
        filter: None,
        ttl_us: None,
        features: Vec::new(),
    };
    Snapshot {
        version: 1,
        sources: vec![SourceVersion { version: 1, definition }],
        views: vec![ViewVersion {
            id: 1,
            version: 1,
            state: ViewState::Active,
            definition: view,
        }],
        models: Vec::new(),
    }
}

/// Event `n` as JSON.
pub(crate) fn event(n: i64) -> String {
    format!("{{\"id\":\"e{}\",\"n\":{n},\"ts\":\"2013-01-01T05:17:00Z\"}}", n % 7)
}

pub(crate) fn record(value: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        timestamp: EventTime::from_micros(NOON_US),
        value: Some(value.into()),
        ..NewRecord::default()
    }
}

pub(crate) fn keyed(key: &str, value: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        key: Some(Bytes::from(key.to_owned())),
        ..record(value)
    }
}

pub(crate) fn events(from: i64, to: i64) -> Vec<NewRecord> {
    (from..to).map(|n| keyed(&n.to_string(), event(n))).collect()
}

pub(crate) fn push(events: &[&str]) -> PushRequest {
    let raw = |event: &&str| serde_json::value::RawValue::from_string((*event).to_owned()).unwrap();
    PushRequest::from(events.iter().map(raw).collect::<Vec<_>>())
}

pub(crate) fn embedded(dir: &std::path::Path) -> Arc<dyn Stream> {
    Arc::new(EmbeddedStream::open(dir, EmbeddedOptions::default()).unwrap())
}

pub(crate) fn kafka_config() -> KafkaConfig {
    let mut config = KafkaConfig {
        bootstrap: ondol_testkit::services::kafka(),
        group: ondol_testkit::services::unique_name("ondol-ingest"),
        replication: 1,
        ..KafkaConfig::default()
    };
    // Rebalances and new topics in seconds, not minutes.
    for (key, value) in [
        ("topic.metadata.refresh.interval.ms", "1000"),
        ("heartbeat.interval.ms", "500"),
    ] {
        config.properties.insert(key.to_owned(), value.into());
    }
    config
}

pub(crate) fn kafka() -> Arc<dyn Stream> {
    Arc::new(KafkaStream::new(&kafka_config()).unwrap())
}

pub(crate) fn topic() -> String {
    ondol_testkit::services::unique_name("t")
}

/// A running service with what it runs on.
pub(crate) struct Boxed {
    pub(crate) worker: String,
    pub(crate) clock: ManualClock,
    pub(crate) service: Arc<IngestService>,
    pub(crate) health: Health,
    pub(crate) shutdown: Shutdown,
}

impl Boxed {
    pub(crate) fn start(stream: Arc<dyn Stream>, store: &Arc<FakeStore>) -> Self {
        Self::start_with(stream, store, IngestConfig::default())
    }

    pub(crate) fn start_with(stream: Arc<dyn Stream>, store: &Arc<FakeStore>, config: IngestConfig) -> Self {
        // Several workers of one process need names of their own.
        let worker = ondol_testkit::services::unique_name("worker");
        let config = IngestConfig {
            worker: Some(worker.clone()),
            limits: Limits {
                flush_idle_ms: 100,
                max_batch_rows: 500,
                ..config.limits
            },
            ..config
        };
        let (shutdown, health) = (Shutdown::new(), Health::new());
        let clock = ManualClock::at(NOON_US);
        let shared = Arc::new(clock.clone());
        let service =
            IngestService::start_on(stream, &config, Arc::clone(store) as _, shared, &shutdown, &health).unwrap();
        Self {
            worker,
            clock,
            service,
            health,
            shutdown,
        }
    }

    /// Waits until the definitions are known.
    pub(crate) async fn ready(&self) {
        until("the service is ready", async || self.health.is_ready()).await;
    }

    pub(crate) async fn stop(self) {
        assert!(self.shutdown.drain(Duration::from_secs(60)).await, "the service drains");
    }
}

/// Waits until `condition` holds; panics with `what` when it does not within a generous limit.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(90);
    while !condition().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "in 90 s it did not come true that {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
