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
use ondol_pipelines_api::{Pipelines, PipelinesClient, PipelinesError, Rows, server};
use ondol_vocabulary::{DataType, EventTime, Snapshot, Value, VersionedName};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Records what arrives; answers with the canned values below, or with `failure`.
#[derive(Default)]
struct Stub {
    calls: Mutex<Vec<String>>,
    failure: Option<PipelinesError>,
    /// What looks at a job find, first to last, before the canned one.
    life: Mutex<VecDeque<Result<Job, PipelinesError>>>,
    /// Rows to answer with, once.
    broken: Mutex<Option<Rows>>,
}

impl Stub {
    fn take<T>(&self, call: String, value: T) -> Result<T, PipelinesError> {
        self.calls.lock().unwrap().push(call);
        self.failure.clone().map_or(Ok(value), Err)
    }
}

#[async_trait]
impl Pipelines for Stub {
    async fn submit_training_set(
        &self,
        request: TrainingSetRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Job, PipelinesError> {
        self.take(format!("training_set {request:?} {key:?}"), job())
    }
    async fn submit(&self, request: JobRequest, key: Option<IdempotencyKey>) -> Result<Job, PipelinesError> {
        self.take(format!("submit {request:?} {key:?}"), job())
    }
    async fn jobs(&self, query: JobQuery) -> Result<JobPage, PipelinesError> {
        self.take(format!("jobs {query:?}"), page())
    }
    async fn job(&self, id: &str, seen_revision: Option<u64>, wait: Duration) -> Result<Job, PipelinesError> {
        if let Some(look) = self.life.lock().unwrap().pop_front() {
            return look;
        }
        self.take(format!("job {id} {seen_revision:?} {wait:?}"), job())
    }
    async fn rows(&self, id: &str) -> Result<Rows, PipelinesError> {
        self.calls.lock().unwrap().push(format!("rows {id}"));
        if let Some(broken) = self.broken.lock().unwrap().take() {
            return Ok(broken);
        }
        match &self.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(Rows::held(rows().schema(), vec![rows(), rows()])),
        }
    }
    async fn cancel(&self, id: &str) -> Result<Job, PipelinesError> {
        self.take(format!("cancel {id}"), job())
    }
    async fn retry(&self, id: &str, key: Option<IdempotencyKey>) -> Result<Job, PipelinesError> {
        self.take(format!("retry {id} {key:?}"), job())
    }
    async fn create_schedule(&self, request: ScheduleRequest) -> Result<Schedule, PipelinesError> {
        self.take(format!("create_schedule {request:?}"), schedule())
    }
    async fn schedules(&self) -> Result<Vec<Schedule>, PipelinesError> {
        self.take("schedules".to_owned(), vec![schedule(), schedule()])
    }
    async fn schedule(&self, name: &str) -> Result<Schedule, PipelinesError> {
        self.take(format!("schedule {name}"), schedule())
    }
    async fn pause_schedule(&self, name: &str, paused: bool) -> Result<Schedule, PipelinesError> {
        self.take(format!("pause_schedule {name} {paused}"), schedule())
    }
    async fn remove_schedule(&self, name: &str) -> Result<Schedule, PipelinesError> {
        self.take(format!("remove_schedule {name}"), schedule())
    }
    async fn statistics(&self, source: &str, query: StatisticsQuery) -> Result<SourceStatistics, PipelinesError> {
        self.take(format!("statistics {source} {query:?}"), statistics())
    }
    async fn result_statistics(&self, id: &str) -> Result<Vec<ColumnStatistics>, PipelinesError> {
        self.take(format!("result_statistics {id}"), statistics().columns)
    }
}

fn page() -> JobPage {
    JobPage {
        jobs: vec![job(), job()],
        next: Some("01J".to_owned()),
    }
}

