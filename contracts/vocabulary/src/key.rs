//! The entity key: the one encoding by which every store, wire and engine names an entity.
//!
//! Format (version 1), for each key column in the view's declared order:
//!
//! | type | bytes |
//! |---|---|
//! | `string` | `0x01`, length as unsigned LEB128, UTF-8 bytes |
//! | `i32`, `i64` | `0x02`, 8 bytes little-endian (an `i32` is widened, so both name the same entity) |
//! | `bool` | `0x03`, one byte, 0 or 1 |
//! | `timestamp` | `0x04`, 8 bytes little-endian, microseconds |
//!
//! Equal keys have equal bytes and different keys have different bytes; the order of bytes means nothing.

use crate::{EventTime, Value};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType as ArrowType, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use std::fmt;

const STRING: u8 = 1;
const INTEGER: u8 = 2;
const BOOL: u8 = 3;
const TIMESTAMP: u8 = 4;

/// The canonical bytes of one entity's key values.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EntityKey(Vec<u8>);

/// Why values are not an entity key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EntityKeyError {
    /// A key column has a type that can't name an entity.
    #[error("{0} can't be part of an entity key: use string, i32, i64, bool or timestamp")]
    Type(String),
    /// Stored bytes are not an entity key.
    #[error("the bytes are not an entity key")]
    Malformed,
}

impl EntityKey {
    /// Encodes scalar values. `None` when a part is null: a null names no entity.
    pub fn from_values<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<Option<Self>, EntityKeyError> {
        let mut bytes = Vec::with_capacity(16);
        for value in values {
            match value {
                Value::Null => return Ok(None),
                Value::String(text) => push_string(&mut bytes, text),
                Value::I64(number) => push_fixed(&mut bytes, INTEGER, *number),
                Value::Bool(truth) => bytes.extend([BOOL, u8::from(*truth)]),
                Value::Timestamp(time) => push_fixed(&mut bytes, TIMESTAMP, time.micros()),
                Value::F64(_) => return Err(EntityKeyError::Type("a float".to_owned())),
                Value::List(_) => return Err(EntityKeyError::Type("a list".to_owned())),
            }
        }
        Ok(Some(Self(bytes)))
    }

    /// The stored form, whatever wrote it.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Decodes the parts, in the view's declared order.
    pub fn values(&self) -> Result<Vec<Value>, EntityKeyError> {
        let mut rest = self.0.as_slice();
        let mut values = Vec::new();
        while let Some((&tag, tail)) = rest.split_first() {
            let (value, tail) = read_part(tag, tail).ok_or(EntityKeyError::Malformed)?;
            values.push(value);
            rest = tail;
        }
        Ok(values)
    }
}

impl fmt::Debug for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.values() {
            Ok(values) => f.debug_tuple("EntityKey").field(&values).finish(),
            Err(_) => f.debug_tuple("EntityKey").field(&self.0).finish(),
        }
    }
}

/// Encodes the keys of a whole batch, one buffer reused per row.
pub struct EntityKeyColumns<'a> {
    columns: Vec<KeyColumn<'a>>,
}

