//! What fuzz targets call: decoders that are no interface of this crate, and a schema registry that is asked nothing.

use crate::config::SchemaRegistryConfig;
use crate::decode::formats::Formats;
use crate::schema_registry::{Registered, SchemaRegistry};
use crate::source::embedded;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Formats over a registry that knows `schemas`, and would ask on `runtime` for others.
pub fn formats(runtime: Handle, schemas: impl IntoIterator<Item = (u32, Registered)>) -> Formats {
    let config = SchemaRegistryConfig {
        url: "http://127.0.0.1:9".to_owned(),
        ..SchemaRegistryConfig::default()
    };
    let registry = SchemaRegistry::new(&config, runtime).ok().flatten();
    if let Some(registry) = &registry {
        for (id, schema) in schemas {
            registry.remember(id, &Ok(Arc::new(schema)));
        }
    }
    Formats::new(registry.map(Arc::new))
}

/// Decodes the frame of the embedded log at the start of `bytes`, and encodes it again: both of the same bytes, unless
/// the bytes are no frame. With `seal`, the checksum is put right first.
pub fn log_frame(bytes: &[u8], seal: bool) -> Option<(Vec<u8>, Vec<u8>)> {
    embedded::reencoded(bytes, seal)
}
