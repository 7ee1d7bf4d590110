//! Values kept row by row: what a row of the spine takes of a view lies in one place.
//!
//! Whoever puts rows into another order looks each up once, in one or two lines of the cache, where columns would have it
//! look all over memory for each. Values of fixed width lie side by side, a bit of a last word for each says where there is
//! none; columns of other kinds are kept as they are.

use crate::error::JobError;
use arrow::array::{Array, ArrayRef, AsArray, BooleanBufferBuilder, PrimitiveArray, new_null_array};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::{concat, interleave};
use arrow::datatypes::{
    ArrowNativeType, ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use ondol_vocabulary::DataType;
use std::sync::Arc;

/// Rows that are turned into columns at a time: few enough to stay in the processor's first cache.
const TURNED_ROWS: usize = 256;
/// Bits of a word.
const WORD_BITS: usize = u32::BITS as usize;

/// How the values of a row lie side by side, in words of 32 bits.
pub(super) struct Packing {
    columns: Vec<Column>,
    /// Words of a row.
    stride: usize,
    /// A row without values.
    null_row: Vec<u32>,
}

struct Column {
    data_type: DataType,
    place: Place,
    /// The word and the bit that say that there is no value.
    null: (usize, u32),
}

/// Where a column's values are.
#[derive(Clone, Copy)]
enum Place {
    /// In a word and the next.
    Wide(usize),
    /// In a word.
    Narrow(usize),
    /// In a column of their own.
    Apart(usize),
}

/// Rows of values.
pub(super) struct Packed {
    rows: usize,
    words: Vec<u32>,
    apart: Vec<ArrayRef>,
}

/// A column being put together.
enum Turned {
    Wide(Vec<u64>),
    Narrow(Vec<u32>),
    Apart(usize),
}

impl Packing {
    /// Of columns of `types`.
    pub(super) fn of(types: &[DataType]) -> Self {
        let (mut words, mut apart) = (0, 0);
        let mut places = Vec::with_capacity(types.len());
        for data_type in types {
            places.push(match data_type {
                DataType::I64 | DataType::F64 | DataType::Timestamp => {
                    words += 2;
                    Place::Wide(words - 2)
                }
                DataType::I32 | DataType::F32 => {
                    words += 1;
                    Place::Narrow(words - 1)
                }
                DataType::Bool | DataType::String | DataType::List(_) => {
                    apart += 1;
                    Place::Apart(apart - 1)
                }
            });
        }
        let stride = words + types.len().div_ceil(WORD_BITS).max(1);
        let columns = types.iter().zip(places).enumerate();
        let columns = columns.map(|(number, (data_type, place))| Column {
            data_type: *data_type,
            place,
            null: (words + number / WORD_BITS, 1 << (number % WORD_BITS)),
        });
        let mut null_row = vec![0; stride];
        null_row.iter_mut().skip(words).for_each(|word| *word = u32::MAX);
        Self {
            columns: columns.collect(),
            stride,
            null_row,
        }
    }

    /// `values`, a column of each type, of so many rows each.
    pub(super) fn pack(&self, values: Vec<ArrayRef>, rows: usize) -> Result<Packed, JobError> {
        if values.len() != self.columns.len() || values.iter().any(|values| values.len() != rows) {
            return Err(misfit());
        }
        let mut packed = Packed {
            rows,
            words: vec![0; rows * self.stride],
            apart: Vec::new(),
        };
        for (column, values) in self.columns.iter().zip(values) {
            let values = typed(values, column.data_type)?;
            if let Place::Apart(_) = column.place {
                packed.apart.push(values);
                continue;
            }
            let nulls = values.nulls().filter(|nulls| nulls.null_count() > 0);
            let (word, bit) = column.null;
            for (row, is_valid) in nulls.into_iter().flat_map(|nulls| nulls.iter().enumerate()) {
                if let Some(word) = packed.words.get_mut(row * self.stride + word).filter(|_| !is_valid) {
                    *word |= bit;
                }
            }
            let rows = packed.words.chunks_exact_mut(self.stride);
            match column.place {
                Place::Wide(word) => {
                    for (row, value) in rows.zip(bits::<u64>(&values)?.iter()) {
                        if let Some([low, high]) = row.get_mut(word..).and_then(|row| row.first_chunk_mut()) {
                            (*low, *high) = (*value as u32, (*value >> 32) as u32);
                        }
                    }
                }
                Place::Narrow(word) => {
                    for (row, value) in rows.zip(bits::<u32>(&values)?.iter()) {
                        if let Some(place) = row.get_mut(word) {
                            *place = *value;
                        }
                    }
                }
                Place::Apart(_) => {}
            }
        }
        Ok(packed)
    }

    /// `parts` one after another.
    pub(super) fn joined(&self, parts: &[&Packed]) -> Result<Packed, JobError> {
        let apart = self.columns.iter().filter_map(|column| match column.place {
            Place::Apart(apart) => Some(apart),
            _ => None,
        });
        let apart = apart.map(|apart| {
            let parts = parts.iter().filter_map(|part| part.apart.get(apart));
            let parts: Vec<&dyn Array> = parts.map(AsRef::as_ref).collect();
            Ok(concat(&parts)?)
        });
        Ok(Packed {
            rows: parts.iter().map(|part| part.rows).sum(),
            apart: apart.collect::<Result<_, JobError>>()?,
            words: parts
                .iter()
                .map(|part| part.words.as_slice())
                .collect::<Vec<_>>()
                .concat(),
        })
    }

    /// The rows at `places`, each a piece and a row of it, or nothing, as columns.
    pub(super) fn gather(
        &self,
        pieces: &[Packed],
        places: &(impl ExactSizeIterator<Item = Option<(usize, usize)>> + Clone),
    ) -> Result<Vec<ArrayRef>, JobError> {
        let count = places.len();
        let turned = self.columns.iter().map(|column| match column.place {
            Place::Wide(_) => Turned::Wide(Vec::with_capacity(count)),
            Place::Narrow(_) => Turned::Narrow(Vec::with_capacity(count)),
            Place::Apart(apart) => Turned::Apart(apart),
        });
        let mut turned: Vec<(Turned, Option<BooleanBufferBuilder>)> = turned.map(|turned| (turned, None)).collect();
        let mut rows: Vec<u32> = Vec::with_capacity(TURNED_ROWS * self.stride);
        let (mut first, mut left) = (0, places.clone());
        while first < count {
            rows.clear();
            for place in left.by_ref().take(TURNED_ROWS) {
                rows.extend_from_slice(match place {
                    Some((piece, row)) => self.row(pieces, piece, row).ok_or_else(misfit)?,
                    None => &self.null_row,
                });
            }
            self.turn(&rows, first, &mut turned);
            first += rows.len() / self.stride;
        }
        let columns = self.columns.iter().zip(turned).map(|(column, (turned, valid))| {
            let nulls = valid.map(|mut valid| NullBuffer::from(valid.finish()));
            Ok(match (turned, column.data_type) {
                (Turned::Apart(apart), data_type) => gather_apart(pieces, apart, data_type, places.clone())?,
                (Turned::Narrow(values), DataType::I32) => array::<Int32Type, _>(values, nulls),
                (Turned::Narrow(values), _) => array::<Float32Type, _>(values, nulls),
                (Turned::Wide(values), DataType::F64) => array::<Float64Type, _>(values, nulls),
                (Turned::Wide(values), DataType::Timestamp) => {
                    let moments = primitive::<TimestampMicrosecondType, _>(values, nulls);
                    Arc::new(moments.with_data_type(DataType::Timestamp.arrow()))
                }
                (Turned::Wide(values), _) => array::<Int64Type, _>(values, nulls),
            })
        });
        columns.collect()
    }

    fn row<'p>(&self, pieces: &'p [Packed], piece: usize, row: usize) -> Option<&'p [u32]> {
        let start = row * self.stride;
        pieces.get(piece)?.words.get(start..start + self.stride)
    }

    /// Adds `rows`, before which there were `first`, to the columns.
    fn turn(&self, rows: &[u32], first: usize, turned: &mut [(Turned, Option<BooleanBufferBuilder>)]) {
        let rows = || rows.chunks_exact(self.stride);
        for (column, (turned, valid)) in self.columns.iter().zip(turned) {
            match (column.place, turned) {
                (Place::Wide(word), Turned::Wide(values)) => values.extend(rows().map(|row| {
                    let words = row.get(word..).and_then(|row| row.first_chunk());
                    words.map_or(0, |[low, high]| u64::from(*low) | u64::from(*high) << 32)
                })),
                (Place::Narrow(word), Turned::Narrow(values)) => {
                    values.extend(rows().map(|row| row.get(word).copied().unwrap_or(0)));
                }
                _ => continue,
            }
            let (word, bit) = column.null;
            let is_null = |row: &[u32]| row.get(word).is_some_and(|word| word & bit != 0);
            if valid.is_none() && !rows().any(is_null) {
                continue;
            }
            let valid = valid.get_or_insert_with(|| {
                let mut valid = BooleanBufferBuilder::new(first + TURNED_ROWS);
                valid.append_n(first, true);
                valid
            });
            rows().for_each(|row| valid.append(!is_null(row)));
        }
    }
}

