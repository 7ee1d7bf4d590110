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
use ondol_model_gateway_api::{ModelGateway, ModelGatewayClient, ModelGatewayError, server};
use ondol_vocabulary::{DataType, EventTime, FeatureStatus, Value, VersionedName};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Records what arrives; answers with the canned values below, or with `failure`.
#[derive(Default)]
struct Stub {
    calls: Mutex<Vec<String>>,
    failure: Option<ModelGatewayError>,
}

impl Stub {
    fn take<T>(&self, call: String, value: T) -> Result<T, ModelGatewayError> {
        self.calls.lock().unwrap().push(call);
        self.failure.clone().map_or(Ok(value), Err)
    }
}

#[async_trait]
impl ModelGateway for Stub {
    async fn predict(&self, model: &str, request: PredictRequest) -> Result<Prediction, ModelGatewayError> {
        self.take(format!("predict {model} {request:?}"), prediction())
    }
    async fn batch_predict(
        &self,
        model: &str,
        request: BatchPredictRequest,
    ) -> Result<BatchPrediction, ModelGatewayError> {
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
    async fn models(&self) -> Result<Vec<ModelSummary>, ModelGatewayError> {
        self.take("models".to_owned(), models())
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
    }
}

fn batch_request() -> BatchPredictRequest {
    BatchPredictRequest {
        instances: vec![inputs(), inputs()],
        as_of: None,
        deadline_ms: None,
    }
}

fn prediction() -> Prediction {
    let served = ServedFeature {
        value: Value::I64(7),
        age_ms: Some(240),
        status: FeatureStatus::Fresh,
        view: Some(VersionedName::new("card", 1)),
    };
    Prediction {
        prediction: json!(0.1 + 0.2),
        model: VersionedName::new("fraud", 4),
        request_id: "01J".to_owned(),
        as_of: EventTime::from_micros(1_700_000_000_000_001),
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

fn registered() -> RegisteredModel {
    RegisteredModel {
        model: VersionedName::new("fraud", 4),
        sha256: "ab".repeat(32),
        registered_at: EventTime::from_micros(5),
        definition_version: 1,
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
async fn an_artifact_arrives_with_its_manifest_or_bare() {
    let (stub, client, base) = serve(None).await;
    let with_manifest = RegisterRequest {
        artifact: artifact(),
        manifest: Some(json!({ "format": 1 })),
    };
    assert_eq!(
        client.register("fraud", with_manifest.clone()).await.unwrap(),
        registered()
    );
    let bare = RegisterRequest {
        artifact: artifact(),
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
