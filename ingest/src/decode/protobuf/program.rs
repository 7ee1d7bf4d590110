//! A message type and what is wanted of it, to what is to be done with each of its fields.

use crate::decode::value::Value;
use crate::decode::wanted::Wanted;
use protox::prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value as Default};
use std::borrow::Cow;

/// What to do with a message.
#[derive(Debug)]
pub(super) struct Program {
    /// The fields that are read, by number.
    pub(super) fields: Vec<Step>,
}

/// What to do with a field.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) number: u32,
    /// Which wanted field it is; none when it only matters because it displaces another member of its `oneof`.
    pub(super) wanted: Option<usize>,
    /// The `oneof` it is a member of.
    pub(super) choice: Option<String>,
    pub(super) shape: Shape,
    /// What stands for it when it is absent.
    pub(super) absent: Value<'static>,
}

/// How often a field is there.
#[derive(Debug)]
pub(super) enum Shape {
    One(Scalar),
    /// `keep`: whether its elements are read.
    List {
        items: Scalar,
        keep: bool,
    },
    /// What to do with the value of each wanted key.
    Map {
        key: Scalar,
        values: Vec<Scalar>,
    },
}

/// One value.
#[derive(Debug)]
pub(super) enum Scalar {
    Double,
    Float,
    /// `int32`, `int64`.
    Int {
        bits: u32,
    },
    /// `uint32`, `uint64`.
    Uint {
        bits: u32,
    },
    /// `sint32`, `sint64`.
    Zigzag {
        bits: u32,
    },
    Fixed32,
    Sfixed32,
    Fixed64,
    Sfixed64,
    Bool,
    Text,
    Bytes,
    Enum(Vec<(i32, String)>),
    Message(Program),
    Timestamp,
    Duration,
    /// A message around one value, which is its default when it is not there.
    Wrapper(Box<Scalar>),
}

impl Program {
    /// What to do with messages of `message`, of which `wanted` is kept.
    pub(super) fn compile(message: &MessageDescriptor, wanted: &Wanted) -> Self {
        let place = |field: &FieldDescriptor| {
            // Names as the schema has them, or as its JSON has them.
            wanted
                .position(field.name())
                .or_else(|| wanted.position(field.json_name()))
        };
        let choices: Vec<_> = message
            .fields()
            .filter(|field| place(field).is_some())
            .filter_map(|field| choice(&field))
            .collect();
        let steps = message.fields().filter_map(|field| {
            let (index, choice) = (place(&field), choice(&field));
            if index.is_none() && !choice.as_ref().is_some_and(|choice| choices.contains(choice)) {
                return None;
            }
            let below = index.and_then(|index| wanted.entry(index)).map(|(_, below)| below);
            Some(step(&field, index, choice, below.unwrap_or(&Wanted::default())))
        });
        let mut fields: Vec<Step> = steps.collect();
        fields.sort_by_key(|step| step.number);
        Self { fields }
    }
}

fn choice(field: &FieldDescriptor) -> Option<String> {
    field.containing_oneof().map(|choice| choice.name().to_owned())
}

fn step(field: &FieldDescriptor, wanted: Option<usize>, choice: Option<String>, below: &Wanted) -> Step {
    let shape = match field.kind() {
        Kind::Message(entry) if field.is_map() => Shape::Map {
            key: scalar(&entry.map_entry_key_field().kind(), below),
            values: below
                .entries()
                .map(|(_, below)| scalar(&entry.map_entry_value_field().kind(), below))
                .collect(),
        },
        kind if field.is_list() => Shape::List {
            items: scalar(&kind, below),
            keep: below.elements(),
        },
        kind => Shape::One(scalar(&kind, below)),
    };
    Step {
        number: field.number(),
        wanted,
        choice,
        absent: absent(field, &shape),
        shape,
    }
}

fn scalar(kind: &Kind, wanted: &Wanted) -> Scalar {
    match kind {
        Kind::Double => Scalar::Double,
        Kind::Float => Scalar::Float,
        Kind::Int32 => Scalar::Int { bits: 32 },
        Kind::Int64 => Scalar::Int { bits: 64 },
        Kind::Uint32 => Scalar::Uint { bits: 32 },
        Kind::Uint64 => Scalar::Uint { bits: 64 },
        Kind::Sint32 => Scalar::Zigzag { bits: 32 },
        Kind::Sint64 => Scalar::Zigzag { bits: 64 },
        Kind::Fixed32 => Scalar::Fixed32,
        Kind::Sfixed32 => Scalar::Sfixed32,
        Kind::Fixed64 => Scalar::Fixed64,
        Kind::Sfixed64 => Scalar::Sfixed64,
        Kind::Bool => Scalar::Bool,
        Kind::String => Scalar::Text,
        Kind::Bytes => Scalar::Bytes,
        Kind::Enum(values) => Scalar::Enum(names(values)),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => Scalar::Timestamp,
            "google.protobuf.Duration" => Scalar::Duration,
            name if is_wrapper(name) => match message.get_field(1) {
                Some(value) => Scalar::Wrapper(Box::new(scalar(&value.kind(), wanted))),
                None => Scalar::Message(Program::compile(message, wanted)),
            },
            _ => Scalar::Message(Program::compile(message, wanted)),
        },
    }
}

fn names(values: &EnumDescriptor) -> Vec<(i32, String)> {
    values
        .values()
        .map(|value| (value.number(), value.name().to_owned()))
        .collect()
}

fn is_wrapper(name: &str) -> bool {
    const WRAPPED: [&str; 9] = [
        "Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes",
    ];
    let wrapped = name
        .strip_prefix("google.protobuf.")
        .and_then(|name| name.strip_suffix("Value"));
    wrapped.is_some_and(|wrapped| WRAPPED.contains(&wrapped))
}

fn absent(field: &FieldDescriptor, shape: &Shape) -> Value<'static> {
    match shape {
        Shape::List { .. } => Value::Array(Vec::new()),
        Shape::Map { .. } => Value::Object(Vec::new()),
        Shape::One(_) => {
            let declared = field.field_descriptor_proto().default_value.is_some();
            match field.supports_presence() && !declared {
                true => Value::Null,
                false => plain(field.default_value(), field.kind()),
            }
        }
    }
}

fn plain(default: Default, kind: Kind) -> Value<'static> {
    match (default, kind) {
        (Default::Bool(truth), _) => Value::Bool(truth),
        (Default::I32(number), _) => Value::I64(number.into()),
        (Default::I64(number), _) => Value::I64(number),
        (Default::U32(number), _) => Value::I64(number.into()),
        (Default::U64(number), _) => i64::try_from(number).map_or(Value::U64(number), Value::I64),
        (Default::F32(number), _) => Value::F64(number.into()),
        (Default::F64(number), _) => Value::F64(number),
        (Default::String(text), _) => Value::Text(Cow::Owned(text)),
        (Default::EnumNumber(number), Kind::Enum(values)) => match values.get_value(number) {
            Some(value) => Value::Text(Cow::Owned(value.name().to_owned())),
            None => Value::I64(number.into()),
        },
        (Default::Bytes(_), _) => Value::Bytes,
        _ => Value::Null,
    }
}
