//! Client → a real port → router → a stub: what goes in comes out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};
use async_trait::async_trait;
use ondol_pipelines_api::wire::*;
use ondol_pipelines_api::{Pipelines, PipelinesClient, PipelinesError, server};
use ondol_vocabulary::{DataType, EventTime, VersionedName};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Records what arrives; answers with the canned values below, or with `failure`.
#[derive(Default)]
struct Stub {
    calls: Mutex<Vec<String>>,
    failure: Option<PipelinesError>,
}

impl Stub {
    fn take<T>(&self, call: String, value: T) -> Result<T, PipelinesError> {
        self.calls.lock().unwrap().push(call);
        self.failure.clone().map_or(Ok(value), Err)
    }
}

#[async_trait]
impl Pipelines for Stub {
    async fn training_set(&self, request: TrainingSetRequest) -> Result<Job, PipelinesError> {
        self.take(format!("training_set {request:?}"), job())
    }
    async fn materialize(&self, request: MaterializeRequest) -> Result<Job, PipelinesError> {
        self.take(format!("materialize {request:?}"), job())
    }
    async fn jobs(&self) -> Result<Vec<Job>, PipelinesError> {
        self.take("jobs".to_owned(), vec![job(), job()])
    }
    async fn job(&self, id: &str, seen_revision: Option<u64>, wait: Duration) -> Result<Job, PipelinesError> {
        self.take(format!("job {id} {seen_revision:?} {wait:?}"), job())
    }
    async fn result(&self, id: &str) -> Result<JobResult, PipelinesError> {
        self.take(
            format!("result {id}"),
            JobResult {
                schema: rows().schema(),
                batches: vec![rows(), rows()],
            },
        )
    }
    async fn cancel(&self, id: &str) -> Result<Job, PipelinesError> {
        self.take(format!("cancel {id}"), job())
    }
}

fn job() -> Job {
    let manifest = Manifest {
        format: 1,
        model: VersionedName::new("fraud", 1),
        as_of: AsOf::EventTime,
        registry_version: 3,
        views: vec![VersionedName::new("card", 2)],
        tables: BTreeMap::from([("transactions".to_owned(), "12".to_owned())]),
        time_column: "ts".to_owned(),
        spine_columns: vec!["card_id".to_owned(), "ts".to_owned()],
        features: vec![ManifestFeature {
            name: "card.n_1h".to_owned(),
            data_type: DataType::I64,
            nulls: 0,
        }],
        rows: 2,
        built_at: EventTime::from_micros(9),
    };
    Job {
        id: "01J".to_owned(),
        kind: "training-set".to_owned(),
        subject: "fraud".to_owned(),
        state: JobState::Succeeded,
        revision: 8,
        stage: "done".to_owned(),
        rows_done: 2,
        rows_total: Some(2),
        created_at: EventTime::from_micros(5),
        ended_at: Some(EventTime::from_micros(9)),
        error: None,
        manifest: Some(manifest),
    }
}

fn rows() -> RecordBatch {
    let metadata = HashMap::from([("origin".to_owned(), "labels.parquet".to_owned())]);
    let schema = Schema::new_with_metadata(
        vec![
            Field::new("card_id", DataType::String.arrow(), true),
            Field::new("ts", DataType::Timestamp.arrow(), false),
        ],
        metadata,
    );
    let times = arrow::array::TimestampMicrosecondArray::from(vec![1, 2]).with_timezone("UTC");
    let arrays: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec![Some("c1"), None])), Arc::new(times)];
    RecordBatch::try_new(Arc::new(schema), arrays).unwrap()
}

fn request(spine: Vec<RecordBatch>) -> TrainingSetRequest {
    let options = TrainingSetOptions {
        model: "a&b 가".to_owned(),
        time_column: Some("ts".to_owned()),
        as_of: AsOf::EventTime,
    };
    TrainingSetRequest {
        options,
        spine_schema: rows().schema(),
        spine,
    }
}

