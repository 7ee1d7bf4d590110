//! The ingest service: streams in, decoded and validated events out.
//!
//! In the order of the data:
//! 1. [`source`]: a stream of records, embedded or Kafka, behind one trait;
//! 2. [`plan`]: what the definitions say of a source;
//! 3. [`decode`]: a message's bytes to typed cells, and cells to Arrow columns;
//! 4. [`validate`]: the event has a time and the keys of its views;
//! 5. [`batch`]: runs of records to one delivery and its dead letters;
//! 6. [`dead_letter`]: what could not be taken, kept in a topic of its own, corrected and replayed;
//! 7. [`deliver`]: a batch to the feature store, tried until taken;
//! 8. [`pipeline`]: these stages of one source, overlapping, in order, bounded; [`progress`] says how far it is;
//! 9. [`service`]: a pipeline per stream source, as the registry's definitions come and go; [`config`].
//!
//! Around them, what operators see and ask: [`operations`] answers the contract; [`control`] keeps their orders
//! ([`directive`]) in the stream; [`status`] and [`report`] tell how all workers stand; [`meter`] counts.
//!
//! Nothing is lost and nothing is double: a source resumes from the position that the feature store committed, and the
//! store's fences make redelivery harmless. Kafka's committed offsets only follow, for lag tools.

pub mod batch;
pub mod config;
pub mod control;
pub mod dead_letter;
pub mod decode;
mod decoding;
pub mod deliver;
pub mod directive;
#[doc(hidden)]
pub mod fuzzing;
pub mod meter;
pub mod operations;
pub mod pipeline;
pub mod plan;
pub mod progress;
mod rate;
pub mod report;
pub mod schema_registry;
mod seek;
pub mod service;
mod snapshot_file;
pub mod source;
pub mod status;
pub mod validate;

pub use config::IngestConfig;
pub use service::IngestService;
