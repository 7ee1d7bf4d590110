//! Avro: a record a message, in the binary encoding, read by the schema it was written with.
//!
//! 1. [`schema`]: the text of a schema to types;
//! 2. [`program`]: the writer's schema, the reader's and what is wanted to what is to be done with the bytes;
//!    [`default`] has the values of fields that the writer does not have;
//! 3. [`bytes`]: the encoding; [`read`]: bytes to values, by the program.
//!
//! What the types become: numbers, booleans, strings and nulls themselves; a union the value of its branch; an enum its
//! symbol; `timestamp-*` and `date` a moment (a date its midnight, UTC); `decimal` a decimal number, exact in a `string`
//! column and rounded once in a float's; `uuid` its text; a map an object. `local-timestamp-*` is a text without a zone,
//! which no `timestamp` column takes. Other bytes and fixed values have no column type.
//!
//! A reader's schema of the source's own is resolved against the writer's. Without one a column is found under its
//! name or an alias that the writer's schema gives, and is null when there is none.

mod bytes;
mod default;
mod program;
mod read;
mod schema;

use super::programs::Programs;
use super::value::{Encoded, Format, Value};
use super::wanted::Wanted;
use super::{Fault, Reason, Rejection};
use crate::schema_registry::{Registered, SchemaRegistry};
use bytes::{Bytes, Trouble};
use program::Node;
use schema::Schema;
use std::sync::Arc;

/// Avro of one source.
#[derive(Debug)]
pub(super) struct AvroFormat {
    /// The source's own schema: the reader's, and of messages without a frame also the writer's.
    own: Option<Arc<Schema>>,
    registry: Option<Arc<SchemaRegistry>>,
    programs: Programs<u32, Program>,
}

/// How messages of one writer's schema are read.
#[derive(Debug)]
struct Program {
    writer: Arc<Schema>,
    node: Node,
}

impl AvroFormat {
    /// Reads by `own` and what `registry` has.
    ///
    /// # Errors
    /// What is wrong with `own`.
    pub(super) fn new(own: Option<&str>, registry: Option<Arc<SchemaRegistry>>) -> Result<Self, String> {
        let own = own.map(|text| Schema::parse(text, &[]).map(Arc::new)).transpose()?;
        Ok(Self {
            own,
            registry,
            programs: Programs::default(),
        })
    }

    fn program(&self, id: Option<u32>, wanted: &Wanted) -> Result<Program, Fault> {
        let (writer, reader) = match (id, &self.own) {
            (None, Some(own)) => (Arc::clone(own), None),
            (None, None) => {
                let detail = "messages without a frame name no schema: add the schema to the source".to_owned();
                return Err(Fault::Unavailable(detail));
            }
            (Some(id), own) => (Arc::new(self.writer(id)?), own.as_deref()),
        };
        let node = program::compile(&writer, reader, wanted);
        Ok(Program { writer, node })
    }

    fn writer(&self, id: u32) -> Result<Schema, Fault> {
        let registered = super::programs::registered(self.registry.as_deref(), id, Registered::AVRO)?;
        let references: Vec<&str> = registered
            .references
            .iter()
            .map(|reference| reference.text.as_str())
            .collect();
        Schema::parse(&registered.text, &references).map_err(|why| {
            let detail = format!("schema {id} of the registry can't be read: {why}");
            Rejection::new(Reason::IncompatibleSchema, detail).into()
        })
    }
}

impl Format for AvroFormat {
    fn read<'a>(&self, encoded: Encoded<'a>, wanted: &'a Wanted) -> Result<Value<'a>, Fault> {
        // Without a frame the source's own schema has the place of id 0, which no registry gives.
        let place = encoded.schema.unwrap_or_default();
        let program = self
            .programs
            .get(encoded.half, &place, || self.program(encoded.schema, wanted))?;
        let mut bytes = Bytes::new(encoded.bytes);
        let value = read::read(&mut bytes, &program.node, &program.writer, wanted)
            .map_err(|trouble| rejected(trouble, encoded.bytes.len() - bytes.left()))?;
        match bytes.left() {
            0 => Ok(value),
            left => {
                let detail = format!(
                    "{left} bytes are left over behind the Avro value: it was written with another schema than it says"
                );
                Err(Rejection::new(Reason::Malformed, detail).into())
            }
        }
    }
}

fn rejected(trouble: Trouble, at: usize) -> Rejection {
    match trouble {
        Trouble::Misfit(why) => Rejection::new(Reason::IncompatibleSchema, why),
        other => {
            let detail = format!(
                "the message is no Avro value of its schema: {} at byte {at}",
                other.shown()
            );
            Rejection::new(Reason::Malformed, detail)
        }
    }
}

#[cfg(test)]
mod tests;
