//! The unmodified tritonclient against the gateway's port: HTTP and gRPC, each also in its asyncio form, each in a
//! process of its own. The client's side is `tests/clients/tritonclient_scenes.py`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod clients;
mod support;

use ondol_testkit::services;

async fn check(flavour: &str) {
    let bench = clients::bench().await;
    let folder = clients::expectations(&bench).await;
    let python = services::inference_python();
    clients::run(&bench, &python, "tritonclient_scenes.py", &[flavour], folder.path()).await;
    // Two by the expectations, and at least the five rows that the scenes ask for by key.
    let decisions = bench.ingest.wait_for(7).await;
    assert!(decisions.iter().all(|decision| decision["model_version"] == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_over_http_gets_the_bits_of_the_run_in_process() {
    check("http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_over_http_with_asyncio_gets_the_bits_of_the_run_in_process() {
    check("http.aio").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_over_grpc_gets_the_bits_of_the_run_in_process() {
    check("grpc").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_over_grpc_with_asyncio_gets_the_bits_of_the_run_in_process() {
    check("grpc.aio").await;
}
