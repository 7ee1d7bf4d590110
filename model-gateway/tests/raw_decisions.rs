//! Calls that bring a model's own tensors are decisions too: recorded, counted, replayed to the bit.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway_api::ModelGateway;
use ondol_model_gateway_api::wire::ScoreRequest;
use ondol_vocabulary::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use support::Bench;

type Json = serde_json::Value;

/// The gateway's Open Inference port.
async fn port(bench: &Bench) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, bench.gateway.router()).into_future());
    base
}

async fn post(base: &str, path: &str, body: Json) -> Json {
    let call = reqwest::Client::new()
        .post(format!("{base}{path}"))
        .body(body.to_string());
    let response = call.send().await.unwrap();
    assert_eq!(response.status(), 200, "{:?}", response.text().await);
    response.json().await.unwrap()
}

/// The tensor that `matrix` takes.
fn rows(data: &Json) -> Json {
    let rows = data.as_array().unwrap().len();
    json!({ "inputs": [{ "name": "X", "shape": [rows, 5], "datatype": "FP32", "data": data }] })
}

fn nested(event: &Json, column: &str) -> Json {
    event[column].clone()
}

/// A gateway with `matrix`, over `change`d configuration.
async fn bench(max_raw_bytes: usize) -> Bench {
    let bench = Bench::open_with(|config| {
        config.decision_log.max_raw_bytes = max_raw_bytes;
        config.deadline_ms = 120_000;
    })
    .await;
    bench.register("matrix").await.unwrap();
    bench
}

#[tokio::test]
async fn a_call_of_tensors_is_recorded_row_by_row_and_replays_to_the_bit() {
    let bench = bench(1 << 10).await;
    let base = port(&bench).await;
    // A count of 1.5 and one of minus zero: nothing that a feature could be, and what the model was run on.
    let sent = json!([[2, -4.0, 0.25, 8, -2], [1.5, 0.1, null, 1e30, 3], [-0.0, 0, 0, 0, 0]]);
    let answer = post(&base, "/v2/models/fraud/infer", rows(&sent)).await;
    let ids: Vec<&str> = answer["parameters"]["request_ids"]
        .as_str()
        .unwrap()
        .split(',')
        .collect();
    let events = bench.ingest.wait_for(3).await;
    assert_eq!(
        ids,
        events
            .iter()
            .map(|event| event["request_id"].as_str().unwrap())
            .collect::<Vec<_>>()
    );
    let first = &events[0];
    let vector =
        json!({ "card.n_1h": 2, "card.spend_24h": -4.0, "merchant.risk": 0.25, "amount": 8.0, "derived.ratio": -2.0 });
    assert_eq!(nested(first, "vector"), vector);
    assert_eq!(nested(first, "statuses"), json!({}));
    assert_eq!(first["route"], "default");
    let tensor = json!({ "name": "X", "datatype": "FP32", "shape": [3, 5] });
    assert_eq!(
        nested(&events[1], "inputs"),
        json!({ "raw": { "tensors": [tensor], "row": 1 } })
    );
    for event in &events {
        let vector: BTreeMap<String, Value> = serde_json::from_value(nested(event, "vector")).unwrap();
        let request = ScoreRequest {
            vectors: vec![vector],
            ..ScoreRequest::default()
        };
        let replayed = bench.gateway.score("fraud@1", request).await.unwrap();
        assert_eq!(replayed.predictions, [nested(event, "prediction")], "{event}");
        assert_eq!(event["model_digest"], replayed.sha256);
    }
}

#[tokio::test]
async fn a_call_of_tensors_is_in_the_routing_report_and_the_statistics() {
    let bench = bench(1 << 10).await;
    let base = port(&bench).await;
    for _ in 0..2 {
        post(
            &base,
            "/v2/models/fraud/infer",
            rows(&json!([[2, -4.0, 0.25, 8, -2], [1, 1, 1, 1, 1]])),
        )
        .await;
    }
    let report = bench.gateway.routing_report("fraud").await.unwrap();
    assert_eq!((report.live[0].requests, report.live[0].errors), (4, 0));
    let stats = reqwest::get(format!("{base}/v2/models/fraud/stats")).await.unwrap();
    let stats: Json = stats.json().await.unwrap();
    let of_model = &stats["model_stats"][0];
    assert_eq!(
        (&of_model["inference_count"], &of_model["execution_count"]),
        (&json!(4), &json!(2))
    );
    assert_eq!(of_model["inference_stats"]["queue"]["count"], 2);
    let sizes = of_model["batch_stats"].as_array().unwrap();
    assert_eq!((sizes.len(), &sizes[0]["batch_size"]), (1, &json!(2)));
    assert_eq!(sizes[0]["compute_infer"]["count"], 2);
    assert!(sizes[0]["compute_infer"]["ns"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_vector_that_comes_to_mlflows_path_is_recorded_too() {
    let bench = bench(1 << 10).await;
    let base = port(&bench).await;
    let vector =
        json!({ "card.n_1h": 2, "card.spend_24h": -4.0, "merchant.risk": 0.25, "amount": 8.0, "derived.ratio": -2.0 });
    let answer = post(
        &base,
        "/v1/models/fraud/invocations",
        json!({ "dataframe_records": [vector] }),
    )
    .await;
    let event = bench.ingest.wait_for(1).await.remove(0);
    assert_eq!(answer["request_ids"], json!([event["request_id"]]));
    assert_eq!(nested(&event, "vector"), vector);
    assert_eq!(nested(&event, "inputs"), json!({ "raw": { "row": 0 } }));
}

#[tokio::test]
async fn a_row_that_is_too_large_is_recorded_without_its_vector_and_says_so() {
    let bench = bench(19).await;
    let base = port(&bench).await;
    post(&base, "/v2/models/fraud/infer", rows(&json!([[2, -4.0, 0.25, 8, -2]]))).await;
    let event = bench.ingest.wait_for(1).await.remove(0);
    assert_eq!(nested(&event, "vector"), json!({}));
    assert_eq!(nested(&event, "inputs")["raw"]["left_out_bytes"], 20);
    assert!(nested(&event, "prediction").as_f64().is_some());
}

#[tokio::test]
async fn the_models_own_policy_says_which_calls_are_recorded() {
    let bench = Bench::open().await;
    bench
        .store
        .apply(|snapshot| snapshot.models[0].definition.decisions.sample_ppm = 0);
    bench.register("matrix").await.unwrap();
    let base = port(&bench).await;
    post(&base, "/v2/models/fraud/infer", rows(&json!([[2, -4.0, 0.25, 8, -2]]))).await;
    assert!(bench.shutdown.drain(Duration::from_secs(60)).await);
    assert_eq!(bench.ingest.events.lock().unwrap().len(), 0);
}
