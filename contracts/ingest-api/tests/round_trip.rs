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
        let records = match request.records.as_slice() {
            [] => String::new(),
            records => format!(" {records:?}"),
        };
        self.take(format!("push {source} {events:?}{records}"), receipt())
    }
    async fn status(&self) -> Result<Vec<SourceStatus>, IngestError> {
        self.take("status".to_owned(), status())
    }
    async fn pause(&self, source: &str, request: PauseRequest) -> Result<(), IngestError> {
        self.take(format!("pause {source} {request:?}"), ())
    }
    async fn resume(&self, source: &str) -> Result<(), IngestError> {
        self.take(format!("resume {source}"), ())
    }
    async fn seek(&self, source: &str, request: SeekRequest) -> Result<SeekReceipt, IngestError> {
        self.take(format!("seek {source} {request:?}"), sought())
    }
    async fn dead_letters(&self, source: &str, query: DeadLetterQuery) -> Result<DeadLetterPage, IngestError> {
        self.take(format!("dead_letters {source} {query:?}"), dead_letters())
    }
    async fn dead_letter_summary(&self, source: &str) -> Result<DeadLetterSummary, IngestError> {
        self.take(format!("summary {source}"), summary())
    }
    async fn fix(&self, source: &str, request: FixRequest) -> Result<FixReceipt, IngestError> {
        let still_bad = handled().refused.pop();
        self.take(format!("fix {source} {request:?}"), FixReceipt { still_bad })
    }
    async fn replay(&self, source: &str, request: ReplayRequest) -> Result<HandledReceipt, IngestError> {
        self.take(format!("replay {source} {request:?}"), handled())
    }
    async fn discard(&self, source: &str, request: DiscardRequest) -> Result<HandledReceipt, IngestError> {
        self.take(format!("discard {source} {request:?}"), handled())
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
    let watermark = Some(EventTime::from_micros(1_700_000_000_000_001));
    let partition = PartitionStatus {
        partition: 0,
        delivered: 9,
        durable: 7,
        end: Some(11),
        lag_events: Some(2),
        lag_seconds: Some(0.25),
        watermark,
        events_per_second_10s: 1.5,
        events_per_second_60s: 0.1,
        dead_letters: 2,
        dead_letters_60s: 1,
        owner: Some("host/1".to_owned()),
    };
    let unread = PartitionStatus {
        partition: 1,
        ..PartitionStatus::default()
    };
    let paused = Pause {
        since: EventTime::from_micros(7),
        reason: Some("moving".to_owned()),
    };
    vec![SourceStatus {
        source: "transactions".to_owned(),
        topic: "tx".to_owned(),
        partitions: vec![partition, unread],
        events: u64::MAX,
        dead_letters: 2,
        late_events: 1,
        skipped_events: 3,
        watermark,
        lag_events: Some(2),
        lag_seconds: Some(0.25),
        events_per_second_10s: 1.5,
        events_per_second_60s: 0.1,
        dead_letters_60s: 1,
        paused: Some(paused),
        fetch: Fetch {
            stopped: true,
            queued_bytes: 1,
            in_flight_bytes: 2,
        },
        error: Some("topic is gone".to_owned()),
    }]
}

fn sought() -> SeekReceipt {
    let skipped = vec![SkippedEvents {
        partition: 0,
        from: 5,
        to: 9,
    }];
    SeekReceipt { skipped, dry_run: true }
}

fn position(partition: i32, offset: i64) -> LetterPosition {
    LetterPosition(SourcePosition { partition, offset })
}

