//! Ingest from outside: both streams through one suite, the service end to end, rebalances, kill -9.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod bad_events;
#[macro_use]
mod both_streams;
mod dead_letters;
mod durability;
mod kafka;
mod operating;
mod schemas;
mod security;
mod service;
mod setup;
mod shape;
mod store;
mod stream;