fn schedule() -> Schedule {
    Schedule {
        name: "nightly".to_owned(),
        cron: "30 3 * * *".to_owned(),
        zone: "Asia/Seoul".to_owned(),
        request: requests().remove(0),
        paused: false,
        created_at: EventTime::from_micros(5),
        next_runs: vec![EventTime::from_micros(6), EventTime::from_micros(7)],
        last_run_at: Some(EventTime::from_micros(4)),
        last_job: Some("01J".to_owned()),
        last_error: Some("gone".to_owned()),
    }
}

/// One of every kind.
fn requests() -> Vec<JobRequest> {
    let source = || "events".to_owned();
    vec![
        JobRequest::Materialize(MaterializeRequest::of("merchants")),
        JobRequest::Compact(CompactRequest { source: source() }),
        JobRequest::Vacuum(VacuumRequest {
            source: source(),
            retention_ms: Some(1),
            keep_ms: None,
            dry_run: true,
        }),
        JobRequest::Statistics(StatisticsRequest {
            source: source(),
            full: true,
        }),
        JobRequest::Backfill(BackfillRequest {
            view: "card@2".to_owned(),
        }),
        JobRequest::RecurringTrainingSet(RecurringTrainingSetRequest {
            model: "fraud".to_owned(),
            spine_query: Some("select 1 as x where '{start}' < '{end}'".to_owned()),
            output: "s3://lake/{end_date}/train.parquet".to_owned(),
            time_column: Some("ts".to_owned()),
            as_of: AsOf::EventTime,
            start: Some(EventTime::from_micros(3)),
            ..RecurringTrainingSetRequest::default()
        }),
    ]
}

fn statistics() -> SourceStatistics {
    let column = ColumnStatistics {
        name: "amount".to_owned(),
        data_type: DataType::F64,
        count: 5,
        nulls: 1,
        nans: 1,
        trues: None,
        min: Some(Value::F64(f64::NEG_INFINITY)),
        max: Some(Value::F64(2.5)),
        mean: None,
        stddev: Some(Value::F64(0.5)),
        quantiles: vec![QuantileValue {
            quantile: 0.5,
            value: Value::F64(1.5),
        }],
        distinct: 4,
        distinct_is_exact: true,
        frequent: Some(vec![FrequentValue {
            text: "가".to_owned(),
            at_least: 2,
            at_most: 3,
        }]),
        histogram: vec![HistogramBin {
            from: Value::F64(1.5),
            to: Value::F64(2.5),
            count: 4,
        }],
    };
    SourceStatistics {
        source: "events".to_owned(),
        table: "7".to_owned(),
        computed_at: EventTime::from_micros(5),
        first_date: Some("2026-11-20".to_owned()),
        last_date: Some("2026-11-21".to_owned()),
        dates: 2,
        rows: 6,
        columns: vec![column],
    }
}

fn key() -> Option<IdempotencyKey> {
    Some("a-1".parse().unwrap())
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
            statistics: Some(FeatureStatistics {
                count: 2,
                min: Some(Value::I64(1)),
                max: Some(Value::I64(4)),
                mean: Some(Value::F64(2.5)),
                distinct: Some(2),
                distinct_is_exact: true,
                ..FeatureStatistics::default()
            }),
            statuses: Some(FeatureStatuses {
                fresh: 1,
                missing: 1,
                ..FeatureStatuses::default()
            }),
        }],
        rows: 2,
        built_at: EventTime::from_micros(9),
        snapshot: Some(snapshot()),
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
        attempt: 2,
        rows_per_second: Some(1_000),
        eta_seconds: Some(3),
        started_at: Some(EventTime::from_micros(6)),
        retry_of: Some("01H".to_owned()),
        schedule: Some("nightly".to_owned()),
        outcome: Some(json!({"rows": 2})),
        created_at: EventTime::from_micros(5),
        ended_at: Some(EventTime::from_micros(9)),
        error: None,
        manifest: Some(manifest),
    }
}

