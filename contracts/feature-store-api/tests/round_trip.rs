//! Client → a real port → router → a stub: what goes in comes out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use arrow::array::{ArrayRef, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::{Field, Float32Type, Schema};
use async_trait::async_trait;
use ondol_feature_store_api::maintenance::{Compaction, Vacuum, VacuumOptions};
use ondol_feature_store_api::provisioning::{Provisioning, ProvisioningState};
use ondol_feature_store_api::uses::{BrokenUse, ConsumerUses, FeatureUse, ModelUse};
use ondol_feature_store_api::wire::*;
use ondol_feature_store_api::{FeatureStore, FeatureStoreClient, FeatureStoreError, server};
use ondol_vocabulary::*;
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Records what arrives; answers with the canned values below, or with `failure`.
#[derive(Default)]
struct Stub {
    calls: Mutex<Vec<String>>,
    failure: Option<FeatureStoreError>,
}

impl Stub {
    fn take<T>(&self, call: String, value: T) -> Result<T, FeatureStoreError> {
        self.calls.lock().unwrap().push(call);
        self.failure.clone().map_or(Ok(value), Err)
    }
}

#[async_trait]
impl FeatureStore for Stub {
    async fn plan(&self, files: DefinitionFiles) -> Result<Plan, FeatureStoreError> {
        self.take(format!("plan {files:?}"), plan())
    }
    async fn apply(&self, files: DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        self.take(format!("apply {files:?}"), applied())
    }
    async fn apply_forced(&self, files: DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        self.take(format!("apply_forced {files:?}"), applied())
    }
    async fn publish_uses(&self, consumer: &str, models: Vec<ModelUse>) -> Result<ConsumerUses, FeatureStoreError> {
        self.take(format!("publish_uses {consumer} {models:?}"), consumer_uses())
    }
    async fn uses(&self) -> Result<Vec<ConsumerUses>, FeatureStoreError> {
        self.take("uses".to_owned(), vec![consumer_uses()])
    }
    async fn snapshot(&self) -> Result<Arc<Snapshot>, FeatureStoreError> {
        self.take("snapshot".to_owned(), Arc::new(snapshot()))
    }
    async fn next_snapshot(&self, after: u64, wait: Duration) -> Result<Arc<Snapshot>, FeatureStoreError> {
        self.take(format!("next_snapshot {after} {wait:?}"), Arc::new(snapshot()))
    }
    async fn history(&self, name: &str) -> Result<DefinitionHistory, FeatureStoreError> {
        self.take(format!("history {name:?}"), history())
    }
    async fn activate(&self, view_id: u32) -> Result<(), FeatureStoreError> {
        self.take(format!("activate {view_id}"), ())
    }
    async fn resume(&self, source: &str, generation: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        self.take(format!("resume {source:?} {generation:?}"), receipt().written)
    }
    async fn write(&self, delivery: Delivery) -> Result<WriteReceipt, FeatureStoreError> {
        self.take(format!("write {delivery:?}"), receipt())
    }
    async fn flush(&self, source: &str) -> Result<WriteReceipt, FeatureStoreError> {
        self.take(format!("flush {source:?}"), receipt())
    }
    async fn read(&self, request: ReadRequest) -> Result<FeatureBatch, FeatureStoreError> {
        self.take(format!("read {request:?}"), features())
    }
    async fn tables(&self) -> Result<Vec<OfflineTable>, FeatureStoreError> {
        self.take("tables".to_owned(), tables())
    }
    async fn rebuild(&self, request: RebuildRequest) -> Result<Vec<Rebuild>, FeatureStoreError> {
        self.take(format!("rebuild {request:?}"), rebuilds())
    }
    async fn rebuilds(&self) -> Result<Vec<Rebuild>, FeatureStoreError> {
        self.take("rebuilds".to_owned(), rebuilds())
    }
    async fn provisionings(&self) -> Result<Vec<Provisioning>, FeatureStoreError> {
        self.take("provisionings".to_owned(), vec![provisioning()])
    }
    async fn hold(&self, view_id: u32) -> Result<Provisioning, FeatureStoreError> {
        self.take(format!("hold {view_id}"), provisioning())
    }
    async fn release(&self, view_id: u32) -> Result<Provisioning, FeatureStoreError> {
        self.take(format!("release {view_id}"), provisioning())
    }
    async fn compact(&self, source: &str) -> Result<Compaction, FeatureStoreError> {
        self.take(format!("compact {source:?}"), compaction())
    }
    async fn vacuum(&self, source: &str, options: VacuumOptions) -> Result<Vacuum, FeatureStoreError> {
        self.take(format!("vacuum {source:?} {options:?}"), vacuumed())
    }
}

