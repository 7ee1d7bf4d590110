//! Servers of other makers, each a program of its own that serves `matrix.onnx` (`python/`), and the proof that every one of
//! them makes as much of a vector behind the gateway as the model does in process.

use crate::support::{Bench, C1, request};
use crate::{front, register};
use axum::http::StatusCode;
use ondol_model_gateway_api::wire::{BatchPredictRequest, PredictRequest, RegisteredModel};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError, UpstreamFailure};
use ondol_testkit::process::{Process, free_port};
use ondol_testkit::services;
use ondol_vocabulary::Value;
use ondol_wire::ContractError as _;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take to start on a busy machine.
const START: Duration = Duration::from_secs(400);
/// Calls that take as long as a busy machine needs.
pub const PATIENT: &str = "timeout_ms = 120000\nretries = 0\n";

/// A server and its ports.
pub struct Server {
    process: Process,
    http: u16,
    grpc: u16,
    _folder: TempDir,
}

impl Server {
    /// Runs `python/{script}` with the artifact, the ports and `more`, until `ready` answers.
    async fn start(script: &str, has_grpc: bool, more: &[&str], ready: &str) -> Self {
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
        let folder = tempfile::tempdir().unwrap();
        let (http, grpc) = (free_port(), free_port());
        let mut arguments = vec![
            format!("{fixtures}/upstreams/python/{script}"),
            format!("{fixtures}/fixtures/matrix.onnx"),
            http.to_string(),
        ];
        arguments.extend(has_grpc.then(|| grpc.to_string()));
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        let mut process = Process::new("server", services::upstreams_python(), arguments, folder.path())
            .with_variable("PYTHONPATH", &format!("{fixtures}/upstreams/python"))
            .with_variable("OMP_NUM_THREADS", "1");
        process.start().unwrap();
        let mut server = Self {
            process,
            http,
            grpc,
            _folder: folder,
        };
        server.wait(ready).await;
        server
    }

    async fn wait(&mut self, ready: &str) {
        let url = format!("{}{ready}", self.rest());
        let began = Instant::now();
        let is_ready = async || reqwest::get(&url).await.is_ok_and(|answer| answer.status() == 200);
        while !is_ready().await {
            let runs = self.process.is_running() && began.elapsed() < START;
            let log = || std::fs::read_to_string(self.process.log()).unwrap_or_default();
            assert!(runs, "the server ended, or is not ready yet:\n{}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn mlserver() -> Self {
        Self::start("mlserver_server.py", true, &[], "/v2/models/fraud/ready").await
    }

    /// `columns`: of the model's signature, as JSON; empty for a model without one.
    pub async fn mlflow(columns: &str) -> Self {
        Self::start("mlflow_server.py", false, &[columns], "/ping").await
    }

    pub async fn triton() -> Self {
        Self::start("triton_server.py", true, &[], "/v2/models/fraud/ready").await
    }

    /// Ends it as its operator would, so that it puts away what it keeps outside its folder. Otherwise it is killed.
    pub fn stop(mut self) {
        let ended = self.process.terminate(Duration::from_secs(60)).unwrap();
        assert!(ended.is_some(), "the server does not end");
    }

    pub fn rest(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    pub fn grpc(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }
}

const ROWS: u32 = 300;

/// Requests whose vectors are of every size, some with values that are missing; their features are made known to `bench`.
fn requests(bench: &Bench) -> Vec<BTreeMap<String, Value>> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        // With digits that neither FP32 nor a short decimal holds.
        (seed >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
    };
    let row = |row: u32| {
        let (card, merchant) = (format!("card-{row}"), format!("merchant-{row}"));
        if !row.is_multiple_of(7) {
            bench.store.set("card.n_1h", &card, Value::I64(i64::from(row) % 5), 60);
            bench.store.set("card.spend_24h", &card, Value::F64(next() * 9.0), 60);
        }
        if !row.is_multiple_of(5) {
            bench.store.set("merchant.risk", &merchant, Value::F64(next()), 60);
        }
        BTreeMap::from([
            ("card_id".to_owned(), Value::String(card)),
            ("merchant_id".to_owned(), Value::String(merchant)),
            ("amount".to_owned(), Value::F64(next() * 4.0)),
        ])
    };
    (0..ROWS).map(row).collect()
}

async fn predictions(bench: &Bench, version: u32, instances: &[BTreeMap<String, Value>]) -> Vec<f64> {
    let batch = BatchPredictRequest {
        instances: instances.to_vec(),
        deadline_ms: Some(120_000),
        explain: Some(true),
        ..BatchPredictRequest::default()
    };
    let answer = bench
        .gateway
        .batch_predict(&format!("fraud@{version}"), batch)
        .await
        .unwrap();
    answer
        .predictions
        .iter()
        .map(|answer| answer.prediction.as_f64().unwrap())
        .collect()
}

/// A front whose version 1 is the model in process and whose further versions are `specs`, as they were registered, after
/// every one of them gave the bits of version 1 for every request.
pub async fn scores_as_in_process(specs: &[String]) -> (Bench, Vec<RegisteredModel>) {
    let bench = front().await;
    bench.register("matrix").await.unwrap();
    let instances = requests(&bench);
    let expected = predictions(&bench, 1, &instances).await;
    let distinct: std::collections::BTreeSet<u64> = expected.iter().map(|value| value.to_bits()).collect();
    assert!(
        distinct.len() > 250,
        "the requests are too much alike: {}",
        distinct.len()
    );
    let mut registered = Vec::new();
    for spec in specs {
        registered.push(register(&bench, spec).await.unwrap());
        let version = registered.last().unwrap().model.version;
        let found = predictions(&bench, version, &instances).await;
        for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "row {row}: {found} is not {expected}\n{spec}"
            );
        }
        // One by one as well: of one row ONNX Runtime's vectors are cut otherwise, and so are the last bits.
        for (row, instance) in instances.iter().enumerate().take(15) {
            let alone = std::slice::from_ref(instance);
            let expected = predictions(&bench, 1, alone).await;
            let found = predictions(&bench, version, alone).await;
            assert_eq!(found[0].to_bits(), expected[0].to_bits(), "row {row} alone\n{spec}");
        }
    }
    (bench, registered)
}

async fn amount(bench: &Bench, version: u32, amount: f64, deadline_ms: u64) -> ModelGatewayError {
    let mut request = PredictRequest {
        deadline_ms: Some(deadline_ms),
        ..request(C1)
    };
    request.inputs.insert("amount".to_owned(), Value::F64(amount));
    bench
        .gateway
        .predict(&format!("fraud@{version}"), request)
        .await
        .unwrap_err()
}

/// A model that fails there is an error here, in its own words.
pub async fn tells_failures(bench: &Bench, version: u32, words: &str) {
    let error = amount(bench, version, 666.0, 120_000).await;
    let ModelGatewayError::Upstream { failure, detail, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        (*failure, error.status()),
        (UpstreamFailure::Failed, StatusCode::BAD_GATEWAY)
    );
    assert!(detail.contains(words), "{detail}");
    // Beside its address, whose port may have any digits.
    assert!(!detail.contains("666"), "it quotes what was sent: {error}");
}

/// A model that hangs there ends at the request's deadline.
pub async fn ends_at_the_deadline(bench: &Bench, version: u32) {
    let error = amount(bench, version, 777.0, 3_000).await;
    assert_eq!(error.status(), StatusCode::GATEWAY_TIMEOUT, "{error}");
    let timed_out = matches!(
        error,
        ModelGatewayError::Upstream {
            failure: UpstreamFailure::TimedOut,
            ..
        }
    );
    assert!(timed_out, "{error}");
}