fn snapshot() -> TrainingSetSnapshot {
    let delta = TablePin::Delta {
        location: "file:///logs/transactions/".to_owned(),
        table_id: "7f0c".to_owned(),
        version: 12,
    };
    let file = FilePin {
        path: "lake/merchants/1.parquet".to_owned(),
        size: 100,
        modified: EventTime::from_micros(3),
    };
    let parquet = TablePin::Parquet {
        location: "/lake/merchants".to_owned(),
        files: vec![file],
    };
    TrainingSetSnapshot {
        definitions: Snapshot {
            version: 3,
            ..Snapshot::default()
        },
        tables: BTreeMap::from([
            ("decisions".to_owned(), TablePin::Empty),
            ("merchants".to_owned(), parquet),
            ("transactions".to_owned(), delta),
        ]),
        spine: RowsPin::new(&rows().schema(), "sha256:00".to_owned()).unwrap(),
        result: RowsPin::new(&rows().schema(), "sha256:01".to_owned()).unwrap(),
        built_by: "ondol 0.1.0".to_owned(),
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
        exact_status: true,
    };
    TrainingSetRequest {
        options,
        spine_schema: rows().schema(),
        spine,
    }
}

/// A router on a real port; the stub behind it, a client and the base URL.
async fn serve(failure: Option<PipelinesError>) -> (Arc<Stub>, PipelinesClient, String) {
    served(Stub {
        failure,
        ..Stub::default()
    })
    .await
}

async fn served(stub: Stub) -> (Arc<Stub>, PipelinesClient, String) {
    let stub = Arc::new(stub);
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
        full: true,
        late_s: Some(3600),
    };
    assert_eq!(client.materialize(materialize.clone()).await.unwrap(), job());
    let query = JobQuery {
        limit: 7,
        after: Some("01K".to_owned()),
        kind: Some("compact".to_owned()),
        state: Some(JobState::Failed),
        subject: Some("a&b 가".to_owned()),
        schedule: Some("nightly".to_owned()),
    };
    assert_eq!(client.jobs(query.clone()).await.unwrap(), page());
    assert_eq!(client.jobs(JobQuery::default()).await.unwrap(), page());
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
        format!("training_set {:?} None", request(vec![rows(), rows()])),
        format!("training_set {:?} None", request(vec![])),
        format!("submit {:?} None", JobRequest::Materialize(materialize)),
        format!("jobs {query:?}"),
        format!("jobs {:?}", JobQuery::default()),
        "job 01J Some(7) 1.5s".to_owned(),
        "job 01J None 60s".to_owned(),
        "rows 01J".to_owned(),
        "cancel 01J".to_owned(),
    ];
    assert_eq!(*stub.calls.lock().unwrap(), expected);
}

#[tokio::test]
async fn requests_of_every_kind_travel_with_their_keys() {
    let (stub, client, base) = serve(None).await;
    let mut expected = vec![format!("training_set {:?} {:?}", request(vec![]), key())];
    assert_eq!(client.submit_training_set(request(vec![]), key()).await.unwrap(), job());
    for request in requests() {
        let document = serde_json::to_value(&request).unwrap();
        assert_eq!(document["kind"], request.kind());
        assert_eq!(client.submit(request.clone(), key()).await.unwrap(), job());
        expected.push(format!("submit {request:?} {:?}", key()));
    }
    assert_eq!(client.retry("01J", None).await.unwrap(), job());
    assert_eq!(client.retry("01J", key()).await.unwrap(), job());
    expected.extend(["retry 01J None".to_owned(), format!("retry 01J {:?}", key())]);
    assert_eq!(*stub.calls.lock().unwrap(), expected);
    let http = reqwest::Client::new();
    for route in [
        "/v1/jobs",
        "/v1/materializations",
        "/v1/jobs/01J:retry",
        "/v1/training-sets?model=m",
    ] {
        let call = http.post(format!("{base}{route}")).header("Idempotency-Key", "a b");
        let refused = call.body("{}").send().await.unwrap();
        assert_eq!(refused.status(), 400, "{route}");
    }
    assert_eq!(stub.calls.lock().unwrap().len(), expected.len());
}

