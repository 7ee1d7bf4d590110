//! Decisions through the real program: recorded before their answers whatever is killed, replayed to the bit, answered by
//! outcomes, made into a training set; and definitions that a live model reads, which do not change under it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

use ondol_feature_store_api::{FeatureStore, FeatureStoreClient};
use ondol_model_gateway_api::wire::PredictRequest;
use ondol_model_gateway_api::{ModelGateway, ModelGatewayClient};
use ondol_testkit::services;
use ondol_vocabulary::Value as FeatureValue;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use url::Url;

/// Five numbers, which is what the fixture takes.
const DEFINITIONS: &str = r#"
[source.payments]
kafka  = "payments"
time   = "ts"
schema = { card_id = "string", amount = "f64", ts = "timestamp" }

[view.card]
from = "payments"
key  = "card_id"
features.n_1h      = "count() over 1h"
features.spend_24h = "sum(amount) over 24h"
features.last      = "last(amount)"

[model.fraud]
inputs   = { card_id = "string", amount = "f64" }
features = ["card.*", "amount", "derived.ratio"]
derived.ratio = "amount / nullif(card.spend_24h, 0)"
decisions.audit = "required"
"#;

/// Every service in one process, which can be killed.
struct Server {
    folder: TempDir,
    url: Url,
    child: Option<Child>,
}

impl Server {
    async fn start() -> Self {
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let mut server = Self {
            folder: tempfile::tempdir().unwrap(),
            url: Url::parse(&format!("http://{address}")).unwrap(),
            child: None,
        };
        server.go().await;
        server
    }

