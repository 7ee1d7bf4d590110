//! Scalar types and values, as they stand in definitions and on JSON wires.

use crate::EventTime;
use arrow::datatypes::{DataType as ArrowType, TimeUnit};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The type of a field, key or feature. The names are those of the definition files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
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
}

impl DataType {
    /// Every type, in the order shown to users.
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
        }
    }

    /// The Arrow type that carries it.
    pub fn arrow(self) -> ArrowType {
        match self {
            Self::String => ArrowType::Utf8,
            Self::Bool => ArrowType::Boolean,
            Self::I32 => ArrowType::Int32,
            Self::I64 => ArrowType::Int64,
            Self::F32 => ArrowType::Float32,
            Self::F64 => ArrowType::Float64,
            Self::Timestamp => ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }

    /// The type whose Arrow form is exactly `arrow`, if there is one.
    pub fn from_arrow(arrow: &ArrowType) -> Option<Self> {
        Self::ALL.into_iter().find(|candidate| candidate.arrow() == *arrow)
    }

    /// Whether an entity key may have this type. Floats may not: equal keys must have equal bytes.
    pub const fn is_key(self) -> bool {
        !matches!(self, Self::F32 | Self::F64)
    }

    /// Whether the type is a number.
    pub const fn is_numeric(self) -> bool {
        matches!(self, Self::I32 | Self::I64 | Self::F32 | Self::F64)
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
        Self::ALL
            .into_iter()
            .find(|candidate| candidate.name() == text)
            .ok_or_else(|| text.to_owned())
    }
}

/// One scalar on a JSON wire. A timestamp is its RFC 3339 text ([`Value::String`]) until a schema gives it meaning.
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
}

impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
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
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl serde::de::Visitor<'_> for ScalarVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar: null, a bool, a number or a string")
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

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
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
}

impl utoipa::PartialSchema for Value {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::SchemaType::AnyValue)
            .description(Some("A scalar: null, a bool, a number or a string."))
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
        }
    }
}
