//! Models on other servers: real ones (another gateway), and servers that misbehave.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ondol_model_gateway_api::wire::{ArtifactKind, RegisterRequest, RegisteredModel};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError, UpstreamFailure};
use ondol_wire::ContractError as _;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use support::{Bench, request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinHandle;

const C1: &str = r#"{"card_id":"c1","merchant_id":"m1","amount":8}"#;
const STRANGER: &str = r#"{"card_id":"c9","merchant_id":"m9","amount":8}"#;

/// Serves `router` on a free port until the test ends.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn register(bench: &Bench, spec: &str) -> Result<RegisteredModel, ModelGatewayError> {
    let request = RegisterRequest {
        artifact: Bytes::from(spec.to_owned()),
        kind: None,
        manifest: None,
    };
    bench.gateway.register("fraud", request).await
}

/// A gateway without a model of its own, whose features are known.
async fn front() -> Bench {
    let bench = Bench::open().await;
    bench.fill();
    bench
}

#[tokio::test]
async fn a_gateway_behind_a_gateway_scores_the_same_over_tcp_and_a_socket_in_json_and_in_bytes() {
    let back = Bench::with_model().await;
    let tcp = serve(back.gateway.open_inference()).await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("gateway.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let router = back.gateway.open_inference();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let unix = format!("unix://{}", socket.display());
    let forms = [
        "protocol = \"v2-rest\"\nbinary = true\n",
        "protocol = \"v2-rest\"\nbinary = false\n",
        "protocol = \"v2-grpc\"\n",
    ];
    for url in [&tcp, &unix] {
        for form in forms {
            let front = front().await;
            let spec = format!("url = \"{url}\"\nmodel = \"fraud\"\n{form}");
            let registered = register(&front, &spec).await.unwrap();
            assert_eq!(registered.kind, ArtifactKind::Upstream);
            assert_eq!(registered.inputs[0].shape, [-1, 5], "as the server tells");
            for json in [C1, STRANGER] {
                let expected = back.predict(json).await.unwrap();
                let found = front.predict(json).await.unwrap();
                assert_eq!(found.prediction, expected.prediction, "{url} {form}");
            }
        }
    }
}

#[tokio::test]
async fn a_grpc_upstream_that_is_unknown_or_down_says_so() {
    let back = Bench::open().await;
    let url = serve(back.gateway.open_inference()).await;
    let front = Bench::open().await;
    let spec = format!("url = \"{url}\"\nprotocol = \"v2-grpc\"\nmodel = \"nobody\"\n");
    let error = register(&front, &spec).await.unwrap_err();
    assert!(error.to_string().contains("NotFound"), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let spec = format!("url = \"{url}\"\nprotocol = \"v2-grpc\"\nmodel = \"fraud\"\n");
    let error = register(&front, &spec).await.unwrap_err();
    assert_eq!(error.status(), StatusCode::BAD_GATEWAY, "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn an_upstream_of_another_width_is_refused_with_a_diff() {
    let metadata = json!({
        "name": "m", "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 7]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
    });
    let url = serve(Router::new().route("/v2/models/m", get(move || async move { Json(metadata) }))).await;
    let front = Bench::open().await;
    let spec = format!("url = \"{url}\"\nprotocol = \"v2-rest\"\nmodel = \"m\"\n");
    let error = register(&front, &spec).await.unwrap_err();
    assert!(matches!(&error, ModelGatewayError::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("found 7 columns"), "{error}");
}

#[tokio::test]
async fn an_upstream_that_is_down_can_not_be_registered_but_serves_after_a_restart() {
    let front = front().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let spec = format!("url = \"{url}\"\nprotocol = \"v2-rest\"\nmodel = \"fraud\"\n");
    let error = register(&front, &spec).await.unwrap_err();
    let ModelGatewayError::Upstream { failure, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        (*failure, error.status()),
        (UpstreamFailure::Failed, StatusCode::BAD_GATEWAY)
    );

    // Registered while the server is up; the gateway then starts beside one that is down.
    let fixture = Fixture::start().await;
    register(&front, &fixture.spec("retries = 0\n")).await.unwrap();
    let (folder, store) = (Arc::clone(&front.folder), Arc::clone(&front.store));
    front.stop().await;
    fixture.will([Act::Reset; 3]);
    let again = Bench::open_in(folder, store, |_| {}).await;
    let mut last = again.predict(C1).await;
    for _ in 0..100 {
        if last.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        last = again.predict(C1).await;
    }
    assert_eq!(last.unwrap().prediction, json!(0.5));
}

/// What a [`Fixture`] does with a connection's next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Answers 0.5 for every row.
    Answer,
    /// Answers this status.
    Status(u16),
    /// Answers never.
    Hang,
    /// Begins an answer and never ends it.
    SlowBody,
    /// Closes the connection without an answer.
    Reset,
    /// Answers what is no answer of the protocol.
    Garbage,
}

/// A server of the Open Inference Protocol that does as it is told, and answers when it is told nothing.
struct Fixture {
    url: String,
    acts: Arc<Mutex<VecDeque<Act>>>,
    served: Arc<Mutex<Vec<Act>>>,
    task: JoinHandle<()>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fixture {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let acts: Arc<Mutex<VecDeque<Act>>> = Arc::default();
        let served: Arc<Mutex<Vec<Act>>> = Arc::default();
        let (next, log) = (Arc::clone(&acts), Arc::clone(&served));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream, Arc::clone(&next), Arc::clone(&log)));
            }
        });
        Self {
            url,
            acts,
            served,
            task,
        }
    }

    fn will(&self, acts: impl IntoIterator<Item = Act>) {
        self.acts.lock().unwrap().extend(acts);
    }

    fn served(&self) -> Vec<Act> {
        std::mem::take(&mut self.served.lock().unwrap())
    }

    fn spec(&self, more: &str) -> String {
        format!(
            "url = \"{}\"\nprotocol = \"v2-rest\"\nmodel = \"m\"\n{more}\n\
             [[inputs]]\nname = \"X\"\ndatatype = \"FP32\"\nshape = [-1, 5]\n\
             [[outputs]]\nname = \"y\"\ndatatype = \"FP64\"\n",
            self.url
        )
    }
}

