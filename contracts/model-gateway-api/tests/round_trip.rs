//! Client → a real port → router → a stub: what goes in comes out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use async_trait::async_trait;
use bytes::Bytes;
use ondol_model_gateway_api::wire::*;
use ondol_model_gateway_api::{ModelGateway, ModelGatewayClient, ModelGatewayError, UpstreamFailure, server};
use ondol_vocabulary::{DataType, EventTime, FeatureStatus, Value, VersionedName};
use ondol_wire::ContractError as _;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Records what arrives; answers with the canned values below, or with `failure`.
#[derive(Default)]
struct Stub {
    calls: Mutex<Vec<String>>,
    tenant: Mutex<Option<String>>,
    failure: Option<ModelGatewayError>,
}

impl Stub {
    fn take<T>(&self, call: String, value: T) -> Result<T, ModelGatewayError> {
        self.calls.lock().unwrap().push(call);
        self.failure.clone().map_or(Ok(value), Err)
    }

    /// Notes the header by which a rule of these tests routes.
    fn heard(&self, headers: &http::HeaderMap) {
        if let Some(value) = headers.get("x-tenant") {
            *self.tenant.lock().unwrap() = Some(value.to_str().unwrap().to_owned());
        }
    }
}

#[async_trait]
impl ModelGateway for Stub {
    async fn predict(&self, model: &str, request: PredictRequest) -> Result<Prediction, ModelGatewayError> {
        self.heard(&request.headers);
        let headers = http::HeaderMap::new();
        let request = PredictRequest { headers, ..request };
        self.take(format!("predict {model} {request:?}"), prediction())
    }
    async fn batch_predict(
        &self,
        model: &str,
        request: BatchPredictRequest,
    ) -> Result<BatchPrediction, ModelGatewayError> {
        self.heard(&request.headers);
        let headers = http::HeaderMap::new();
        let request = BatchPredictRequest { headers, ..request };
        self.take(
            format!("batch_predict {model} {request:?}"),
            BatchPrediction {
                predictions: vec![prediction()],
            },
        )
    }
    async fn register(&self, model: &str, request: RegisterRequest) -> Result<RegisteredModel, ModelGatewayError> {
        self.take(format!("register {model} {request:?}"), registered())
    }
    async fn score(&self, model: &str, request: ScoreRequest) -> Result<VectorScores, ModelGatewayError> {
        self.take(format!("score {model} {request:?}"), scores())
    }
    async fn outcome(&self, model: &str, request: OutcomeRequest) -> Result<OutcomeReceipt, ModelGatewayError> {
        self.take(format!("outcome {model} {request:?}"), receipt())
    }
    async fn models(&self) -> Result<Vec<ModelSummary>, ModelGatewayError> {
        self.take("models".to_owned(), models())
    }
    async fn routing(&self, model: &str) -> Result<RoutingRevision, ModelGatewayError> {
        self.take(format!("routing {model}"), revision())
    }
    async fn routing_history(&self, model: &str) -> Result<Vec<RoutingRevision>, ModelGatewayError> {
        self.take(
            format!("routing_history {model}"),
            vec![revision(), RoutingRevision::unset(model)],
        )
    }
    async fn set_routing(&self, model: &str, change: RoutingChange) -> Result<RoutingRevision, ModelGatewayError> {
        self.take(format!("set_routing {model} {change:?}"), revision())
    }
    async fn promote(&self, model: &str, request: PromoteRequest) -> Result<RoutingRevision, ModelGatewayError> {
        self.take(format!("promote {model} {request:?}"), revision())
    }
    async fn rollback(&self, model: &str, request: RollbackRequest) -> Result<RoutingRevision, ModelGatewayError> {
        self.take(format!("rollback {model} {request:?}"), revision())
    }
    async fn routing_report(&self, model: &str) -> Result<RoutingReport, ModelGatewayError> {
        self.take(format!("routing_report {model}"), report(model))
    }
}

fn inputs() -> BTreeMap<String, Value> {
    BTreeMap::from([
        ("card_id".to_owned(), Value::String("c:1".to_owned())),
        ("amount".to_owned(), Value::F64(1.0)),
    ])
}

fn request() -> PredictRequest {
    PredictRequest {
        inputs: inputs(),
        as_of: Some(EventTime::from_micros(5)),
        deadline_ms: Some(250),
        ..PredictRequest::default()
    }
}

