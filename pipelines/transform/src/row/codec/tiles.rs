//! Tiles: which stretches of time a set holds, and which of their states are not empty.

use super::states::{Origin, decode_state, encode_state};
use crate::row::RowError;
use crate::row::bytes::{Reader, malformed, push_bits, push_varint};
use crate::row::layout::{RowLayout, SetLayout, Span};
use crate::row::state::State;
use crate::row::tiles::TileSet;

/// Tiles that room is made for on the word of a stored count; more must be there to be believed.
const TRUSTED_TILES: usize = 256;

pub(super) fn encode_tiles(tiles: &TileSet, set: &SetLayout, layout: &RowLayout, newest: i64, bytes: &mut Vec<u8>) {
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
                measure.argument_type(layout),
                origin(set.span, index, newest),
                bytes,
            );
        }
    }
}

pub(super) fn decode_tiles(
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

fn origin(span: Span, index: i64, newest: i64) -> Origin {
    match span {
        Span::Ever => Origin::Newest(newest),
        Span::Tiles { hop_us, .. } => Origin::Start {
            time: index.wrapping_mul(hop_us),
            hop_us,
        },
    }
}