fn compaction() -> Compaction {
    Compaction {
        source: "transactions".to_owned(),
        version: Some(7),
        commits: 2,
        files_removed: 40,
        files_added: 3,
        bytes_removed: 1 << 40,
        bytes_added: 5,
        rows: 6,
        files_before: 50,
        files_after: 13,
    }
}

fn vacuumed() -> Vacuum {
    Vacuum {
        source: "transactions".to_owned(),
        dry_run: true,
        version: Some(7),
        oldest_version: Some(3),
        dates_dropped: vec!["2013-01-31".to_owned()],
        rows_dropped: 8,
        files_deleted: 9,
        bytes_deleted: 1 << 41,
        log_entries_deleted: 10,
        files_kept: 11,
    }
}

fn rebuilds() -> Vec<Rebuild> {
    vec![Rebuild {
        view: "card".to_owned(),
        version: 2,
        source: "transactions".to_owned(),
        state: RebuildState::Running,
        rows_done: 5,
        rows_total: Some(9),
        started_at: Some(EventTime::from_micros(1_700_000_000_000_001)),
        finished_at: None,
        error: Some("why".to_owned()),
    }]
}

fn provisioning() -> Provisioning {
    Provisioning {
        view_id: 7,
        view: "card".to_owned(),
        version: 2,
        source: "transactions".to_owned(),
        rebuild: true,
        state: ProvisioningState::HandingOver,
        rows_done: 5,
        rows_total: Some(9),
        started_at: Some(EventTime::from_micros(1_700_000_000_000_001)),
        error: Some("why".to_owned()),
    }
}

fn files() -> DefinitionFiles {
    DefinitionFiles {
        files: vec![DefinitionFile {
            path: "정의/a.toml".to_owned(),
            text: "[view.card]\n".to_owned(),
        }],
    }
}

fn plan() -> Plan {
    Plan {
        base_version: 3,
        changes: vec![change()],
    }
}

fn change() -> Change {
    Change {
        noun: "view".to_owned(),
        name: VersionedName::new("card", 2),
        action: ChangeAction::Update,
        differences: vec!["12h → 24h".to_owned()],
        rows_to_backfill: Some(7),
        models_affected: vec!["fraud".to_owned()],
        row_bytes: Some(RowBytes {
            typical: 100,
            most: 2_000,
            parts: vec![RowPartBytes {
                part: "up to 25 tiles of 1h".to_owned(),
                typical: 70,
                most: 1_900,
            }],
        }),
    }
}

fn applied() -> Applied {
    Applied {
        changes: vec![change()],
        snapshot: snapshot(),
    }
}

fn snapshot() -> Snapshot {
    let source = SourceDefinition {
        name: "transactions".to_owned(),
        origin: SourceOrigin::Stream {
            topic: "t".to_owned(),
            format: StreamFormat::Json,
            shape: ondol_vocabulary::MessageShape {
                columns: [(
                    "card_id".to_owned(),
                    ColumnReading::json(ColumnOrigin::Field(vec!["card".to_owned()])),
                )]
                .into(),
                ..ondol_vocabulary::MessageShape::default()
            },
        },
        time: "ts".to_owned(),
        late_us: 300_000_000,
        arrival: Arrival::EventTime { delay_us: 5 },
        schema: vec![ondol_vocabulary::Field {
            name: "ts".to_owned(),
            data_type: DataType::Timestamp,
        }],
    };
    Snapshot {
        version: 4,
        sources: vec![SourceVersion {
            version: 1,
            definition: source,
        }],
        ..Snapshot::default()
    }
}