#[tokio::test]
async fn schedules_travel_whole() {
    let (stub, client, _) = serve(None).await;
    let request = ScheduleRequest {
        name: "nightly".to_owned(),
        cron: "30 3 * * *".to_owned(),
        zone: Some("Asia/Seoul".to_owned()),
        request: requests().remove(2),
        paused: true,
    };
    assert_eq!(client.create_schedule(request.clone()).await.unwrap(), schedule());
    assert_eq!(client.schedules().await.unwrap(), [schedule(), schedule()]);
    assert_eq!(client.schedule("a/b").await.unwrap(), schedule());
    assert_eq!(client.pause_schedule("nightly", true).await.unwrap(), schedule());
    assert_eq!(client.pause_schedule("nightly", false).await.unwrap(), schedule());
    assert_eq!(client.remove_schedule("nightly").await.unwrap(), schedule());
    // What JSON has no number for travels as text.
    let mut told = statistics();
    told.columns[0].min = Some(Value::String("-Infinity".to_owned()));
    let query = StatisticsQuery {
        from: Some("2026-11-20".to_owned()),
        to: None,
    };
    assert_eq!(client.statistics("a/b", query.clone()).await.unwrap(), told);
    assert_eq!(client.result_statistics("01J").await.unwrap(), told.columns);
    let expected = [
        format!("create_schedule {request:?}"),
        "schedules".to_owned(),
        "schedule a/b".to_owned(),
        "pause_schedule nightly true".to_owned(),
        "pause_schedule nightly false".to_owned(),
        "remove_schedule nightly".to_owned(),
        format!("statistics a/b {query:?}"),
        "result_statistics 01J".to_owned(),
    ];
    assert_eq!(*stub.calls.lock().unwrap(), expected);
}

/// A job at a revision.
fn at(revision: u64, state: JobState) -> Result<Job, PipelinesError> {
    Ok(Job {
        revision,
        state,
        ..job()
    })
}

/// Name and id of each event, its data checked to be a job of that revision.
async fn events(base: &str, last: Option<&str>) -> Vec<(String, String)> {
    let mut call = reqwest::Client::new().get(format!("{base}/v1/jobs/01J/events"));
    if let Some(last) = last {
        call = call.header("Last-Event-ID", last);
    }
    let response = call.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    let mut events = Vec::new();
    for block in text.split("\n\n").filter(|block| !block.trim().is_empty()) {
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        let data: serde_json::Value = serde_json::from_str(&field("data:")).unwrap();
        if field("event:") != "error" {
            assert_eq!(data["revision"].to_string(), field("id:"));
        }
        events.push((field("event:"), field("id:")));
    }
    events
}

