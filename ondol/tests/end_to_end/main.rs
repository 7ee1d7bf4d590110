//! The main job, end to end: one real event to a prediction, the training set equal to what was served, nothing lost
//! by kill -9. The same scenario runs against one process with embedded stores and against one process per service on
//! Kafka, Redis and PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod batch_only;
mod messages;
mod platform;
mod published;
mod scenario;

use platform::Platform;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_carries_an_event_to_a_prediction() {
    scenario::run(Platform::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn separate_services_carry_an_event_to_a_prediction() {
    scenario::run(Platform::separate().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_sources_alone_carry_a_row_to_a_prediction() {
    batch_only::run().await;
}
