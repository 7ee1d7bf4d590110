//! KServe's unmodified SDK against the gateway's port, over REST and gRPC. The client's side is
//! `tests/clients/kserve_scenes.py`.

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

#[tokio::test(flavor = "multi_thread")]
async fn kserves_clients_get_the_bits_of_the_run_in_process() {
    let bench = clients::bench().await;
    let folder = clients::expectations(&bench).await;
    let python = services::kserve_python();
    clients::run(&bench, &python, "kserve_scenes.py", &[], folder.path()).await;
}