fn history() -> DefinitionHistory {
    let version = DefinitionVersion {
        version: 1,
        applied_at: EventTime::from_micros(1_700_000_000_000_001),
        in_force: true,
        definition: json!({ "name": "card" }),
    };
    DefinitionHistory {
        noun: "view".to_owned(),
        name: "card".to_owned(),
        versions: vec![version],
    }
}

fn receipt() -> WriteReceipt {
    WriteReceipt {
        written: vec![PartitionPosition {
            partition: 0,
            next_offset: 12,
        }],
        durable: vec![PartitionPosition {
            partition: 0,
            next_offset: 10,
        }],
    }
}

fn tables() -> Vec<OfflineTable> {
    vec![OfflineTable {
        source: "s".to_owned(),
        url: "file:///x".to_owned(),
        version: Some(0),
        rows: None,
    }]
}

fn features() -> FeatureBatch {
    let column = |values: ArrayRef| FeatureColumn {
        view_version: 2,
        values,
        status: [FeatureStatus::Fresh, FeatureStatus::Missing].into(),
        event_time: [Some(EventTime::from_micros(5)), None].into(),
    };
    let names = ["n_1h", "spend", "risk", "country", "last_amounts"];
    FeatureBatch {
        as_of: EventTime::from_micros(1_700_000_000_000_001),
        rows: 2,
        features: names.iter().map(|name| FeatureRef::new("card", *name)).collect(),
        columns: vec![
            column(Arc::new(Int64Array::from(vec![7, 0]))),
            column(Arc::new(Float64Array::from(vec![Some(0.1 + 0.2), None]))),
            column(Arc::new(Float32Array::from(vec![Some(0.1), None]))),
            column(Arc::new(StringArray::from(vec![Some("KR"), None]))),
            column(Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>([
                Some(vec![Some(0.1), Some(f32::INFINITY)]),
                None,
            ]))),
        ],
    }
}

fn delivery() -> Delivery {
    let schema = Schema::new(vec![
        Field::new("id", DataType::String.arrow(), true),
        Field::new(columns::PARTITION, DataType::I32.arrow(), false),
        Field::new(columns::OFFSET, DataType::I64.arrow(), false),
    ]);
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![Some("a"), None])),
        Arc::new(Int32Array::from(vec![0, 0])),
        Arc::new(Int64Array::from(vec![10, 11])),
    ];
    let header = DeliveryHeader {
        source: "transactions".to_owned(),
        source_version: 1,
        generation: "g".to_owned(),
        ranges: vec![PartitionRange {
            partition: 0,
            from: 10,
            to: 12,
        }],
        table: Some(TableRows {
            views: vec![3, 4],
            whole: true,
        }),
    };
    Delivery {
        header,
        events: RecordBatch::try_new(Arc::new(schema), arrays).unwrap(),
    }
}

fn read_request() -> ReadRequest {
    ReadRequest {
        features: features().features,
        entities: vec![EntityColumn {
            name: "card_id".to_owned(),
            values: vec![
                Value::String("c1".to_owned()),
                Value::I64(i64::MAX),
                Value::F64(1.0),
                Value::Null,
            ],
        }],
        as_of: Some(EventTime::from_micros(1_700_000_000_000_001)),
    }
}

/// A router on a real port; the stub behind it, a client and the base URL.
async fn serve(failure: Option<FeatureStoreError>) -> (Arc<Stub>, FeatureStoreClient, String) {
    let stub = Arc::new(Stub {
        failure,
        ..Stub::default()
    });
    let router = server::router(Arc::clone(&stub) as Arc<dyn FeatureStore>);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (stub, FeatureStoreClient::new(base.parse().unwrap()).unwrap(), base)
}

