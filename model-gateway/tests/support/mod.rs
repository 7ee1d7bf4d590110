//! A feature store and an ingest that do as they are told, the definitions of a small model, and a gateway over them.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, StringArray};
use arrow::datatypes::Float64Type;
use async_trait::async_trait;
use bytes::Bytes;
use ondol_feature_store_api::wire::{
    Applied, DefinitionFiles, DefinitionHistory, Delivery, FeatureBatch, FeatureColumn, OfflineTable,
    PartitionPosition, Plan, ReadRequest, WriteReceipt,
};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_ingest_api::wire::{PushReceipt, PushRequest, SourceStatus};
use ondol_ingest_api::{Ingest, IngestError};
use ondol_model_gateway::{ModelGatewayConfig, ModelGatewayService};
use ondol_model_gateway_api::wire::{PredictRequest, Prediction, RegisterRequest, RegisteredModel};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use ondol_runtime::{Health, ManualClock, Shutdown};
use ondol_testkit::services;
use ondol_vocabulary::{
    Aggregation, Arrival, DataType, DecisionPolicy, Element, EventTime, FeatureDefinition, FeatureKind, FeatureOrigin,
    FeatureRef, FeatureStatus, Field, ModelDefinition, ModelFeature, ModelPolicy, ModelVersion, Snapshot,
    SourceDefinition, SourceOrigin, SourceVersion, StreamFormat, Value, ViewDefinition, ViewState, ViewVersion, Window,
};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::Semaphore;

/// The clock of the tests stands at 2026-11-21T00:00:00Z.
pub const NOW: i64 = 1_795_219_200_000_000;

pub fn field(name: &str, data_type: DataType) -> Field {
    Field {
        name: name.to_owned(),
        data_type,
    }
}

fn latest(name: &str, data_type: DataType) -> FeatureDefinition {
    let kind = FeatureKind::LatestRow {
        expression: name.to_owned(),
    };
    FeatureDefinition {
        name: name.to_owned(),
        expression: name.to_owned(),
        kind,
        data_type,
        default: None,
    }
}

fn aggregate(name: &str, function: Aggregation, argument: Option<&str>, data_type: DataType) -> FeatureDefinition {
    let kind = FeatureKind::Aggregate {
        function,
        argument: argument.map(ToOwned::to_owned),
        parameters: Vec::new(),
        filter: None,
        window: Some(Window {
            width_us: 3_600_000_000,
            hop_us: 300_000_000,
        }),
    };
    let expression = format!("{}({}) over 1h", function.name(), argument.unwrap_or_default());
    FeatureDefinition {
        name: name.to_owned(),
        expression,
        kind,
        data_type,
        default: None,
    }
}

fn source(name: &str, schema: Vec<Field>) -> SourceVersion {
    let definition = SourceDefinition {
        name: name.to_owned(),
        origin: SourceOrigin::Stream {
            topic: name.to_owned(),
            format: StreamFormat::Json,
            shape: ondol_vocabulary::MessageShape::default(),
        },
        time: "ts".to_owned(),
        late_us: 0,
        arrival: Arrival::Ingest,
        schema,
    };
    SourceVersion { version: 1, definition }
}

fn view(id: u32, name: &str, source: &str, key: &str, features: Vec<FeatureDefinition>) -> ViewVersion {
    let definition = ViewDefinition {
        name: name.to_owned(),
        source: source.to_owned(),
        key: vec![field(key, DataType::String)],
        filter: None,
        ttl_us: None,
        features,
    };
    ViewVersion {
        id,
        version: 1,
        state: ViewState::Active,
        definition,
    }
}

pub fn from_view(name: &str, data_type: DataType) -> ModelFeature {
    let feature: FeatureRef = name.parse().unwrap();
    ModelFeature {
        name: name.to_owned(),
        data_type,
        origin: FeatureOrigin::View { feature },
    }
}

