//! Trails: values by their position, or hashes and marks by their tile.

use super::values::{decode_value, encode_value};
use crate::row::RowError;
use crate::row::bytes::{Reader, malformed, push_signed, push_varint};
use crate::row::event::Position;
use crate::row::layout::{RowLayout, Span, TrailLayout};
use crate::row::trail::cardinality::{FEW, Mark};
use crate::row::trail::{Cardinality, Newest, Trail, TrailKind};
use ondol_vocabulary::{DataType, SourcePosition};

pub(super) fn encode_trail(trail: &Trail, kept: &TrailLayout, layout: &RowLayout, newest: i64, bytes: &mut Vec<u8>) {
    match trail {
        Trail::Values(values) => encode_newest(values, kept.measure().argument_type(layout), newest, bytes),
        Trail::Cardinality(seen) => encode_cardinality(seen, kept.span(), newest, bytes),
    }
}

pub(super) fn decode_trail(
    reader: &mut Reader<'_>,
    kept: &TrailLayout,
    layout: &RowLayout,
    newest: i64,
) -> Result<Trail, RowError> {
    let data_type = kept.measure().argument_type(layout);
    match kept.kind {
        TrailKind::Newest(most) => decode_newest(reader, most, false, data_type, newest).map(Trail::Values),
        TrailKind::Distinct(most) => decode_newest(reader, most, true, data_type, newest).map(Trail::Values),
        TrailKind::Cardinality => decode_cardinality(reader, kept.span(), newest).map(Trail::Cardinality),
    }
}

fn encode_newest(values: &Newest, data_type: DataType, newest: i64, bytes: &mut Vec<u8>) {
    push_varint(bytes, values.len() as u64);
    let (mut time, mut offset) = (newest, 0);
    for (position, value) in values.iter() {
        push_varint(bytes, time.wrapping_sub(position.time) as u64);
        push_signed(bytes, i64::from(position.source.partition));
        push_signed(bytes, position.source.offset.wrapping_sub(offset));
        encode_value(value, data_type, bytes);
        (time, offset) = (position.time, position.source.offset);
    }
}

fn decode_newest(
    reader: &mut Reader<'_>,
    most: u32,
    is_distinct: bool,
    data_type: DataType,
    newest: i64,
) -> Result<Newest, RowError> {
    let count = reader.length()?;
    if count > most as usize {
        return Err(malformed("there are too many newest values"));
    }
    let mut values = Newest::default();
    let (mut time, mut offset) = (newest, 0i64);
    for _ in 0..count {
        time = time
            .checked_sub_unsigned(reader.varint()?)
            .ok_or_else(|| malformed("a time is out of range"))?;
        let partition = i32::try_from(reader.signed()?).map_err(|_| malformed("a partition is out of range"))?;
        offset = offset.wrapping_add(reader.signed()?);
        let source = SourcePosition { partition, offset };
        let value = decode_value(reader, data_type)?;
        if !values.push_older(Position { time, source }, value, is_distinct) {
            return Err(malformed("its newest values are out of order"));
        }
    }
    Ok(values)
}

fn encode_cardinality(seen: &Cardinality, span: Span, newest: i64, bytes: &mut Vec<u8>) {
    let last = span.index(newest);
    push_varint(bytes, seen.newest().len() as u64);
    let mut previous = last;
    for (tile, hash) in seen.newest() {
        if span != Span::Ever {
            push_varint(bytes, previous.wrapping_sub(tile) as u64);
        }
        bytes.extend_from_slice(&hash.to_le_bytes());
        previous = tile;
    }
    push_varint(bytes, seen.marks().len() as u64);
    let mut register = 0;
    for mark in seen.marks() {
        push_varint(bytes, u64::from(mark.register.wrapping_sub(register)));
        if span != Span::Ever {
            push_varint(bytes, last.wrapping_sub(mark.tile) as u64);
        }
        bytes.push(mark.rank);
        register = mark.register;
    }
}

fn decode_cardinality(reader: &mut Reader<'_>, span: Span, newest: i64) -> Result<Cardinality, RowError> {
    let last = span.index(newest);
    let tile_before = |reader: &mut Reader<'_>, tile: i64| {
        if span == Span::Ever {
            return Ok(tile);
        }
        tile.checked_sub_unsigned(reader.varint()?)
            .ok_or_else(|| malformed("a tile is out of range"))
    };
    let count = reader.length()?;
    let mut hashes = Vec::with_capacity(count.min(FEW));
    let mut tile = last;
    for _ in 0..count {
        tile = tile_before(reader, tile)?;
        hashes.push((tile, u64::from_le_bytes(reader.array()?)));
    }
    let count = reader.length()?;
    // A mark takes at least two bytes.
    let mut marks = Vec::with_capacity(count.min(reader.remaining() / 2));
    let mut register = 0u16;
    for _ in 0..count {
        register = u16::try_from(reader.varint()?)
            .ok()
            .and_then(|step| register.checked_add(step))
            .ok_or_else(|| malformed("a register is out of range"))?;
        let tile = tile_before(reader, last)?;
        let rank = reader.byte()?;
        marks.push(Mark { register, tile, rank });
    }
    Cardinality::from_parts(hashes, marks).ok_or_else(|| malformed("its distinct values are out of order"))
}
