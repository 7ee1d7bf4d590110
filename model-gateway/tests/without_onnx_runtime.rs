//! On a machine without ONNX Runtime the gateway starts, and says what is missing. A process of its own: once loaded,
//! the library stays.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use support::Bench;

#[tokio::test]
async fn without_onnx_runtime_the_refusal_says_how_to_get_it() {
    let bench = Bench::open_with(|config| config.onnxruntime = "/nonexistent/libonnxruntime.so".to_owned()).await;
    let error = bench.register("matrix").await.unwrap_err();
    assert!(matches!(&error, ModelGatewayError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent/libonnxruntime.so"), "{error}");
    assert_eq!(bench.gateway.models().await.unwrap().len(), 1);
}