impl Packed {
    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }
}

/// `values` as a column of `data_type`: moments are in UTC, whatever they were called.
fn typed(values: ArrayRef, data_type: DataType) -> Result<ArrayRef, JobError> {
    let expected = data_type.arrow();
    if *values.data_type() == expected {
        return Ok(values);
    }
    match values.as_primitive_opt::<TimestampMicrosecondType>() {
        Some(moments) if data_type == DataType::Timestamp => Ok(Arc::new(moments.clone().with_data_type(expected))),
        _ => Err(JobError::internal(format!(
            "values of type {} for a column of {data_type}",
            values.data_type()
        ))),
    }
}

/// The values of an array of that width as they lie in memory, whatever its type.
fn bits<T: ArrowNativeType>(values: &ArrayRef) -> Result<ScalarBuffer<T>, JobError> {
    let data = values.to_data();
    let fits = data.data_type().primitive_width() == Some(size_of::<T>());
    let buffer = data.buffers().first().filter(|_| fits).ok_or_else(misfit)?;
    Ok(ScalarBuffer::new(buffer.clone(), data.offset(), data.len()))
}

fn gather_apart(
    pieces: &[Packed],
    apart: usize,
    data_type: DataType,
    places: impl ExactSizeIterator<Item = Option<(usize, usize)>>,
) -> Result<ArrayRef, JobError> {
    let nothing = new_null_array(&data_type.arrow(), 1);
    let arrays = pieces.iter().map(|piece| piece.apart.get(apart).ok_or_else(misfit));
    let mut arrays: Vec<&dyn Array> = arrays
        .map(|array| array.map(AsRef::as_ref))
        .collect::<Result<_, JobError>>()?;
    arrays.push(&nothing);
    let nowhere = (pieces.len(), 0);
    let places: Vec<(usize, usize)> = places.map(|place| place.unwrap_or(nowhere)).collect();
    Ok(interleave(&arrays, &places)?)
}

