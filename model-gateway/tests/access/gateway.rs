//! The whole gateway behind the door: every route there is.

use crate::fixture::{ADMIN, required};
use crate::support::Bench;
use axum::http::Method;
use ondol_model_gateway::access::routes::{Need, need};
use ondol_runtime::{Shutdown, serve};
use serde_json::Value;
use tokio::net::TcpListener;

/// Routes that are an administrator's on purpose. A route that is neither here nor in `access/routes.rs` was forgotten.
const OF_ADMINS: [&str; 3] = ["/v1/keys", "/v1/keys/{id}", "/v1/audit"];

/// Every operation of the documents: method, path as documented, path of a request.
fn operations() -> Vec<(String, String, String)> {
    let documents = [
        serde_json::to_value(ondol_model_gateway_api::server::openapi()).unwrap(),
        serde_json::from_str::<Value>(include_str!("../../../contracts/openapi/open-inference.json")).unwrap(),
    ];
    let mut operations = Vec::new();
    for document in documents {
        for (path, methods) in document["paths"].as_object().unwrap() {
            let request = path
                .replace("{model}", "fraud")
                .replace("{version}", "1")
                .replace("{id}", "x")
                .replace("{request_id}", "x");
            for method in methods.as_object().unwrap().keys() {
                if ["get", "post", "put", "delete", "patch"].contains(&method.as_str()) {
                    operations.push((method.to_uppercase(), path.clone(), request.clone()));
                }
            }
        }
    }
    assert!(operations.len() > 15, "{operations:?}");
    operations
}

#[test]
fn every_documented_route_asks_for_what_suits_it() {
    for (method, path, request) in operations() {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let need = need(&method, &request);
        if need == Need::Admin {
            assert!(
                OF_ADMINS.contains(&path.as_str()),
                "{method} {path} asks for `admin`, because access/routes.rs does not know it: tell there what it asks for"
            );
        }
        assert_ne!(
            need == Need::Open,
            !path.contains("health") && path != "/ping",
            "{method} {path} is {need:?}"
        );
    }
}

async fn start() -> (Bench, String, Shutdown) {
    let bench = Bench::open_with(|config| config.access = required()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let http = Shutdown::new();
    http.spawn("http", serve(listener, bench.gateway.router(), http.clone()));
    (bench, base, http)
}

#[tokio::test]
async fn no_route_of_the_gateway_answers_a_stranger() {
    let (_bench, base, _http) = start().await;
    let client = reqwest::Client::new();
    for (method, path, request) in operations() {
        let method: Method = method.parse().unwrap();
        let open = need(&method, &request) == Need::Open;
        let answer = client
            .request(method.clone(), format!("{base}{request}"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status() != 401, open, "{method} {path}");
    }
}

/// A gRPC call of one message: its status.
async fn call(base: &str, method: &str, token: &str, model: &str) -> String {
    // Field 1, a text: the model's name in each of these messages but the repository's, where it is field 2.
    let tag = if method.starts_with("Repository") { 0x12 } else { 0x0a };
    let mut message = vec![tag, model.len() as u8];
    message.extend(model.as_bytes());
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let answer = client
        .post(format!("{base}/inference.GRPCInferenceService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .bearer_auth(token)
        .body(frame)
        .send()
        .await
        .unwrap();
    let status = answer
        .headers()
        .get("grpc-status")
        .map(|status| status.to_str().unwrap().to_owned());
    match status {
        Some(status) => status,
        // A stream says so in its only answer.
        None => String::from_utf8_lossy(&answer.bytes().await.unwrap()).into_owned(),
    }
}

#[tokio::test]
async fn a_grpc_message_is_asked_for_the_model_it_names() {
    let (_bench, base, _http) = start().await;
    let body = serde_json::json!({"label": "l", "tenant": "bank", "scopes": ["predict:fraud", "load:fraud"]});
    let created = reqwest::Client::new()
        .post(format!("{base}/v1/keys"))
        .bearer_auth(ADMIN)
        .json(&body);
    let created: Value = created.send().await.unwrap().json().await.unwrap();
    let key = created["key"].as_str().unwrap();
    for method in [
        "ModelInfer",
        "ModelReady",
        "ModelMetadata",
        "ModelConfig",
        "ModelStatistics",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
    ] {
        assert_eq!(
            call(&base, method, key, "churn").await,
            "7",
            "{method}: PERMISSION_DENIED"
        );
        assert_ne!(call(&base, method, key, "fraud").await, "7", "{method}");
        assert_eq!(
            call(&base, method, "x", "fraud").await,
            "16",
            "{method}: UNAUTHENTICATED"
        );
    }
    let streamed = call(&base, "ModelStreamInfer", key, "churn").await;
    assert!(streamed.contains("lacks the scope `predict:churn`"), "{streamed}");
    let audit = reqwest::Client::new()
        .get(format!("{base}/v1/audit?action=load"))
        .bearer_auth(ADMIN);
    let audit: Value = audit.send().await.unwrap().json().await.unwrap();
    let outcomes: Vec<_> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["outcome"])
        .collect();
    assert_eq!(outcomes.len(), 4, "{audit}");
    assert!(outcomes.iter().all(|outcome| **outcome == "refused"), "{audit}");
}
