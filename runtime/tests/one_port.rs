//! A real port, as a service opens it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use futures::StreamExt as _;
use ondol_runtime::{Health, ServiceRouter, Shutdown, metrics, serve};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder, Paths, PathsBuilder, path::PathItem};

fn document(title: &str, path: &str) -> OpenApi {
    let paths: Paths = PathsBuilder::new().path(path, PathItem::default()).build();
    OpenApiBuilder::new()
        .info(InfoBuilder::new().title(title).version("1").build())
        .paths(paths)
        .build()
}

fn contract() -> Router {
    Router::new()
        .route(
            "/v1/things/{thing}",
            get(|| async { "thing" }).post(|| async { "thing" }),
        )
        .route(
            "/v1/panic",
            get(|| async {
                if true {
                    panic!("reason")
                }
            }),
        )
        .route("/v1/upload", post(|body: Bytes| async move { body.len().to_string() }))
        .route(
            "/v1/large",
            post(|body: Bytes| async move { body.len().to_string() }).layer(DefaultBodyLimit::max(4096)),
        )
}

async fn start(router: Router, shutdown: &Shutdown) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    shutdown.spawn("http", serve(listener, router, shutdown.clone()));
    base
}

async fn started() -> (String, Health, Shutdown) {
    metrics::install().unwrap();
    let (health, shutdown) = (Health::new(), Shutdown::new());
    let router = ServiceRouter::new(&health)
        .contract("things", contract(), document("Things", "/v1/things/{thing}"))
        .contract(
            "others",
            Router::new().route("/v1/others", get(|| async { "other" })),
            document("Others", "/v1/others"),
        )
        .title("Both")
        .body_limit(1024)
        .build();
    let base = start(router, &shutdown).await;
    (base, health, shutdown)
}