/// One request a connection.
async fn answer(mut stream: TcpStream, acts: Arc<Mutex<VecDeque<Act>>>, served: Arc<Mutex<Vec<Act>>>) {
    let Some(rows) = read_request(&mut stream).await else {
        return;
    };
    let act = acts.lock().unwrap().pop_front().unwrap_or(Act::Answer);
    served.lock().unwrap().push(act);
    let data = vec!["0.5"; rows].join(",");
    let good = format!(
        r#"{{"model_name":"m","outputs":[{{"name":"y","datatype":"FP64","shape":[{rows}],"data":[{data}]}}]}}"#
    );
    let (status, body) = match act {
        Act::Answer => (200, good),
        Act::Status(status) => (status, r#"{"error":"told to fail"}"#.to_owned()),
        Act::Garbage => (200, "<html>".to_owned()),
        Act::Hang => return std::future::pending().await,
        Act::Reset => return,
        Act::SlowBody => {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{{",
                good.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            return std::future::pending().await;
        }
    };
    let text = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // The client may have gone.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Reads a request with binary tensors; the rows of its first.
async fn read_request(stream: &mut TcpStream) -> Option<usize> {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break (String::from_utf8_lossy(&bytes[..end]).to_lowercase(), end + 4);
        }
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&part[..read]);
    };
    let header = |name: &str| -> Option<usize> {
        let line = head.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().parse().ok()
    };
    let (whole, json) = (header("content-length")?, header("inference-header-content-length")?);
    while bytes.len() < body + whole {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&part[..read]);
    }
    let request: Value = serde_json::from_slice(&bytes[body..body + json]).ok()?;
    usize::try_from(request["inputs"][0]["shape"][0].as_u64()?).ok()
}

/// What a request fails with.
async fn failure(bench: &Bench) -> (UpstreamFailure, String, StatusCode) {
    let error = bench.predict(C1).await.unwrap_err();
    let status = error.status();
    let ModelGatewayError::Upstream { failure, detail, .. } = error else {
        panic!("{error}")
    };
    (failure, detail, status)
}

async fn fixed(more: &str) -> (Fixture, Bench) {
    let (fixture, bench) = (Fixture::start().await, front().await);
    register(&bench, &fixture.spec(more)).await.unwrap();
    fixture.served();
    (fixture, bench)
}

#[tokio::test]
async fn each_way_to_fail_has_its_own_answer() {
    let (fixture, bench) = fixed("retries = 0\ntimeout_ms = 1500\n[breaker]\nfailures = 100\n").await;
    assert_eq!(bench.predict(C1).await.unwrap().prediction, json!(0.5));
    for (act, failure_, status, words) in [
        (Act::Hang, UpstreamFailure::TimedOut, 504, "within 1500 ms"),
        (Act::SlowBody, UpstreamFailure::TimedOut, 504, "within 1500 ms"),
        (
            Act::Status(500),
            UpstreamFailure::Failed,
            502,
            "500 Internal Server Error: told to fail",
        ),
        (
            Act::Status(400),
            UpstreamFailure::Failed,
            502,
            "400 Bad Request: told to fail",
        ),
        (Act::Reset, UpstreamFailure::Failed, 502, "connection"),
        (Act::Garbage, UpstreamFailure::Failed, 502, "its answer can't be read"),
    ] {
        fixture.will([act]);
        let (found, detail, code) = failure(&bench).await;
        assert_eq!((found, code.as_u16()), (failure_, status), "{act:?}");
        assert!(detail.contains(words), "{act:?}: {detail}");
    }
    assert_eq!(bench.predict(C1).await.unwrap().prediction, json!(0.5));
}