pub fn from_input(name: &str, data_type: DataType) -> ModelFeature {
    ModelFeature {
        name: name.to_owned(),
        data_type,
        origin: FeatureOrigin::Input { name: name.to_owned() },
    }
}

pub fn from_derived(name: &str, data_type: DataType) -> ModelFeature {
    let origin = FeatureOrigin::Derived { name: name.to_owned() };
    ModelFeature {
        name: format!("derived.{name}"),
        data_type,
        origin,
    }
}

pub fn derived(name: &str, expression: &str, data_type: DataType) -> FeatureDefinition {
    let kind = FeatureKind::LatestRow {
        expression: expression.to_owned(),
    };
    FeatureDefinition {
        name: name.to_owned(),
        expression: expression.to_owned(),
        kind,
        data_type,
        default: None,
    }
}

/// `fraud`: card.n_1h, card.spend_24h, merchant.risk, amount, derived.ratio.
pub fn fraud() -> ModelDefinition {
    ModelDefinition {
        name: "fraud".to_owned(),
        inputs: vec![
            field("card_id", DataType::String),
            field("merchant_id", DataType::String),
            field("amount", DataType::F64),
        ],
        features: vec![
            from_view("card.n_1h", DataType::I64),
            from_view("card.spend_24h", DataType::F64),
            from_view("merchant.risk", DataType::F64),
            from_input("amount", DataType::F64),
            from_derived("ratio", DataType::F64),
        ],
        derived: vec![derived("ratio", "amount / nullif(card.spend_24h, 0)", DataType::F64)],
        derived_needs: vec![FeatureRef::new("card", "spend_24h")],
        policy: ModelPolicy::default(),
        decisions: DecisionPolicy::default(),
    }
}

/// The definitions in force: two views and `fraud`.
pub fn snapshot() -> Snapshot {
    Snapshot {
        version: 7,
        sources: vec![
            source(
                "transactions",
                vec![
                    field("card_id", DataType::String),
                    field("amount", DataType::F64),
                    field("ts", DataType::Timestamp),
                ],
            ),
            source(
                "merchants",
                vec![
                    field("merchant_id", DataType::String),
                    field("risk", DataType::F64),
                    field("country", DataType::String),
                    field("ts", DataType::Timestamp),
                ],
            ),
        ],
        views: vec![
            view(
                1,
                "card",
                "transactions",
                "card_id",
                vec![
                    aggregate("n_1h", Aggregation::Count, None, DataType::I64),
                    aggregate("spend_24h", Aggregation::Sum, Some("amount"), DataType::F64),
                ],
            ),
            view(
                2,
                "merchant",
                "merchants",
                "merchant_id",
                vec![latest("risk", DataType::F64), latest("country", DataType::String)],
            ),
        ],
        models: vec![ModelVersion {
            version: 3,
            definition: fraud(),
        }],
    }
}

/// A feature store whose values are set by hand.
pub struct FakeStore {
    pub snapshot: Mutex<Arc<Snapshot>>,
    pub values: Mutex<HashMap<(String, String), (Value, i64)>>,
    pub reads: Mutex<Vec<ReadRequest>>,
    pub down: AtomicBool,
    /// Reads wait here; a test that wants them to wait takes the permits away.
    pub gate: Semaphore,
}

impl FakeStore {
    pub fn new(snapshot: Snapshot) -> Arc<Self> {
        Arc::new(Self {
            snapshot: Mutex::new(Arc::new(snapshot)),
            values: Mutex::default(),
            reads: Mutex::default(),
            down: AtomicBool::new(false),
            gate: Semaphore::new(1_000),
        })
    }

    /// Sets the value of `feature` for `entity`, from an event `age_s` seconds ago.
    pub fn set(&self, feature: &str, entity: &str, value: Value, age_s: i64) {
        let event_time = NOW - age_s * 1_000_000;
        self.values
            .lock()
            .unwrap()
            .insert((feature.to_owned(), entity.to_owned()), (value, event_time));
    }

