//! A `.proto` text to descriptors. Imports are found among the registry's references and Protobuf's own files.

use crate::schema_registry::Reference;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use protox::prost::Message;
use protox::prost_reflect::prost_types::FileDescriptorProto;
use protox::prost_reflect::{DescriptorPool, MessageDescriptor};
use protox::{Compiler, Error};
use std::collections::HashMap;

/// The name under which the text itself is compiled; no reference has it.
const OWN: &str = "ondol/source.proto";

/// A compiled file with what it imports.
#[derive(Debug)]
pub(super) struct Schema {
    pool: DescriptorPool,
}

struct Sources(HashMap<String, String>);

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, Error> {
        let text = self.0.get(name).ok_or_else(|| Error::file_not_found(name))?;
        match descriptor(name, text) {
            Some(file) => Ok(file),
            None => File::from_source(name, text),
        }
    }
}

/// The file called `name` that `text` is as a descriptor in base64, as some clients register their schemas; none when it
/// is source text, which always has signs that base64 lacks.
fn descriptor(name: &str, text: &str) -> Option<File> {
    let bytes = BASE64_STANDARD.decode(text.trim()).ok()?;
    let mut file = FileDescriptorProto::decode(bytes.as_slice()).ok()?;
    file.name = Some(name.to_owned());
    Some(File::from_file_descriptor_proto(file))
}

impl Schema {
    /// Compiles `text`, which may import `references`.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub(super) fn compile(text: &str, references: &[Reference]) -> Result<Self, String> {
        let own = std::iter::once((OWN.to_owned(), text.to_owned()));
        let others = references
            .iter()
            .map(|reference| (reference.name.clone(), reference.text.clone()));
        let mut resolver = ChainFileResolver::new();
        resolver.add(Sources(own.chain(others).collect()));
        resolver.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(resolver);
        compiler
            .include_imports(true)
            .open_file(OWN)
            .map_err(|error| format!("the Protobuf schema does not compile: {error}"))?;
        Ok(Self {
            pool: compiler.descriptor_pool(),
        })
    }

    /// The message type called `name`, or else the one that `indexes` lead to from the top of the file: the first when
    /// there are none.
    ///
    /// # Errors
    /// What is not there, and what is.
    pub(super) fn message(&self, name: Option<&str>, indexes: &[usize]) -> Result<MessageDescriptor, String> {
        let file = self
            .pool
            .get_file_by_name(OWN)
            .ok_or("the Protobuf schema is not there")?;
        if let Some(name) = name {
            let qualified = format!("{}.{name}", file.package_name());
            let found = self
                .pool
                .get_message_by_name(name)
                .or_else(|| self.pool.get_message_by_name(&qualified));
            return found.ok_or_else(|| {
                let names: Vec<String> = file.messages().map(|message| message.full_name().to_owned()).collect();
                format!(
                    "the Protobuf schema has no message `{name}`: it has {}",
                    names.join(", ")
                )
            });
        }
        let (first, nested) = indexes
            .split_first()
            .map_or((0, indexes), |(first, nested)| (*first, nested));
        let mut message = file.messages().nth(first);
        for index in nested {
            message = message.and_then(|message| message.child_messages().nth(*index));
        }
        message.ok_or_else(|| format!("the Protobuf schema has no message at {indexes:?}"))
    }
}