/// A router on a real port; the stub behind it, a client and the base URL.
async fn serve(failure: Option<PipelinesError>) -> (Arc<Stub>, PipelinesClient, String) {
    let stub = Arc::new(Stub {
        failure,
        ..Stub::default()
    });
    let router = server::router(Arc::clone(&stub) as Arc<dyn Pipelines>);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (stub, PipelinesClient::new(base.parse().unwrap()).unwrap(), base)
}

#[tokio::test]
async fn every_call_and_answer_arrives_as_it_was_sent() {
    let (stub, client, _) = serve(None).await;
    assert_eq!(client.training_set(request(vec![rows(), rows()])).await.unwrap(), job());
    assert_eq!(client.training_set(request(vec![])).await.unwrap(), job());
    let materialize = MaterializeRequest {
        source: "merchants".to_owned(),
    };
    assert_eq!(client.materialize(materialize.clone()).await.unwrap(), job());
    assert_eq!(client.jobs().await.unwrap(), [job(), job()]);
    assert_eq!(
        client.job("01J", Some(7), Duration::from_millis(1500)).await.unwrap(),
        job()
    );
    assert_eq!(client.job("01J", None, Duration::MAX).await.unwrap(), job());
    let result = client.result("01J").await.unwrap();
    assert_eq!(
        result,
        JobResult {
            schema: rows().schema(),
            batches: vec![rows(), rows()]
        }
    );
    assert_eq!(client.cancel("01J").await.unwrap(), job());
    let expected = [
        format!("training_set {:?}", request(vec![rows(), rows()])),
        format!("training_set {:?}", request(vec![])),
        format!("materialize {materialize:?}"),
        "jobs".to_owned(),
        "job 01J Some(7) 1.5s".to_owned(),
        "job 01J None 60s".to_owned(),
        "result 01J".to_owned(),
        "cancel 01J".to_owned(),
    ];
    assert_eq!(*stub.calls.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_spine_may_be_larger_than_an_ordinary_body() {
    let (stub, client, _) = serve(None).await;
    let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::I64.arrow(), false)]));
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..500_000));
    let spine = RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap();
    let request = TrainingSetRequest {
        spine_schema: schema,
        spine: vec![spine],
        ..request(vec![])
    };
    client.training_set(request).await.unwrap();
    assert_eq!(stub.calls.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn every_error_comes_back_as_itself_and_as_a_problem() {
    let text = |text: &str| text.to_owned();
    let cases = [
        (
            PipelinesError::InvalidRequest { detail: text("d") },
            400,
            "invalid-request",
        ),
        (
            PipelinesError::InvalidSpine {
                model: text("m"),
                problems: vec![text("no `ts`")],
            },
            422,
            "invalid-spine",
        ),
        (
            PipelinesError::Unknown {
                kind: text("job"),
                name: text("j"),
                suggestion: None,
            },
            404,
            "unknown",
        ),
        (
            PipelinesError::NoResult {
                id: text("j"),
                state: text("running"),
            },
            409,
            "no-result",
        ),
        (PipelinesError::Overloaded { detail: text("d") }, 429, "overloaded"),
        (PipelinesError::Unavailable { detail: text("d") }, 503, "unavailable"),
        (PipelinesError::Internal { detail: text("d") }, 500, "internal"),
    ];
    for (error, status, code) in cases {
        let (_, client, base) = serve(Some(error.clone())).await;
        assert_eq!(client.training_set(request(vec![])).await.unwrap_err(), error);
        assert_eq!(client.result("j").await.unwrap_err(), error);
        let response = reqwest::get(format!("{base}/v1/jobs")).await.unwrap();
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
        ("/v1/training-sets?model=m", "not arrow", 400),
        ("/v1/training-sets", "", 400),
        ("/v1/training-sets?model=m&as_of=yesterday", "", 400),
        ("/v1/materializations", "{", 400),
        ("/v1/jobs/j:restart", "", 404),
    ] {
        let response = http.post(format!("{base}{path}")).body(body).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
        assert_eq!(response.status(), status, "{path}");
    }
    let response = http.get(format!("{base}/v1/jobs/j?wait_ms=-1")).send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert!(
        stub.calls.lock().unwrap().is_empty(),
        "nothing hostile reached the service"
    );
}
