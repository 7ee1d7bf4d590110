//! Schemathesis throws requests made from the gateway's OpenAPI document at its port: good ones, bad ones, and ones at
//! the edges. No answer may be a fault of the gateway's own, or something else than the document says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway::open_inference;
use ondol_model_gateway_api::server;
use ondol_runtime::{ServiceRouter, serve};
use ondol_testkit::services;
use std::path::Path;
use support::Bench;

/// What an answer must keep. Left out: `negative_data_rejection`, since the protocols let a server pass over what it does
/// not know, and `positive_data_acceptance`, since tensors depend on the model in ways a schema can't say.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                      response_headers_conformance,allow_header_conformance";

#[tokio::test(flavor = "multi_thread")]
async fn no_request_made_from_the_document_is_answered_otherwise_than_it_says() {
    let bench = Bench::with_model().await;
    let document = server::openapi().merge_from(open_inference::openapi());
    let router = ServiceRouter::new(&bench.health)
        .contract("model-gateway", bench.gateway.router(), document)
        .build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    bench
        .shutdown
        .spawn("http", serve(listener, router, bench.shutdown.clone()));
    let program = Path::new(&services::inference_python()).with_file_name("schemathesis");
    let folder = tempfile::tempdir().unwrap();
    // 503 and 504 say "try again": a deadline of no time is one of the edges.
    let config = "checks.not_a_server_error.expected-statuses = [\"2xx\", \"3xx\", \"4xx\", 503, 504]\n";
    std::fs::write(folder.path().join("schemathesis.toml"), config).unwrap();
    let output = tokio::process::Command::new(program)
        .current_dir(folder.path())
        .args(["run", &format!("http://{address}/openapi.json"), "--checks", CHECKS])
        // The same requests every time: a finding is a fact, not luck.
        .args(["--seed", "20", "--generation-deterministic", "--max-examples", "10"])
        .args([
            "--phases",
            "examples,coverage,fuzzing",
            "--continue-on-failure",
            "--no-color",
        ])
        .args(["--warnings", "off", "--suppress-health-check", "all"])
        // An unloaded model answers 503, as it should.
        .args(["--exclude-operation-id", "v2RepositoryUnload"])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
