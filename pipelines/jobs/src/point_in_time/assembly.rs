//! Finished values on their way to the spine's order.
//!
//! Partitions finish in any order, on any thread, each with values for rows all over the spine. Values of fixed width go
//! straight to their row, so that a column is held once; the others wait as they came and are gathered at the end.

use crate::error::JobError;
use crate::pool;
use arrow::array::{Array, ArrayRef, PrimitiveArray, new_empty_array, new_null_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};
use arrow::compute::interleave;
use arrow::datatypes::{
    ArrowNativeType, ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use ondol_transform::{Answers, Worth};
use ondol_vocabulary::DataType;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Columns being filled.
pub(crate) struct Assembly {
    rows: usize,
    columns: Vec<Target>,
    /// By row, what its entity is worth: missing until placed.
    worth: Vec<AtomicU8>,
}

struct Target {
    data_type: DataType,
    values: Values,
    /// By row, whether it has a value. A byte each: neighbours are written by several threads.
    valid: Vec<AtomicU8>,
}

/// Atomics only so that threads may write different rows of one column; no row is written twice.
enum Values {
    Bits32(Vec<AtomicU32>),
    Bits64(Vec<AtomicU64>),
    Pieces(Mutex<Vec<Piece>>),
}

/// Values and the rows they belong to.
struct Piece {
    rows: Arc<[u32]>,
    values: ArrayRef,
}

impl Assembly {
    /// Of columns of these types, for `rows` rows, null until placed.
    pub(crate) fn new(types: impl IntoIterator<Item = DataType>, rows: usize) -> Self {
        let target = |data_type| {
            let values = match data_type {
                DataType::I32 | DataType::F32 => Values::Bits32(zeroed(rows)),
                DataType::I64 | DataType::F64 | DataType::Timestamp => Values::Bits64(zeroed(rows)),
                DataType::Bool | DataType::String | DataType::List(_) => Values::Pieces(Mutex::default()),
            };
            let valid = match values {
                Values::Pieces(_) => Vec::new(),
                _ => zeroed(rows),
            };
            Target {
                data_type,
                values,
                valid,
            }
        };
        Self {
            rows,
            columns: types.into_iter().map(target).collect(),
            worth: zeroed(rows),
        }
    }

    /// Puts `answers`, one for each of `rows`, into their places.
    pub(crate) fn place(&self, rows: &[u32], answers: &Answers) -> Result<(), JobError> {
        let Answers { values: columns, worth } = answers;
        let fits = columns.len() == self.columns.len() && worth.len() == rows.len();
        if !fits || columns.iter().any(|column| column.len() != rows.len()) {
            return Err(JobError::internal("finished values do not fit their rows"));
        }
        for (row, worth) in rows.iter().zip(worth) {
            self.worth[*row as usize].store(*worth as u8, Ordering::Relaxed);
        }
        let mut shared: Option<Arc<[u32]>> = None;
        for (target, values) in self.columns.iter().zip(columns) {
            match &target.values {
                Values::Pieces(pieces) => {
                    let rows = Arc::clone(shared.get_or_insert_with(|| rows.into()));
                    let values = Arc::clone(values);
                    let mut pieces = pieces.lock().map_err(|_| JobError::internal("a writer panicked"))?;
                    pieces.push(Piece { rows, values });
                    continue;
                }
                Values::Bits32(places) => {
                    let bits = bits::<u32>(values).ok_or_else(|| misfit(target, values))?;
                    let values = rows.iter().zip(bits.iter());
                    values.for_each(|(row, bits)| places[*row as usize].store(*bits, Ordering::Relaxed));
                }
                Values::Bits64(places) => {
                    let bits = bits::<u64>(values).ok_or_else(|| misfit(target, values))?;
                    let values = rows.iter().zip(bits.iter());
                    values.for_each(|(row, bits)| places[*row as usize].store(*bits, Ordering::Relaxed));
                }
            }
            target.mark(rows, values);
        }
        Ok(())
    }

    /// The columns and what entities are worth, in the spine's order; put together on `threads` threads.
    pub(crate) fn finish(self, threads: usize) -> Result<Answers, JobError> {
        let rows = self.rows;
        let values = pool::map(threads, self.columns, |_, target| target.finish(rows))?;
        let worth = self.worth.into_iter().map(AtomicU8::into_inner);
        Ok(Answers {
            values,
            worth: worth.map(|code| Worth::from_code(code).unwrap_or_default()).collect(),
        })
    }
}

impl Target {
    fn mark(&self, rows: &[u32], values: &ArrayRef) {
        match values.nulls() {
            None => rows
                .iter()
                .for_each(|row| self.valid[*row as usize].store(1, Ordering::Relaxed)),
            Some(nulls) => {
                for (row, valid) in rows.iter().zip(nulls.iter()) {
                    self.valid[*row as usize].store(u8::from(valid), Ordering::Relaxed);
                }
            }
        }
    }

    fn finish(self, rows: usize) -> Result<ArrayRef, JobError> {
        let valid = self.valid;
        let nulls = || {
            let nulls = NullBuffer::from(BooleanBuffer::collect_bool(rows, |row| {
                valid[row].load(Ordering::Relaxed) != 0
            }));
            (nulls.null_count() > 0).then_some(nulls)
        };
        Ok(match (self.values, self.data_type) {
            (Values::Bits32(values), DataType::I32) => primitive::<Int32Type>(unwrapped(values), nulls()),
            (Values::Bits32(values), _) => primitive::<Float32Type>(unwrapped(values), nulls()),
            (Values::Bits64(values), DataType::F64) => primitive::<Float64Type>(unwrapped64(values), nulls()),
            (Values::Bits64(values), DataType::Timestamp) => {
                let array = typed::<TimestampMicrosecondType>(unwrapped64(values), nulls());
                Arc::new(array.with_data_type(DataType::Timestamp.arrow()))
            }
            (Values::Bits64(values), _) => primitive::<Int64Type>(unwrapped64(values), nulls()),
            (Values::Pieces(pieces), data_type) => {
                let pieces = pieces
                    .into_inner()
                    .map_err(|_| JobError::internal("a writer panicked"))?;
                gather(&pieces, data_type, rows)?
            }
        })
    }
}

fn gather(pieces: &[Piece], data_type: DataType, rows: usize) -> Result<ArrayRef, JobError> {
    const NOWHERE: (usize, usize) = (usize::MAX, usize::MAX);
    let mut places = vec![NOWHERE; rows];
    for (number, piece) in pieces.iter().enumerate() {
        for (at, row) in piece.rows.iter().enumerate() {
            places[*row as usize] = (number, at);
        }
    }
    let mut arrays: Vec<ArrayRef> = pieces.iter().map(|piece| Arc::clone(&piece.values)).collect();
    if places.contains(&NOWHERE) {
        let null = (arrays.len(), 0);
        arrays.push(new_null_array(&data_type.arrow(), 1));
        places
            .iter_mut()
            .filter(|place| **place == NOWHERE)
            .for_each(|place| *place = null);
    }
    if rows == 0 {
        return Ok(new_empty_array(&data_type.arrow()));
    }
    let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
    Ok(interleave(&arrays, &places)?)
}

/// The values of an array of that width as they lie in memory, whatever its type.
fn bits<T: ArrowNativeType>(values: &ArrayRef) -> Option<ScalarBuffer<T>> {
    let data = values.to_data();
    let fits = data.data_type().primitive_width() == Some(size_of::<T>());
    let buffer = data.buffers().first().filter(|_| fits)?;
    Some(ScalarBuffer::new(buffer.clone(), data.offset(), data.len()))
}

fn misfit(target: &Target, values: &ArrayRef) -> JobError {
    JobError::internal(format!(
        "values of type {} for a column of {}",
        values.data_type(),
        target.data_type
    ))
}

fn zeroed<T: Default>(rows: usize) -> Vec<T> {
    let mut values = Vec::with_capacity(rows);
    values.resize_with(rows, T::default);
    values
}

/// The same memory, no longer shared.
fn unwrapped(values: Vec<AtomicU32>) -> Buffer {
    Buffer::from_vec(values.into_iter().map(AtomicU32::into_inner).collect::<Vec<u32>>())
}

fn unwrapped64(values: Vec<AtomicU64>) -> Buffer {
    Buffer::from_vec(values.into_iter().map(AtomicU64::into_inner).collect::<Vec<u64>>())
}

fn typed<T: ArrowPrimitiveType>(values: Buffer, nulls: Option<NullBuffer>) -> PrimitiveArray<T> {
    PrimitiveArray::new(values.into(), nulls)
}

fn primitive<T: ArrowPrimitiveType>(values: Buffer, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(typed::<T>(values, nulls))
}
