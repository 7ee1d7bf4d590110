//! How many distinct values there are: exactly while they are few, by HyperLogLog beyond.
//!
//! **Few.** The hashes of the newest [`FEW`] distinct values are kept, each with the newest tile that saw it. A window of
//! fewer distinct values finds all of them there and counts them; 64-bit hashes collide with a probability below 10⁻¹⁵.
//!
//! **Many.** HyperLogLog (P. Flajolet, É. Fusy, O. Gandouet, F. Meunier, *HyperLogLog: the analysis of a near-optimal
//! cardinality estimation algorithm*, 2007): a hash's first [`PRECISION`] bits name a register, and the register keeps the
//! greatest *rank* (leading zeros of the other bits, plus 1) seen. The standard error of 2¹² registers is
//! 1.04/√4096 = 1.6 %. To answer every window, a register keeps each rank that no newer one equals or exceeds, with its
//! tile (Y. Chabchoub, G. Hébrail, *Sliding HyperLogLog: Estimating cardinality in a data stream over a sliding window*,
//! ICDM workshops 2010): what it drops can't be the greatest of any window that reaches up to now. Only values that the
//! newest hashes no longer hold are in the registers; those are read together.
//!
//! The estimate is Ertl's (O. Ertl, *New cardinality estimation algorithms for HyperLogLog sketches*, arXiv:1702.01284,
//! 2017, algorithm 6), which needs no table of corrections in any range.
//!
//! The published crates (`datasketches`, `hyperloglogplus` and others) count a stream, not windows of it, and the first
//! one's stored form holds an estimate that depends on the order of values. Here everything is a function of the set of
//! values and their tiles.

use crate::row::scalar::ScalarRef;
use xxhash_rust::xxh3::xxh3_64;

/// Windows of fewer distinct values are counted exactly.
pub(crate) const FEW: usize = 128;
/// Bits of a hash that name its register.
const PRECISION: u32 = 12;
pub(crate) const REGISTERS: usize = 1 << PRECISION;
/// The greatest rank.
pub(crate) const MAX_RANK: u8 = (u64::BITS - PRECISION + 1) as u8;

/// The distinct values of a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cardinality {
    /// Of the newest distinct values: the newest tile that saw it, and its hash. Ascending, each hash once.
    newest: Vec<(i64, u64)>,
    /// Of values that `newest` has dropped, but for those that a value of `newest` makes needless.
    marks: Vec<Mark>,
}

/// A rank seen by a register. Ascending by register, then by tile; of one register no mark makes another needless, so
/// ranks descend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) register: u16,
    pub(crate) tile: i64,
    pub(crate) rank: u8,
}

impl Mark {
    fn of((tile, hash): (i64, u64)) -> Self {
        let (register, rank) = register_and_rank(hash);
        Self { register, tile, rank }
    }

    /// Whether no window that sees this mark needs `other`.
    fn makes_needless(self, other: Self) -> bool {
        self.register == other.register && self.tile >= other.tile && self.rank >= other.rank
    }
}

/// The register that a hash names, and the rank it brings.
pub(crate) fn register_and_rank(hash: u64) -> (u16, u8) {
    let rest = hash << PRECISION;
    let rank = if rest == 0 {
        MAX_RANK
    } else {
        rest.leading_zeros() as u8 + 1
    };
    ((hash >> (u64::BITS - PRECISION)) as u16, rank)
}

/// A value's hash, stable for ever: that of its canonical bytes. Stored rows depend on it.
pub(crate) fn hash(value: ScalarRef<'_>) -> u64 {
    match value {
        ScalarRef::Bool(value) => xxh3_64(&[u8::from(value)]),
        ScalarRef::Int(value) => xxh3_64(&value.to_le_bytes()),
        ScalarRef::Float(value) => xxh3_64(&value.to_le_bytes()),
        ScalarRef::Text(value) => xxh3_64(value.as_bytes()),
    }
}

impl Cardinality {
    /// Takes in a value seen in `tile`.
    pub(crate) fn add(&mut self, tile: i64, value: ScalarRef<'_>) {
        self.add_hash((tile, hash(value)));
    }

    pub(super) fn add_hash(&mut self, seen: (i64, u64)) {
        // From the newest: values that recur have mostly done so of late.
        if let Some(at) = self.newest.iter().rposition(|(_, hash)| *hash == seen.1) {
            if self.newest[at] >= seen {
                return;
            }
            self.newest.remove(at);
        } else if self.newest.len() >= FEW {
            match self.newest.first() {
                Some(oldest) if *oldest < seen => {
                    let oldest = *oldest;
                    self.newest.remove(0);
                    self.hold(seen);
                    self.mark(Mark::of(oldest));
                }
                _ => self.mark(Mark::of(seen)),
            }
            return;
        }
        self.hold(seen);
    }

    /// Puts a value that is not held among the newest.
    fn hold(&mut self, seen: (i64, u64)) {
        let at = self.newest.partition_point(|held| *held < seen);
        self.newest.insert(at, seen);
        let mark = Mark::of(seen);
        let (from, to) = self.needless(mark);
        self.marks.drain(from..to);
    }

