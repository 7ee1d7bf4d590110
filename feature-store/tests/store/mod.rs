//! A whole feature store for tests: definitions, events and deliveries, on embedded parts or Redis.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several tests, each of which uses its part"
)]

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use ondol_feature_store::{FeatureStoreConfig, FeatureStoreService};
use ondol_feature_store_api::wire::{
    DefinitionFile, DefinitionFiles, Delivery, DeliveryHeader, EntityColumn, FeatureBatch, ReadRequest, columns,
};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_runtime::{ManualClock, Shutdown};
use ondol_vocabulary::{EventTime, FeatureRef, PartitionRange, Value, ViewState};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub const HOUR: i64 = 3_600_000_000;

/// 2026-01-01T00:00:00Z.
pub const START: i64 = 1_767_225_600_000_000;

/// Two views of one stream, keyed differently, and one of a table.
pub const DEFINITIONS: &str = r#"
[source.payments]
kafka = "payments"
time = "ts"
schema = { card = "string", merchant = "i64", amount = "f64", ts = "timestamp" }

[source.shops]
parquet = "shops/"
time = "since"
schema = { merchant = "i64", country = "string", since = "timestamp" }

[view.card]
from = "payments"
key = "card"
ttl = "30d"
features.n_1h = "count() over 1h"
features.spend_24h = "sum(amount) over 24h"
features.last_amount = "last(amount)"

[view.merchant]
from = "payments"
key = "merchant"
features.n = "count()"
features.largest = "max(amount) over 7d"
features.latest = "amount"

[view.shop]
from = "shops"
key = "merchant"
features.country = "country"
features.since = "since"
"#;

/// One payment, and where it stands.
#[derive(Clone, Debug)]
pub struct Payment {
    pub partition: i32,
    pub offset: i64,
    pub card: Option<String>,
    pub merchant: i64,
    pub amount: f64,
    pub ts: i64,
    pub ingested_at: i64,
}

/// A service with the means to end it.
pub struct Store {
    pub service: Arc<FeatureStoreService>,
    pub clock: ManualClock,
    pub shutdown: Shutdown,
}

impl Store {
    pub async fn open(config: &FeatureStoreConfig) -> Self {
        let clock = ManualClock::at(START + 1_000 * HOUR);
        let shutdown = Shutdown::new();
        let service = FeatureStoreService::open(config, Arc::new(clock.clone()), &shutdown)
            .await
            .unwrap();
        Self {
            service,
            clock,
            shutdown,
        }
    }

    /// Applies `definitions` and waits until every view over a stream serves.
    pub async fn apply(&self, definitions: &str) {
        let file = DefinitionFile {
            path: "features.toml".to_owned(),
            text: definitions.to_owned(),
        };
        let applied = self.service.apply(DefinitionFiles { files: vec![file] }).await;
        applied.unwrap_or_else(|error| panic!("{error}"));
        self.streams_serve().await;
    }

    pub async fn streams_serve(&self) {
        tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                let snapshot = self.service.snapshot().await.unwrap();
                let waits = snapshot.views.iter().any(|view| {
                    let stream = snapshot.source(&view.definition.source).unwrap().definition.is_stream();
                    stream && view.state == ViewState::Provisioning
                });
                if !waits {
                    return;
                }
                self.service
                    .next_snapshot(snapshot.version, Duration::from_millis(200))
                    .await
                    .unwrap();
            }
        })
        .await
        .expect("views over streams become active");
    }

    pub async fn write(&self, delivery: Delivery) -> Result<(), FeatureStoreError> {
        self.service.write(delivery).await.map(drop)
    }

    pub async fn read(
        &self,
        features: &[&str],
        entities: &[(&str, &[Value])],
    ) -> Result<FeatureBatch, FeatureStoreError> {
        self.service.read(request(features, entities)).await
    }

    pub async fn view_id(&self, name: &str) -> u32 {
        self.service.snapshot().await.unwrap().newest_view(name).unwrap().id
    }

    /// Every stored byte of a view's rows.
    pub async fn rows(&self, view: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = self.service.online().scan(self.view_id(view).await).await.unwrap();
        rows.into_iter()
            .map(|(entity, row)| (entity.as_bytes().to_vec(), row.to_vec()))
            .collect()
    }

    pub async fn stop(self) {
        assert!(self.shutdown.drain(Duration::from_secs(60)).await);
    }
}

/// Embedded under `folder`; commits only when asked to.
pub fn embedded(folder: &Path) -> FeatureStoreConfig {
    FeatureStoreConfig {
        commit_interval_ms: 3_600_000,
        online_cache_mib: 16,
        ..FeatureStoreConfig::embedded(folder)
    }
}

pub fn request(features: &[&str], entities: &[(&str, &[Value])]) -> ReadRequest {
    ReadRequest {
        features: features
            .iter()
            .map(|feature| feature.parse::<FeatureRef>().unwrap())
            .collect(),
        entities: entities
            .iter()
            .map(|(name, values)| EntityColumn {
                name: (*name).to_owned(),
                values: values.to_vec(),
            })
            .collect(),
        as_of: None,
    }
}

/// A delivery of `payments` that covers `ranges` of (partition, from, to).
pub fn payments(payments: &[Payment], generation: &str, ranges: &[(i32, i64, i64)]) -> Delivery {
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "card",
            Arc::new(StringArray::from_iter(
                payments.iter().map(|payment| payment.card.clone()),
            )),
        ),
        (
            "merchant",
            Arc::new(Int64Array::from_iter_values(
                payments.iter().map(|payment| payment.merchant),
            )),
        ),
        (
            "amount",
            Arc::new(Float64Array::from_iter_values(
                payments.iter().map(|payment| payment.amount),
            )),
        ),
        ("ts", times(payments.iter().map(|payment| payment.ts))),
        (
            columns::PARTITION,
            Arc::new(Int32Array::from_iter_values(
                payments.iter().map(|payment| payment.partition),
            )),
        ),
        (
            columns::OFFSET,
            Arc::new(Int64Array::from_iter_values(
                payments.iter().map(|payment| payment.offset),
            )),
        ),
        (
            columns::INGESTED_AT,
            times(payments.iter().map(|payment| payment.ingested_at)),
        ),
    ];
    delivery("payments", generation, ranges, columns)
}

/// A delivery of `shops`: rows `from..` of one version of the table.
pub fn shops(rows: &[(i64, &str, i64)], generation: &str, from: i64) -> Delivery {
    let count = rows.len() as i64;
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "merchant",
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
        ),
        (
            "country",
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1))),
        ),
        ("since", times(rows.iter().map(|row| row.2))),
        (
            columns::PARTITION,
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|_| 0))),
        ),
        (
            columns::OFFSET,
            Arc::new(Int64Array::from_iter_values(from..from + count)),
        ),
        (columns::INGESTED_AT, times(rows.iter().map(|row| row.2))),
    ];
    delivery("shops", generation, &[(0, from, from + count)], columns)
}

fn delivery(source: &str, generation: &str, ranges: &[(i32, i64, i64)], columns: Vec<(&str, ArrayRef)>) -> Delivery {
    let ranges = ranges
        .iter()
        .map(|&(partition, from, to)| PartitionRange { partition, from, to });
    Delivery {
        header: DeliveryHeader {
            source: source.to_owned(),
            source_version: 1,
            generation: generation.to_owned(),
            ranges: ranges.collect(),
            table: None,
        },
        events: RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
            .unwrap(),
    }
}

fn times(micros: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
}

pub fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

pub fn at(micros: i64) -> EventTime {
    EventTime::from_micros(micros)
}