enum KeyColumn<'a> {
    String(&'a arrow::array::StringArray),
    I32(&'a arrow::array::Int32Array),
    I64(&'a arrow::array::Int64Array),
    Bool(&'a arrow::array::BooleanArray),
    Timestamp(&'a arrow::array::TimestampMicrosecondArray),
}

impl<'a> EntityKeyColumns<'a> {
    /// Over the key columns in the view's declared order.
    pub fn new(columns: impl IntoIterator<Item = &'a ArrayRef>) -> Result<Self, EntityKeyError> {
        let columns = columns.into_iter().map(KeyColumn::new).collect::<Result<_, _>>()?;
        Ok(Self { columns })
    }

    /// Writes row `row`'s key into `buffer` (cleared first); `false` when a part is null.
    pub fn encode(&self, row: usize, buffer: &mut Vec<u8>) -> bool {
        buffer.clear();
        self.columns.iter().all(|column| column.push(row, buffer))
    }

    /// Row `row`'s key; `None` when a part is null.
    pub fn key(&self, row: usize) -> Option<EntityKey> {
        let mut bytes = Vec::with_capacity(16);
        self.encode(row, &mut bytes).then_some(EntityKey(bytes))
    }
}

impl<'a> KeyColumn<'a> {
    fn new(array: &'a ArrayRef) -> Result<Self, EntityKeyError> {
        match array.data_type() {
            ArrowType::Utf8 => Ok(Self::String(array.as_string())),
            ArrowType::Int32 => Ok(Self::I32(array.as_primitive::<Int32Type>())),
            ArrowType::Int64 => Ok(Self::I64(array.as_primitive::<Int64Type>())),
            ArrowType::Boolean => Ok(Self::Bool(array.as_boolean())),
            ArrowType::Timestamp(TimeUnit::Microsecond, _) => {
                Ok(Self::Timestamp(array.as_primitive::<TimestampMicrosecondType>()))
            }
            other => Err(EntityKeyError::Type(other.to_string())),
        }
    }

    fn push(&self, row: usize, bytes: &mut Vec<u8>) -> bool {
        let array: &dyn Array = match self {
            Self::String(array) => *array,
            Self::I32(array) => *array,
            Self::I64(array) => *array,
            Self::Bool(array) => *array,
            Self::Timestamp(array) => *array,
        };
        if array.is_null(row) {
            return false;
        }
        match self {
            Self::String(array) => push_string(bytes, array.value(row)),
            Self::I32(array) => push_fixed(bytes, INTEGER, i64::from(array.value(row))),
            Self::I64(array) => push_fixed(bytes, INTEGER, array.value(row)),
            Self::Bool(array) => bytes.extend([BOOL, u8::from(array.value(row))]),
            Self::Timestamp(array) => push_fixed(bytes, TIMESTAMP, array.value(row)),
        }
        true
    }
}

fn push_fixed(bytes: &mut Vec<u8>, tag: u8, number: i64) {
    bytes.push(tag);
    bytes.extend_from_slice(&number.to_le_bytes());
}

fn push_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(STRING);
    let mut length = text.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(text.as_bytes());
}

fn read_part(tag: u8, rest: &[u8]) -> Option<(Value, &[u8])> {
    match tag {
        STRING => {
            let (length, rest) = read_length(rest)?;
            let (text, rest) = rest.split_at_checked(length)?;
            Some((Value::String(std::str::from_utf8(text).ok()?.to_owned()), rest))
        }
        INTEGER => read_fixed(rest).map(|(number, rest)| (Value::I64(number), rest)),
        TIMESTAMP => read_fixed(rest).map(|(number, rest)| (Value::Timestamp(EventTime::from_micros(number)), rest)),
        BOOL => match rest.split_first()? {
            (0, rest) => Some((Value::Bool(false), rest)),
            (1, rest) => Some((Value::Bool(true), rest)),
            _ => None,
        },
        _ => None,
    }
}

fn read_fixed(rest: &[u8]) -> Option<(i64, &[u8])> {
    let (number, rest) = rest.split_first_chunk::<8>()?;
    Some((i64::from_le_bytes(*number), rest))
}

/// A length in its shortest form: an entity has one key, so a length has one form.
fn read_length(mut rest: &[u8]) -> Option<(usize, &[u8])> {
    let mut length = 0usize;
    for shift in (0..usize::BITS).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        let part = usize::from(byte & 0x7f);
        let shifted = part.checked_shl(shift).filter(|shifted| shifted >> shift == part)?;
        length |= shifted;
        if byte & 0x80 == 0 {
            let is_shortest = part != 0 || shift == 0;
            return is_shortest.then_some((length, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, Int64Array, StringArray};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn key(values: &[Value]) -> EntityKey {
        EntityKey::from_values(values).unwrap().unwrap()
    }

    #[test]
    fn a_length_in_a_longer_form_is_no_key() {
        let shortest = key(&[Value::String("abc".to_owned())]).0;
        assert_eq!(shortest[..2], [STRING, 3]);
        let longer = [&[STRING, 0x83, 0], b"abc".as_slice()].concat();
        assert!(EntityKey::from_bytes(longer).values().is_err());
        let beyond = [[STRING].as_slice(), &[0x80; 9], &[2]].concat();
        assert!(EntityKey::from_bytes(beyond).values().is_err());
    }

    #[test]
    fn the_bytes_of_format_version_1_stay_as_they_are() {
        let values = [
            Value::String("카드".to_owned()),
            Value::I64(-2),
            Value::Bool(true),
            Value::Timestamp(EventTime::from_micros(1)),
        ];
        let golden = [
            1, 6, 0xec, 0xb9, 0xb4, 0xeb, 0x93, 0x9c, 2, 0xfe, 255, 255, 255, 255, 255, 255, 255, 3, 1, 4, 1, 0, 0, 0,
            0, 0, 0, 0,
        ];
        assert_eq!(key(&values).as_bytes(), golden);
    }

    #[test]
    fn a_null_part_names_no_entity() {
        assert_eq!(
            EntityKey::from_values(&[Value::String("a".to_owned()), Value::Null]),
            Ok(None)
        );
    }

    #[test]
    fn columns_and_values_give_the_same_bytes() {
        let columns: [ArrayRef; 3] = [
            Arc::new(StringArray::from(vec![Some("x"), None])),
            Arc::new(Int32Array::from(vec![7, 7])),
            Arc::new(Int64Array::from(vec![8, 8])),
        ];
        let encoder = EntityKeyColumns::new(&columns).unwrap();
        assert_eq!(
            encoder.key(0),
            Some(key(&[Value::String("x".to_owned()), Value::I64(7), Value::I64(8)]))
        );
        assert_eq!(encoder.key(1), None);
    }

    proptest! {
        #[test]
        fn values_round_trip(text in ".{0,200}", number: i64, truth: bool, micros: i64) {
            let values =
                vec![Value::String(text), Value::I64(number), Value::Bool(truth), Value::Timestamp(EventTime::from_micros(micros))];
            prop_assert_eq!(key(&values).values(), Ok(values));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            let _ = EntityKey::from_bytes(bytes).values();
        }
    }
}