    pub fn apply(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = self.snapshot.lock().unwrap();
        let mut next = (**snapshot).clone();
        change(&mut next);
        next.version += 1;
        *snapshot = Arc::new(next);
    }

    fn check_up(&self) -> Result<(), FeatureStoreError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(FeatureStoreError::Unavailable {
                detail: "it is down".to_owned(),
            });
        }
        Ok(())
    }

    fn column(&self, snapshot: &Snapshot, request: &ReadRequest, feature: &FeatureRef, now: i64) -> FeatureColumn {
        let (view, index) = snapshot.resolve(feature).unwrap();
        let definition = &view.definition.features[index];
        let key = &view.definition.key[0].name;
        let entities = &request
            .entities
            .iter()
            .find(|column| column.name == *key)
            .unwrap()
            .values;
        let values = self.values.lock().unwrap();
        let found: Vec<Option<(Value, i64)>> = entities
            .iter()
            .map(|entity| values.get(&(feature.to_string(), entity.to_string())).cloned())
            .map(|found| found.filter(|(_, time)| *time < now))
            .collect();
        let counts = matches!(
            definition.kind,
            FeatureKind::Aggregate {
                function: Aggregation::Count,
                ..
            }
        );
        let scalars = found.iter().map(|found| match found {
            Some((value, _)) => value.clone(),
            None if counts => Value::I64(0),
            None => Value::Null,
        });
        FeatureColumn {
            feature: feature.clone(),
            view_version: view.version,
            values: array(definition.data_type, &scalars.collect::<Vec<_>>()),
            status: found
                .iter()
                .map(|found| match found {
                    None => FeatureStatus::Missing,
                    Some((Value::Null, _)) => FeatureStatus::Null,
                    Some(_) => FeatureStatus::Fresh,
                })
                .collect(),
            event_time: found
                .iter()
                .map(|found| found.as_ref().map(|(_, time)| EventTime::from_micros(*time)))
                .collect(),
        }
    }
}

fn array(data_type: DataType, values: &[Value]) -> ArrayRef {
    match data_type {
        DataType::I64 => Arc::new(Int64Array::from_iter(values.iter().map(|value| match value {
            Value::I64(number) => Some(*number),
            _ => None,
        }))),
        DataType::F64 => Arc::new(Float64Array::from_iter(values.iter().map(|value| match value {
            Value::F64(number) => Some(*number),
            _ => None,
        }))),
        DataType::String => Arc::new(StringArray::from_iter(values.iter().map(|value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        }))),
        DataType::List(_) => {
            let number = |value: &Value| match value {
                Value::F64(number) => Some(*number),
                other => panic!("{other} is in a list of floats"),
            };
            let list = |value: &Value| match value {
                Value::List(values) => Some(values.iter().map(number).collect::<Vec<_>>()),
                _ => None,
            };
            Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(
                values.iter().map(list),
            ))
        }
        other => panic!("the fake store has no {other} features"),
    }
}

#[async_trait]
impl FeatureStore for FakeStore {
    async fn plan(&self, _: DefinitionFiles) -> Result<Plan, FeatureStoreError> {
        unreachable!("the gateway does not plan")
    }

    async fn apply(&self, _: DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        unreachable!("the gateway does not apply")
    }

    async fn snapshot(&self) -> Result<Arc<Snapshot>, FeatureStoreError> {
        self.check_up()?;
        Ok(Arc::clone(&self.snapshot.lock().unwrap()))
    }