fn dead_letters() -> DeadLetterPage {
    let letter = DeadLetter {
        source: "transactions".to_owned(),
        position: SourcePosition {
            partition: 0,
            offset: 17,
        },
        reason: "malformed".to_owned(),
        detail: "`amount` is no f64".to_owned(),
        at: EventTime::from_micros(5),
        payload_base64: "e30=".to_owned(),
        truncated: true,
        key_base64: Some("aw==".to_owned()),
        headers: vec![MessageHeader {
            name: "h".to_owned(),
            value_base64: String::new(),
        }],
        timestamp: Some(EventTime::from_micros(4)),
        replay_of: Some(SourcePosition {
            partition: 0,
            offset: 3,
        }),
    };
    let plain = DeadLetter {
        truncated: false,
        key_base64: None,
        headers: Vec::new(),
        timestamp: None,
        replay_of: None,
        ..letter.clone()
    };
    let entry = |letter, state, fixed_base64| DeadLetterEntry {
        letter,
        state,
        state_since: None,
        fixed_base64,
    };
    DeadLetterPage {
        letters: vec![
            entry(letter, LetterState::Fixed, Some("e30=".to_owned())),
            entry(plain, LetterState::Open, None),
        ],
        next: Some("5/0/17".to_owned()),
    }
}

fn summary() -> DeadLetterSummary {
    DeadLetterSummary {
        source: "s".to_owned(),
        open: [("malformed".to_owned(), 3)].into(),
        states: [("open".to_owned(), 3)].into(),
        not_counted: 1,
        skipped: vec![SkippedRange {
            partition: 0,
            from: 1,
            to: 2,
            at: EventTime::from_micros(1),
            reason: "poison".to_owned(),
        }],
    }
}

fn handled() -> HandledReceipt {
    let refusal = LetterRefusal {
        position: position(1, 2),
        code: "unknown".to_owned(),
        detail: "none".to_owned(),
    };
    HandledReceipt {
        handled: vec![position(0, 1)],
        refused: vec![refusal],
    }
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
    assert_eq!(client.push("s/x", PushRequest::from(events)).await.unwrap(), receipt());
    assert_eq!(client.status().await.unwrap(), status());
    client.pause("s", PauseRequest::default()).await.unwrap();
    client.resume("s").await.unwrap();
    assert_eq!(
        *stub.calls.lock().unwrap(),
        [
            r#"push s/x ["{\"a\":  1.00000000000000000001}", "{}"]"#,
            "status",
            "pause s PauseRequest { reason: None }",
            "resume s",
        ]
    );
}

#[tokio::test]
async fn a_message_may_have_a_key_headers_and_a_time() {
    let (stub, client, base) = serve(None).await;
    let record = PushRecord {
        key: Some("k".to_owned()),
        headers: [("tenant".to_owned(), "t1".to_owned())].into(),
        timestamp: Some(ondol_vocabulary::EventTime::from_micros(0)),
        value: Some(raw(r#"{"a":  1}"#)),
    };
    let records = vec![record, PushRecord::default()];
    let request = PushRequest {
        records,
        ..PushRequest::default()
    };
    client.push("s", request).await.unwrap();
    let sent = last(&stub);
    let body = r#"{"records": [{"key": "k", "headers": {"tenant": "t1"}, "timestamp": "1970-01-01T00:00:00Z",
        "value": {"a":  1}}, {"value": null}]}"#;
    assert_eq!(
        post(&base, "/v1/sources/s/events", "application/json", body)
            .await
            .status(),
        200
    );
    assert_eq!(last(&stub), sent, "a value that is null is a deletion marker");
    let event = r#"{"records": [{"a": 1}]}"#;
    assert_eq!(
        post(&base, "/v1/sources/s/events", "application/json", event)
            .await
            .status(),
        400
    );
    assert!(
        sent.contains(r#"key: Some("k")"#) && sent.contains("value: None"),
        "{sent}"
    );
}

/// What the stub was last asked.
fn last(stub: &Stub) -> String {
    stub.calls.lock().unwrap().last().unwrap().clone()
}

