//! Models on other servers: real ones (MLServer, MLflow, Triton, another gateway), and servers that misbehave.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod failing;
mod gateways;
mod mlflow;
mod mlserver;
mod scripted;
mod servers;
mod tables;
#[cfg(target_os = "linux")]
mod triton;

use axum::Router;
use axum::body::Bytes;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::RegisteredModel;
use support::Bench;
use tokio::net::TcpListener;

/// Serves `router` on a free port until the test ends.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn register(bench: &Bench, spec: &str) -> Result<RegisteredModel, ModelGatewayError> {
    bench.register_as("fraud", Bytes::from(spec.to_owned())).await
}

/// A gateway without a model of its own, whose features are known.
async fn front() -> Bench {
    let bench = Bench::open().await;
    bench.fill();
    bench
}
