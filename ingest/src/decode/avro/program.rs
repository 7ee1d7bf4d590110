//! From a writer's schema, and the reader's if there is one, to what is to be done with a message's bytes: which fields
//! are read, as what, and which are passed over (Avro specification 1.12, "Schema Resolution"). Compiled once per
//! schema; only the parts that columns want are resolved, so that others may change as they like.
//!
//! Two rules of our own, both so that a column keeps its meaning:
//! - without a reader's schema a field is found under its name or an alias of the writer's;
//! - a number's logical type is the writer's, and the reader's only where the writer has none.

use super::default::default_value;
use super::schema::{Field, Kind, Logical, Named, Schema, Type};
use crate::decode::value::Value;
use crate::decode::wanted::Wanted;

/// What to do with one value.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Boolean,
    Int(Option<Logical>),
    Long(Option<Logical>),
    Float,
    Double,
    Text,
    Bytes(Option<Logical>),
    Fixed {
        size: usize,
        logical: Option<Logical>,
    },
    /// Bytes that the reader takes as text.
    BytesAsText,
    /// The text of each symbol of the writer; none for one that the reader does not know.
    Enum(Vec<Option<String>>),
    /// Each element is read.
    Array(Box<Node>),
    /// Only that there is an array matters.
    PassedArray(Type),
    /// What to do with the value of each wanted key; other entries are passed over.
    Map {
        keys: Vec<Node>,
        values: Type,
    },
    /// By the writer's branch.
    Union(Vec<Node>),
    Record {
        steps: Vec<Step>,
        /// Wanted fields that the writer does not have.
        defaults: Vec<(usize, Value<'static>)>,
        /// How many fields the result has.
        kept: usize,
    },
    /// The reader has no place for it: why.
    Misfit(String),
}

/// What to do with a field of a record.
#[derive(Debug)]
pub(super) enum Step {
    /// Pass over it.
    Skip(Type),
    /// Read it, as the wanted field of that place.
    Keep(usize, Node),
}

/// The program that reads what `writer` wrote, as `reader` sees it, as far as it is `wanted`.
pub(super) fn compile(writer: &Schema, reader: Option<&Schema>, wanted: &Wanted) -> Node {
    let resolver = Resolver { writer, reader };
    resolver.read(&writer.root, reader.map(|reader| &reader.root), wanted)
}

struct Resolver<'s> {
    writer: &'s Schema,
    reader: Option<&'s Schema>,
}

impl<'s> Resolver<'s> {
    fn read(&self, writer: &'s Type, reader: Option<&'s Type>, wanted: &Wanted) -> Node {
        if let Type::Union(branches) = writer {
            return Node::Union(
                branches
                    .iter()
                    .map(|branch| self.read(branch, reader, wanted))
                    .collect(),
            );
        }
        let Some(reader) = reader else {
            return self.one(writer, None, wanted);
        };
        let target = match reader {
            Type::Union(branches) => {
                let best = branches.iter().map(|branch| (self.fit(writer, branch), branch));
                // The first of the best.
                best.rev().max_by_key(|(fit, _)| *fit)
            }
            plain => Some((self.fit(writer, plain), plain)),
        };
        match target {
            Some((fit, target)) if fit > Fit::None => self.one(writer, Some(target), wanted),
            _ => Node::Misfit(format!(
                "the reader's schema wants {} where the writer has {}",
                shown(self.reader, reader),
                shown(Some(self.writer), writer)
            )),
        }
    }

