//! The gateway's door on a real port: who is let in, who is not, and how that is said.
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

mod audit;
mod door;
mod fixture;
mod gateway;
mod keys;
mod tokens;