#[tokio::test]
async fn every_seek_arrives_as_it_was_sent() {
    let (stub, client, _) = serve(None).await;
    let at = EventTime::from_micros(1_700_000_000_000_001);
    let range = ondol_vocabulary::PartitionRange {
        partition: 2,
        from: 3,
        to: 4,
    };
    let targets = [
        SeekTarget::Beginning,
        SeekTarget::End,
        SeekTarget::Offset {
            partition: 1,
            offset: 9,
        },
        SeekTarget::Timestamp { at },
        SeekTarget::Range { range },
    ];
    for to in targets {
        let request = SeekRequest {
            to,
            reason: Some("poison".to_owned()),
            dry_run: true,
        };
        assert_eq!(client.seek("s", request.clone()).await.unwrap(), sought());
        assert_eq!(last(&stub), format!("seek s {request:?}"));
    }
}

#[tokio::test]
async fn every_call_about_dead_letters_arrives_as_it_was_sent() {
    let (stub, client, _) = serve(None).await;
    let query = DeadLetterQuery {
        limit: 7,
        after: Some("5/0/17".to_owned()),
        reason: Some("wrong-type & more".to_owned()),
        partition: Some(3),
        since: Some(EventTime::from_micros(1_700_000_000_000_001)),
        position: Some(position(2, 17)),
        all: true,
    };
    assert_eq!(client.dead_letters("s", query.clone()).await.unwrap(), dead_letters());
    assert_eq!(last(&stub), format!("dead_letters s {query:?}"));
    assert_eq!(client.dead_letter_summary("s/x").await.unwrap(), summary());
    assert_eq!(last(&stub), "summary s/x");
    let fix = FixRequest {
        position: position(2, 17),
        payload_base64: "e30=".to_owned(),
    };
    let still_bad = client.fix("s", fix.clone()).await.unwrap().still_bad;
    assert_eq!(still_bad, handled().refused.pop());
    assert_eq!(last(&stub), format!("fix s {fix:?}"));
    let replay = ReplayRequest {
        positions: vec![position(0, 1), position(1, 2)],
        again: true,
        unchecked: true,
        dry_run: true,
    };
    assert_eq!(client.replay("s", replay.clone()).await.unwrap(), handled());
    assert_eq!(last(&stub), format!("replay s {replay:?}"));
    let discard = DiscardRequest {
        positions: vec![position(0, 1)],
        reason: Some("test data".to_owned()),
    };
    assert_eq!(client.discard("s", discard.clone()).await.unwrap(), handled());
    assert_eq!(last(&stub), format!("discard s {discard:?}"));
}

#[test]
fn a_position_is_written_partition_and_offset() {
    assert_eq!("3:42".parse(), Ok(position(3, 42)));
    for wrong in ["", "3", "3:", ":4", "-1:4", "3:-4", "3:4:5", "a:b"] {
        let error = wrong.parse::<LetterPosition>().unwrap_err();
        assert!(error.contains("PARTITION:OFFSET"), "{wrong}: {error}");
    }
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
    assert_eq!(last(&stub), format!("dead_letters s {:?}", DeadLetterQuery::default()));
    assert_eq!(DeadLetterQuery::default().limit, 100);
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
        (
            IngestError::SeekBackward {
                source_name: text("s"),
                partition: 1,
                delivered: 9,
                to: 3,
            },
            409,
            "seek-backward",
        ),
        (
            IngestError::UnknownLetter {
                source_name: text("s"),
                position: text("1:2"),
            },
            404,
            "unknown-letter",
        ),
        (IngestError::Overloaded { detail: text("d") }, 429, "overloaded"),
        (IngestError::Unavailable { detail: text("d") }, 503, "unavailable"),
        (IngestError::Internal { detail: text("d") }, 500, "internal"),
    ];
    for (error, status, code) in cases {
        let (_, client, base) = serve(Some(error.clone())).await;
        assert_eq!(
            client.push("s", PushRequest::from(vec![raw("{}")])).await.unwrap_err(),
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
    let error = client.push("s", PushRequest::from(vec![raw(&text)])).await.unwrap_err();
    assert!(
        matches!(&error, IngestError::InvalidRequest { detail } if detail.contains("body-too-large")),
        "{error}"
    );
}