    async fn next_snapshot(&self, after: u64, wait: Duration) -> Result<Arc<Snapshot>, FeatureStoreError> {
        let end = tokio::time::Instant::now() + wait;
        while tokio::time::Instant::now() < end {
            self.check_up()?;
            let snapshot = Arc::clone(&self.snapshot.lock().unwrap());
            if snapshot.version > after {
                return Ok(snapshot);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.snapshot().await
    }

    async fn history(&self, _: &str) -> Result<DefinitionHistory, FeatureStoreError> {
        unreachable!("the gateway reads no history")
    }

    async fn activate(&self, _: u32) -> Result<(), FeatureStoreError> {
        unreachable!("the gateway activates nothing")
    }

    async fn resume(&self, _: &str, _: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        unreachable!("the gateway resumes nothing")
    }

    async fn write(&self, _: Delivery) -> Result<WriteReceipt, FeatureStoreError> {
        unreachable!("the gateway writes nothing")
    }

    async fn flush(&self, _: &str) -> Result<WriteReceipt, FeatureStoreError> {
        unreachable!("the gateway flushes nothing")
    }

    async fn read(&self, request: ReadRequest) -> Result<FeatureBatch, FeatureStoreError> {
        self.reads.lock().unwrap().push(request.clone());
        let _permit = self.gate.acquire().await.unwrap();
        self.check_up()?;
        let snapshot = Arc::clone(&self.snapshot.lock().unwrap());
        let as_of = request.as_of.unwrap_or(EventTime::from_micros(NOW));
        let columns = request
            .features
            .iter()
            .map(|feature| self.column(&snapshot, &request, feature, as_of.micros()))
            .collect();
        Ok(FeatureBatch {
            as_of,
            rows: request.entities[0].values.len(),
            columns,
        })
    }

    async fn tables(&self) -> Result<Vec<OfflineTable>, FeatureStoreError> {
        unreachable!("the gateway reads no tables")
    }
}

/// An ingest that keeps what is pushed, and may be down.
#[derive(Default)]
pub struct FakeIngest {
    pub events: Mutex<Vec<String>>,
    pub outcomes: Mutex<Vec<String>>,
    pub down: AtomicBool,
    pub refused: AtomicUsize,
}

impl FakeIngest {
    /// Waits until `count` events were pushed.
    pub async fn wait_for(&self, count: usize) -> Vec<serde_json::Value> {
        loop {
            let events = self.events.lock().unwrap().clone();
            if events.len() >= count {
                return events
                    .iter()
                    .map(|event| serde_json::from_str(event).unwrap())
                    .collect();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[async_trait]
impl Ingest for FakeIngest {
    async fn push(&self, source: &str, request: PushRequest) -> Result<PushReceipt, IngestError> {
        if self.down.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(IngestError::Unavailable {
                detail: "it is down".to_owned(),
            });
        }
        let kept = match source {
            "decisions" => &self.events,
            "outcomes" => &self.outcomes,
            other => panic!("the gateway pushes to `{other}`"),
        };
        kept.lock()
            .unwrap()
            .extend(request.events.iter().map(|event| event.get().to_owned()));
        Ok(PushReceipt { positions: Vec::new() })
    }

    async fn status(&self) -> Result<Vec<SourceStatus>, IngestError> {
        Ok(Vec::new())
    }
}

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
        let bench = Self::open().await;
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

/// The manifest of a training set of the model's vector.
pub fn manifest() -> serde_json::Value {
    serde_json::json!({
        "format": 1,
        "model": "fraud@3",
        "as_of": "known-at",
        "registry_version": 7,
        "views": ["card@1", "merchant@1"],
        "tables": { "transactions": "12" },
        "time_column": "ts",
        "spine_columns": ["card_id", "merchant_id", "amount", "ts", "label"],
        "features": [
            { "name": "card.n_1h", "data_type": "i64", "nulls": 0 },
            { "name": "card.spend_24h", "data_type": "f64", "nulls": 3 },
            { "name": "merchant.risk", "data_type": "f64", "nulls": 0 },
            { "name": "amount", "data_type": "f64", "nulls": 0 },
            { "name": "derived.ratio", "data_type": "f64", "nulls": 3 },
        ],
        "rows": 100,
        "built_at": "2026-11-20T00:00:00Z",
    })
}
