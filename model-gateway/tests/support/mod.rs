//! A feature store and an ingest that do as they are told, the definitions of a small model, and a gateway over them.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test file uses its part")]

mod definitions;
mod ingest;
mod store;

pub use definitions::{aggregate, derived, field, fraud, from_derived, from_input, from_view, manifest, snapshot};
pub use ingest::FakeIngest;
pub use store::FakeStore;

use bytes::Bytes;
use ondol_model_gateway::{ModelGatewayConfig, ModelGatewayService};
use ondol_model_gateway_api::wire::{
    PredictRequest, Prediction, RegisterRequest, RegisteredModel, Routing, RoutingChange, RoutingRevision,
};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use ondol_runtime::{Health, ManualClock, Shutdown};
use ondol_testkit::services;
use ondol_vocabulary::{Aggregation, DataType, Element, FeatureKind, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// The clock of the tests stands at 2026-11-21T00:00:00Z.
pub const NOW: i64 = 1_795_219_200_000_000;
/// A deadline for a busy machine.
const PATIENCE_MS: u64 = 120_000;

/// A request whose card and merchant are known: see [`Bench::fill`].
pub const C1: &str = r#"{"card_id":"c1","merchant_id":"m1","amount":8}"#;
/// One whose card and merchant nobody has seen.
pub const STRANGER: &str = r#"{"card_id":"c9","merchant_id":"m9","amount":8}"#;

/// A gateway over the fakes, in a folder of its own.
pub struct Bench {
    pub store: Arc<FakeStore>,
    pub ingest: Arc<FakeIngest>,
    pub folder: Arc<TempDir>,
    pub shutdown: Shutdown,
    pub health: Health,
    pub gateway: Arc<ModelGatewayService>,
}

pub fn config(folder: &Path) -> ModelGatewayConfig {
    ModelGatewayConfig {
        data_dir: folder.to_owned(),
        python: services::python(),
        ..ModelGatewayConfig::default()
    }
}

impl Bench {
    pub async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    pub async fn open_with(change: impl FnOnce(&mut ModelGatewayConfig)) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::open_in(folder, FakeStore::new(snapshot()), change).await
    }

    pub async fn open_in(
        folder: Arc<TempDir>,
        store: Arc<FakeStore>,
        change: impl FnOnce(&mut ModelGatewayConfig),
    ) -> Self {
        let mut config = config(folder.path());
        change(&mut config);
        let ingest = Arc::new(FakeIngest::default());
        let (shutdown, health) = (Shutdown::new(), Health::new());
        let clock = Arc::new(ManualClock::at(NOW));
        let gateway = ModelGatewayService::open(config, store.clone(), ingest.clone(), clock, &shutdown, &health)
            .await
            .unwrap();
        Self {
            store,
            ingest,
            folder,
            shutdown,
            health,
            gateway,
        }
    }

    /// With `matrix.onnx` registered and the values of card `c1` and merchant `m1` known.
    pub async fn with_model() -> Self {
        let bench = Self::open().await;
        bench.register("matrix").await.unwrap();
        bench.fill();
        bench
    }

    pub fn fill(&self) {
        self.store.set("card.n_1h", "c1", Value::I64(2), 60);
        self.store.set("card.spend_24h", "c1", Value::F64(-4.0), 60);
        self.store.set("merchant.risk", "m1", Value::F64(0.25), 3_600);
    }

    pub async fn register(&self, fixture: &str) -> Result<RegisteredModel, ModelGatewayError> {
        self.register_with(fixture, None).await
    }

    pub async fn register_with(
        &self,
        fixture: &str,
        manifest: Option<serde_json::Value>,
    ) -> Result<RegisteredModel, ModelGatewayError> {
        self.gateway
            .register(
                "fraud",
                RegisterRequest {
                    artifact: artifact(fixture),
                    kind: None,
                    manifest,
                },
            )
            .await
    }

    /// With feature `card.recent`, the last `n` amounts, as the model's only feature.
    pub async fn of_recent(n: u32) -> Self {
        let bench = Self::open_with(|config| config.deadline_ms = PATIENCE_MS).await;
        bench.store.apply(|snapshot| {
            let mut recent = aggregate(
                "recent",
                Aggregation::LastN,
                Some("amount"),
                DataType::List(Element::F64),
            );
            if let FeatureKind::Aggregate { parameters, .. } = &mut recent.kind {
                *parameters = vec![n];
            }
            snapshot.views[0].definition.features.push(recent);
            let model = &mut snapshot.models[0].definition;
            model.features = vec![from_view("card.recent", DataType::List(Element::F64))];
            model.derived.clear();
            model.derived_needs.clear();
        });
        bench
    }

    /// On a machine that may be slow: with time, `matrix.onnx` as version 1, and known features.
    pub async fn patient() -> Self {
        let bench = Self::open_with(|config| config.deadline_ms = PATIENCE_MS).await;
        bench.register("matrix").await.unwrap();
        bench.fill();
        bench
    }

    /// One of several on one PostgreSQL, whose artifacts are in `artifacts`. The database is shared by tests that run side
    /// by side: models need names of their own.
    pub async fn replica(store: &Arc<FakeStore>, artifacts: &Path) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let artifacts = artifacts.to_str().unwrap().to_owned();
        Self::open_in(folder, Arc::clone(store), |config| {
            config.database = services::postgres();
            config.artifacts = artifacts;
            config.catalog_refresh_ms = 20;
            config.deadline_ms = PATIENCE_MS;
        })
        .await
    }

    /// Registers `artifact`, of a kind that its bytes tell, as a version of `model`.
    pub async fn register_as(&self, model: &str, artifact: Bytes) -> Result<RegisteredModel, ModelGatewayError> {
        let request = RegisterRequest {
            artifact,
            kind: None,
            manifest: None,
        };
        self.gateway.register(model, request).await
    }

    /// Sets the routing of `model`, whatever it was.
    pub async fn set_routing(&self, model: &str, routing: Routing) -> Result<RoutingRevision, ModelGatewayError> {
        let change = RoutingChange {
            routing,
            ..RoutingChange::default()
        };
        self.gateway.set_routing(model, change).await
    }

    pub async fn predict(&self, json: &str) -> Result<Prediction, ModelGatewayError> {
        self.gateway.predict("fraud", request(json)).await
    }

    /// Stops the gateway's tasks; its folder stays.
    pub async fn stop(&self) {
        assert!(self.shutdown.drain(Duration::from_secs(30)).await);
        self.gateway.close().await;
    }
}

pub fn request(json: &str) -> PredictRequest {
    PredictRequest {
        inputs: inputs(json),
        explain: Some(true),
        ..PredictRequest::default()
    }
}

pub fn inputs(json: &str) -> BTreeMap<String, Value> {
    serde_json::from_str(json).unwrap()
}

pub fn artifact(fixture: &str) -> Bytes {
    let path = format!("{}/tests/fixtures/{fixture}.onnx", env!("CARGO_MANIFEST_DIR"));
    Bytes::from(std::fs::read(path).unwrap())
}
