//! Bounds: a model that hangs starves no other, and a gateway that stops finishes what it took.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway_api::wire::{PredictRequest, Prediction, RegisterRequest, ScoreRequest};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError, server};
use ondol_runtime::{Shutdown, serve};
use ondol_vocabulary::{DataType, ModelVersion, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use support::{Bench, C1, field, fraud, from_input, request};
use tokio::task::JoinHandle;

/// Beside `fraud`, model `plain`, which reads no features: what hangs is not in its way.
async fn with_plain(change: impl FnOnce(&mut ondol_model_gateway::ModelGatewayConfig)) -> Bench {
    let bench = Bench::open_with(change).await;
    bench.store.apply(|snapshot| {
        let mut plain = fraud();
        plain.name = "plain".to_owned();
        let names = ["a", "b", "c", "d", "e"];
        plain.inputs = names.iter().map(|name| field(name, DataType::F64)).collect();
        plain.features = names.iter().map(|name| from_input(name, DataType::F64)).collect();
        plain.derived.clear();
        plain.derived_needs.clear();
        snapshot.models.push(ModelVersion {
            version: 1,
            definition: plain,
        });
    });
    for model in ["fraud", "plain"] {
        let request = RegisterRequest {
            artifact: support::artifact("matrix_unnamed"),
            kind: None,
            manifest: None,
        };
        bench.gateway.register(model, request).await.unwrap();
    }
    bench
}

/// A prediction of `fraud` that hangs at the store until its gate opens.
async fn hanging(bench: &Bench) -> JoinHandle<Result<Prediction, ModelGatewayError>> {
    bench.store.gate.forget_permits(1_000);
    let gateway = Arc::clone(&bench.gateway);
    let prediction = tokio::spawn(async move { gateway.predict("fraud", request(C1)).await });
    while bench.store.reads.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    prediction
}

fn plain() -> PredictRequest {
    let inputs = ["a", "b", "c", "d", "e"].map(|name| (name.to_owned(), Value::F64(1.0)));
    PredictRequest {
        inputs: BTreeMap::from(inputs),
        explain: Some(true),
        ..PredictRequest::default()
    }
}

#[tokio::test]
async fn a_model_that_hangs_starves_no_other() {
    let bench = with_plain(|config| {
        config.max_in_flight = 8;
        config.max_in_flight_per_model = 2;
        config.max_queue_per_model = 1;
        config.deadline_ms = 60_000;
    })
    .await;
    bench.store.gate.forget_permits(1_000);
    let hanging: Vec<_> = (0..3)
        .map(|_| {
            let gateway = Arc::clone(&bench.gateway);
            tokio::spawn(async move {
                loop {
                    match gateway.predict("fraud", request(C1)).await {
                        // The impatient one below was faster.
                        Err(ModelGatewayError::Overloaded { .. }) => tokio::task::yield_now().await,
                        outcome => return outcome,
                    }
                }
            })
        })
        .collect();
    // Two at the store, one in the queue: the next is refused at once. Until the third has joined the queue, a further
    // one takes its place there, so it asks with a short deadline.
    let refusal = loop {
        let impatient = PredictRequest {
            deadline_ms: Some(50),
            ..request(C1)
        };
        match bench.gateway.predict("fraud", impatient).await.unwrap_err() {
            error if error.to_string().contains("max_queue_per_model") => break error,
            ModelGatewayError::Overloaded { .. } | ModelGatewayError::DeadlineExceeded { .. } => {}
            other => panic!("{other}"),
        }
    };
    assert!(matches!(refusal, ModelGatewayError::Overloaded { .. }), "{refusal}");
    for _ in 0..20 {
        bench.gateway.predict("plain", plain()).await.unwrap();
    }
    bench.store.gate.add_permits(1_000);
    for waiting in hanging {
        waiting.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn replays_wait_behind_the_bounds_of_their_model() {
    let bench = with_plain(|config| {
        config.max_in_flight_per_model = 1;
        config.max_queue_per_model = 0;
        config.deadline_ms = 60_000;
    })
    .await;
    let hanging = hanging(&bench).await;
    let vector = r#"{"card.n_1h":1,"card.spend_24h":null,"merchant.risk":1,"amount":1,"derived.ratio":1}"#;
    let replay = || ScoreRequest {
        vectors: vec![serde_json::from_str(vector).unwrap()],
        deadline_ms: None,
    };
    let refusal = bench.gateway.score("fraud", replay()).await.unwrap_err();
    assert!(matches!(refusal, ModelGatewayError::Overloaded { .. }), "{refusal}");
    bench.store.gate.add_permits(1_000);
    hanging.await.unwrap().unwrap();
    bench.gateway.score("fraud", replay()).await.unwrap();
}

#[tokio::test]
async fn a_refused_request_is_told_when_to_come_back() {
    let bench = with_plain(|config| {
        config.max_in_flight_per_model = 1;
        config.max_queue_per_model = 0;
        config.deadline_ms = 60_000;
    })
    .await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/models/fraud:predict", listener.local_addr().unwrap());
    let shutdown = Shutdown::new();
    shutdown.spawn("http", serve(listener, bench.gateway.router(), shutdown.clone()));
    let hanging = hanging(&bench).await;
    let body = format!(r#"{{"inputs": {C1}}}"#);
    let response = reqwest::Client::new().post(url).body(body).send().await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "1");
    bench.store.gate.add_permits(1_000);
    hanging.await.unwrap().unwrap();
    assert!(shutdown.drain(Duration::from_secs(60)).await);
}

/// As a load balancer does: a client asks while the process says that it is ready, and every request it sent is
/// answered.
#[tokio::test]
async fn a_rolling_restart_under_load_drops_no_request() {
    let bench = Bench::patient().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let http = Shutdown::new();
    let ready = bench.health.register("process");
    ready.ready();
    let routes = server::router(Arc::clone(&bench.gateway) as Arc<dyn ModelGateway>).merge(bench.health.routes());
    http.spawn("http", serve(listener, routes, http.clone()));

    let sent = Arc::new(AtomicUsize::new(0));
    let seen_not_ready = Arc::new(AtomicUsize::new(0));
    let failed = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (sent, not_ready, failed) = (Arc::clone(&sent), Arc::clone(&seen_not_ready), Arc::clone(&failed));
            tokio::spawn(async move {
                let client = reqwest::Client::new();
                loop {
                    let ready = client.get(format!("http://{address}/readyz")).send().await.unwrap();
                    if !ready.status().is_success() {
                        not_ready.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    let call = client.post(format!("http://{address}/v1/models/fraud:predict"));
                    let answer = call.body(format!(r#"{{"inputs": {C1}}}"#)).send().await;
                    if !answer.is_ok_and(|answer| answer.status() == 200) {
                        failed.store(true, Ordering::SeqCst);
                    }
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    while sent.load(Ordering::SeqCst) < 100 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    ready.not_ready("shutting down");
    while seen_not_ready.load(Ordering::SeqCst) < 8 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(http.drain(Duration::from_secs(60)).await);
    for client in clients {
        client.await.unwrap();
    }
    assert!(!failed.load(Ordering::SeqCst));
    let sent = sent.load(Ordering::SeqCst);
    bench.stop().await;
    assert_eq!(
        bench.ingest.events.lock().unwrap().len(),
        sent,
        "every answer has its decision"
    );
}