    /// A writer's type that is no union, read as one that fits.
    fn one(&self, writer: &'s Type, reader: Option<&'s Type>, wanted: &Wanted) -> Node {
        match writer {
            Type::Null => Node::Null,
            Type::Boolean => Node::Boolean,
            Type::Int(logical) => Node::Int(logical.or_else(|| number(reader))),
            Type::Long(logical) => Node::Long(logical.or_else(|| number(reader))),
            Type::Float => Node::Float,
            Type::Double => Node::Double,
            Type::String => Node::Text,
            Type::Bytes(_) if reader == Some(&Type::String) => Node::BytesAsText,
            Type::Bytes(logical) => Node::Bytes(logical.or_else(|| match reader {
                Some(Type::Bytes(logical)) => *logical,
                _ => None,
            })),
            Type::Array(items) => {
                if !wanted.elements() {
                    return Node::PassedArray((**items).clone());
                }
                let reader = reader.and_then(|reader| match reader {
                    Type::Array(items) => Some(&**items),
                    _ => None,
                });
                Node::Array(Box::new(self.read(items, reader, wanted)))
            }
            Type::Map(values) => {
                let reader = reader.and_then(|reader| match reader {
                    Type::Map(values) => Some(&**values),
                    _ => None,
                });
                Node::Map {
                    keys: wanted
                        .entries()
                        .map(|(_, wanted)| self.read(values, reader, wanted))
                        .collect(),
                    values: (**values).clone(),
                }
            }
            Type::Named(place) => self.named(*place, reader, wanted),
            Type::Union(_) => self.read(writer, reader, wanted),
        }
    }

    fn named(&self, place: usize, reader: Option<&'s Type>, wanted: &Wanted) -> Node {
        let reader = reader
            .and_then(|reader| self.reader_named(reader))
            .map(|named| &named.kind);
        match self.writer.named(place).map(|named| &named.kind) {
            Some(Kind::Record(fields)) => self.record(
                fields,
                match reader {
                    Some(Kind::Record(fields)) => Some(fields),
                    _ => None,
                },
                wanted,
            ),
            Some(Kind::Enum { symbols, .. }) => Node::Enum(match reader {
                Some(Kind::Enum {
                    symbols: known,
                    default,
                }) => symbols
                    .iter()
                    .map(|symbol| known.contains(symbol).then_some(symbol).or(default.as_ref()).cloned())
                    .collect(),
                _ => symbols.iter().cloned().map(Some).collect(),
            }),
            Some(Kind::Fixed { size, logical }) => Node::Fixed {
                size: *size,
                logical: *logical,
            },
            Some(Kind::Unfinished) | None => Node::Misfit("the schema has a type without a definition".to_owned()),
        }
    }

    fn record(&self, fields: &'s [Field], reader: Option<&'s Vec<Field>>, wanted: &Wanted) -> Node {
        let mut keep: Vec<Option<(usize, Node)>> = fields.iter().map(|_| None).collect();
        let mut defaults = Vec::new();
        for (index, (name, below)) in wanted.entries().enumerate() {
            let target = match reader {
                None => None,
                Some(reader) => match reader.iter().find(|field| field.name == name) {
                    Some(field) => Some(field),
                    // The reader's schema does not have it: so the column is null.
                    None => continue,
                },
            };
            let place = match target {
                None => place(fields, name, wanted),
                Some(target) => place_of(fields, target),
            };
            match (
                place.and_then(|place| Some((fields.get(place)?, keep.get_mut(place)?))),
                target,
            ) {
                (Some((field, slot)), target) => {
                    let node = self.read(&field.data_type, target.map(|target| &target.data_type), below);
                    *slot = Some((index, node));
                }
                (None, Some(target)) => match self.default(target, below) {
                    Ok(value) => defaults.push((index, value)),
                    Err(why) => return Node::Misfit(why),
                },
                (None, None) => {}
            }
        }
        let kept = keep.iter().flatten().count() + defaults.len();
        let steps = keep.into_iter().zip(fields).map(|(kept, field)| match kept {
            Some((index, node)) => Step::Keep(index, node),
            None => Step::Skip(field.data_type.clone()),
        });
        Node::Record {
            steps: steps.collect(),
            defaults,
            kept,
        }
    }