#[tokio::test]
async fn a_deadline_shorter_than_the_timeout_ends_the_call() {
    let (fixture, bench) = fixed("retries = 0\ntimeout_ms = 60000\n").await;
    fixture.will([Act::Hang]);
    let request = ondol_model_gateway_api::wire::PredictRequest {
        deadline_ms: Some(300),
        ..request(C1)
    };
    let error = bench.gateway.predict("fraud", request).await.unwrap_err();
    assert_eq!(error.status(), StatusCode::GATEWAY_TIMEOUT, "{error}");
}

#[tokio::test]
async fn a_call_that_failed_is_made_again_where_that_helps() {
    let (fixture, bench) = fixed("retries = 2\ntimeout_ms = 5000\n").await;
    for acts in [
        vec![Act::Reset, Act::Answer],
        vec![Act::Status(503), Act::Status(502), Act::Answer],
    ] {
        fixture.will(acts.clone());
        assert_eq!(bench.predict(C1).await.unwrap().prediction, json!(0.5));
        assert_eq!(fixture.served(), acts);
    }
    fixture.will([Act::Status(400), Act::Answer]);
    assert_eq!(failure(&bench).await.2, StatusCode::BAD_GATEWAY);
    assert_eq!(
        fixture.served(),
        [Act::Status(400)],
        "the same call would be refused again"
    );
}

#[tokio::test]
async fn what_must_not_be_done_twice_is_not_repeated_once_it_was_sent() {
    let (fixture, bench) = fixed("retries = 3\nidempotent = false\n").await;
    fixture.will([Act::Reset, Act::Answer]);
    assert_eq!(failure(&bench).await.0, UpstreamFailure::Failed);
    assert_eq!(fixture.served(), [Act::Reset]);
}

#[tokio::test]
async fn retries_stay_within_their_budget() {
    let more = "retries = 1\n[breaker]\nfailures = 10000\nfailure_percent = 101\n";
    let (fixture, bench) = fixed(more).await;
    fixture.will([Act::Status(503); 1000]);
    let calls = 150;
    for _ in 0..calls {
        failure(&bench).await;
    }
    let extra = fixture.served().len() - calls;
    // A tenth of the calls and what had been saved.
    assert!((15..=27).contains(&extra), "{extra}");
}

#[tokio::test]
async fn a_breaker_stops_calls_says_when_to_come_back_and_lets_them_through_again() {
    let (fixture, bench) = fixed("retries = 0\n[breaker]\nfailures = 3\nopen_ms = 600\n").await;
    fixture.will([Act::Status(500); 3]);
    for _ in 0..3 {
        assert_eq!(failure(&bench).await.0, UpstreamFailure::Failed);
    }
    assert_eq!(fixture.served().len(), 3);
    let mut refused = 0;
    // Opened a moment ago: refused without a call, until the trial that finds it well.
    let found = loop {
        match bench.predict(C1).await {
            Ok(prediction) => break prediction,
            Err(error) => {
                assert_eq!(
                    (error.status().as_u16(), error.retry_after_seconds()),
                    (503, Some(1)),
                    "{error}"
                );
                refused += 1;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    };
    assert_eq!(found.prediction, json!(0.5));
    assert_eq!(fixture.served(), [Act::Answer], "{refused} were refused without a call");
}

#[tokio::test]
async fn a_hedge_answers_when_the_first_call_hangs() {
    let (fixture, bench) = fixed("retries = 0\nhedge_ms = 20\ntimeout_ms = 30000\n").await;
    fixture.will([Act::Hang, Act::Answer]);
    let slow = ondol_model_gateway_api::wire::PredictRequest {
        deadline_ms: Some(60_000),
        ..request(C1)
    };
    assert_eq!(
        bench.gateway.predict("fraud", slow).await.unwrap().prediction,
        json!(0.5)
    );
    assert_eq!(fixture.served(), [Act::Hang, Act::Answer]);
}

#[tokio::test]
async fn calls_beyond_its_room_are_refused_at_once() {
    let (fixture, bench) = fixed("retries = 0\nconcurrency = 2\ntimeout_ms = 60000\n").await;
    fixture.will([Act::Hang; 2]);
    let bench = Arc::new(bench);
    let hanging: Vec<_> = (0..2)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.predict(C1).await })
        })
        .collect();
    while fixture.served.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    let error = bench.predict(C1).await.unwrap_err();
    assert!(matches!(&error, ModelGatewayError::Overloaded { .. }), "{error}");
    assert!(error.to_string().contains("`concurrency`"), "{error}");
    for task in hanging {
        task.abort();
    }
}