fn batch_request() -> BatchPredictRequest {
    BatchPredictRequest {
        instances: vec![inputs(), inputs()],
        ..BatchPredictRequest::default()
    }
}

fn prediction() -> Prediction {
    let served = ServedFeature {
        value: Value::I64(7),
        age_ms: Some(240),
        status: FeatureStatus::Fresh,
        view: Some(VersionedName::new("card", 1)),
        defaulted: true,
    };
    Prediction {
        prediction: json!(0.1 + 0.2),
        model: VersionedName::new("fraud", 4),
        request_id: "01J".to_owned(),
        as_of: EventTime::from_micros(1_700_000_000_000_001),
        route: "rule large".to_owned(),
        degraded: vec![Degradation {
            trouble: Trouble::Unavailable,
            remedy: "default".to_owned(),
            detail: "the store is down".to_owned(),
        }],
        features: BTreeMap::from([
            ("card.n_1h".to_owned(), served.clone()),
            (
                "card.recent".to_owned(),
                ServedFeature {
                    value: Value::List(vec![Value::F64(0.5), Value::F64(2.0)]),
                    ..served
                },
            ),
        ]),
    }
}

fn scores() -> VectorScores {
    VectorScores {
        model: VersionedName::new("fraud", 3),
        sha256: "cd".repeat(32),
        predictions: vec![json!(0.1 + 0.2), json!(null)],
    }
}

fn receipt() -> OutcomeReceipt {
    OutcomeReceipt {
        request_id: "01J".to_owned(),
        at: EventTime::from_micros(6),
    }
}

fn registered() -> RegisteredModel {
    RegisteredModel {
        model: VersionedName::new("fraud", 4),
        kind: ArtifactKind::Onnx,
        sha256: "ab".repeat(32),
        registered_at: EventTime::from_micros(5),
        definition_version: 1,
        views: vec![VersionedName::new("card", 1)],
        inputs: vec![TensorSpec {
            name: "input".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![-1, 3],
        }],
        outputs: vec![],
    }
}

fn models() -> Vec<ModelSummary> {
    vec![ModelSummary {
        name: "fraud".to_owned(),
        inputs: BTreeMap::from([("amount".to_owned(), DataType::F64)]),
        features: vec!["card.n_1h".to_owned()],
        versions: vec![registered()],
    }]
}

fn routing() -> Routing {
    Routing {
        aliases: BTreeMap::from([("champion".to_owned(), 3), ("canary".to_owned(), 4)]),
        rules: vec![RoutingRule {
            name: Some("large".to_owned()),
            when: Some("amount > 1000".to_owned()),
            header: Some(HeaderMatch {
                name: "x-tenant".to_owned(),
                equals: "a".to_owned(),
            }),
            to: Target::Alias("champion".to_owned()),
        }],
        split: vec![
            Share {
                to: Target::Version(3),
                percent: 99.75,
            },
            Share {
                to: Target::Alias("canary".to_owned()),
                percent: 0.25,
            },
        ],
        sticky_by: vec!["card_id".to_owned()],
        shadow: vec![Shadow {
            version: Target::Version(5),
            flip_at: Some(0.5),
            sample_percent: 10.0,
        }],
        limits: Limits {
            min_requests: Some(1_000),
            max_error_rate: Some(0.001),
            withdraw_canary: true,
            ..Limits::default()
        },
        max_in_flight: Some(8),
    }
}

fn remark() -> Remark {
    Remark {
        by: Some("ann & bob".to_owned()),
        note: Some("more of it?".to_owned()),
    }
}

fn revision() -> RoutingRevision {
    RoutingRevision {
        revision: 7,
        routing: routing(),
        action: RoutingAction::Rollback,
        changed_at: Some(EventTime::from_micros(5)),
        remark: remark(),
        forced_past: vec!["p99".to_owned()],
        restores: Some(5),
        effective: BTreeMap::from([(3, 99.75), (4, 0.25)]),
        ..RoutingRevision::unset("fraud")
    }
}

