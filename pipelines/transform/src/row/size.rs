//! How large the rows of a layout are: a bound, and what to expect.
//!
//! The bound is that of the stored form (see the codec), with every tile of every window filled. It holds for texts of up to
//! [`TEXT_BYTES`] bytes and entities whose events come from one partition; each longer byte and each further partition
//! (up to 15 bytes) comes on top, and so does each event that waits for its time to come.
//!
//! What is typical is a guess from the definition alone: events in every tile, numbers of a few digits, short texts, some
//! dozens of distinct values.

use super::exact_sum;
use super::layout::{Measure, RowLayout, SetLayout, Span, TrailLayout};
use super::sketch;
use super::state::Kind;
use super::trail::{TrailKind, cardinality};
use super::variance;
use ondol_vocabulary::DataType;

/// The longest text that bounds count with.
pub const TEXT_BYTES: u64 = 256;

/// Bytes of a number in its longest form: 64 bits, 128 bits.
const LONGEST: u64 = 10;
const LONGEST_WIDE: u64 = 19;

/// How many bytes something takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// To be expected.
    pub typical: u64,
    /// At most.
    pub most: u64,
}

/// How large the rows of a view are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowSize {
    /// All of it.
    pub total: Bytes,
    /// What it is made of.
    pub parts: Vec<RowPart>,
}

/// A part of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowPart {
    /// What it is.
    pub kind: RowPartKind,
    /// How many times it is there at most: tiles, or values.
    pub count: u64,
    /// All of them.
    pub bytes: Bytes,
}

/// What a part of a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowPartKind {
    /// What every row has: version, times, a fence.
    Header,
    /// The latest row's values.
    Latest,
    /// The tiles of all windows of one hop.
    Tiles {
        /// The hop in microseconds.
        hop_us: i64,
        /// The widest window's width in microseconds.
        width_us: i64,
    },
    /// The states of aggregations over all time.
    Ever,
    /// The newest values, for all windows.
    Newest,
    /// The distinct values of all windows of one hop, or of all time.
    Distinct,
}

impl Bytes {
    const fn new(typical: u64, most: u64) -> Self {
        Self { typical, most }
    }

    const fn fixed(bytes: u64) -> Self {
        Self::new(bytes, bytes)
    }

    fn plus(self, other: Self) -> Self {
        Self::new(
            self.typical.saturating_add(other.typical),
            self.most.saturating_add(other.most),
        )
    }

    fn times(self, count: u64) -> Self {
        Self::new(self.typical.saturating_mul(count), self.most.saturating_mul(count))
    }
}

impl RowLayout {
    /// How large its rows are.
    pub(crate) fn size(&self) -> RowSize {
        let part = |kind, count, bytes| RowPart { kind, count, bytes };
        // Version, flags, fingerprint and newest time; newest arrival; a generation, a count and one fence.
        let header = Bytes::new(12 + 4 + 9 + 5, 12 + LONGEST + 9 + 5 + LONGEST);
        let mut parts = vec![part(RowPartKind::Header, 1, header)];
        if !self.latest.is_empty() {
            let values = self.latest.iter().map(|input| self.input_bytes(Some(*input)));
            let bits = Bytes::fixed(self.latest.len().div_ceil(8) as u64);
            let bytes = values.fold(source().plus(bits), Bytes::plus);
            parts.push(part(RowPartKind::Latest, 1, bytes));
        }
        for set in &self.sets {
            let tiles = set.span.tiles();
            let bytes = Bytes::new(2, LONGEST).plus(self.tile_bytes(set).times(tiles));
            let kind = match set.span {
                Span::Ever => RowPartKind::Ever,
                Span::Tiles { hop_us, width_us } => RowPartKind::Tiles { hop_us, width_us },
            };
            parts.push(part(kind, tiles, bytes));
        }
        for trail in &self.trails {
            let (kind, count, bytes) = self.trail_bytes(trail);
            parts.push(part(kind, count, bytes));
        }
        let total = parts.iter().map(|part| part.bytes).fold(Bytes::default(), Bytes::plus);
        RowSize { total, parts }
    }

