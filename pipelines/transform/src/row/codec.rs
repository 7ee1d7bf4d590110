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
//! | if ahead | count, varint; for each by ascending position: event time − the previous one's (for the first: − known), varint; partition and offset, signed; filter bits; values |
//!
//! - A *tile* is its index, then a bit for each measure that has a state (no bits if the set has one measure only), then
//!   those states. The first index is written as newest tile's index − index, varint; each further one as index −
//!   previous − 1, varint; none in a set without a window.
//! - A *state* is: count, varint; integer sum, signed (up to 128 bits); float sum (below); min and max, a value; first
//!   and last, a time (event time − start of the tile, varint; without a window newest − event time, varint), partition
//!   and offset, signed, and a value.
//! - A *float sum* is: 2 × number of bytes + 1 if it has seen NaN or an infinity, varint; if it has bytes, the place of
//!   the first, varint, and the bytes (two's complement, least significant first, as few as possible; byte p weighs
//!   256^p · 2⁻¹⁰⁷⁴); if it has seen them, the counts of NaN, +∞ and −∞, varint.
//! - *Values* are a bit for each that is not null, then those. A *value* is: bool, one byte; i32, i64 and timestamp,
//!   signed; f32 and f64, fixed 4 and 8; string, its length, varint, and its bytes.
//!
//! Equal rows have equal bytes, and bytes that are read are the bytes that would be written: what could be written in
//! two ways is refused. Hostile bytes cost at most a constant times their length.

use super::bytes::{Bits, Reader, malformed, push_bits, push_signed, push_signed_wide, push_varint};
use super::event::{AheadEvent, Position};
use super::exact_sum::{ExactSum, MAX_BYTES, Special};
use super::fences::Fences;
use super::layout::{Measure, RowLayout, SetLayout, Span};
use super::scalar::{Scalar, ScalarRef, narrowed};
use super::state::{Kind, State};
use super::tiles::TileSet;
use super::{Latest, Row, RowError};
use ondol_vocabulary::{DataType, SourcePosition};

/// Tiles that room is made for on the word of a stored count; more must be there to be believed.
const TRUSTED_TILES: usize = 256;
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

fn decode_source(reader: &mut Reader<'_>) -> Result<SourcePosition, RowError> {
    let partition = i32::try_from(reader.signed()?).map_err(|_| malformed("a partition is out of range"))?;
    Ok(SourcePosition {
        partition,
        offset: reader.signed()?,
    })
}

fn encode_tiles(tiles: &TileSet, set: &SetLayout, layout: &RowLayout, newest: i64, bytes: &mut Vec<u8>) {
    push_varint(bytes, tiles.len() as u64);
    let mut previous: Option<i64> = None;
    for (index, states) in tiles.iter(set) {
        match (set.span, previous) {
            (Span::Ever, _) => {}
            (span, None) => push_varint(bytes, span.index(newest).wrapping_sub(index) as u64),
            (_, Some(previous)) => push_varint(bytes, index.wrapping_sub(previous).wrapping_sub(1) as u64),
        }
        previous = Some(index);
        if states.len() > 1 {
            push_bits(bytes, states.iter().map(|state| !matches!(state, State::Empty)));
        }
        for (state, measure) in states.iter().zip(&set.measures) {
            encode_state(
                state,
                argument_type(measure, layout),
                origin(set.span, index, newest),
                bytes,
            );
        }
    }
}

fn decode_tiles(
    reader: &mut Reader<'_>,
    tiles: &mut TileSet,
    set: &SetLayout,
    layout: &RowLayout,
    newest: i64,
) -> Result<(), RowError> {
    let count = reader.length()?;
    if set.span == Span::Ever && count > 1 {
        return Err(malformed("all time has more than one tile"));
    }
    tiles.reserve(set, count.min(TRUSTED_TILES));
    let last = set.span.index(newest);
    let mut previous: Option<i64> = None;
    for _ in 0..count {
        let index = match (set.span, previous) {
            (Span::Ever, _) => Some(0),
            (_, None) => last.checked_sub_unsigned(reader.varint()?),
            (_, Some(previous)) => previous
                .checked_add_unsigned(reader.varint()?)
                .and_then(|index| index.checked_add(1)),
        };
        let index = index
            .filter(|index| *index <= last)
            .ok_or_else(|| malformed("a tile is out of range"))?;
        previous = Some(index);
        let states = tiles.push_tile(set, index);
        let present = if set.measures.len() > 1 {
            Some(reader.bits(set.measures.len())?)
        } else {
            None
        };
        let mut any = false;
        for (at, (state, measure)) in states.iter_mut().zip(&set.measures).enumerate() {
            if present.is_none_or(|bits| bits.get(at)) {
                // In place: states are the bulk of a row, and large to move.
                decode_state(reader, state, measure, layout, origin(set.span, index, newest))?;
                any = true;
            }
        }
        if !any {
            return Err(malformed("a tile is empty"));
        }
    }
    Ok(())
}

/// From where a state's times are counted: from the start of its tile upwards, or from the newest event downwards.
#[derive(Clone, Copy)]
enum Origin {
    Start { time: i64, hop_us: i64 },
    Newest(i64),
}

fn origin(span: Span, index: i64, newest: i64) -> Origin {
    match span {
        Span::Ever => Origin::Newest(newest),
        Span::Tiles { hop_us, .. } => Origin::Start {
            time: index.wrapping_mul(hop_us),
            hop_us,
        },
    }
}

fn argument_type(measure: &Measure, layout: &RowLayout) -> DataType {
    measure
        .input
        .and_then(|input| layout.inputs.get(input))
        .copied()
        .unwrap_or(DataType::Bool)
}

fn encode_state(state: &State, data_type: DataType, origin: Origin, bytes: &mut Vec<u8>) {
    match state {
        State::Empty => {}
        State::Count(count) => push_varint(bytes, *count),
        State::Integer(sum) => push_signed_wide(bytes, *sum),
        State::Float(sum) => encode_sum(sum, bytes),
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
fn decode_state(
    reader: &mut Reader<'_>,
    state: &mut State,
    measure: &Measure,
    layout: &RowLayout,
    origin: Origin,
) -> Result<(), RowError> {
    let data_type = argument_type(measure, layout);
    *state = match measure.kind {
        Kind::Count => match reader.varint()? {
            0 => return Err(malformed("a count of nothing is stored")),
            count => State::Count(count),
        },
        Kind::Integer => State::Integer(reader.signed_wide()?),
        Kind::Float => State::Float(decode_sum(reader)?),
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

fn encode_sum(sum: &ExactSum, bytes: &mut Vec<u8>) {
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

fn decode_sum(reader: &mut Reader<'_>) -> Result<ExactSum, RowError> {
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

fn encode_values(values: &[Option<Scalar>], types: impl Iterator<Item = DataType>, bytes: &mut Vec<u8>) {
    push_bits(bytes, values.iter().map(Option::is_some));
    for (value, data_type) in values.iter().zip(types) {
        if let Some(value) = value {
            encode_value(value.borrow(), data_type, bytes);
        }
    }
}

fn decode_values(
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

fn encode_value(value: ScalarRef<'_>, data_type: DataType, bytes: &mut Vec<u8>) {
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

fn decode_value(reader: &mut Reader<'_>, data_type: DataType) -> Result<Scalar, RowError> {
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

fn decode_float(value: f64, is_the_nan: bool) -> Result<Scalar, RowError> {
    if value.is_nan() && !is_the_nan {
        return Err(malformed("a NaN is not the canonical one"));
    }
    Ok(ScalarRef::float(value).to_owned())
}
