//! Finished values on their way to the spine's order.
//!
//! Partitions finish in any order, on any thread, each with values for rows all over the spine. They are kept as they come,
//! in pieces, [`packed`](super::packed) row by row, and each row of the spine knows its place among them. Rows are put
//! together when they are asked for, a few at a time: so no column is ever held twice, and what a join holds of values
//! grows only as it goes.

use super::packed::{Packed, Packing};
use crate::error::JobError;
use crate::pool;
use arrow::array::ArrayRef;
use ondol_transform::{Answers, Worth};
use ondol_vocabulary::DataType;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Of a row without values.
const NOWHERE: u64 = 0;
/// A piece of fewer rows is put together with others: what describes it would take as much as it holds.
const SMALL_ROWS: usize = 1_024;
/// Rows of pieces that are put together.
const GATHERED_ROWS: usize = 16 * SMALL_ROWS;

/// Columns being filled.
pub(crate) struct Assembly {
    packing: Packing,
    /// By row, where its values are. Atomics only so that threads may write different rows.
    places: Vec<AtomicU64>,
    /// By row, what its entity is worth: missing until it is told.
    worth: Vec<AtomicU8>,
    kept: Mutex<Kept>,
}

/// What was finished.
#[derive(Default)]
struct Kept {
    pieces: Vec<Packed>,
    small: Vec<Small>,
    /// Rows of those.
    small_rows: usize,
}

/// A few values, and the rows that take them: a row of the spine, and one of these.
struct Small {
    values: Packed,
    takers: Vec<(u32, u32)>,
}

/// Values that wait to be put into the spine's order.
pub(crate) struct Assembled {
    packing: Packing,
    pieces: Vec<Packed>,
    /// By row.
    places: Vec<u64>,
    /// What entities are worth, by row.
    pub(crate) worth: Vec<Worth>,
}

/// A piece by its number, and a row of it.
fn place(piece: u32, row: u32) -> u64 {
    ((u64::from(piece) + 1) << 32) | u64::from(row)
}

/// The piece and its row.
fn seat(place: u64) -> Option<(usize, usize)> {
    let piece = ((place >> 32) as usize).checked_sub(1)?;
    Some((piece, place as u32 as usize))
}

impl Assembly {
    /// Of columns of these types, for `rows` rows, null until placed.
    pub(crate) fn new(types: impl IntoIterator<Item = DataType>, rows: usize) -> Self {
        Self {
            packing: Packing::of(&types.into_iter().collect::<Vec<_>>()),
            places: zeroed(rows),
            worth: zeroed(rows),
            kept: Mutex::default(),
        }
    }

    /// Gives `answers`, one for each of `rows`, to them.
    pub(crate) fn place(&self, rows: &[u32], answers: Answers) -> Result<(), JobError> {
        if answers.worth.len() != rows.len() {
            return Err(misfit());
        }
        self.give(rows.iter().copied().zip(0..).collect(), answers)
    }

    /// Gives `answers` to `takers`: rows of the spine, each with the answer that it takes.
    pub(crate) fn give(&self, takers: Vec<(u32, u32)>, answers: Answers) -> Result<(), JobError> {
        self.give_parts(vec![takers], answers, 1)
    }

    /// As [`Self::give`], part by part on `threads` threads.
    pub(crate) fn give_parts(
        &self,
        parts: Vec<Vec<(u32, u32)>>,
        answers: Answers,
        threads: usize,
    ) -> Result<(), JobError> {
        let Answers { values, worth } = answers;
        let values = self.packing.pack(values, worth.len())?;
        let tell = |takers: &[(u32, u32)]| {
            for (row, at) in takers {
                let worth = worth.get(*at as usize).ok_or_else(misfit)?;
                self.tell(*row, *worth);
            }
            Ok(())
        };
        if values.rows() >= SMALL_ROWS {
            let piece = self.keep(values)?;
            let seated = pool::map(threads, parts, |_, takers| {
                self.seat(&takers, piece, 0);
                tell(&takers)
            });
            return seated.map(drop);
        }
        let takers = parts.concat();
        tell(&takers)?;
        let mut kept = self.kept()?;
        kept.small_rows += values.rows();
        kept.small.push(Small { values, takers });
        if kept.small_rows < GATHERED_ROWS {
            return Ok(());
        }
        kept.small_rows = 0;
        let small = std::mem::take(&mut kept.small);
        drop(kept);
        self.gather(&small)
    }

