//! Values: each in the form of its type.

use crate::row::RowError;
use crate::row::bytes::{Bits, Reader, malformed, push_bits, push_signed, push_varint};
use crate::row::scalar::{Scalar, ScalarRef, narrowed};
use ondol_vocabulary::DataType;

pub(super) fn encode_values(values: &[Option<Scalar>], types: impl Iterator<Item = DataType>, bytes: &mut Vec<u8>) {
    push_bits(bytes, values.iter().map(Option::is_some));
    for (value, data_type) in values.iter().zip(types) {
        if let Some(value) = value {
            encode_value(value.borrow(), data_type, bytes);
        }
    }
}

pub(super) fn decode_values(
    reader: &mut Reader<'_>,
    count: usize,
    types: impl Iterator<Item = DataType>,
) -> Result<Box<[Option<Scalar>]>, RowError> {
    let present: Bits<'_> = reader.bits(count)?;
    let value = |(at, data_type)| {
        if present.get(at) {
            decode_value(reader, data_type).map(Some)
        } else {
            Ok(None)
        }
    };
    types.enumerate().map(value).collect()
}

pub(crate) fn encode_value(value: ScalarRef<'_>, data_type: DataType, bytes: &mut Vec<u8>) {
    match value {
        ScalarRef::Bool(value) => bytes.push(u8::from(value)),
        ScalarRef::Int(value) => push_signed(bytes, value),
        ScalarRef::Float(value) if data_type == DataType::F32 => {
            bytes.extend_from_slice(&narrowed(value).to_le_bytes());
        }
        ScalarRef::Float(value) => bytes.extend_from_slice(&value.to_le_bytes()),
        ScalarRef::Text(value) => {
            push_varint(bytes, value.len() as u64);
            bytes.extend_from_slice(value.as_bytes());
        }
    }
}

#[inline]
pub(crate) fn decode_value(reader: &mut Reader<'_>, data_type: DataType) -> Result<Scalar, RowError> {
    match data_type {
        DataType::Bool => match reader.byte()? {
            0 => Ok(Scalar::Bool(false)),
            1 => Ok(Scalar::Bool(true)),
            _ => Err(malformed("a bool is neither 0 nor 1")),
        },
        DataType::I32 => {
            let value = i32::try_from(reader.signed()?).map_err(|_| malformed("an i32 is out of range"))?;
            Ok(Scalar::Int(i64::from(value)))
        }
        DataType::I64 | DataType::Timestamp => reader.signed().map(Scalar::Int),
        DataType::F32 => {
            let value = f32::from_le_bytes(reader.array()?);
            decode_float(f64::from(value), value.to_bits() == f32::NAN.to_bits())
        }
        DataType::F64 => {
            let value = f64::from_le_bytes(reader.array()?);
            decode_float(value, value.to_bits() == f64::NAN.to_bits())
        }
        DataType::List(_) => Err(malformed("a list is no stored value")),
        DataType::String => {
            let length = reader.length()?;
            let text = std::str::from_utf8(reader.take(length)?).map_err(|_| malformed("a text is not UTF-8"))?;
            Ok(Scalar::Text(text.into()))
        }
    }
}

#[inline]
fn decode_float(value: f64, is_the_nan: bool) -> Result<Scalar, RowError> {
    if value.is_nan() && !is_the_nan {
        return Err(malformed("a NaN is not the canonical one"));
    }
    Ok(ScalarRef::float(value).to_owned())
}