fn consumer_uses() -> ConsumerUses {
    ConsumerUses {
        consumer: "model-gateway".to_owned(),
        published_at: EventTime::from_micros(7),
        models: vec![ModelUse {
            model: VersionedName::new("fraud", 3),
            reads: vec![FeatureUse {
                feature: FeatureRef::new("card", "n_1h"),
                view_version: 2,
                data_type: DataType::I64,
            }],
        }],
    }
}

#[tokio::test]
async fn uses_and_forced_applies_arrive_as_they_were_sent() {
    let (stub, client, _) = serve(None).await;
    let models = consumer_uses().models;
    let published = client.publish_uses("gate/way", models.clone()).await.unwrap();
    assert_eq!(published, consumer_uses());
    assert_eq!(client.uses().await.unwrap(), [consumer_uses()]);
    assert_eq!(client.apply_forced(files()).await.unwrap(), applied());
    let expected = [
        format!("publish_uses gate/way {models:?}"),
        "uses".to_owned(),
        format!("apply_forced {:?}", files()),
    ];
    assert_eq!(*stub.calls.lock().unwrap(), expected);
}

#[tokio::test]
async fn every_call_and_answer_arrives_as_it_was_sent() {
    let (stub, client, _) = serve(None).await;
    assert_eq!(client.plan(files()).await.unwrap(), plan());
    assert_eq!(client.apply(files()).await.unwrap(), applied());
    assert_eq!(*client.snapshot().await.unwrap(), snapshot());
    assert_eq!(
        *client.next_snapshot(3, Duration::from_millis(1500)).await.unwrap(),
        snapshot()
    );
    assert_eq!(client.history("a/b 가:x").await.unwrap(), history());
    client.activate(9).await.unwrap();
    assert_eq!(client.resume("s:x", "a&b=c").await.unwrap(), receipt().written);
    assert_eq!(client.write(delivery()).await.unwrap(), receipt());
    assert_eq!(client.flush("transactions").await.unwrap(), receipt());
    let read = client.read(read_request()).await.unwrap();
    assert_eq!(read.to_arrow().unwrap(), features().to_arrow().unwrap());
    assert_eq!(client.tables().await.unwrap(), tables());
    let request = RebuildRequest {
        names: vec!["card".to_owned()],
    };
    assert_eq!(client.rebuild(request.clone()).await.unwrap(), rebuilds());
    assert_eq!(client.rebuilds().await.unwrap(), rebuilds());
    assert_eq!(client.provisionings().await.unwrap(), [provisioning()]);
    assert_eq!(client.hold(7).await.unwrap(), provisioning());
    assert_eq!(client.release(8).await.unwrap(), provisioning());
    assert_eq!(client.compact("s:x").await.unwrap(), compaction());
    let options = VacuumOptions {
        retention_ms: Some(1),
        keep_ms: Some(2),
        dry_run: true,
    };
    assert_eq!(client.vacuum("s:x", options.clone()).await.unwrap(), vacuumed());
    let expected = [
        format!("plan {:?}", files()),
        format!("apply {:?}", files()),
        "snapshot".to_owned(),
        "next_snapshot 3 1.5s".to_owned(),
        "history \"a/b 가:x\"".to_owned(),
        "activate 9".to_owned(),
        "resume \"s:x\" \"a&b=c\"".to_owned(),
        format!("write {:?}", delivery()),
        "flush \"transactions\"".to_owned(),
        format!("read {:?}", read_request()),
        "tables".to_owned(),
        format!("rebuild {request:?}"),
        "rebuilds".to_owned(),
        "provisionings".to_owned(),
        "hold 7".to_owned(),
        "release 8".to_owned(),
        "compact \"s:x\"".to_owned(),
        format!("vacuum \"s:x\" {options:?}"),
    ];
    assert_eq!(*stub.calls.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_wait_beyond_the_longest_is_cut() {
    let (stub, client, _) = serve(None).await;
    client.next_snapshot(0, Duration::MAX).await.unwrap();
    assert_eq!(*stub.calls.lock().unwrap(), ["next_snapshot 0 60s"]);
}

#[tokio::test]
async fn every_error_comes_back_as_itself_and_as_a_problem() {
    let text = |text: &str| text.to_owned();
    let diagnostic = Diagnostic {
        code: text("unknown-column"),
        file: text("a.toml"),
        line: 3,
        column: 7,
        start: 30,
        end: 36,
        message: text("unknown column `amout`"),
        help: Some(text("did you mean `amount`?")),
    };
    let cases = [
        (
            FeatureStoreError::InUse {
                broken: vec![BrokenUse {
                    change: "view card would be removed".to_owned(),
                    models: vec![VersionedName::new("fraud", 3)],
                }],
            },
            409,
            "in-use",
        ),
        (
            FeatureStoreError::InvalidDefinitions {
                diagnostics: vec![diagnostic],
            },
            422,
            "invalid-definitions",
        ),
        (
            FeatureStoreError::InvalidRequest { detail: text("d") },
            400,
            "invalid-request",
        ),
        (
            FeatureStoreError::Unknown {
                kind: text("view"),
                name: text("crad"),
                suggestion: Some(text("card")),
            },
            404,
            "unknown",
        ),
        (FeatureStoreError::NotActive { view: text("card") }, 503, "not-active"),
        (
            FeatureStoreError::AsOfInThePast {
                as_of: text("a"),
                entity: text("e"),
                newest: text("n"),
            },
            422,
            "as-of-in-the-past",
        ),
        (
            FeatureStoreError::Gap {
                source_name: text("s"),
                partition: 1,
                expected: 5,
                from: 9,
            },
            409,
            "gap",
        ),
        (FeatureStoreError::Unavailable { detail: text("d") }, 503, "unavailable"),
        (FeatureStoreError::Internal { detail: text("d") }, 500, "internal"),
    ];
    for (error, status, code) in cases {
        let (_, client, base) = serve(Some(error.clone())).await;
        assert_eq!(client.write(delivery()).await.unwrap_err(), error);
        assert_eq!(client.read(read_request()).await.unwrap_err(), error);
        let response = reqwest::get(format!("{base}/v1/tables")).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem: serde_json::Value = response.json().await.unwrap();
        assert_eq!(problem["type"], format!("urn:ondol:problem:{code}"));
        assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)));
        assert_eq!(problem["detail"], error.to_string());
    }
}