#[tokio::test]
async fn events_tell_a_job_from_where_it_was_seen_to_its_end() {
    let life = || {
        VecDeque::from([
            at(1, JobState::Queued),
            at(1, JobState::Queued),
            at(2, JobState::Running),
            at(3, JobState::Running),
            at(4, JobState::Succeeded),
        ])
    };
    let named = |events: &[(&str, &str)]| -> Vec<(String, String)> {
        let owned = |(name, id): &(&str, &str)| ((*name).to_owned(), (*id).to_owned());
        events.iter().map(owned).collect()
    };
    let (stub, _, base) = serve(None).await;
    *stub.life.lock().unwrap() = life();
    let all = [("state", "1"), ("state", "2"), ("progress", "3"), ("end", "4")];
    assert_eq!(events(&base, None).await, named(&all));
    *stub.life.lock().unwrap() = life();
    assert_eq!(events(&base, Some("1")).await, named(&all[1..]));

    // Its end was seen: nothing is left to tell, and `EventSource` must not come back.
    let seen = reqwest::Client::new().get(format!("{base}/v1/jobs/01J/events"));
    let seen = seen.header("Last-Event-ID", "8").send().await.unwrap();
    assert_eq!(seen.status(), 204);
    let odd = reqwest::Client::new().get(format!("{base}/v1/jobs/01J/events"));
    let odd = odd.header("Last-Event-ID", "x").send().await.unwrap();
    assert_eq!(odd.status(), 400);

    let gone = PipelinesError::Unavailable {
        detail: "away".to_owned(),
    };
    *stub.life.lock().unwrap() = VecDeque::from([at(1, JobState::Running), Err(gone)]);
    assert_eq!(events(&base, None).await, named(&[("state", "1"), ("error", "")]));
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let full = PipelinesError::Overloaded {
        detail: "full".to_owned(),
    };
    let (_, client, base) = serve(Some(full.clone())).await;
    let refused = client.submit(requests().remove(0), None).await;
    assert_eq!(refused.unwrap_err(), full);
    let response = reqwest::get(format!("{base}/v1/jobs")).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"5".parse().unwrap())
    );
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
        (
            PipelinesError::NotRepeatable {
                id: text("j"),
                reason: text("gone"),
            },
            409,
            "not-repeatable",
        ),
        (
            PipelinesError::KeyReused {
                key: text("k"),
                job: text("j"),
            },
            422,
            "key-reused",
        ),
        (
            PipelinesError::ScheduleExists { name: text("n") },
            409,
            "schedule-exists",
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
        ("/v1/jobs", r#"{"kind":"dance","source":"s"}"#, 400),
        ("/v1/schedules", r#"{"name":"n","cron":"* * * * *"}"#, 400),
        ("/v1/jobs/j:restart", "", 404),
        ("/v1/schedules/n:fire", "", 404),
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

#[tokio::test]
async fn a_manifest_travels_with_the_spine_it_describes() {
    let manifest = job().manifest.unwrap();
    let request = TrainingSetRequest::from_manifest(&manifest, &rows().schema(), vec![rows()]).unwrap();
    assert_eq!(request.options.time_column.as_deref(), Some("ts"));
    let (stub, client, _) = serve(None).await;
    client.training_set(request.clone()).await.unwrap();
    // Metadata has no order: what arrived is looked through for the manifest and for what stood beside it.
    let call = stub.calls.lock().unwrap()[0].clone();
    let sent = &request.spine_schema.metadata()["ondol.manifest"];
    assert_eq!(
        call.matches(&format!("\"ondol.manifest\": {sent:?}")).count(),
        2,
        "the schema's and the batch's"
    );
    assert!(call.contains("\"origin\": \"labels.parquet\""), "{call}");
    let mut arrived = request;
    assert_eq!(arrived.take_manifest().unwrap(), Some(manifest));
    assert_eq!(
        (arrived.spine_schema.clone(), arrived.spine.clone()),
        (rows().schema(), vec![rows()])
    );
    assert_eq!(arrived.take_manifest().unwrap(), None);
}

#[test]
fn a_manifest_of_the_first_form_is_still_read() {
    let first = json!({
        "format": 1, "model": "fraud@1", "as_of": "known-at", "registry_version": 3,
        "views": ["card@2"], "tables": {"transactions": "12"}, "time_column": "ts",
        "spine_columns": ["card_id", "ts"], "features": [{"name": "card.n_1h", "data_type": "i64", "nulls": 0}],
        "rows": 2, "built_at": "2026-11-21T09:00:00Z"
    });
    let manifest: Manifest = serde_json::from_value(first).unwrap();
    assert_eq!((manifest.format, manifest.snapshot), (1, None));
}

#[tokio::test]
async fn rows_that_break_off_are_an_error_and_never_fewer_rows() {
    let schema = rows().schema();
    let failure = PipelinesError::Internal {
        detail: "the disk went away".to_owned(),
    };
    let batches = futures::stream::iter(vec![Ok(rows()), Err(failure)]);
    let stub = Stub {
        broken: Mutex::new(Some(Rows {
            schema,
            batches: Box::pin(batches),
        })),
        ..Stub::default()
    };
    let (_, client, _) = served(stub).await;
    let error = client.result("01J").await.unwrap_err();
    assert!(matches!(error, PipelinesError::Unavailable { .. }), "{error}");
}