fn report(model: &str) -> RoutingReport {
    let latency_ms = Quantiles {
        p50: 0.1,
        p90: 0.2,
        p99: 0.3,
    };
    RoutingReport {
        model: model.to_owned(),
        live: vec![LiveReport {
            version: 3,
            since: EventTime::from_micros(5),
            requests: 10,
            errors: 1,
            error_rate: 0.1,
            latency_ms,
        }],
        shadows: vec![ShadowReport {
            served: 3,
            shadow: 5,
            since: EventTime::from_micros(5),
            compared: 9,
            errors: 1,
            error_rate: 0.1,
            dropped: 2,
            skipped: 3,
            skipped_because: Some("another definition".to_owned()),
            mean_difference: 0.01,
            max_difference: 0.5,
            difference: Quantiles::default(),
            flip_at: Some(0.5),
            flips: 1,
            flip_rate: 0.125,
            latency_ms,
        }],
    }
}

/// Every byte value, more than the default body limit of axum.
fn artifact() -> Bytes {
    (0..=255_u8).cycle().take(3 << 20).collect()
}

/// A router on a real port; the stub behind it, a client and the base URL.
async fn serve(failure: Option<ModelGatewayError>) -> (Arc<Stub>, ModelGatewayClient, String) {
    let stub = Arc::new(Stub {
        failure,
        ..Stub::default()
    });
    let router = server::router(Arc::clone(&stub) as Arc<dyn ModelGateway>);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (stub, ModelGatewayClient::new(base.parse().unwrap()).unwrap(), base)
}

