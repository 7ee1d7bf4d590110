//! Protobuf: a message a message, read by its `.proto` text.
//!
//! 1. [`schema`]: the text, with what it imports, to descriptors;
//! 2. [`program`]: a message's descriptor and what is wanted of it to what is to be done with each field number;
//! 3. [`wire`]: the encoding; [`read`]: bytes to values, by the program.
//!
//! What the types become: numbers, booleans and strings themselves; an enum its value's name (the number when the schema
//! has no such value); `google.protobuf.Timestamp` a moment, `Duration` its seconds, a wrapper what it wraps; a map an
//! object with its keys as text; other messages objects. `bytes` have no column type. A field that is absent is null when
//! the schema can tell that it is absent (`optional`, a message, a member of a `oneof`, proto2), otherwise its default;
//! in proto2 a default that the schema names is taken too. Unknown fields are passed over, as is a known field of another
//! wire type.
//!
//! Messages evolve by field numbers: a source's own schema therefore reads what any compatible writer wrote, and the
//! registry is not asked.

mod program;
mod read;
mod schema;
mod wire;

use super::programs::{Programs, registered};
use super::value::{Encoded, Format, Value};
use super::wanted::Wanted;
use super::{Fault, Reason, Rejection};
use crate::schema_registry::{Registered, SchemaRegistry};
use ondol_vocabulary::Framing;
use program::Program;
use schema::Schema;
use std::sync::Arc;
use wire::Wire;

/// Protobuf of one source.
#[derive(Debug)]
pub(super) struct ProtobufFormat {
    own: Option<Schema>,
    message: Option<String>,
    registry: Option<Arc<SchemaRegistry>>,
    programs: Programs<Place, Program>,
}

/// A message type of a schema: the schema's id, and which one when the source does not say.
type Place = (Option<u32>, Box<[usize]>);

impl ProtobufFormat {
    /// Reads messages of type `message` by `own` and what `registry` has.
    ///
    /// # Errors
    /// What is wrong with `own`, or that it has no `message`.
    pub(super) fn new(
        own: Option<&str>,
        message: Option<&str>,
        framing: Framing,
        registry: Option<Arc<SchemaRegistry>>,
    ) -> Result<Self, String> {
        let own = own.map(|text| Schema::compile(text, &[])).transpose()?;
        if let Some(own) = &own
            && (message.is_some() || framing == Framing::None)
        {
            own.message(message, &[])?;
        }
        Ok(Self {
            own,
            message: message.map(str::to_owned),
            registry,
            programs: Programs::default(),
        })
    }

    fn program(&self, (id, indexes): &Place, wanted: &Wanted) -> Result<Program, Fault> {
        let unusable = |why: String| Fault::from(Rejection::new(Reason::IncompatibleSchema, why));
        let message = match (&self.own, id) {
            (Some(own), _) => own.message(self.message.as_deref(), indexes).map_err(unusable)?,
            (None, None) => {
                let detail = "messages without a frame name no schema: add the schema to the source".to_owned();
                return Err(Fault::Unavailable(detail));
            }
            (None, Some(id)) => {
                let found = registered(self.registry.as_deref(), *id, Registered::PROTOBUF)?;
                Schema::compile(&found.text, &found.references)
                    .and_then(|schema| schema.message(self.message.as_deref(), indexes))
                    .map_err(|why| unusable(format!("schema {id} of the registry can't be read: {why}")))?
            }
        };
        Ok(Program::compile(&message, wanted))
    }
}

impl Format for ProtobufFormat {
    fn read<'a>(&self, encoded: Encoded<'a>, wanted: &'a Wanted) -> Result<Value<'a>, Fault> {
        let mut wire = Wire::new(encoded.bytes);
        let indexes = match encoded.schema {
            Some(_) => wire.message_indexes().map_err(|trouble| malformed(&trouble))?,
            None => Vec::new(),
        };
        // A schema of the source's own reads what any id wrote.
        let id = encoded.schema.filter(|_| self.own.is_none());
        let indexes = if self.message.is_some() {
            Box::default()
        } else {
            indexes.into_boxed_slice()
        };
        let place = (id, indexes);
        let program = self
            .programs
            .get(encoded.half, &place, || self.program(&place, wanted))?;
        Ok(read::message(&program, &[wire.rest()], wanted, 0).map_err(|trouble| malformed(&trouble))?)
    }
}

fn malformed(trouble: &wire::Trouble) -> Rejection {
    Rejection::new(
        Reason::Malformed,
        format!("the message is no Protobuf message of its schema: {}", trouble.shown()),
    )
}

#[cfg(test)]
mod tests;
