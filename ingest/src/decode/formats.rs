//! The format that a source asks for.

use super::avro::AvroFormat;
use super::json_tree::JsonFormat;
use super::protobuf::ProtobufFormat;
use super::value::{Format, Unavailable};
use crate::schema_registry::SchemaRegistry;
use ondol_vocabulary::{Framing, StreamFormat};
use std::sync::Arc;

/// Makes formats: one a process, as its schema registry is.
#[derive(Clone, Debug, Default)]
pub struct Formats {
    registry: Option<Arc<SchemaRegistry>>,
}

impl Formats {
    /// Formats that read schemas from `registry`.
    pub fn new(registry: Option<Arc<SchemaRegistry>>) -> Self {
        Self { registry }
    }

    /// The format that reads what `encoding` says behind frames of `framing`. One that can't be had says so for each
    /// record, as [`Unavailable`] does.
    pub fn format(&self, encoding: &StreamFormat, framing: Framing) -> Arc<dyn Format> {
        match encoding {
            StreamFormat::Json => Arc::new(JsonFormat),
            StreamFormat::Avro { schema } => had(AvroFormat::new(schema.as_deref(), self.registry.clone())),
            StreamFormat::Protobuf { schema, message } => had(ProtobufFormat::new(
                schema.as_deref(),
                message.as_deref(),
                framing,
                self.registry.clone(),
            )),
        }
    }
}

fn had<F: Format + 'static>(format: Result<F, String>) -> Arc<dyn Format> {
    match format {
        Ok(format) => Arc::new(format),
        Err(why) => Arc::new(Unavailable(format!("the source's schema can't be used: {why}"))),
    }
}