    fn default(&self, field: &Field, wanted: &Wanted) -> Result<Value<'static>, String> {
        let (Some(reader), Some(json)) = (self.reader, &field.default) else {
            return Err(format!(
                "the writer's schema lacks the field `{}`, and the reader's gives it no default",
                field.name
            ));
        };
        default_value(reader, &field.data_type, json, wanted)
            .ok_or_else(|| format!("the default of field `{}` is not of its type", field.name))
    }

    fn reader_named(&self, reader: &Type) -> Option<&'s Named> {
        match reader {
            Type::Named(place) => self.reader?.named(*place),
            _ => None,
        }
    }

    /// How well a value of `writer`, which is no union, fits a branch of the reader's.
    fn fit(&self, writer: &Type, reader: &Type) -> Fit {
        match (writer, reader) {
            (Type::Null, Type::Null)
            | (Type::Boolean, Type::Boolean)
            | (Type::Int(_), Type::Int(_))
            | (Type::Long(_), Type::Long(_))
            | (Type::Float, Type::Float)
            | (Type::Double, Type::Double)
            | (Type::String, Type::String)
            | (Type::Bytes(_), Type::Bytes(_))
            | (Type::Array(_), Type::Array(_))
            | (Type::Map(_), Type::Map(_)) => Fit::Same,
            (Type::Int(_), Type::Long(_) | Type::Float | Type::Double)
            | (Type::Long(_), Type::Float | Type::Double)
            | (Type::Float, Type::Double)
            | (Type::String, Type::Bytes(_))
            | (Type::Bytes(_), Type::String) => Fit::Promoted,
            (Type::Named(place), reader @ Type::Named(_)) => {
                match (self.writer.named(*place), self.reader_named(reader)) {
                    (Some(writer), Some(reader)) => fit_named(writer, reader),
                    _ => Fit::None,
                }
            }
            (_, Type::Union(branches)) => branches
                .iter()
                .map(|branch| self.fit(writer, branch))
                .max()
                .unwrap_or(Fit::None),
            _ => Fit::None,
        }
    }
}

/// How well two types fit, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    None,
    Promoted,
    /// The same kind under another name: a renamed record is no reason to lose events.
    Renamed,
    Same,
}

fn fit_named(writer: &Named, reader: &Named) -> Fit {
    let kinds = match (&writer.kind, &reader.kind) {
        (Kind::Record(_), Kind::Record(_)) | (Kind::Enum { .. }, Kind::Enum { .. }) => true,
        (Kind::Fixed { size, .. }, Kind::Fixed { size: wanted, .. }) => size == wanted,
        _ => false,
    };
    if !kinds {
        return Fit::None;
    }
    let known = reader.aliases.contains(&writer.name) || unqualified(&reader.name) == unqualified(&writer.name);
    if known { Fit::Same } else { Fit::Renamed }
}

fn unqualified(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, name)| name)
}

/// The logical type of a reader's number.
const fn number(reader: Option<&Type>) -> Option<Logical> {
    match reader {
        Some(Type::Int(logical) | Type::Long(logical)) => *logical,
        _ => None,
    }
}

/// The writer's field called `name`, or else one that has it as an alias and is not wanted under its own name.
fn place(fields: &[Field], name: &str, wanted: &Wanted) -> Option<usize> {
    let by_alias =
        |field: &Field| field.aliases.iter().any(|alias| alias == name) && wanted.field(&field.name).is_none();
    fields
        .iter()
        .position(|field| field.name == name)
        .or_else(|| fields.iter().position(by_alias))
}

/// The writer's field that `target` reads, under its name or an alias of it.
fn place_of(fields: &[Field], target: &Field) -> Option<usize> {
    fields
        .iter()
        .position(|field| field.name == target.name)
        .or_else(|| fields.iter().position(|field| target.aliases.contains(&field.name)))
}

fn shown(schema: Option<&Schema>, data_type: &Type) -> String {
    match data_type {
        Type::Null => "null".to_owned(),
        Type::Boolean => "a boolean".to_owned(),
        Type::Int(_) => "an int".to_owned(),
        Type::Long(_) => "a long".to_owned(),
        Type::Float => "a float".to_owned(),
        Type::Double => "a double".to_owned(),
        Type::Bytes(_) => "bytes".to_owned(),
        Type::String => "a string".to_owned(),
        Type::Array(_) => "an array".to_owned(),
        Type::Map(_) => "a map".to_owned(),
        Type::Union(branches) => {
            let names: Vec<String> = branches.iter().map(|branch| shown(schema, branch)).collect();
            names.join(" or ")
        }
        Type::Named(place) => {
            let named = schema.and_then(|schema| schema.named(*place));
            named.map_or_else(|| "a named type".to_owned(), |named| format!("`{}`", named.name))
        }
    }
}
