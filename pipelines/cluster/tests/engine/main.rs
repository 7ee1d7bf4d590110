//! The engine against the embedded one: SQL over tables, joins as plans, and both on a cluster of real processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod cluster;
mod joins;
mod lake;
mod processes;
mod sql;
#[allow(
    deprecated,
    reason = "the table library's own actions are the shortest way to make a log"
)]
#[path = "../../../jobs/tests/support/mod.rs"]
mod support;
