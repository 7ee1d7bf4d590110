//! The format that a source asks for.

use super::json_tree::JsonFormat;
use super::value::{Format, Unavailable};
use ondol_vocabulary::{Framing, StreamFormat};
use std::sync::Arc;

/// Makes formats: one a process, as its schema registry is.
#[derive(Clone, Debug, Default)]
pub struct Formats {}

impl Formats {
    /// The format that reads what `encoding` says behind frames of `framing`. One that can't be had says so for each
    /// record, as [`Unavailable`] does.
    pub fn format(&self, encoding: &StreamFormat, _framing: Framing) -> Arc<dyn Format> {
        match encoding {
            StreamFormat::Json => Arc::new(JsonFormat),
            StreamFormat::Avro { .. } | StreamFormat::Protobuf { .. } => {
                Arc::new(Unavailable("this format is not supported yet: use json".to_owned()))
            }
        }
    }
}
