//! The Open Inference Protocol V2, so that tritonclient and the KServe SDK work unmodified.
//!
//! [`wire`] is the protocol's JSON and its tensors; [`rest`] its routes. Source: the Open Inference Protocol
//! specification, "Inference Protocol HTTP/REST", with what unmodified clients really do where it is silent.

pub mod rest;
pub mod statistics;
pub mod wire;
