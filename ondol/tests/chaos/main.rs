//! Chaos: what the gateway needs is slow, dead, failing over, damaged or changed under steady load, and no answer is wrong.
//!
//! The real program runs in processes of its own ([`estate`]), real callers ask it without a pause ([`load`], over gRPC
//! [`grpc`]), and every
//! answer is held against an oracle that shares no code with it ([`scene`]): it is the exact value, or the exact value
//! that the model's policy allows in the place of features that can't be had, or an error that the fault explains; never
//! another value, never an answer of another version than it says, never a wait without end.
//!
//! A module for each part that fails: [`redis`], [`store`] (the feature store and ingest), [`kafka`], [`upstream`], [`artifact`] (a model's file), [`reload`]
//! (versions that come, go and change places), [`rolling`] (gateways that are replaced).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod estate;
mod grpc;
mod load;
mod scene;

mod artifact;
mod kafka;
mod redis;
mod reload;
mod rolling;
mod store;
mod upstream;
