//! Types and values, as they stand in definitions and on JSON wires.

use crate::EventTime;
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, TimeUnit};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::sync::Arc;
use std::{fmt, str::FromStr};

/// The type of a field, key or feature. The names are those of the definition files, also where it is serialized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// UTF-8 text.
    String,
    /// Truth value.
    Bool,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// UTC microseconds. In JSON: an RFC 3339 string with a zone, or an integer of microseconds since the epoch.
    Timestamp,
    /// Values of one scalar type in order; what `last_n` and its kind give. No column of a source is a list.
    List(Element),
}

/// The type of a list's elements: any scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// [`DataType::String`].
    String,
    /// [`DataType::Bool`].
    Bool,
    /// [`DataType::I32`].
    I32,
    /// [`DataType::I64`].
    I64,
    /// [`DataType::F32`].
    F32,
    /// [`DataType::F64`].
    F64,
    /// [`DataType::Timestamp`].
    Timestamp,
}

impl Element {
    /// Every element type, in the order shown to users.
    pub const ALL: [Self; 7] = [
        Self::String,
        Self::Bool,
        Self::I32,
        Self::I64,
        Self::F32,
        Self::F64,
        Self::Timestamp,
    ];

    /// The element as a type of its own.
    pub const fn data_type(self) -> DataType {
        match self {
            Self::String => DataType::String,
            Self::Bool => DataType::Bool,
            Self::I32 => DataType::I32,
            Self::I64 => DataType::I64,
            Self::F32 => DataType::F32,
            Self::F64 => DataType::F64,
            Self::Timestamp => DataType::Timestamp,
        }
    }
}

impl DataType {
    /// Every scalar type, in the order shown to users.
    pub const ALL: [Self; 7] = [
        Self::String,
        Self::Bool,
        Self::I32,
        Self::I64,
        Self::F32,
        Self::F64,
        Self::Timestamp,
    ];

    /// The name used in definition files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Bool => "bool",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Timestamp => "timestamp",
            Self::List(Element::String) => "list<string>",
            Self::List(Element::Bool) => "list<bool>",
            Self::List(Element::I32) => "list<i32>",
            Self::List(Element::I64) => "list<i64>",
            Self::List(Element::F32) => "list<f32>",
            Self::List(Element::F64) => "list<f64>",
            Self::List(Element::Timestamp) => "list<timestamp>",
        }
    }

    /// The Arrow type that carries it. A list's items are nullable in name only: no aggregation keeps nulls.
    pub fn arrow(self) -> ArrowType {
        match self {
            Self::String => ArrowType::Utf8,
            Self::Bool => ArrowType::Boolean,
            Self::I32 => ArrowType::Int32,
            Self::I64 => ArrowType::Int64,
            Self::F32 => ArrowType::Float32,
            Self::F64 => ArrowType::Float64,
            Self::Timestamp => ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::List(element) => {
                ArrowType::List(Arc::new(ArrowField::new_list_field(element.data_type().arrow(), true)))
            }
        }
    }

    /// The type whose Arrow form is exactly `arrow`, if there is one.
    pub fn from_arrow(arrow: &ArrowType) -> Option<Self> {
        Self::every().find(|candidate| candidate.arrow() == *arrow)
    }

    /// The element type that a list of this scalar has; none for a list.
    pub const fn element(self) -> Option<Element> {
        match self {
            Self::String => Some(Element::String),
            Self::Bool => Some(Element::Bool),
            Self::I32 => Some(Element::I32),
            Self::I64 => Some(Element::I64),
            Self::F32 => Some(Element::F32),
            Self::F64 => Some(Element::F64),
            Self::Timestamp => Some(Element::Timestamp),
            Self::List(_) => None,
        }
    }

    /// Whether the type is a list.
    pub const fn is_list(self) -> bool {
        matches!(self, Self::List(_))
    }

    /// Whether an entity key may have this type. Floats may not: equal keys must have equal bytes.
    pub const fn is_key(self) -> bool {
        !matches!(self, Self::F32 | Self::F64 | Self::List(_))
    }

    /// Whether the type is a number.
    pub const fn is_numeric(self) -> bool {
        matches!(self, Self::I32 | Self::I64 | Self::F32 | Self::F64)
    }

    /// Scalars, then lists.
    fn every() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain(Element::ALL.into_iter().map(Self::List))
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DataType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::every()
            .find(|candidate| candidate.name() == text)
            .ok_or_else(|| text.to_owned())
    }
}

impl Serialize for DataType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for DataType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse()
            .map_err(|name| de::Error::custom(format!("there is no type `{name}`")))
    }
}

impl utoipa::PartialSchema for DataType {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .enum_values(Some(Self::every().map(Self::name)))
            .description(Some("The type of a field, key or feature."))
            .into()
    }
}

impl utoipa::ToSchema for DataType {}

/// One value on a JSON wire. A timestamp is its RFC 3339 text ([`Value::String`]) until a schema gives it meaning.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Value {
    /// Absent.
    #[default]
    Null,
    /// Truth value.
    Bool(bool),
    /// Whole number.
    I64(i64),
    /// Number with a fraction or an exponent.
    F64(f64),
    /// Text.
    String(String),
    /// A moment; written as RFC 3339 text.
    Timestamp(EventTime),
    /// Values in order.
    List(Vec<Self>),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::I64(value) => serializer.serialize_i64(*value),
            // JSON has no NaN or infinity: they travel as the strings that parse back.
            Self::F64(value) if value.is_nan() => serializer.serialize_str("NaN"),
            Self::F64(value) if value.is_infinite() => {
                serializer.serialize_str(if *value > 0.0 { "Infinity" } else { "-Infinity" })
            }
            Self::F64(value) => serializer.serialize_f64(*value),
            Self::String(value) => serializer.serialize_str(value),
            Self::Timestamp(value) => value.serialize(serializer),
            Self::List(values) => values.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> de::Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null, a bool, a number, a string or a list of them")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::I64(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        i64::try_from(value)
            .map(Value::I64)
            .map_err(|_| E::custom(format!("{value} is beyond a signed 64-bit integer")))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::F64(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element()? {
            // Lists of lists are no value of ours, and unbounded nesting is no input of ours.
            if matches!(value, Value::List(_)) {
                return Err(de::Error::custom("a list of lists is no value"));
            }
            values.push(value);
        }
        Ok(Value::List(values))
    }
}

impl utoipa::PartialSchema for Value {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::SchemaType::AnyValue)
            .description(Some("Null, a bool, a number, a string, or a list of them."))
            .into()
    }
}

impl utoipa::ToSchema for Value {}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::I64(value) => write!(f, "{value}"),
            Self::F64(value) => write!(f, "{value}"),
            Self::String(value) => f.write_str(value),
            Self::Timestamp(value) => write!(f, "{value}"),
            Self::List(values) => {
                f.write_str("[")?;
                for (at, value) in values.iter().enumerate() {
                    let comma = if at > 0 { ", " } else { "" };
                    write!(f, "{comma}{value}")?;
                }
                f.write_str("]")
            }
        }
    }
}