fn array<T: ArrowPrimitiveType, B: ArrowNativeType>(values: Vec<B>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(primitive::<T, B>(values, nulls))
}

/// The same bits, as values of a type of that width.
fn primitive<T: ArrowPrimitiveType, B: ArrowNativeType>(
    values: Vec<B>,
    nulls: Option<NullBuffer>,
) -> PrimitiveArray<T> {
    let values = ScalarBuffer::<B>::from(values).into_inner();
    PrimitiveArray::new(values.into(), nulls)
}

fn misfit() -> JobError {
    JobError::internal("finished values do not fit their rows")
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::UInt32Array;
    use arrow::array::{
        BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
    };
    use arrow::compute::take;
    use proptest::prelude::*;

    const TYPES: [DataType; 7] = [
        DataType::F64,
        DataType::I32,
        DataType::String,
        DataType::Timestamp,
        DataType::F32,
        DataType::Bool,
        DataType::I64,
    ];

    fn columns(values: &[Option<i32>]) -> Vec<ArrayRef> {
        let of = || values.iter().copied();
        vec![
            Arc::new(of().map(|value| value.map(f64::from)).collect::<Float64Array>()),
            Arc::new(of().collect::<Int32Array>()),
            Arc::new(
                of().map(|value| value.map(|value| value.to_string()))
                    .collect::<StringArray>(),
            ),
            Arc::new(
                of().map(|value| value.map(i64::from))
                    .collect::<TimestampMicrosecondArray>(),
            ),
            Arc::new(
                of().map(|value| value.map(|value| value as f32))
                    .collect::<Float32Array>(),
            ),
            Arc::new(
                of().map(|value| value.map(|value| value % 2 == 0))
                    .collect::<BooleanArray>(),
            ),
            Arc::new(
                values
                    .iter()
                    .map(|value| Some(i64::from(value.unwrap_or(7)) << 33))
                    .collect::<Int64Array>(),
            ),
        ]
    }

    proptest! {
        #[test]
        fn gathered_rows_are_those_of_the_columns(
            values in prop::collection::vec(prop::option::weighted(0.9, any::<i32>()), 1..900),
            cuts in prop::collection::btree_set(0..900usize, 0..5),
            rows in prop::collection::vec(prop::option::weighted(0.9, any::<prop::sample::Index>()), 1..900),
            is_joined in any::<bool>(),
        ) {
            let packing = Packing::of(&TYPES);
            let mut ends: Vec<usize> = cuts.into_iter().filter(|cut| *cut < values.len()).collect();
            ends.push(values.len());
            let (mut pieces, mut starts, mut start) = (Vec::new(), Vec::new(), 0);
            for end in ends {
                pieces.push(packing.pack(columns(&values[start..end]), end - start).unwrap());
                starts.push(start);
                start = end;
            }
            if is_joined {
                let parts: Vec<&Packed> = pieces.iter().collect();
                pieces = vec![packing.joined(&parts).unwrap()];
                starts = vec![0];
            }
            let rows: Vec<Option<usize>> = rows.into_iter().map(|row| row.map(|row| row.index(values.len()))).collect();
            let places = rows.iter().map(|row| row.map(|row| {
                let piece = starts.partition_point(|start| *start <= row) - 1;
                (piece, row - starts[piece])
            }));
            let gathered = packing.gather(&pieces, &places).unwrap();
            let rows: UInt32Array = rows.iter().map(|row| row.map(|row| row as u32)).collect();
            for ((gathered, column), data_type) in gathered.iter().zip(columns(&values)).zip(TYPES) {
                prop_assert_eq!(gathered.data_type(), &data_type.arrow());
                let column = typed(column, data_type).unwrap();
                prop_assert_eq!(gathered, &take(&column, &rows, None).unwrap(), "{}", data_type);
            }
        }
    }

    #[test]
    fn values_of_another_type_or_number_are_refused() {
        let packing = Packing::of(&[DataType::I64]);
        let values: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        assert!(packing.pack(vec![values], 1).is_err());
        let values: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        assert!(packing.pack(vec![Arc::clone(&values)], 2).is_err());
        let piece = packing.pack(vec![values], 1).unwrap();
        assert!(packing.gather(&[piece], &[Some((0, 1))].into_iter()).is_err());
    }
}