    /// What the entity of `row` is worth.
    pub(crate) fn tell(&self, row: u32, worth: Worth) {
        self.worth[row as usize].store(worth as u8, Ordering::Relaxed);
    }

    /// Keeps `values` as a piece, whose number it returns.
    fn keep(&self, values: Packed) -> Result<u32, JobError> {
        let mut kept = self.kept()?;
        kept.pieces.push(values);
        u32::try_from(kept.pieces.len() - 1).map_err(JobError::internal)
    }

    /// Lets `takers` take from the rows of `piece`, counted from `first`.
    fn seat(&self, takers: &[(u32, u32)], piece: u32, first: u32) {
        for (row, at) in takers {
            self.places[*row as usize].store(place(piece, first + at), Ordering::Relaxed);
        }
    }

    /// Makes one piece of several.
    fn gather(&self, small: &[Small]) -> Result<(), JobError> {
        let parts: Vec<&Packed> = small.iter().map(|part| &part.values).collect();
        let piece = self.keep(self.packing.joined(&parts)?)?;
        let mut first = 0;
        for part in small {
            self.seat(&part.takers, piece, first);
            first += part.values.rows() as u32;
        }
        Ok(())
    }

    fn kept(&self) -> Result<MutexGuard<'_, Kept>, JobError> {
        self.kept.lock().map_err(|_| JobError::internal("a writer panicked"))
    }

    /// All that was placed.
    pub(crate) fn finish(self) -> Result<Assembled, JobError> {
        let small = std::mem::take(&mut self.kept()?.small);
        if !small.is_empty() {
            self.gather(&small)?;
        }
        let kept = self.kept.into_inner();
        let Kept { pieces, .. } = kept.map_err(|_| JobError::internal("a writer panicked"))?;
        let worth = self.worth.into_iter().map(AtomicU8::into_inner);
        Ok(Assembled {
            packing: self.packing,
            pieces,
            places: self.places.into_iter().map(AtomicU64::into_inner).collect(),
            worth: worth.map(|code| Worth::from_code(code).unwrap_or_default()).collect(),
        })
    }
}

impl Assembled {
    /// Of `pieces`, each with a column of each of `types`, where every row has its place: a piece and a row of it.
    pub(crate) fn seated(
        types: impl IntoIterator<Item = DataType>,
        pieces: impl IntoIterator<Item = Vec<ArrayRef>>,
        places: &[(u32, u32)],
        worth: Vec<Worth>,
    ) -> Result<Self, JobError> {
        let packing = Packing::of(&types.into_iter().collect::<Vec<_>>());
        let pieces = pieces.into_iter().map(|values| {
            let rows = values.first().map_or(0, |values| values.len());
            packing.pack(values, rows)
        });
        Ok(Self {
            pieces: pieces.collect::<Result<_, _>>()?,
            packing,
            places: places.iter().map(|(piece, row)| place(*piece, *row)).collect(),
            worth,
        })
    }

    /// Whether `row` has values.
    pub(crate) fn has(&self, row: usize) -> bool {
        self.places.get(row).is_some_and(|place| *place != NOWHERE)
    }

    /// The columns of these rows, in the spine's order.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Result<Vec<ArrayRef>, JobError> {
        let places = self.places.get(rows).ok_or_else(misfit)?;
        self.packing
            .gather(&self.pieces, &places.iter().map(|place| seat(*place)))
    }

    /// All rows, in the spine's order.
    pub(crate) fn into_answers(self) -> Result<Answers, JobError> {
        Ok(Answers {
            values: self.rows(0..self.places.len())?,
            worth: self.worth,
        })
    }
}

fn misfit() -> JobError {
    JobError::internal("finished values do not fit their rows")
}

fn zeroed<T: Default>(rows: usize) -> Vec<T> {
    let mut values = Vec::with_capacity(rows);
    values.resize_with(rows, T::default);
    values
}
