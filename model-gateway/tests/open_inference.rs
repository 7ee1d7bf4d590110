//! The REST surfaces of the Open Inference Protocol and of MLflow, where what a client does not show matters: what a
//! canary answers, what is loaded, what errors look like.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway_api::ModelGateway;
use ondol_model_gateway_api::wire::{Routing, RoutingChange, Share, Target};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use support::Bench;

/// A gateway's port.
struct Port {
    bench: Bench,
    base: String,
    client: reqwest::Client,
}

impl Port {
    async fn of(bench: Bench) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, bench.gateway.router()).into_future());
        Self {
            bench,
            base,
            client: reqwest::Client::new(),
        }
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Response {
        let request = self.client.request(method, format!("{}{path}", self.base));
        request.body(body.to_string()).send().await.unwrap()
    }

    /// The status and the JSON that is posted `body`.
    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let response = self.call(Method::POST, path, &body).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        (response.status(), response.json().await.unwrap())
    }

    async fn invoke(&self, body: Value) -> Value {
        let (status, answer) = self.post("/v1/models/fraud/invocations", body).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }
}

fn keys(cards: &[String]) -> Value {
    let count = cards.len();
    json!({ "inputs": [
        { "name": "card_id", "shape": [count], "datatype": "BYTES", "data": cards },
        { "name": "merchant_id", "shape": [count], "datatype": "BYTES", "data": vec!["m1"; count] },
        { "name": "amount", "shape": [count], "datatype": "FP64", "data": vec![8; count] },
    ]})
}

