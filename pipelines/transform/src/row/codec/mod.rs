//! The stored form of a row. This is the only place that writes or reads it.
//!
//! Version 1. `varint` is unsigned LEB128 in its shortest form, `signed` a varint of the zigzag form, `fixed` little-
//! endian. Sums and differences of times wrap, so every time can be stored.
//!
//! | part | bytes |
//! |---|---|
//! | header | `1` (the version); flags (bit 0 fences, 1 known, 2 folded, 3 ahead); the layout's fingerprint, fixed 2; time of the newest folded event, fixed 8 (0 if none) |
//! | if fences | generation, fixed 8; count, varint; for each by ascending partition: partition, signed; next offset, signed |
//! | if known | newest arrival − newest folded time, signed |
//! | if folded and the view keeps latest values | the latest row's partition and offset, signed; values |
//! | if folded: for each set of the layout | number of tiles, varint; tiles, oldest first |
//! | if folded: for each trail of the layout | its values, or its hashes and marks |
//! | if ahead | count, varint; for each by ascending position: event time − the previous one's (for the first: − known), varint; partition and offset, signed; filter bits; values |
//!
//! - A *tile* is its index, then a bit for each measure that has a state (no bits if the set has one measure only), then
//!   those states. The first index is written as newest tile's index − index, varint; each further one as index −
//!   previous − 1, varint; none in a set without a window.
//! - A *state* is: count, varint; integer sum, signed (up to 128 bits); float sum (below); min and max, a value; first
//!   and last, a time (event time − start of the tile, varint; without a window newest − event time, varint), partition
//!   and offset, signed, and a value; sum of squares, number of bytes, varint, and as a float sum's (byte p weighs 256^p
//!   · 2⁻²¹⁴⁸, or 256^p of integers); greatest values, count, varint, and values, greatest first; sketch, count, varint,
//!   and for each bucket ascending bucket, signed (each further one: − previous − 1, varint) and count, varint.
//! - A *float sum* is: 2 × number of bytes + 1 if it has seen NaN or an infinity, varint; if it has bytes, the place of
//!   the first, varint, and the bytes (two's complement, least significant first, as few as possible; byte p weighs
//!   256^p · 2⁻¹⁰⁷⁴); if it has seen them, the counts of NaN, +∞ and −∞, varint.
//! - A trail's *values* are count, varint; for each, newest first: previous one's time − time (for the first: newest folded
//!   time − time), varint; partition, signed; offset − previous one's (for the first: offset), signed; a value.
//! - A trail's *hashes* are count, varint; for each, newest first: previous one's tile − tile (for the first: newest folded
//!   tile − tile), varint; hash, fixed 8. Its *marks* follow: count, varint; for each, ascending: register − previous one's
//!   (for the first: register), varint; newest folded tile − tile, varint; rank, one byte. Without a window no tiles.
//! - *Values* are a bit for each that is not null, then those. A *value* is: bool, one byte; i32, i64 and timestamp,
//!   signed; f32 and f64, fixed 4 and 8; string, its length, varint, and its bytes.
//!
//! Equal rows have equal bytes, and bytes that are read are the bytes that would be written: what could be written in
//! two ways is refused. Hostile bytes cost at most a constant times their length.

pub(crate) mod states;
mod tiles;
mod trails;
pub(crate) mod values;

use super::bytes::{Reader, malformed, push_bits, push_signed, push_varint};
use super::event::{AheadEvent, Position};
use super::fences::Fences;
use super::layout::RowLayout;
use super::tiles::TileSet;
use super::trail::Trail;
use super::{Latest, Row, RowError};
use ondol_vocabulary::SourcePosition;
use tiles::{decode_tiles, encode_tiles};
use trails::{decode_trail, encode_trail};
use values::{decode_values, encode_values};

const VERSION: u8 = 1;
const HAS_FENCES: u8 = 1;
const IS_KNOWN: u8 = 1 << 1;
const IS_FOLDED: u8 = 1 << 2;
const HAS_AHEAD: u8 = 1 << 3;

/// Appends the stored form of `row`.
pub(crate) fn encode(row: &Row, layout: &RowLayout, bytes: &mut Vec<u8>) {
    let has_fences = row.fences.iter().len() > 0;
    let flags = [(has_fences, HAS_FENCES), (row.known.is_some(), IS_KNOWN)];
    let more = [(row.newest.is_some(), IS_FOLDED), (!row.ahead.is_empty(), HAS_AHEAD)];
    let newest = row.newest.unwrap_or_default();
    bytes.push(VERSION);
    bytes.push(
        flags
            .iter()
            .chain(&more)
            .map(|(set, flag)| if *set { *flag } else { 0 })
            .sum(),
    );
    bytes.extend_from_slice(&layout.fingerprint.to_le_bytes());
    bytes.extend_from_slice(&newest.to_le_bytes());
    if has_fences {
        encode_fences(&row.fences, bytes);
    }
    let Some(known) = row.known else { return };
    push_signed(bytes, known.wrapping_sub(newest));
    if row.newest.is_some() {
        if let Some(latest) = &row.latest {
            encode_source(latest.position.source, bytes);
            encode_values(
                &latest.values,
                layout.latest.iter().map(|input| layout.inputs[*input]),
                bytes,
            );
        }
        for (tiles, set) in row.tiles.iter().zip(&layout.sets) {
            encode_tiles(tiles, set, layout, newest, bytes);
        }
        for (trail, kept) in row.trails.iter().zip(&layout.trails) {
            encode_trail(trail, kept, layout, newest, bytes);
        }
    }
    if !row.ahead.is_empty() {
        encode_ahead(&row.ahead, layout, known, bytes);
    }
}

