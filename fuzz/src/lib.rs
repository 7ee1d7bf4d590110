//! Fuzz targets: every decoder of bytes that come from outside or were stored, as a function of any bytes.
//!
//! A target panics when what it decodes breaks a promise: bytes are refused or mean something, and what they mean can be
//! written, read again and used. libFuzzer feeds the targets (`scripts/fuzz`); what it found worth keeping stands in
//! `corpus/`, and `tests/corpus.rs` feeds that and the [`seeds`] to the same functions on every run of the tests, without
//! libFuzzer.
//!
//! In the order of the data: [`events`] of streams, [`stored`] bytes, [`wires`] between services, [`access`] at the gateway's door, [`definitions`].

// A target's way to report a broken promise is to panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "fuzz targets")]

pub mod access;
pub mod definitions;
pub mod events;
pub mod seeds;
pub mod stored;
pub mod wires;

/// What is fed with any bytes.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 20] = [
    ("json_events", events::json),
    ("avro_events", events::avro),
    ("protobuf_events", events::protobuf),
    ("registry_frames", events::framed),
    ("schemas", events::schemas),
    ("changes", events::changes),
    ("log_frames", stored::log_frame),
    ("rows", stored::row),
    ("online_values", stored::online_value),
    ("entity_keys", stored::entity_key),
    ("feature_batches", wires::feature_batch),
    ("packed_features", wires::packed_features),
    ("deliveries", wires::delivery),
    ("json_wires", wires::json),
    ("inference_requests", wires::inference_request),
    ("inference_messages", wires::inference_message),
    ("tensor_bytes", wires::tensor_bytes),
    ("access_tokens", access::door),
    ("definition_files", definitions::file),
    ("expressions", definitions::expression),
];

/// The target called `name`.
pub fn target(name: &str) -> Option<Target> {
    TARGETS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, target)| *target)
}
