//! Windows, latest rows and their stored form, against an oracle that reads the whole list of events.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod aggregations;
mod crowds;
mod events;
mod exact;
mod history;
mod known;
mod oracle;
mod properties;
mod rules;
mod views;
