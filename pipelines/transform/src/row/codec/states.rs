//! States: what a tile keeps of each measure.

use super::values::{decode_value, encode_value};
use super::{decode_source, encode_source};
use crate::row::RowError;
use crate::row::bytes::{Reader, malformed, push_signed, push_signed_wide, push_varint};
use crate::row::event::Position;
use crate::row::exact_sum::{ExactSum, MAX_BYTES, Special};
use crate::row::layout::{Measure, RowLayout};
use crate::row::scalar::Scalar;
use crate::row::sketch::Sketch;
use crate::row::state::{Kind, State};
use crate::row::variance;
use crate::row::wide::Wide;
use ondol_vocabulary::DataType;

/// From where a state's times are counted: from the start of its tile upwards, or from the newest event downwards.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    Start { time: i64, hop_us: i64 },
    Newest(i64),
}

impl Measure {
    /// The type of its values; those of `count()` have none that is stored.
    pub(super) fn argument_type(&self, layout: &RowLayout) -> DataType {
        let input = self.input.and_then(|input| layout.inputs.get(input));
        input.copied().unwrap_or(DataType::Bool)
    }
}

pub(super) fn encode_state(state: &State, data_type: DataType, origin: Origin, bytes: &mut Vec<u8>) {
    match state {
        State::Empty => {}
        State::Count(count) => push_varint(bytes, *count),
        State::Integer(sum) => push_signed_wide(bytes, *sum),
        State::Float(sum) => encode_sum(sum, bytes),
        State::Squares(sum) => encode_squares(sum, bytes),
        State::Top(values) => encode_top(values, data_type, bytes),
        State::Sketch(sketch) => encode_sketch(sketch, bytes),
        State::Extreme(value) => encode_value(value.borrow(), data_type, bytes),
        State::Picked(position, value) => {
            let distance = match origin {
                Origin::Start { time, .. } => position.time.wrapping_sub(time),
                Origin::Newest(newest) => newest.wrapping_sub(position.time),
            };
            push_varint(bytes, distance as u64);
            encode_source(position.source, bytes);
            encode_value(value.borrow(), data_type, bytes);
        }
    }
}

/// Fills in an empty state.
#[inline]
pub(super) fn decode_state(
    reader: &mut Reader<'_>,
    state: &mut State,
    measure: &Measure,
    layout: &RowLayout,
    origin: Origin,
) -> Result<(), RowError> {
    let data_type = measure.argument_type(layout);
    *state = match measure.kind {
        Kind::Count => match reader.varint()? {
            0 => return Err(malformed("a count of nothing is stored")),
            count => State::Count(count),
        },
        Kind::Integer => State::Integer(reader.signed_wide()?),
        Kind::Float => State::Float(decode_sum(reader)?),
        Kind::Squares => State::Squares(decode_squares(reader)?),
        Kind::Top(most) => State::Top(decode_top(reader, most, data_type)?),
        Kind::Quantiles => State::Sketch(decode_sketch(reader)?),
        Kind::Min | Kind::Max => State::Extreme(decode_value(reader, data_type)?),
        Kind::First | Kind::Last => {
            let distance = reader.varint()?;
            let time = match origin {
                Origin::Start { time, hop_us } => {
                    (distance < hop_us as u64).then(|| time.wrapping_add(distance as i64))
                }
                Origin::Newest(newest) => newest.checked_sub_unsigned(distance),
            };
            let time = time.ok_or_else(|| malformed("a time is outside its tile"))?;
            let position = Position {
                time,
                source: decode_source(reader)?,
            };
            State::Picked(position, decode_value(reader, data_type)?)
        }
    };
    Ok(())
}

pub(crate) fn encode_sum(sum: &ExactSum, bytes: &mut Vec<u8>) {
    let (place, run) = sum.bytes();
    let special = sum.special();
    let has_special = special != Special::default();
    push_varint(bytes, (run.len() as u64) << 1 | u64::from(has_special));
    if !run.is_empty() {
        push_varint(bytes, place as u64);
        bytes.extend_from_slice(&run);
    }
    if has_special {
        push_varint(bytes, special.nan);
        push_varint(bytes, special.infinite);
        push_varint(bytes, special.negative_infinite);
    }
}