    async fn go(&mut self) {
        let address = format!("127.0.0.1:{}", self.url.port().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_ondol"))
            .args(["dev", "--listen", &address, "--data"])
            .arg(self.folder.path().join("data"))
            .env("ONDOL_LOG_FILTER", "error")
            .env("ONDOL_MODEL_GATEWAY__PYTHON", services::python())
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        for _ in 0..2_400 {
            let ready = reqwest::get(self.url.join("/readyz").unwrap()).await;
            if ready.is_ok_and(|response| response.status().is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server is not ready");
    }

    /// `kill -9`.
    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn run(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ondol"))
            .args(line.split(' '))
            .args(["--output", "json", "--server", self.url.as_str()])
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    /// What a command that succeeds prints as JSON.
    #[track_caller]
    fn ondol(&self, line: &str) -> Value {
        let output = self.run(line);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "ondol {line}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }

    /// What a command that fails says.
    #[track_caller]
    fn fails(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(!output.status.success(), "ondol {line} succeeded");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn gateway(&self) -> ModelGatewayClient {
        ModelGatewayClient::new(self.url.clone()).unwrap()
    }

    /// Has `fraud` run on its own tensor, of values that no feature has. The request's id.
    async fn infer_raw(&self) -> String {
        let tensor = json!({ "name": "X", "shape": [1, 5], "datatype": "FP32", "data": [1.5, 0.1, null, -2, 3] });
        let url = self.url.join("/v2/models/fraud/infer").unwrap();
        let call = reqwest::Client::new()
            .post(url)
            .body(json!({ "inputs": [tensor] }).to_string());
        let answer: Value = call.send().await.unwrap().json().await.unwrap();
        answer["parameters"]["request_ids"].as_str().unwrap().to_owned()
    }

    /// Definitions, events of one card, and a registered model.
    async fn fill(&self) {
        self.write("features.toml", DEFINITIONS);
        self.ondol("apply features.toml");
        let now = ondol_vocabulary::EventTime::now();
        let event = |number: i64| {
            let ts = now.plus_micros(-1_000_000 * (number + 1)).to_string();
            json!({"card_id": "c1", "amount": number as f64 + 0.1, "ts": ts}).to_string()
        };
        self.write("events.jsonl", &(0..20).map(event).collect::<Vec<_>>().join("\n"));
        self.ondol("push payments events.jsonl");
        let fixture = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../model-gateway/tests/fixtures/matrix_unnamed.onnx"
        );
        std::fs::copy(fixture, self.path("model.onnx")).unwrap();
        self.ondol("model register fraud model.onnx");
        // Ingest takes a moment to bring the events online.
        for _ in 0..1_200 {
            let answer = self.gateway().predict("fraud", request("c1", 8.0)).await.unwrap();
            if answer.features["card.n_1h"].value == FeatureValue::I64(20) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the events are not online");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The ids of recorded decisions, waited for until those of `expected` are among them.
    async fn recorded(&self, expected: &BTreeSet<String>) -> BTreeSet<String> {
        let store = FeatureStoreClient::new(self.url.clone()).unwrap();
        let mut recorded = BTreeSet::new();
        for _ in 0..600 {
            if store.flush("decisions").await.is_ok() {
                // The line is cut at spaces.
                let rows = self.ondol("sql select\trequest_id\tfrom\tdecisions");
                let rows = rows.as_array().unwrap();
                recorded = rows
                    .iter()
                    .map(|row| row["request_id"].as_str().unwrap().to_owned())
                    .collect();
                if expected.is_subset(&recorded) {
                    return recorded;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        recorded
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

fn request(card: &str, amount: f64) -> PredictRequest {
    PredictRequest {
        inputs: BTreeMap::from([
            ("card_id".to_owned(), FeatureValue::String(card.to_owned())),
            ("amount".to_owned(), FeatureValue::F64(amount)),
        ]),
        explain: Some(true),
        ..PredictRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audited_decision_outlives_a_kill_of_everything() {
    let mut server = Server::start().await;
    server.fill().await;
    for _ in 0..3 {
        let answered: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let callers: Vec<_> = (0..4)
            .map(|caller| {
                let (gateway, answered) = (server.gateway(), Arc::clone(&answered));
                tokio::spawn(async move {
                    // Until the kill.
                    while let Ok(answer) = gateway.predict("fraud", request("c1", f64::from(caller))).await {
                        answered.lock().unwrap().insert(answer.request_id);
                    }
                })
            })
            .collect();
        while answered.lock().unwrap().len() < 40 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.kill();
        for caller in callers {
            caller.await.unwrap();
        }
        server.go().await;
        let answered = answered.lock().unwrap().clone();
        let recorded = server.recorded(&answered).await;
        let lost: Vec<_> = answered.difference(&recorded).collect();
        assert!(
            lost.is_empty(),
            "{} of {} answers have no record",
            lost.len(),
            answered.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_replayed_answered_and_learned_from() {
    let server = Server::start().await;
    server.fill().await;
    let mut ids = Vec::new();
    for (card, amount) in [("c1", 8.1), ("stranger", 0.3), ("c1", 2.5)] {
        let answer = server.gateway().predict("fraud", request(card, amount)).await.unwrap();
        ids.push(answer.request_id);
    }
    ids.push(server.infer_raw().await);
    server.recorded(&ids.iter().cloned().collect()).await;
    for id in &ids {
        let replay = server.ondol(&format!("replay {id}"));
        assert_eq!(replay["same"], true, "{replay}");
        assert_eq!(replay["recorded"]["model_digest"], replay["replayed"]["model_digest"]);
    }
    let unknown = server.fails("replay 01ARYZ6S41TSV4RRFFQ69G5FAV");
    assert!(unknown.contains("no decision of"), "{unknown}");

    // The raw call's outcome is not learned from: its tensors were not features.
    for (id, outcome) in [
        (&ids[3], "true"),
        (&ids[0], "true"),
        (&ids[1], "false"),
        (&ids[0], "false"),
    ] {
        server.ondol(&format!("outcome fraud {id} {outcome}"));
    }
    let mut made = Value::Null;
    for _ in 0..200 {
        let output = server.run("training-set fraud --from-decisions -o logged.parquet");
        made = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if made["manifest"]["rows"] == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(made["manifest"]["rows"], 2, "{made}");
    assert_eq!(made["manifest"]["views"], json!(["card@1"]));
    // What was learned from it registers against what is served.
    let registered = server.ondol("model register fraud model.onnx --training-set logged.parquet");
    assert_eq!(
        registered["model"], "fraud@1",
        "the same artifact and definitions: the same version"
    );

    let narrower = DEFINITIONS.replace("sum(amount) over 24h", "sum(amount) over 12h");
    server.write("features.toml", &narrower);
    for command in ["plan", "apply"] {
        let refused = server.fails(&format!("{command} features.toml"));
        assert!(
            refused.contains("sum(amount) over 24h → sum(amount) over 12h"),
            "{refused}"
        );
        assert!(refused.contains("fraud@1"), "{refused}");
    }
    server.ondol("apply features.toml --force");
    for _ in 0..600 {
        let answer = server.gateway().predict("fraud", request("c1", 1.0)).await.unwrap();
        if let [degraded] = answer.degraded.as_slice() {
            assert_eq!(degraded.trouble.name(), "changed");
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("an answer of changed features does not say so");
}
