//! The stored form of a profile. This is the only place that writes or reads it. Version 1.
//!
//! | part | bytes |
//! |---|---|
//! | header | `1` (the version) |
//! | all | nulls, values, NaNs and trues, varint each |
//! | all | `1`, the least and the greatest value; or `0` |
//! | integers | sum, signed; sum of squares |
//! | floats | sum; sum of squares |
//! | numbers | `1` and the sketch; or `0` |
//! | all | distinct values: see [`super::distinct`] |
//! | text | frequent texts: see [`super::frequent`] |
//!
//! Values, sums and sketches have the forms that they have in a stored row ([`crate::row`]'s codec).

use super::distinct::Distinct;
use super::frequent::Frequent;
use super::{ColumnProfile, Numbers};
use crate::row::RowError;
use crate::row::bytes::{Reader, malformed, push_signed_wide, push_varint};
use crate::row::codec::states::{decode_sketch, decode_squares, decode_sum, encode_sketch, encode_squares, encode_sum};
use crate::row::codec::values::{decode_value, encode_value};
use ondol_vocabulary::DataType;

const VERSION: u8 = 1;

pub(super) fn encode(profile: &ColumnProfile, bytes: &mut Vec<u8>) {
    bytes.push(VERSION);
    for count in [profile.nulls, profile.count, profile.nans, profile.trues] {
        push_varint(bytes, count);
    }
    bytes.push(u8::from(profile.extremes.is_some()));
    if let Some((least, greatest)) = &profile.extremes {
        encode_value(least.borrow(), profile.data_type, bytes);
        encode_value(greatest.borrow(), profile.data_type, bytes);
    }
    if let Some(numbers) = &profile.numbers {
        if profile.is_float() {
            encode_sum(&numbers.floats, bytes);
        } else {
            push_signed_wide(bytes, numbers.integers);
        }
        encode_squares(&numbers.squares, bytes);
        let has_sketch = !numbers.sketch.counts().is_empty();
        bytes.push(u8::from(has_sketch));
        if has_sketch {
            encode_sketch(&numbers.sketch, bytes);
        }
    }
    profile.distinct.encode(bytes);
    if let Some(frequent) = &profile.frequent {
        frequent.encode(bytes);
    }
}

pub(super) fn decode(data_type: DataType, bytes: &[u8]) -> Result<(ColumnProfile, &[u8]), RowError> {
    let reader = &mut Reader::new(bytes);
    let version = reader.byte()?;
    if version != VERSION {
        return Err(RowError(format!(
            "its format version is {version}, and this build reads {VERSION}"
        )));
    }
    let mut profile = ColumnProfile::new(data_type);
    profile.nulls = reader.varint()?;
    profile.count = reader.varint()?;
    profile.nans = reader.varint()?;
    profile.trues = reader.varint()?;
    if flag(reader)? {
        let least = decode_value(reader, data_type)?;
        profile.extremes = Some((least, decode_value(reader, data_type)?));
    }
    if profile.numbers.is_some() {
        let mut numbers = Numbers::default();
        if profile.is_float() {
            numbers.floats = decode_sum(reader)?;
        } else {
            numbers.integers = reader.signed_wide()?;
        }
        numbers.squares = decode_squares(reader)?;
        if flag(reader)? {
            numbers.sketch = decode_sketch(reader)?;
        }
        profile.numbers = Some(numbers);
    }
    profile.distinct = Distinct::decode(reader)?;
    if profile.frequent.is_some() {
        profile.frequent = Some(Frequent::decode(reader)?);
    }
    let rest = reader.take(reader.remaining())?;
    Ok((profile, rest))
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, RowError> {
    match reader.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(malformed("a flag is neither 0 nor 1")),
    }
}