#[inline]
pub(crate) fn decode_sum(reader: &mut Reader<'_>) -> Result<ExactSum, RowError> {
    let head = reader.varint()?;
    let length = usize::try_from(head >> 1).unwrap_or(usize::MAX);
    let place = if length > 0 {
        usize::try_from(reader.varint()?).unwrap_or(usize::MAX)
    } else {
        0
    };
    if length > MAX_BYTES || place > MAX_BYTES {
        return Err(malformed("a sum is wider than any sum"));
    }
    let run = reader.take(length)?;
    let mut special = Special::default();
    if head & 1 == 1 {
        special = Special {
            nan: reader.varint()?,
            infinite: reader.varint()?,
            negative_infinite: reader.varint()?,
        };
        if special == Special::default() {
            return Err(malformed("a sum announces NaN or infinities and has none"));
        }
    }
    ExactSum::from_bytes(place, run, special).ok_or_else(|| malformed("a sum is not in its shortest form"))
}

pub(crate) fn encode_squares(sum: &Wide, bytes: &mut Vec<u8>) {
    let (place, run) = sum.bytes();
    push_varint(bytes, run.len() as u64);
    if !run.is_empty() {
        push_varint(bytes, place as u64);
        bytes.extend_from_slice(&run);
    }
}

pub(crate) fn decode_squares(reader: &mut Reader<'_>) -> Result<Wide, RowError> {
    let length = reader.length()?;
    let place = if length > 0 {
        usize::try_from(reader.varint()?).unwrap_or(usize::MAX)
    } else {
        0
    };
    let run = reader.take(length)?;
    Wide::from_bytes(place, run, variance::MAX_BYTES).ok_or_else(|| malformed("a sum is not in its shortest form"))
}

fn encode_top(values: &[Scalar], data_type: DataType, bytes: &mut Vec<u8>) {
    push_varint(bytes, values.len() as u64);
    values
        .iter()
        .for_each(|value| encode_value(value.borrow(), data_type, bytes));
}

fn decode_top(reader: &mut Reader<'_>, most: u32, data_type: DataType) -> Result<Vec<Scalar>, RowError> {
    let count = reader.length()?;
    if count == 0 || count > most as usize {
        return Err(malformed("there are no greatest values, or too many"));
    }
    let values = (0..count)
        .map(|_| decode_value(reader, data_type))
        .collect::<Result<Vec<_>, _>>()?;
    if values.is_sorted_by(|before, after| before >= after) {
        Ok(values)
    } else {
        Err(malformed("the greatest values are out of order"))
    }
}

pub(crate) fn encode_sketch(sketch: &Sketch, bytes: &mut Vec<u8>) {
    push_varint(bytes, sketch.counts().len() as u64);
    let mut previous = None;
    for (bucket, count) in sketch.counts() {
        match previous {
            None => push_signed(bytes, i64::from(*bucket)),
            Some(previous) => push_varint(bytes, i64::from(*bucket).wrapping_sub(previous).wrapping_sub(1) as u64),
        }
        previous = Some(i64::from(*bucket));
        push_varint(bytes, *count);
    }
}

pub(crate) fn decode_sketch(reader: &mut Reader<'_>) -> Result<Sketch, RowError> {
    let length = reader.length()?;
    if length == 0 {
        return Err(malformed("a sketch of nothing is stored"));
    }
    // A bucket and its count take at least a byte each.
    let mut counts = Vec::with_capacity(length.min(reader.remaining() / 2));
    let mut previous: Option<i64> = None;
    for _ in 0..length {
        let bucket = match previous {
            None => Some(reader.signed()?),
            Some(previous) => previous
                .checked_add_unsigned(reader.varint()?)
                .and_then(|bucket| bucket.checked_add(1)),
        };
        previous = bucket;
        let bucket = bucket.and_then(|bucket| i32::try_from(bucket).ok());
        let bucket = bucket.ok_or_else(|| malformed("a bucket is out of range"))?;
        counts.push((bucket, reader.varint()?));
    }
    Sketch::from_counts(counts).ok_or_else(|| malformed("a sketch is none of any values"))
}
