//! The unmodified tritonclient against the gateway's V2 routes. The client's side is `tests/tritonclient_rest.py`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_testkit::services;
use support::Bench;

async fn run_client(bench: &Bench, scene: &str) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(axum::serve(listener, bench.gateway.router()).into_future());
    let output = tokio::process::Command::new(services::python())
        .args([
            &format!("{}/tests/tritonclient_rest.py", env!("CARGO_MANIFEST_DIR")),
            &address,
            scene,
        ])
        .output()
        .await
        .unwrap();
    server.abort();
    assert!(
        output.status.success(),
        "{scene}:\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_scores_by_entity_key_and_the_decisions_are_logged() {
    let bench = Bench::with_model().await;
    run_client(&bench, "by_key").await;
    assert_eq!(bench.ingest.wait_for(2).await[1]["model_version"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_scores_the_models_own_tensors() {
    run_client(&Bench::with_model().await, "raw").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_finds_health_metadata_and_the_index() {
    run_client(&Bench::with_model().await, "metadata").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_is_told_what_is_wrong() {
    run_client(&Bench::with_model().await, "errors").await;
}