/// Reads a stored row back.
pub(crate) fn decode(bytes: &[u8], layout: &RowLayout) -> Result<Row, RowError> {
    let reader = &mut Reader::new(bytes);
    let [version, flags] = reader.array()?;
    if version != VERSION {
        return Err(RowError(format!(
            "its format version is {version}, and this build reads {VERSION}"
        )));
    }
    let fingerprint = u16::from_le_bytes(reader.array()?);
    if fingerprint != layout.fingerprint {
        return Err(malformed(
            "it was written for another view or by another layout of this one",
        ));
    }
    let newest = i64::from_le_bytes(reader.array()?);
    let has = |flag: u8| flags & flag != 0;
    let sensible =
        flags < 1 << 4 && has(IS_KNOWN) == (has(IS_FOLDED) || has(HAS_AHEAD)) && (has(IS_FOLDED) || newest == 0);
    if !sensible {
        return Err(malformed("its flags contradict one another"));
    }
    let mut row = Row::default();
    if has(HAS_FENCES) {
        row.fences = decode_fences(reader)?;
    }
    if has(IS_KNOWN) {
        let known = newest.wrapping_add(reader.signed()?);
        row.known = Some(known);
        row.tiles.resize_with(layout.sets.len(), TileSet::default);
        row.trails = layout.trails.iter().map(Trail::empty).collect();
        if has(IS_FOLDED) {
            decode_folded(reader, layout, newest, &mut row)?;
        }
        if has(HAS_AHEAD) {
            row.ahead = decode_ahead(reader, layout, known)?;
        }
    }
    std::mem::replace(reader, Reader::new(&[])).finish()?;
    Ok(row)
}

fn decode_folded(reader: &mut Reader<'_>, layout: &RowLayout, newest: i64, row: &mut Row) -> Result<(), RowError> {
    row.newest = Some(newest);
    if !layout.latest.is_empty() {
        let position = Position {
            time: newest,
            source: decode_source(reader)?,
        };
        let types = layout.latest.iter().map(|input| layout.inputs[*input]);
        row.latest = Some(Latest {
            position,
            values: decode_values(reader, layout.latest.len(), types)?,
        });
    }
    for (tiles, set) in row.tiles.iter_mut().zip(&layout.sets) {
        decode_tiles(reader, tiles, set, layout, newest)?;
    }
    for (trail, kept) in row.trails.iter_mut().zip(&layout.trails) {
        *trail = decode_trail(reader, kept, layout, newest)?;
    }
    Ok(())
}

fn encode_fences(fences: &Fences, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&fences.generation().to_le_bytes());
    push_varint(bytes, fences.iter().len() as u64);
    for (partition, next) in fences.iter() {
        push_signed(bytes, i64::from(partition));
        push_signed(bytes, next);
    }
}

fn decode_fences(reader: &mut Reader<'_>) -> Result<Fences, RowError> {
    let generation = u64::from_le_bytes(reader.array()?);
    let mut fences = Fences::default();
    let mut previous = None;
    for _ in 0..reader.length()? {
        let source = decode_source(reader)?;
        if previous.is_some_and(|previous| previous >= source.partition) {
            return Err(malformed("its fences are out of order"));
        }
        previous = Some(source.partition);
        fences.push(generation, source.partition, source.offset);
    }
    if previous.is_none() {
        return Err(malformed("it announces fences and has none"));
    }
    Ok(fences)
}

fn encode_source(source: SourcePosition, bytes: &mut Vec<u8>) {
    push_signed(bytes, i64::from(source.partition));
    push_signed(bytes, source.offset);
}

#[inline]
fn decode_source(reader: &mut Reader<'_>) -> Result<SourcePosition, RowError> {
    let partition = i32::try_from(reader.signed()?).map_err(|_| malformed("a partition is out of range"))?;
    Ok(SourcePosition {
        partition,
        offset: reader.signed()?,
    })
}

fn encode_ahead(ahead: &[AheadEvent], layout: &RowLayout, known: i64, bytes: &mut Vec<u8>) {
    push_varint(bytes, ahead.len() as u64);
    let mut previous = known;
    for event in ahead {
        push_varint(bytes, event.position.time.wrapping_sub(previous) as u64);
        previous = event.position.time;
        encode_source(event.position.source, bytes);
        push_bits(bytes, event.passes.iter().copied());
        encode_values(&event.inputs, layout.inputs.iter().copied(), bytes);
    }
}

fn decode_ahead(reader: &mut Reader<'_>, layout: &RowLayout, known: i64) -> Result<Vec<AheadEvent>, RowError> {
    let count = reader.length()?;
    let mut ahead: Vec<AheadEvent> = Vec::new();
    let mut previous = known;
    for _ in 0..count {
        let time = previous
            .checked_add_unsigned(reader.varint()?)
            .ok_or_else(|| malformed("a time is out of range"))?;
        previous = time;
        let position = Position {
            time,
            source: decode_source(reader)?,
        };
        let bits = reader.bits(layout.filters)?;
        let passes = (0..layout.filters).map(|filter| bits.get(filter)).collect();
        let inputs = decode_values(reader, layout.inputs.len(), layout.inputs.iter().copied())?;
        let event = AheadEvent {
            position,
            passes,
            inputs,
        };
        if time <= known || ahead.last().is_some_and(|last| *last > event) {
            return Err(malformed("its events ahead are out of order"));
        }
        ahead.push(event);
    }
    if ahead.is_empty() {
        return Err(malformed("it announces events ahead and has none"));
    }
    Ok(ahead)
}
