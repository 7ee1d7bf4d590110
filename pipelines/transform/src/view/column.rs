//! An evaluated expression, ready to be read value by value; and finished values, ready to be a column.

use crate::row::scalar::{ScalarRef, narrowed};
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, BooleanBuilder, Float32Array, Float64Array, Int32Array,
    Int64Array, ListArray, NullBufferBuilder, PrimitiveArray, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType as ArrowType, Field as ArrowField, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use ondol_vocabulary::DataType;
use smallvec::SmallVec;
use std::sync::Arc;

/// An array of one of the vocabulary's types, its type known.
#[derive(Debug)]
pub(super) enum Column {
    Bool(BooleanArray),
    I32(Int32Array),
    I64(Int64Array),
    F32(Float32Array),
    F64(Float64Array),
    Timestamp(TimestampMicrosecondArray),
    String(StringArray),
}

impl Column {
    /// None if the vocabulary has no such type.
    pub(super) fn new(array: &ArrayRef) -> Option<Self> {
        Some(match array.data_type() {
            ArrowType::Boolean => Self::Bool(array.as_boolean_opt()?.clone()),
            ArrowType::Int32 => Self::I32(array.as_primitive_opt::<Int32Type>()?.clone()),
            ArrowType::Int64 => Self::I64(array.as_primitive_opt::<Int64Type>()?.clone()),
            ArrowType::Float32 => Self::F32(array.as_primitive_opt::<Float32Type>()?.clone()),
            ArrowType::Float64 => Self::F64(array.as_primitive_opt::<Float64Type>()?.clone()),
            ArrowType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Timestamp(array.as_primitive_opt::<TimestampMicrosecondType>()?.clone())
            }
            ArrowType::Utf8 => Self::String(array.as_string_opt()?.clone()),
            _ => return None,
        })
    }

    /// The array itself.
    pub(super) fn array(&self) -> ArrayRef {
        match self {
            Self::Bool(array) => Arc::new(array.clone()),
            Self::I32(array) => Arc::new(array.clone()),
            Self::I64(array) => Arc::new(array.clone()),
            Self::F32(array) => Arc::new(array.clone()),
            Self::F64(array) => Arc::new(array.clone()),
            Self::Timestamp(array) => Arc::new(array.clone()),
            Self::String(array) => Arc::new(array.clone()),
        }
    }

    /// The value of row `row`, unless null.
    pub(super) fn get(&self, row: usize) -> Option<ScalarRef<'_>> {
        fn valid(array: &impl Array, row: usize) -> Option<()> {
            array.is_valid(row).then_some(())
        }
        Some(match self {
            Self::Bool(array) => valid(array, row).map(|()| ScalarRef::Bool(array.value(row)))?,
            Self::I32(array) => valid(array, row).map(|()| ScalarRef::Int(i64::from(array.value(row))))?,
            Self::I64(array) => valid(array, row).map(|()| ScalarRef::Int(array.value(row)))?,
            Self::F32(array) => valid(array, row).map(|()| ScalarRef::float(f64::from(array.value(row))))?,
            Self::F64(array) => valid(array, row).map(|()| ScalarRef::float(array.value(row)))?,
            Self::Timestamp(array) => valid(array, row).map(|()| ScalarRef::Int(array.value(row)))?,
            Self::String(array) => valid(array, row).map(|()| ScalarRef::Text(array.value(row)))?,
        })
    }
}

/// Finished values of one of the vocabulary's types on their way to an array.
#[derive(Debug)]
pub(super) enum ColumnBuilder {
    Bool(BooleanBuilder),
    I32(Values<Int32Type>),
    I64(Values<Int64Type>),
    F32(Values<Float32Type>),
    F64(Values<Float64Type>),
    Timestamp(Values<TimestampMicrosecondType>),
    String(StringBuilder),
    List(Lists),
}

/// Lists: their items one after another, where each list ends, and which are null.
#[derive(Debug)]
pub(super) struct Lists {
    item_type: DataType,
    items: Box<ColumnBuilder>,
    ends: Vec<i32>,
    nulls: NullBufferBuilder,
}

/// Numbers, and which of them are null. Becomes an array without Arrow's checks of what it can't know; on a read of one
/// entity those cost more than its values.
#[derive(Debug)]
pub(super) struct Values<T: ArrowPrimitiveType> {
    /// Those of one entity or two take no memory of their own.
    values: SmallVec<[T::Native; 2]>,
    nulls: Nulls,
}