#[tokio::test]
async fn every_call_and_answer_arrives_as_it_was_sent() {
    let (stub, client, _) = serve(None).await;
    assert_eq!(client.predict("fraud@3", request()).await.unwrap(), prediction());
    let predictions = client.batch_predict("a:predict", batch_request()).await.unwrap();
    assert_eq!(
        predictions,
        BatchPrediction {
            predictions: vec![prediction()]
        }
    );
    assert_eq!(client.models().await.unwrap(), models());
    let expected = [
        format!("predict fraud@3 {:?}", request()),
        format!("batch_predict a:predict {:?}", batch_request()),
        "models".to_owned(),
    ];
    assert_eq!(*stub.calls.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_routing_and_its_changes_arrive_as_they_were_sent() {
    let (stub, client, base) = serve(None).await;
    assert_eq!(client.routing("fraud").await.unwrap(), revision());
    let history = client.routing_history("fraud").await.unwrap();
    assert_eq!(history, [revision(), RoutingRevision::unset("fraud")]);
    let change = RoutingChange {
        routing: routing(),
        expected_revision: Some(6),
        remark: remark(),
    };
    assert_eq!(client.set_routing("fraud", change.clone()).await.unwrap(), revision());
    let promote = PromoteRequest {
        version: Some(Target::Alias("canary".to_owned())),
        force: true,
        expected_revision: Some(7),
        ..PromoteRequest::default()
    };
    assert_eq!(client.promote("fraud", promote.clone()).await.unwrap(), revision());
    let rollback = RollbackRequest {
        to_revision: Some(2),
        ..RollbackRequest::default()
    };
    assert_eq!(client.rollback("fraud", rollback.clone()).await.unwrap(), revision());
    assert_eq!(client.routing_report("fraud").await.unwrap(), report("fraud"));
    let expected = [
        "routing fraud".to_owned(),
        "routing_history fraud".to_owned(),
        format!("set_routing fraud {change:?}"),
        format!("promote fraud {promote:?}"),
        format!("rollback fraud {rollback:?}"),
        "routing_report fraud".to_owned(),
    ];
    assert_eq!(*stub.calls.lock().unwrap(), expected);

    let http = reqwest::Client::new();
    let url = format!("{base}/v1/models/fraud/routing");
    let tag = http.get(&url).send().await.unwrap().headers()["etag"].clone();
    assert_eq!(tag, "\"7\"");
    let wrong = http.put(&url).header("if-match", "W/new").json(&routing());
    assert_eq!(wrong.send().await.unwrap().status(), 400);
    let misspelt = http.put(&url).body(r#"{"aliasses": {}}"#).send().await.unwrap();
    assert_eq!(misspelt.status(), 400);
}

#[tokio::test]
async fn decisions_looked_back_on_arrive_as_they_were_sent() {
    let (stub, client, base) = serve(None).await;
    let score = ScoreRequest {
        vectors: vec![inputs(), BTreeMap::from([("card.n_1h".to_owned(), Value::Null)])],
        deadline_ms: Some(5),
    };
    assert_eq!(client.score("fraud@3", score.clone()).await.unwrap(), scores());
    let outcome = OutcomeRequest {
        request_id: "01J".to_owned(),
        outcome: Value::Bool(true),
        at: Some(EventTime::from_micros(7)),
    };
    assert_eq!(client.outcome("fraud", outcome.clone()).await.unwrap(), receipt());
    let expected = [format!("score fraud@3 {score:?}"), format!("outcome fraud {outcome:?}")];
    assert_eq!(*stub.calls.lock().unwrap(), expected);
    let http = reqwest::Client::new();
    let misspelt = http.post(format!("{base}/v1/models/fraud:outcome"));
    let misspelt = misspelt.body(r#"{"request_id": "01J", "outcome": 1, "when": 5}"#);
    assert_eq!(misspelt.send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn an_explanation_is_asked_for_in_the_body_or_in_the_query() {
    let (stub, _, base) = serve(None).await;
    let post = async |query: &str, body: &str| {
        let url = format!("{base}/v1/models/fraud:predict{query}");
        let call = reqwest::Client::new().post(url).body(body.to_owned());
        call.send().await.unwrap().status().as_u16()
    };
    assert_eq!(post("?explain=false", r#"{"inputs": {}}"#).await, 200);
    assert_eq!(post("", r#"{"inputs": {}, "explain": false}"#).await, 200);
    assert_eq!(post("?explain", r#"{"inputs": {}}"#).await, 200);
    assert_eq!(post("?explain=perhaps", r#"{"inputs": {}}"#).await, 400);
    let calls = stub.calls.lock().unwrap();
    let asked: Vec<bool> = calls.iter().map(|call| call.contains("explain: Some(false)")).collect();
    assert_eq!(asked, [true, true, false]);
}

#[tokio::test]
async fn the_headers_of_a_call_reach_the_service() {
    let (stub, client, base) = serve(None).await;
    let mut headers = http::HeaderMap::new();
    headers.insert("x-tenant", "a".parse().unwrap());
    let call = PredictRequest { headers, ..request() };
    client.predict("fraud", call).await.unwrap();
    assert_eq!(stub.tenant.lock().unwrap().as_deref(), Some("a"));
    let call = reqwest::Client::new().post(format!("{base}/v1/models/fraud:batchPredict"));
    let call = call.header("X-Tenant", "b").body(r#"{"instances": []}"#);
    assert_eq!(call.send().await.unwrap().status(), 200);
    assert_eq!(stub.tenant.lock().unwrap().as_deref(), Some("b"));
}

#[tokio::test]
async fn an_artifact_arrives_with_its_manifest_or_bare() {
    let (stub, client, base) = serve(None).await;
    let with_manifest = RegisterRequest {
        artifact: artifact(),
        kind: Some(ArtifactKind::Xgboost),
        manifest: Some(json!({ "format": 1 })),
    };
    assert_eq!(
        client.register("fraud", with_manifest.clone()).await.unwrap(),
        registered()
    );
    let bare = RegisterRequest {
        artifact: artifact(),
        kind: None,
        manifest: None,
    };
    let response = reqwest::Client::new()
        .post(format!("{base}/v1/models/fraud/versions"))
        .header("content-type", "application/octet-stream")
        .body(artifact())
        .send()
        .await
        .unwrap();
    assert_eq!(response.json::<RegisteredModel>().await.unwrap(), registered());
    let calls = stub.calls.lock().unwrap();
    assert!(
        *calls
            == [
                format!("register fraud {with_manifest:?}"),
                format!("register fraud {bare:?}")
            ]
    );
}

#[tokio::test]
async fn every_error_comes_back_as_itself_and_as_a_problem() {
    let text = |text: &str| text.to_owned();
    let cases = [
        (
            ModelGatewayError::InvalidRequest { detail: text("d") },
            400,
            "invalid-request",
        ),
        (
            ModelGatewayError::UnknownModel {
                name: text("m"),
                suggestion: Some(text("n")),
            },
            404,
            "unknown-model",
        ),
        (
            ModelGatewayError::NothingRegistered { name: text("m") },
            404,
            "nothing-registered",
        ),
        (
            ModelGatewayError::Mismatch {
                model: text("m"),
                differences: vec![text("- a"), text("+ b")],
            },
            422,
            "mismatch",
        ),
        (
            ModelGatewayError::RevisionConflict {
                model: text("m"),
                expected: 1,
                current: 2,
            },
            409,
            "revision-conflict",
        ),
        (
            ModelGatewayError::LimitsNotMet {
                version: text("m@2"),
                unmet: vec![text("a")],
            },
            409,
            "limits-not-met",
        ),
        (
            ModelGatewayError::ModelMemory { detail: text("d") },
            507,
            "model-memory",
        ),
        (ModelGatewayError::Overloaded { detail: text("d") }, 429, "overloaded"),
        (
            ModelGatewayError::DeadlineExceeded {
                deadline_ms: 9,
                stage: text("model"),
            },
            504,
            "deadline-exceeded",
        ),
        (ModelGatewayError::Unavailable { detail: text("d") }, 503, "unavailable"),
        (ModelGatewayError::Internal { detail: text("d") }, 500, "internal"),
    ];
    for (error, status, code) in cases {
        let (_, client, base) = serve(Some(error.clone())).await;
        assert_eq!(client.predict("m", request()).await.unwrap_err(), error);
        let response = reqwest::get(format!("{base}/v1/models")).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem: serde_json::Value = response.json().await.unwrap();
        assert_eq!(problem["type"], format!("urn:ondol:problem:{code}"));
        assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)));
        assert_eq!(problem["detail"], error.to_string());
    }
}

#[tokio::test]
async fn hostile_requests_are_refused_with_a_problem() {
    let (stub, _, base) = serve(None).await;
    let http = reqwest::Client::new();
    for (path, body, status) in [
        ("/v1/models/m:predict", "{", 400),
        ("/v1/models/m:predict", r#"{"input": {}}"#, 400),
        ("/v1/models/m:predict", r#"{"inputs": {"a": [[1]]}}"#, 400),
        (
            "/v1/models/m:predict",
            r#"{"inputs": {}, "as_of": "2013-01-01T00:00:00"}"#,
            400,
        ),
        ("/v1/models/m:batchPredict", r#"{"instances": 3}"#, 400),
        ("/v1/models/m/versions", r#"{"artifact_base64": "*"}"#, 400),
        ("/v1/models/m:explain", "{}", 404),
        ("/v1/models/m", "{}", 404),
    ] {
        let response = http.post(format!("{base}{path}")).body(body).send().await.unwrap();
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json",
            "{path} {body}"
        );
        assert_eq!(response.status(), status, "{path} {body}");
    }
    let naive = http.post(format!("{base}/v1/models/m:predict"));
    let naive = naive
        .body(r#"{"inputs": {}, "as_of": "2013-01-01T00:00:00"}"#)
        .send()
        .await
        .unwrap();
    assert!(naive.text().await.unwrap().contains("naive timestamp"));
    assert!(
        stub.calls.lock().unwrap().is_empty(),
        "nothing hostile reached the service"
    );
}

#[test]
fn a_kind_of_artifact_is_one_word_and_older_versions_are_onnx() {
    for kind in ArtifactKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), json!(kind.name()));
        assert_eq!(kind.name().parse(), Ok(kind));
    }
    assert!("tarot".parse::<ArtifactKind>().unwrap_err().contains("lightgbm"));
    let mut older = serde_json::to_value(registered()).unwrap();
    older.as_object_mut().unwrap().remove("kind").unwrap();
    assert_eq!(
        serde_json::from_value::<RegisteredModel>(older).unwrap().kind,
        ArtifactKind::Onnx
    );
}

#[test]
fn an_upstream_that_failed_says_how_and_when_to_come_back() {
    for (failure, status, code, retry_after) in [
        (UpstreamFailure::TimedOut, 504, "upstream-timed-out", None),
        (
            UpstreamFailure::Unavailable { retry_after_s: 3 },
            503,
            "upstream-unavailable",
            Some(3),
        ),
        (UpstreamFailure::Failed, 502, "upstream-failed", None),
    ] {
        let error = ModelGatewayError::Upstream {
            upstream: "triton:8000/fraud".to_owned(),
            failure,
            detail: "told".to_owned(),
        };
        assert_eq!((error.status().as_u16(), error.code()), (status, code));
        assert_eq!(error.retry_after_seconds(), retry_after);
        let wire = serde_json::to_string(&error).unwrap();
        assert_eq!(serde_json::from_str::<ModelGatewayError>(&wire).unwrap(), error);
    }
}