    fn tile_bytes(&self, set: &SetLayout) -> Bytes {
        let index = match set.span {
            Span::Ever => Bytes::default(),
            Span::Tiles { .. } => Bytes::new(1, LONGEST),
        };
        let bits = if set.measures.len() > 1 {
            set.measures.len().div_ceil(8)
        } else {
            0
        };
        let states = set.measures.iter().map(|measure| self.state_bytes(measure));
        states.fold(index.plus(Bytes::fixed(bits as u64)), Bytes::plus)
    }

    fn state_bytes(&self, measure: &Measure) -> Bytes {
        let value = self.input_bytes(measure.input);
        match measure.kind {
            Kind::Count => Bytes::new(1, LONGEST),
            Kind::Integer => Bytes::new(3, LONGEST_WIDE),
            // Length, place, bytes, and three counts of what is not finite.
            Kind::Float => Bytes::new(8, 4 + exact_sum::MAX_BYTES as u64 + 3 * LONGEST),
            Kind::Squares => Bytes::new(12, 4 + variance::MAX_BYTES as u64),
            Kind::Min | Kind::Max => value,
            Kind::First | Kind::Last => Bytes::new(5, LONGEST).plus(source()).plus(value),
            Kind::Top(most) => Bytes::new(1, 2).plus(value.times(u64::from(most))),
            // Some twenty buckets of small counts; or every bucket, next to one another.
            Kind::Quantiles => Bytes::new(2 + 3 + 20 * 3, 3 + 3 + sketch::BUCKETS * (1 + LONGEST)),
        }
    }

    fn trail_bytes(&self, trail: &TrailLayout) -> (RowPartKind, u64, Bytes) {
        match trail.kind {
            TrailKind::Newest(most) | TrailKind::Distinct(most) => {
                let place = Bytes::new(4, LONGEST).plus(Bytes::new(3, 5 + LONGEST));
                let value = place.plus(self.input_bytes(Some(trail.input)));
                let bytes = Bytes::new(2, 2).plus(value.times(u64::from(most)));
                (RowPartKind::Newest, u64::from(most), bytes)
            }
            TrailKind::Cardinality => {
                let tiles = trail.span().tiles();
                let few = cardinality::FEW as u64;
                // A register keeps at most one mark of each rank and of each tile.
                let marks = cardinality::REGISTERS as u64 * tiles.min(u64::from(cardinality::MAX_RANK));
                let tile = if tiles > 1 { Bytes::new(1, 3) } else { Bytes::default() };
                let hash = Bytes::fixed(8).plus(tile);
                let mark = Bytes::fixed(2).plus(tile);
                let most = Bytes::new(3, 6 + LONGEST).most + hash.most * few + mark.most * marks;
                let typical = 2 + hash.typical * few / 4;
                (RowPartKind::Distinct, few + marks, Bytes::new(typical, most))
            }
        }
    }

    fn input_bytes(&self, input: Option<usize>) -> Bytes {
        match input.and_then(|input| self.inputs.get(input)) {
            None | Some(DataType::Bool) => Bytes::fixed(1),
            Some(DataType::I32) => Bytes::new(2, 5),
            Some(DataType::I64) => Bytes::new(4, LONGEST),
            Some(DataType::Timestamp) => Bytes::new(8, LONGEST),
            Some(DataType::F32) => Bytes::fixed(4),
            Some(DataType::F64) => Bytes::fixed(8),
            Some(DataType::String | DataType::List(_)) => Bytes::new(1 + 12, 2 + TEXT_BYTES),
        }
    }
}

/// A partition and an offset.
const fn source() -> Bytes {
    Bytes::new(1 + 4, 5 + LONGEST)
}

impl Span {
    /// The most tiles that a row retains.
    fn tiles(self) -> u64 {
        match self {
            Self::Ever => 1,
            // The window's own, and the one that is being filled.
            Self::Tiles { hop_us, width_us } => (width_us as u64).div_ceil(hop_us as u64) + 1,
        }
    }
}