impl<T: ArrowPrimitiveType> Values<T> {
    fn new(rows: usize) -> Self {
        Self {
            values: SmallVec::with_capacity(rows),
            nulls: Nulls::default(),
        }
    }

    fn push(&mut self, value: Option<T::Native>) {
        self.nulls.append(value.is_some());
        self.values.push(value.unwrap_or_default());
    }

    /// An array of its own, without a copy of what is many.
    fn finish(self) -> PrimitiveArray<T> {
        PrimitiveArray::new(self.values.into_vec().into(), self.nulls.finish())
    }

    /// Appends the numbers, then the bitmap of the valid ones if some are not, to `cells`; where they begin.
    fn put(&self, cells: &mut MutableBuffer) -> usize {
        let at = cells.len();
        cells.extend_from_slice::<T::Native>(&self.values);
        cells.extend_zeros(cells.len().next_multiple_of(CELL) - cells.len());
        if self.nulls.has_some() {
            cells.extend_from_slice(&self.nulls.first.to_le_bytes());
        }
        at
    }

    /// The array of what was put at `at` of `cells`.
    fn at(self, cells: &Buffer, at: usize) -> PrimitiveArray<T> {
        let rows = self.values.len();
        let width = size_of::<T::Native>();
        let values = ScalarBuffer::new(cells.clone(), at / width, rows);
        let nulls = self.nulls.has_some().then(|| {
            let bits = (at + (rows * width).next_multiple_of(CELL)) * 8;
            NullBuffer::new(BooleanBuffer::new(cells.clone(), bits, rows))
        });
        PrimitiveArray::new(values, nulls)
    }
}

/// Rows whose numbers stand in one buffer with those of other columns.
pub(super) const FEW_ROWS: usize = u64::BITS as usize;

/// What columns in one buffer are aligned to: the bytes of the widest number.
pub(super) const CELL: usize = 8;

/// Which of the values of a column are null. Those of few rows take no memory of their own.
#[derive(Debug, Default)]
struct Nulls {
    len: usize,
    /// A bit for each of the first rows, set if it is valid; lowest first.
    first: u64,
    /// All rows, once there are more.
    all: Option<NullBufferBuilder>,
}

impl Nulls {
    #[inline]
    fn append(&mut self, is_valid: bool) {
        if self.len < FEW_ROWS {
            self.first |= u64::from(is_valid) << self.len;
        } else {
            self.append_to_many(is_valid);
        }
        self.len += 1;
    }

    fn append_to_many(&mut self, is_valid: bool) {
        let (first, few) = (self.first, self.len);
        let all = self.all.get_or_insert_with(|| {
            let mut all = NullBufferBuilder::new(2 * few);
            (0..few).for_each(|row| all.append(first >> row & 1 == 1));
            all
        });
        all.append(is_valid);
    }

    /// Whether one of the first rows is null.
    fn has_some(&self) -> bool {
        (self.first.count_ones() as usize) < self.len.min(FEW_ROWS)
    }

    fn finish(self) -> Option<NullBuffer> {
        match self.all {
            Some(mut all) => all.finish(),
            None => self.has_some().then(|| {
                let bits = Buffer::from_vec(vec![self.first.to_le()]);
                NullBuffer::new(BooleanBuffer::new(bits, 0, self.len))
            }),
        }
    }
}