async fn json(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

#[tokio::test]
async fn readiness_waits_for_every_check() {
    let (base, health, _shutdown) = started().await;
    let readyz = || async { json(reqwest::get(format!("{base}/readyz")).await.unwrap()).await };
    assert_eq!(readyz().await.0, 200);
    let (store, stream) = (health.register("store"), health.register("stream"));
    store.ready();
    let (status, body) = readyz().await;
    assert_eq!((status, &body["status"]), (503, &Value::from("not-ready")));
    assert_eq!(body["checks"][0], serde_json::json!({ "name": "store", "ready": true }));
    assert_eq!(
        body["checks"][1],
        serde_json::json!({ "name": "stream", "ready": false, "reason": "starting" })
    );
    stream.ready();
    assert_eq!(readyz().await.0, 200);
    store.not_ready("connection lost");
    let (status, body) = readyz().await;
    assert_eq!(
        (status, &body["checks"][0]["reason"]),
        (503, &Value::from("connection lost"))
    );
    let (status, body) = json(reqwest::get(format!("{base}/healthz")).await.unwrap()).await;
    assert_eq!((status, &body["status"]), (200, &Value::from("ok")));
}

#[tokio::test]
async fn what_nothing_serves_is_a_problem() {
    let (base, _, _shutdown) = started().await;
    let response = reqwest::get(format!("{base}/v2/nothing")).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let (status, body) = json(response).await;
    assert_eq!(
        (status, &body["type"]),
        (404, &Value::from("urn:ondol:problem:no-such-route"))
    );
    let response = reqwest::Client::new()
        .delete(format!("{base}/v1/things/a"))
        .send()
        .await
        .unwrap();
    let (status, body) = json(response).await;
    assert_eq!((status, &body["code"]), (405, &Value::from("method-not-allowed")));
}

#[tokio::test]
async fn a_panic_answers_500_and_the_port_lives_on() {
    let (base, _, _shutdown) = started().await;
    let (status, body) = json(reqwest::get(format!("{base}/v1/panic")).await.unwrap()).await;
    assert_eq!((status, &body["code"]), (500, &Value::from("internal")));
    assert_eq!(reqwest::get(format!("{base}/v1/others")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn requests_are_counted_by_matched_route_and_verb() {
    let (base, _, _shutdown) = started().await;
    let http = reqwest::Client::new();
    for path in ["/v1/things/secret-1", "/v1/things/secret-2:predict", "/v1/secret-3"] {
        http.get(format!("{base}{path}")).send().await.unwrap();
    }
    let text = http
        .get(format!("{base}/metrics"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let count = |route: &str, service: &str, status: u16| {
        format!(
            "ondol_http_requests_total{{service=\"{service}\",method=\"GET\",route=\"{route}\",status=\"{status}\"}}"
        )
    };
    for line in [
        count("/v1/things/{thing}", "things", 200),
        count("/v1/things/{thing}:predict", "things", 200),
        count("unmatched", "none", 404),
        "ondol_http_request_duration_seconds_bucket".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn documents_are_merged_and_browsable_offline() {
    let (base, _, _shutdown) = started().await;
    let (status, body) = json(reqwest::get(format!("{base}/openapi.json")).await.unwrap()).await;
    assert_eq!((status, &body["info"]["title"]), (200, &Value::from("Both")));
    assert!(body["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(body["paths"]["/v1/others"].is_object() && body["paths"]["/v1/things/{thing}"].is_object());
    let page = reqwest::get(format!("{base}/docs"))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(page.contains("swagger-ui") && !page.contains("https://"), "{page}");
    for file in ["swagger-ui-bundle.js", "swagger-ui.css", "swagger-initializer.js"] {
        let response = reqwest::get(format!("{base}/docs/{file}")).await.unwrap();
        assert_eq!(response.status(), 200, "{file}");
        assert!(!response.bytes().await.unwrap().is_empty(), "{file}");
    }
}

#[tokio::test]
async fn a_body_is_bounded_by_its_route_or_by_the_port() {
    let (base, _, _shutdown) = started().await;
    let http = reqwest::Client::new();
    let post = |path: &str, bytes: usize| http.post(format!("{base}{path}")).body(vec![0_u8; bytes]).send();
    assert_eq!(post("/v1/upload", 1024).await.unwrap().status(), 200);
    assert_eq!(post("/v1/upload", 1025).await.unwrap().status(), 413);
    assert_eq!(post("/v1/large", 4096).await.unwrap().status(), 200);
    assert_eq!(post("/v1/large", 4097).await.unwrap().status(), 413);
}

#[tokio::test]
async fn both_http_versions_share_the_port() {
    let (base, _, _shutdown) = started().await;
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let response = http2.get(format!("{base}/v1/others")).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.version()),
        (200, reqwest::Version::HTTP_2)
    );
    let response = reqwest::get(format!("{base}/v1/others")).await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_11);
}

#[tokio::test]
async fn a_request_under_way_is_finished_before_the_port_closes() {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (entered, release) = (Arc::clone(&entered), Arc::clone(&release));
        post(move || async move {
            entered.notify_one();
            release.notified().await;
            "done"
        })
    };
    let shutdown = Shutdown::new();
    let base = start(Router::new().route("/slow", slow), &shutdown).await;
    let request = tokio::spawn(reqwest::Client::new().post(format!("{base}/slow")).send());
    entered.notified().await;
    shutdown.trigger();
    release.notify_one();
    assert_eq!(request.await.unwrap().unwrap().text().await.unwrap(), "done");
    assert!(shutdown.drain(Duration::from_secs(60)).await);
    assert!(reqwest::get(format!("{base}/slow")).await.is_err());
}

#[tokio::test]
async fn an_announced_shutdown_parts_from_callers_answer_by_answer() {
    let shutdown = Shutdown::new();
    let base = start(Router::new().route("/thing", post(async || "done")), &shutdown).await;
    let url = format!("{base}/thing");
    let connection = async |client: &reqwest::Client| {
        let answer = client.post(&url).send().await.unwrap();
        let connection = answer.headers().get("connection").cloned();
        assert_eq!(answer.text().await.unwrap(), "done");
        connection
    };
    let old = reqwest::Client::new();
    let new = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    assert_eq!(connection(&old).await, None);
    shutdown.announce();
    assert!(!shutdown.is_triggered());
    for _ in 0..3 {
        // New connections are taken, and are good for one request each.
        assert_eq!(connection(&old).await.unwrap(), "close");
        // HTTP/2 has no such header.
        assert_eq!(connection(&new).await, None);
    }
    assert!(shutdown.drain(Duration::from_secs(60)).await);
}

#[tokio::test]
async fn a_long_poll_does_not_hold_up_the_shutdown() {
    let entered = Arc::new(Notify::new());
    let poll = {
        let entered = Arc::clone(&entered);
        get(move || async move {
            entered.notify_one();
            std::future::pending::<()>().await;
        })
    };
    let shutdown = Shutdown::new();
    let base = start(Router::new().route("/poll", poll), &shutdown).await;
    let request = tokio::spawn(reqwest::get(format!("{base}/poll")));
    entered.notified().await;
    assert!(shutdown.drain(Duration::from_secs(60)).await);
    let (status, body) = json(request.await.unwrap().unwrap()).await;
    assert_eq!((status, &body["retryable"]), (503, &Value::from(true)));
}

#[tokio::test]
async fn a_stream_of_events_ends_with_the_shutdown() {
    let events = get(async || {
        let first = futures::stream::once(async { Ok::<_, std::io::Error>("data: 1\n\n") });
        let body = axum::body::Body::from_stream(first.chain(futures::stream::pending()));
        ([("content-type", "text/event-stream")], body)
    });
    let shutdown = Shutdown::new();
    let base = start(Router::new().route("/events", events), &shutdown).await;
    let mut response = reqwest::get(format!("{base}/events")).await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "data: 1\n\n");
    assert!(shutdown.drain(Duration::from_secs(60)).await);
    assert_eq!(response.chunk().await.unwrap(), None);
}