#[tokio::test]
async fn a_secret_is_sent_and_never_told() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&seen);
    let infer = move |headers: HeaderMap| async move {
        log.lock()
            .unwrap()
            .push(headers["authorization"].to_str().unwrap().to_owned());
        (StatusCode::FORBIDDEN, "no").into_response()
    };
    let url = serve(Router::new().route("/v2/models/m/infer", post(infer))).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "hunter2\n").unwrap();
    let spec = format!(
        "url = \"{url}\"\nprotocol = \"v2-rest\"\nmodel = \"m\"\n[headers]\nauthorization = \"Bearer ${{file:{}}}\"\n\
         [[inputs]]\nname = \"X\"\ndatatype = \"FP32\"\nshape = [-1, 5]\n[[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\n",
        file.display()
    );
    let error = register(&Bench::open().await, &spec).await.unwrap_err();
    assert_eq!(seen.lock().unwrap()[0], "Bearer hunter2");
    assert!(
        error.to_string().contains("403") && !error.to_string().contains("hunter2"),
        "{error}"
    );
}

/// A server of MLflow's shape: the sum of a row's columns, null counting as 0.
async fn invocations(body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let split = &request["dataframe_split"];
    let names: Vec<&str> = split["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "card.n_1h",
            "card.spend_24h",
            "merchant.risk",
            "amount",
            "derived.ratio"
        ]
    );
    let sum = |row: &Value| -> f64 {
        row.as_array()
            .unwrap()
            .iter()
            .map(|cell| cell.as_f64().unwrap_or(0.0))
            .sum()
    };
    let sums: Vec<f64> = split["data"].as_array().unwrap().iter().map(sum).collect();
    Json(json!({ "predictions": sums })).into_response()
}

#[tokio::test]
async fn mlflow_gets_a_table_of_the_features_by_name() {
    let url = serve(Router::new().route("/invocations", post(invocations))).await;
    let front = front().await;
    register(&front, &format!("url = \"{url}\"\nprotocol = \"mlflow\"\n"))
        .await
        .unwrap();
    // 2 - 4 + 0.25 + 8 + 8 / -4
    assert_eq!(front.predict(C1).await.unwrap().prediction, json!(4.25));
    assert_eq!(front.predict(STRANGER).await.unwrap().prediction, json!(8.0));
}

#[tokio::test]
async fn tensorflow_serving_gets_columns_or_rows() {
    let metadata = json!({"model_spec": {"name": "m"}, "metadata": {"signature_def": {"signature_def": {"serving_default": {
        "inputs": {"X": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "5"}]}}},
        "outputs": {"y": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "1"}]}}},
    }}}}});
    let predict = |body: Bytes| async move {
        // The server reads NaN, which serde does not.
        let text = String::from_utf8(body.to_vec()).unwrap().replace("NaN", "0");
        let request: Value = serde_json::from_str(&text).unwrap();
        let (rows, key) = match (&request["inputs"], &request["instances"]) {
            (Value::Array(rows), _) => (rows, "outputs"),
            (_, Value::Array(rows)) => (rows, "predictions"),
            _ => panic!("{request}"),
        };
        let sum = |row: &Value| -> f64 { row.as_array().unwrap().iter().map(|cell| cell.as_f64().unwrap()).sum() };
        let sums: Vec<[f64; 1]> = rows.iter().map(|row| [sum(row)]).collect();
        Json(json!({ key: sums }))
    };
    let router = Router::new()
        .route("/v1/models/m/metadata", get(move || async move { Json(metadata) }))
        .route("/v1/models/m:predict", post(predict));
    let url = serve(router).await;
    for shape in ["columns", "rows"] {
        let front = front().await;
        let spec = format!("url = \"{url}\"\nprotocol = \"tf-serving\"\nmodel = \"m\"\nshape = \"{shape}\"\n");
        register(&front, &spec).await.unwrap();
        assert_eq!(front.predict(C1).await.unwrap().prediction, json!(4.25));
        assert_eq!(front.predict(STRANGER).await.unwrap().prediction, json!(8.0));
    }
}
