//! How many distinct values a whole column has: exactly while they are few, by HyperLogLog beyond. The hashes, the
//! registers and the estimate are those of `count_distinct` ([`crate::row::trail::cardinality`]), without its windows.

use crate::row::RowError;
use crate::row::bytes::{Reader, malformed, push_varint};
use crate::row::trail::cardinality::{FEW, MAX_RANK, REGISTERS, estimate, register_and_rank};

/// The distinct values of a column, by their hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Distinct {
    /// Every hash, ascending; at most [`FEW`].
    Few(Vec<u64>),
    /// The greatest rank each register has seen.
    Many(Box<[u8; REGISTERS]>),
}

impl Default for Distinct {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Distinct {
    pub(super) fn add(&mut self, hash: u64) {
        match self {
            Self::Many(registers) => raise(registers, hash),
            Self::Few(hashes) => {
                let Err(at) = hashes.binary_search(&hash) else { return };
                hashes.insert(at, hash);
                if hashes.len() > FEW {
                    let mut registers = Box::new([0; REGISTERS]);
                    hashes.iter().for_each(|hash| raise(&mut registers, *hash));
                    *self = Self::Many(registers);
                }
            }
        }
    }

    /// As [`Self::add`] of each, at a fraction of the cost once there are many.
    pub(super) fn add_all(&mut self, mut hashes: impl Iterator<Item = u64>) {
        while let Self::Few(_) = self {
            let Some(hash) = hashes.next() else { return };
            self.add(hash);
        }
        if let Self::Many(registers) = self {
            hashes.for_each(|hash| raise(registers, hash));
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        match other {
            Self::Few(hashes) => hashes.iter().for_each(|hash| self.add(*hash)),
            Self::Many(others) => {
                let mut merged = others.clone();
                match self {
                    Self::Few(hashes) => hashes.iter().for_each(|hash| raise(&mut merged, *hash)),
                    Self::Many(registers) => {
                        for (rank, own) in merged.iter_mut().zip(registers.iter()) {
                            *rank = (*rank).max(*own);
                        }
                    }
                }
                *self = Self::Many(merged);
            }
        }
    }

    /// How many, and whether that is exact.
    pub(super) fn count(&self) -> (u64, bool) {
        match self {
            Self::Few(hashes) => (hashes.len() as u64, true),
            Self::Many(registers) => (estimate(registers), false),
        }
    }

    /// Count + 1, varint, and the hashes, fixed 8; or 0 and the registers, in runs: rank, one byte, and times, varint.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Few(hashes) => {
                push_varint(bytes, hashes.len() as u64 + 1);
                hashes
                    .iter()
                    .for_each(|hash| bytes.extend_from_slice(&hash.to_le_bytes()));
            }
            Self::Many(registers) => {
                push_varint(bytes, 0);
                for run in registers.chunk_by(|one, next| one == next) {
                    bytes.push(run.first().copied().unwrap_or_default());
                    push_varint(bytes, run.len() as u64);
                }
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, RowError> {
        let count = reader.varint()?;
        if let Some(count) = count.checked_sub(1) {
            let count = usize::try_from(count).ok().filter(|count| *count <= FEW);
            let count = count.ok_or_else(|| malformed("there are more hashes than are kept"))?;
            let hashes = (0..count)
                .map(|_| reader.array().map(u64::from_le_bytes))
                .collect::<Result<Vec<_>, _>>()?;
            return if hashes.is_sorted_by(|before, after| before < after) {
                Ok(Self::Few(hashes))
            } else {
                Err(malformed("hashes are out of order"))
            };
        }
        let mut registers = Box::new([0; REGISTERS]);
        let mut at = 0;
        while at < REGISTERS {
            let rank = reader.byte()?;
            let run = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
            let end = at.checked_add(run).filter(|end| *end <= REGISTERS && run > 0);
            let end = end.ok_or_else(|| malformed("a run of registers is none"))?;
            if rank > MAX_RANK {
                return Err(malformed("a rank is out of range"));
            }
            registers[at..end].fill(rank);
            at = end;
        }
        Ok(Self::Many(registers))
    }
}

#[inline]
fn raise(registers: &mut [u8; REGISTERS], hash: u64) {
    let (register, rank) = register_and_rank(hash);
    let held = &mut registers[usize::from(register) % REGISTERS];
    // Soon hardly any does.
    if rank > *held {
        *held = rank;
    }
}
