//! Client → a real port → router → a stub: what goes in comes out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use async_trait::async_trait;
use ondol_ingest_api::wire::*;
use ondol_ingest_api::{Ingest, IngestClient, IngestError, server};
use ondol_vocabulary::{EventTime, SourcePosition};
use serde_json::json;
use serde_json::value::RawValue;
use std::sync::{Arc, Mutex};

/// Records what arrives; answers with the canned values below, or with `failure`.
#[derive(Default)]
struct Stub {
    calls: Mutex<Vec<String>>,
    failure: Option<IngestError>,
}

impl Stub {
    fn take<T>(&self, call: String, value: T) -> Result<T, IngestError> {
        self.calls.lock().unwrap().push(call);
        self.failure.clone().map_or(Ok(value), Err)
    }
}

#[async_trait]
impl Ingest for Stub {
    async fn push(&self, source: &str, request: PushRequest) -> Result<PushReceipt, IngestError> {
        let events: Vec<&str> = request.events.iter().map(|event| event.get()).collect();
        self.take(format!("push {source} {events:?}"), receipt())
    }
    async fn status(&self) -> Result<Vec<SourceStatus>, IngestError> {
        self.take("status".to_owned(), status())
    }
    async fn dead_letters(&self, source: &str, query: DeadLetterQuery) -> Result<Vec<DeadLetter>, IngestError> {
        self.take(format!("dead_letters {source} {}", query.limit), dead_letters())
    }
}

fn receipt() -> PushReceipt {
    PushReceipt {
        positions: vec![SourcePosition {
            partition: 1,
            offset: 41,
        }],
    }
}

fn status() -> Vec<SourceStatus> {
    let partition = PartitionStatus {
        partition: 0,
        delivered: 9,
        durable: 7,
        end: None,
    };
    vec![SourceStatus {
        source: "transactions".to_owned(),
        topic: "tx".to_owned(),
        partitions: vec![partition],
        events: u64::MAX,
        dead_letters: 2,
        watermark: Some(EventTime::from_micros(1_700_000_000_000_001)),
        error: Some("topic is gone".to_owned()),
    }]
}

fn dead_letters() -> Vec<DeadLetter> {
    vec![DeadLetter {
        source: "transactions".to_owned(),
        position: SourcePosition {
            partition: 0,
            offset: 17,
        },
        reason: "malformed".to_owned(),
        detail: "`amount` is no f64".to_owned(),
        at: EventTime::from_micros(5),
        payload_base64: "e30=".to_owned(),
    }]
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

/// A router on a real port; the stub behind it, a client and the base URL.
async fn serve(failure: Option<IngestError>) -> (Arc<Stub>, IngestClient, String) {
    let stub = Arc::new(Stub {
        failure,
        ..Stub::default()
    });
    let router = server::router(Arc::clone(&stub) as Arc<dyn Ingest>);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (stub, IngestClient::new(base.parse().unwrap()).unwrap(), base)
}

async fn post(base: &str, path: &str, content_type: &str, body: &str) -> reqwest::Response {
    let request = reqwest::Client::new()
        .post(format!("{base}{path}"))
        .header("content-type", content_type);
    request.body(body.to_owned()).send().await.unwrap()
}

#[tokio::test]
async fn every_call_and_answer_arrives_as_it_was_sent() {
    let (stub, client, _) = serve(None).await;
    // Spacing and digits are the caller's: nothing on the way parses and rewrites an event.
    let events = vec![raw(r#"{"a":  1.00000000000000000001}"#), raw("{}")];
    assert_eq!(client.push("s/x", PushRequest { events }).await.unwrap(), receipt());
    assert_eq!(client.status().await.unwrap(), status());
    assert_eq!(
        client.dead_letters("s", DeadLetterQuery { limit: 7 }).await.unwrap(),
        dead_letters()
    );
    let expected = [
        r#"push s/x ["{\"a\":  1.00000000000000000001}", "{}"]"#,
        "status",
        "dead_letters s 7",
    ];
    assert_eq!(*stub.calls.lock().unwrap(), expected);
}

#[tokio::test]
async fn events_may_come_one_a_line() {
    let (stub, _, base) = serve(None).await;
    let body = "{\"a\": 1}\r\n\n  {\"a\": 2}\n";
    let response = post(
        &base,
        "/v1/sources/s/events",
        "application/x-ndjson; charset=utf-8",
        body,
    )
    .await;
    assert_eq!(response.json::<PushReceipt>().await.unwrap(), receipt());
    assert_eq!(*stub.calls.lock().unwrap(), [r#"push s ["{\"a\": 1}", "{\"a\": 2}"]"#]);
}

#[tokio::test]
async fn a_bad_line_is_named_by_its_number() {
    let (_, _, base) = serve(None).await;
    let response = post(
        &base,
        "/v1/sources/s/events",
        "application/x-ndjson",
        "{\"a\": 1}\n\n{\"a\": 2",
    )
    .await;
    assert_eq!(response.status(), 400);
    let problem: serde_json::Value = response.json().await.unwrap();
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .starts_with("line 3 is not one JSON value"),
        "{problem}"
    );
}

#[tokio::test]
async fn without_a_limit_a_hundred_dead_letters_are_listed() {
    let (stub, _, base) = serve(None).await;
    assert_eq!(
        reqwest::get(format!("{base}/v1/sources/s/dead-letters"))
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(*stub.calls.lock().unwrap(), ["dead_letters s 100"]);
}

#[tokio::test]
async fn every_error_comes_back_as_itself_and_as_a_problem() {
    let text = |text: &str| text.to_owned();
    let cases = [
        (
            IngestError::InvalidRequest { detail: text("d") },
            400,
            "invalid-request",
        ),
        (
            IngestError::UnknownSource {
                name: text("s"),
                suggestion: None,
            },
            404,
            "unknown-source",
        ),
        (IngestError::Overloaded { detail: text("d") }, 429, "overloaded"),
        (IngestError::Unavailable { detail: text("d") }, 503, "unavailable"),
        (IngestError::Internal { detail: text("d") }, 500, "internal"),
    ];
    for (error, status, code) in cases {
        let (_, client, base) = serve(Some(error.clone())).await;
        assert_eq!(
            client.push("s", PushRequest { events: vec![] }).await.unwrap_err(),
            error
        );
        let response = reqwest::get(format!("{base}/v1/sources")).await.unwrap();
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
    for (content_type, body) in [
        ("application/json", "{"),
        ("application/json", "[]"),
        ("application/json", "{\"events\": [{]}"),
        ("text/plain", "hello"),
        ("application/x-ndjson", "{} {}"),
    ] {
        let response = post(&base, "/v1/sources/s/events", content_type, body).await;
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{body}");
        assert_eq!(response.status(), 400, "{body}");
    }
    let response = reqwest::get(format!("{base}/v1/sources/s/dead-letters?limit=many"))
        .await
        .unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert!(
        stub.calls.lock().unwrap().is_empty(),
        "nothing hostile reached the service"
    );
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_a_problem_too() {
    let (_, client, _) = serve(None).await;
    let text = format!("\"{}\"", "x".repeat(3 << 20));
    let error = client
        .push(
            "s",
            PushRequest {
                events: vec![raw(&text)],
            },
        )
        .await
        .unwrap_err();
    assert!(
        matches!(&error, IngestError::InvalidRequest { detail } if detail.contains("body-too-large")),
        "{error}"
    );
}