async fn split_evenly(bench: &Bench) {
    bench.register("matrix_unnamed").await.unwrap();
    let share = |version| Share {
        to: Target::Version(version),
        percent: 50.0,
    };
    let routing = Routing {
        aliases: BTreeMap::from([("champion".to_owned(), 1)]),
        split: vec![share(1), share(2)],
        sticky_by: vec!["card_id".to_owned()],
        ..Routing::default()
    };
    let change = RoutingChange {
        routing,
        ..RoutingChange::default()
    };
    bench.gateway.set_routing("fraud", change).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_a_canary_takes_a_part_of_is_one_answer_in_order() {
    let bench = Bench::patient().await;
    split_evenly(&bench).await;
    let port = Port::of(bench).await;
    let cards: Vec<String> = (0..40).map(|card| format!("card-{card}")).collect();
    let (status, answer) = port.post("/v2/models/fraud/infer", keys(&cards)).await;
    assert_eq!(status, 200, "{answer}");
    let listed = |name: &str| -> Vec<String> {
        let text = answer["parameters"][name].as_str().unwrap();
        text.split(',').map(ToOwned::to_owned).collect()
    };
    let versions = listed("model_versions");
    assert!(versions.contains(&"1".to_owned()) && versions.contains(&"2".to_owned()));
    assert_eq!(listed("request_ids").len(), 40);
    let probabilities = &answer["outputs"][1];
    assert_eq!(probabilities["shape"], json!([40, 2]));
    for (row, card) in cards.iter().enumerate() {
        let alone = format!(r#"{{"card_id":"{card}","merchant_id":"m1","amount":8}}"#);
        let alone = port.bench.predict(&alone).await.unwrap();
        assert_eq!(probabilities["data"][row * 2 + 1], alone.prediction);
        assert_eq!(versions[row], alone.model.version.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mlflows_four_forms_score_by_entity_key_and_are_logged() {
    let port = Port::of(Bench::patient().await).await;
    let expected = port
        .bench
        .predict(r#"{"card_id":"c1","merchant_id":"m1","amount":8}"#)
        .await
        .unwrap()
        .prediction;
    let record = json!({ "card_id": "c1", "merchant_id": "m1", "amount": 8 });
    for body in [
        json!({ "dataframe_split": { "columns": ["amount", "card_id", "merchant_id"], "data": [[8, "c1", "m1"]] } }),
        json!({ "dataframe_records": [record] }),
        json!({ "instances": [record] }),
        json!({ "inputs": { "card_id": ["c1"], "merchant_id": ["m1"], "amount": [8] } }),
    ] {
        let answer = port.invoke(body).await;
        assert_eq!(answer["predictions"], json!([expected]));
        assert_eq!(answer["request_ids"].as_array().unwrap().len(), 1);
    }
    assert_eq!(port.bench.ingest.wait_for(5).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn mlflows_forms_take_the_vector_by_name_and_the_tensor_without() {
    let port = Port::of(Bench::patient().await).await;
    let tensor = port
        .invoke(json!({ "inputs": [[1, 2, 3, 4, 5], [0, 0, 0, 0, -1]] }))
        .await;
    let named = port
        .invoke(json!({ "inputs": { "X": [[1, 2, 3, 4, 5], [0, 0, 0, 0, -1]] } }))
        .await;
    let vector = port
        .invoke(json!({ "dataframe_split": {
            "columns": ["derived.ratio", "amount", "merchant.risk", "card.spend_24h", "card.n_1h"],
            "data": [[5, 4, 3, 2, 1], [-1, 0, 0, 0, 0]],
        }}))
        .await;
    assert_eq!(tensor["predictions"].as_array().unwrap().len(), 2);
    assert_eq!(tensor["predictions"], named["predictions"]);
    assert_eq!(tensor["predictions"], vector["predictions"]);
    assert_eq!(vector["request_ids"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn mlflows_errors_have_its_form() {
    let port = Port::of(Bench::patient().await).await;
    let refused = async |path: &str, body: Value| {
        let (status, answer) = port.post(path, body).await;
        (
            status.as_u16(),
            answer["error_code"].clone(),
            answer["message"].to_string(),
        )
    };
    let path = "/v1/models/fraud/invocations";
    let (status, code, message) = refused(path, json!({ "inputs": [1], "instances": [1] })).await;
    assert_eq!((status, code), (400, json!("BAD_REQUEST")));
    assert!(message.contains("exactly one of"), "{message}");
    let (status, _, message) = refused(path, json!({ "inputs": { "card": ["c1"] } })).await;
    assert_eq!(status, 400);
    assert!(
        message.contains("unknown column `card`: did you mean `card_id`?"),
        "{message}"
    );
    let (status, code, _) = refused("/v1/models/frod/invocations", json!({ "inputs": [[1]] })).await;
    assert_eq!((status, code), (404, json!("RESOURCE_DOES_NOT_EXIST")));
    for path in ["/ping", "/version", "/v1/models/fraud/ping", "/v1/models/fraud/version"] {
        let response = port.call(Method::GET, path, &Value::Null).await;
        assert_eq!(response.status(), 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unloading_gives_the_sessions_up_while_requests_under_way_end() {
    let port = Port::of(Bench::patient().await).await;
    // A request holds the features back, and with them its model.
    let held = port.bench.store.gate.acquire_many(1_000).await.unwrap();
    let under_way = port.client.post(format!("{}/v1/models/fraud:predict", port.base));
    let body = r#"{"inputs":{"card_id":"c1","merchant_id":"m1","amount":8},"deadline_ms":60000}"#;
    let under_way = tokio::spawn(under_way.body(body).send());
    while port.bench.store.reads.lock().unwrap().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let (status, _) = port.post("/v2/repository/models/fraud/unload", json!({})).await;
    assert_eq!(status, 200);
    let (status, answer) = port.post("/v2/models/fraud/infer", keys(&["c1".to_owned()])).await;
    assert_eq!(status, 503, "{answer}");
    assert!(
        answer["error"]
            .as_str()
            .unwrap()
            .contains("/v2/repository/models/fraud@1/load")
    );
    drop(held);
    assert_eq!(under_way.await.unwrap().unwrap().status(), 200);
    let (status, _) = port.post("/v2/repository/models/fraud@1/load", json!({})).await;
    assert_eq!(status, 200);
    let (status, _) = port.post("/v2/models/fraud/infer", keys(&["c1".to_owned()])).await;
    assert_eq!(status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_limit_is_refused_in_the_protocols_form() {
    let bench = Bench::open_with(|config| config.max_request_bytes = 1_000).await;
    bench.register("matrix").await.unwrap();
    let port = Port::of(bench).await;
    let cards: Vec<String> = (0..100).map(|card| format!("card-{card}")).collect();
    let (status, answer) = port.post("/v2/models/fraud/infer", keys(&cards)).await;
    assert_eq!(status, 413);
    assert!(answer["error"].is_string());
}