impl ColumnBuilder {
    /// With room for `rows` values.
    pub(super) fn new(data_type: DataType, rows: usize) -> Self {
        match data_type {
            DataType::Bool => Self::Bool(BooleanBuilder::with_capacity(rows)),
            DataType::I32 => Self::I32(Values::new(rows)),
            DataType::I64 => Self::I64(Values::new(rows)),
            DataType::F32 => Self::F32(Values::new(rows)),
            DataType::F64 => Self::F64(Values::new(rows)),
            DataType::Timestamp => Self::Timestamp(Values::new(rows)),
            DataType::String => Self::String(StringBuilder::with_capacity(rows, rows * 8)),
            DataType::List(element) => {
                let mut ends = Vec::with_capacity(rows + 1);
                ends.push(0);
                Self::List(Lists {
                    item_type: element.data_type(),
                    items: Box::new(Self::new(element.data_type(), rows)),
                    ends,
                    nulls: NullBufferBuilder::new(rows),
                })
            }
        }
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::List(_))
    }

    /// Appends a list of values of the builder's item type; an empty one is null.
    pub(super) fn push_list(&mut self, values: &[ScalarRef<'_>]) {
        let Self::List(lists) = self else {
            return self.push(None);
        };
        values.iter().for_each(|value| lists.items.push(Some(*value)));
        lists.close(values.len());
    }

    /// As [`Self::push_list`], where an empty list is one.
    pub(super) fn push_whole_list(&mut self, values: &[ScalarRef<'_>]) {
        let Self::List(lists) = self else {
            return self.push(None);
        };
        values.iter().for_each(|value| lists.items.push(Some(*value)));
        lists.end(values.len(), true);
    }

    /// Appends a value of the builder's type; any other is null.
    pub(super) fn push(&mut self, value: Option<ScalarRef<'_>>) {
        let int = || match value {
            Some(ScalarRef::Int(value)) => Some(value),
            _ => None,
        };
        let float = || match value {
            Some(ScalarRef::Float(value)) => Some(value),
            _ => None,
        };
        match self {
            Self::Bool(values) => values.append_option(match value {
                Some(ScalarRef::Bool(value)) => Some(value),
                _ => None,
            }),
            // Narrowing is exact: the value was widened from an i32.
            Self::I32(values) => values.push(int().map(|value| value as i32)),
            Self::I64(values) => values.push(int()),
            Self::F32(values) => values.push(float().map(narrowed)),
            Self::F64(values) => values.push(float()),
            Self::Timestamp(values) => values.push(int()),
            Self::String(values) => values.append_option(match value {
                Some(ScalarRef::Text(value)) => Some(value),
                _ => None,
            }),
            Self::List(lists) => lists.close(0),
        }
    }

    /// Appends its values to `cells`, which has those of other columns of the same few rows; where they begin. Nothing of
    /// what are no numbers.
    pub(super) fn put(&self, cells: &mut MutableBuffer) -> usize {
        match self {
            Self::I32(values) => values.put(cells),
            Self::I64(values) => values.put(cells),
            Self::F32(values) => values.put(cells),
            Self::F64(values) => values.put(cells),
            Self::Timestamp(values) => values.put(cells),
            Self::Bool(_) | Self::String(_) | Self::List(_) => cells.len(),
        }
    }

    /// The array of what was put at `at` of `cells`.
    pub(super) fn finish_at(self, cells: &Buffer, at: usize) -> ArrayRef {
        match self {
            Self::I32(values) => Arc::new(values.at(cells, at)),
            Self::I64(values) => Arc::new(values.at(cells, at)),
            Self::F32(values) => Arc::new(values.at(cells, at)),
            Self::F64(values) => Arc::new(values.at(cells, at)),
            Self::Timestamp(values) => Arc::new(values.at(cells, at).with_data_type(DataType::Timestamp.arrow())),
            Self::Bool(_) | Self::String(_) | Self::List(_) => self.finish(),
        }
    }

    /// An array of its own.
    pub(super) fn finish(self) -> ArrayRef {
        match self {
            Self::Bool(mut values) => Arc::new(values.finish()),
            Self::I32(values) => Arc::new(values.finish()),
            Self::I64(values) => Arc::new(values.finish()),
            Self::F32(values) => Arc::new(values.finish()),
            Self::F64(values) => Arc::new(values.finish()),
            Self::Timestamp(values) => Arc::new(values.finish().with_data_type(DataType::Timestamp.arrow())),
            Self::String(mut values) => Arc::new(values.finish()),
            Self::List(lists) => Arc::new(lists.finish()),
        }
    }
}

impl Lists {
    /// Ends a list of the last `length` items; of none it is null.
    fn close(&mut self, length: usize) {
        self.end(length, length > 0);
    }

    fn end(&mut self, length: usize, is_valid: bool) {
        let end = self.ends.last().copied().unwrap_or_default();
        // A batch of rows has far fewer items than an offset counts: a list has at most 1000.
        self.ends.push(end.saturating_add(length as i32));
        self.nulls.append(is_valid);
    }

    fn finish(mut self) -> ListArray {
        let item = Arc::new(ArrowField::new_list_field(self.item_type.arrow(), true));
        let ends = OffsetBuffer::new(ScalarBuffer::from(self.ends));
        ListArray::new(item, ends, self.items.finish(), self.nulls.finish())
    }
}