    /// Keeps what a dropped value means to its register.
    fn mark(&mut self, mark: Mark) {
        let (from, to) = self.needless(mark);
        // Of the register's other marks, the one before may be as new, and the one after has the greatest rank of the
        // newer ones.
        let others = &self.marks[to.saturating_sub(1)..self.marks.len().min(to + 1)];
        let held = || self.newest.iter().any(|seen| Mark::of(*seen).makes_needless(mark));
        // What has the same rank and tile is among the needless and takes its own place.
        if from == to && others.iter().any(|other| other.makes_needless(mark)) || held() {
            return;
        }
        self.marks.splice(from..to, [mark]);
    }

    /// Where the marks stand that `mark` makes needless; it belongs there itself.
    fn needless(&self, mark: Mark) -> (usize, usize) {
        let to = self
            .marks
            .partition_point(|held| (held.register, held.tile) <= (mark.register, mark.tile));
        let older = self.marks[..to].iter().rev();
        let count = older.take_while(|held| mark.makes_needless(**held)).count();
        (to - count, to)
    }

    /// Forgets the tiles before `first`.
    pub(crate) fn evict(&mut self, first: i64) {
        let evicted = self.newest.partition_point(|(tile, _)| *tile < first);
        self.newest.drain(..evicted);
        self.marks.retain(|mark| mark.tile >= first);
    }

    /// How many distinct values the tiles from `first` on have seen, `others` among them.
    pub(crate) fn count(&self, first: i64, others: impl Iterator<Item = (i64, u64)>) -> u64 {
        let mut others = others.peekable();
        if others.peek().is_some() {
            let mut all = self.clone();
            others.for_each(|seen| all.add_hash(seen));
            return all.count_held(first);
        }
        self.count_held(first)
    }

    fn count_held(&self, first: i64) -> u64 {
        let from = self.newest.partition_point(|(tile, _)| *tile < first);
        // What was dropped is no newer than the oldest held.
        if self.newest.len() < FEW || from > 0 {
            return (self.newest.len() - from) as u64;
        }
        let mut registers = [0; REGISTERS];
        let held = self.newest.iter().map(|seen| Mark::of(*seen));
        let reached = self.marks.iter().copied().filter(|mark| mark.tile >= first);
        for mark in held.chain(reached) {
            let rank = &mut registers[usize::from(mark.register) % REGISTERS];
            *rank = mark.rank.max(*rank);
        }
        estimate(&registers)
    }

    /// Of the newest distinct values, newest first: the tile that saw it last, and its hash.
    pub(crate) fn newest(&self) -> impl ExactSizeIterator<Item = (i64, u64)> {
        self.newest.iter().rev().copied()
    }

    /// What is kept of the others, ascending.
    pub(crate) fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// What has these [`Self::newest`] and [`Self::marks`]; `None` if nothing has.
    pub(crate) fn from_parts(mut newest: Vec<(i64, u64)>, marks: Vec<Mark>) -> Option<Self> {
        newest.reverse();
        let follows = |before: &Mark, after: &Mark| {
            before.register < after.register
                || (before.register == after.register && before.tile < after.tile && before.rank > after.rank)
        };
        let fits = |mark: &Mark| usize::from(mark.register) < REGISTERS && (1..=MAX_RANK).contains(&mark.rank);
        let valid = newest.len() <= FEW
            && newest.is_sorted_by(|before, after| before < after)
            && (newest.len() == FEW || marks.is_empty())
            && marks.iter().all(fits)
            && marks.is_sorted_by(follows);
        valid.then_some(Self { newest, marks })
    }
}

/// Ertl's improved raw estimate, rounded to a whole number.
pub(crate) fn estimate(registers: &[u8; REGISTERS]) -> u64 {
    let mut ranks = [0u32; MAX_RANK as usize + 1];
    for rank in registers {
        ranks[usize::from(*rank)] += 1;
    }
    let all = REGISTERS as f64;
    let share = |rank: u8| f64::from(ranks[usize::from(rank)]) / all;
    let mut sum = tau(1.0 - share(MAX_RANK));
    for rank in (1..MAX_RANK).rev() {
        sum = 0.5 * (sum + share(rank));
    }
    sum += sigma(share(0));
    (all / (2.0 * std::f64::consts::LN_2 * sum)).round() as u64
}

/// x + Σ 2^(k−1) · x^(2^k) over k ≥ 1: the part of registers that nothing reached.
fn sigma(x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut power, mut weight, mut sum) = (x, 1.0, x);
    loop {
        power *= power;
        let next = sum + power * weight;
        if next == sum {
            return sum;
        }
        sum = next;
        weight += weight;
    }
}

/// (1 − x − Σ (1 − x^(2^−k))² · 2^−k) / 3 over k ≥ 1: the part of registers that are full.
fn tau(x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut root, mut weight, mut sum) = (x, 1.0, 1.0 - x);
    loop {
        root = root.sqrt();
        weight *= 0.5;
        let next = sum - (1.0 - root) * (1.0 - root) * weight;
        if next == sum {
            return sum / 3.0;
        }
        sum = next;
    }
}