#[tokio::test]
async fn a_notebook_reads_features_as_arrow() {
    let (_, _, base) = serve(None).await;
    let response = reqwest::Client::new()
        .post(format!("{base}/v1/features:read"))
        .header("accept", batch::MEDIA_TYPE)
        .json(&read_request())
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["content-type"], batch::MEDIA_TYPE);
    let read = batch::decode_one(&response.bytes().await.unwrap()).unwrap();
    let read = FeatureBatch::from_arrow(&read).unwrap();
    assert_eq!(read.to_arrow().unwrap(), features().to_arrow().unwrap());
}

#[tokio::test]
async fn a_person_reads_features_as_json() {
    let (_, _, base) = serve(None).await;
    let response = reqwest::Client::new()
        .post(format!("{base}/v1/features:read"))
        .body(r#"{"features": ["card.n_1h"], "entities": [{"name": "card_id", "values": ["c1", "c2"]}]}"#)
        .send()
        .await
        .unwrap();
    let body: serde_json::Value = response.json().await.unwrap();
    assert_eq!(body["as_of"], "2023-11-14T22:13:20.000001Z");
    assert_eq!(body["features"][0]["values"], json!([7, 0]));
    assert_eq!(body["features"][1]["values"], json!([0.300_000_000_000_000_04, null]));
    assert_eq!(
        body["features"][2]["values"],
        json!([0.1, null]),
        "an f32 is shown in its shortest form"
    );
    assert_eq!(body["features"][3]["values"], json!(["KR", null]));
    assert_eq!(body["features"][4]["values"], json!([[0.1, "Infinity"], null]));
    assert_eq!(body["features"][0]["status"], json!(["fresh", "missing"]));
    assert_eq!(
        body["features"][0]["event_time"],
        json!(["1970-01-01T00:00:00.000005Z", null])
    );
}

async fn refused(base: &str, method: http::Method, path: &str, body: Vec<u8>) -> (u16, serde_json::Value) {
    let request = reqwest::Client::new()
        .request(method, format!("{base}{path}"))
        .body(body);
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn hostile_requests_are_refused_with_a_problem() {
    let (stub, _, base) = serve(None).await;
    let mut without_header = delivery();
    without_header.header.source = "x".to_owned();
    let headless = batch::encode(&without_header.events.schema(), &[without_header.events]).unwrap();
    let whole = delivery().to_arrow().unwrap();
    let whole = batch::encode(&whole.schema(), &[whole]).unwrap();
    let post = http::Method::POST;
    let get = http::Method::GET;
    for (method, path, body) in [
        (&post, "/v1/definitions:plan", b"{".to_vec()),
        (&post, "/v1/definitions:apply", b"{\"files\": 3}".to_vec()),
        (&post, "/v1/features:read", b"\xff\xfe".to_vec()),
        (
            &post,
            "/v1/features:read",
            br#"{"features": ["nodot"], "entities": []}"#.to_vec(),
        ),
        (&post, "/v1/deliveries", b"not arrow".to_vec()),
        (&post, "/v1/deliveries", vec![]),
        (&post, "/v1/deliveries", headless),
        (&post, "/v1/deliveries", whole[..whole.len() / 2].to_vec()),
        (&post, "/v1/views/x:activate", vec![]),
        (&get, "/v1/snapshot?after=minus", vec![]),
        (&get, "/v1/sources/s/positions", vec![]),
        (&get, "/v1/sources/%ff/positions?generation=g", vec![]),
    ] {
        let (status, problem) = refused(&base, method.clone(), path, body).await;
        assert_eq!(
            (status, &problem["code"]),
            (400, &json!("invalid-request")),
            "{path}: {problem}"
        );
    }
    let (status, problem) = refused(&base, post.clone(), "/v1/sources/s:drop", vec![]).await;
    assert_eq!((status, &problem["code"]), (404, &json!("no-such-operation")));
    assert!(
        stub.calls.lock().unwrap().is_empty(),
        "nothing hostile reached the service"
    );
}

/// Every single-byte corruption of a delivery is refused or read, and the port lives on: none panics or allocates what
/// a forged length claims.
#[tokio::test]
async fn a_corrupt_delivery_never_harms_the_port() {
    let (_, client, base) = serve(None).await;
    let whole = delivery().to_arrow().unwrap();
    let whole = batch::encode(&whole.schema(), &[whole]).unwrap();
    let http = reqwest::Client::new();
    for position in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[position] ^= 0xff;
        let response = http
            .post(format!("{base}/v1/deliveries"))
            .body(bytes)
            .send()
            .await
            .unwrap();
        assert!(
            [200, 400].contains(&response.status().as_u16()),
            "byte {position}: {}",
            response.status()
        );
    }
    assert_eq!(client.write(delivery()).await.unwrap(), receipt());
}

#[tokio::test]
async fn a_service_that_is_not_there_is_unavailable() {
    let client = FeatureStoreClient::new("http://127.0.0.1:1".parse().unwrap()).unwrap();
    let error = client.tables().await.unwrap_err();
    assert!(
        matches!(&error, FeatureStoreError::Unavailable { detail } if detail.contains("127.0.0.1:1")),
        "{error}"
    );
}

#[test]
fn a_state_is_called_the_same_in_messages_and_on_the_wire() {
    for state in [
        ProvisioningState::Waiting,
        ProvisioningState::Building,
        ProvisioningState::HandingOver,
        ProvisioningState::Held,
        ProvisioningState::Failed,
    ] {
        assert_eq!(serde_json::to_value(state).unwrap(), state.name());
    }
}
