//! Ingest from outside: both streams through one suite, the service end to end, rebalances, kill -9.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod bad_events;
mod durability;
mod kafka;
mod service;
mod setup;
mod store;
mod stream;
