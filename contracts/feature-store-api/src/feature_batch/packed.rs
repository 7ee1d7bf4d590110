//! [`FeatureBatch`] packed, between services: what both sides know from the request, the names, is not sent, and a
//! column costs its bytes and nothing more. An online read has tens of columns and few rows, which is where Arrow's own
//! format pays for every column with descriptions and padding.
//!
//! Numbers are little endian. In order:
//!
//! | what | bytes |
//! |---|---|
//! | `OFB1` | 4 |
//! | as of, in microseconds | 8 |
//! | rows, features, distinct columns of event times | 4 each |
//! | per feature: view version, place of its event times, type | 4, 4, 1 |
//! | per feature: a status a row (the numbers of [`FeatureStatus`]) | 1 a row |
//! | per distinct column of event times: microseconds a row, the smallest number for none | 8 a row |
//! | per feature: its values | |
//!
//! Values are: 1 if a bitmap of the valid ones follows, otherwise 0; that bitmap, a bit a value, lowest first; then
//! numbers and times as they are, truth values as a bitmap, texts as `n + 1` offsets of 4 bytes and their bytes, lists as
//! `n + 1` offsets and the values of all their items. The type is its place in [`TYPES`], plus [`LIST`] for a list of it.

use super::malformed;
use crate::wire::{FeatureBatch, FeatureColumn};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, PrimitiveArray, StringArray};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowNativeType, ArrowPrimitiveType, DataType as ArrowType, Field, Float32Type, Float64Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use ondol_vocabulary::{DataType, EventTime, FeatureRef, FeatureStatus};
use std::sync::Arc;

/// The media type of a packed batch.
pub const MEDIA_TYPE: &str = "application/vnd.ondol.features";

const MAGIC: [u8; 4] = *b"OFB1";

/// The numbers of the types.
const TYPES: [DataType; 7] = DataType::ALL;

/// What a list's number has more than its items'.
const LIST: u8 = 16;

/// Stands for no event time.
const NEVER: i64 = i64::MIN;

impl FeatureBatch {
    /// As packed bytes.
    ///
    /// # Errors
    /// When a column's length is not the number of entities, or its type none of a feature.
    pub fn to_packed(&self) -> Result<Vec<u8>, ArrowError> {
        if self.features.len() != self.columns.len() {
            return Err(malformed("it has other columns than features"));
        }
        let (times, places) = self.distinct_event_times();
        let mut out = Vec::with_capacity(64 + self.columns.len() * (16 + self.rows * 12) + times.len() * self.rows * 8);
        out.extend(MAGIC);
        out.extend(self.as_of.micros().to_le_bytes());
        for count in [self.rows, self.columns.len(), times.len()] {
            out.extend(count_of(count)?);
        }
        for (column, place) in self.columns.iter().zip(places) {
            out.extend(column.view_version.to_le_bytes());
            out.extend(count_of(place)?);
            out.push(type_number(column.values.data_type())?);
        }
        for column in &self.columns {
            let is_whole = [column.values.len(), column.status.len(), column.event_time.len()] == [self.rows; 3];
            if !is_whole {
                return Err(malformed("a column has other rows than the batch"));
            }
            out.extend(column.status.iter().map(|status| *status as u8));
        }
        for time in times.into_iter().flatten() {
            out.extend(time.map_or(NEVER, EventTime::micros).to_le_bytes());
        }
        for column in &self.columns {
            pack(&column.values, &mut out)?;
        }
        Ok(out)
    }

    /// From the bytes made by [`Self::to_packed`], possibly elsewhere, in answer to a request for `features`.
    ///
    /// # Errors
    /// When the bytes are not of that form, or are of other features.
    pub fn from_packed(bytes: &[u8], features: impl Into<Arc<[FeatureRef]>>) -> Result<Self, ArrowError> {
        let features = features.into();
        let mut bytes = Bytes(bytes);
        if bytes.take(MAGIC.len())? != MAGIC {
            return Err(malformed("it does not begin as one"));
        }
        let as_of = EventTime::from_micros(i64::from_le_bytes(bytes.array()?));
        let (rows, count, distinct) = (bytes.count()?, bytes.count()?, bytes.count()?);
        if count != features.len() {
            return Err(malformed("it has other features than were asked for"));
        }
        // Each is some feature's; of no rows they take no bytes, so that nothing else would bound them.
        if distinct > count {
            return Err(malformed("it has more columns of event times than features"));
        }
        let head = |bytes: &mut Bytes<'_>| {
            let view_version = u32::from_le_bytes(bytes.array()?);
            Ok((view_version, bytes.count()?, type_of(bytes)?))
        };
        let heads = (0..count)
            .map(|_| head(&mut bytes))
            .collect::<Result<Vec<_>, ArrowError>>()?;
        let mut statuses: Vec<Arc<[FeatureStatus]>> = Vec::with_capacity(count);
        let mut before: Option<&[u8]> = None;
        for _ in 0..count {
            let codes = bytes.take(rows)?;
            let status = match statuses.last() {
                // Most features are as fresh as the one before.
                Some(status) if before == Some(codes) => Arc::clone(status),
                _ => statuses_of(codes)?,
            };
            statuses.push(status);
            before = Some(codes);
        }
        let times = (0..distinct)
            .map(|_| Ok(event_times(&bytes.numbers::<i64>(rows)?)))
            .collect::<Result<Vec<_>, ArrowError>>()?;
        let mut columns = Vec::with_capacity(count);
        for ((view_version, time, data_type), status) in heads.into_iter().zip(statuses) {
            let event_time = times
                .get(time)
                .ok_or_else(|| malformed("a column of event times is absent"))?;
            columns.push(FeatureColumn {
                view_version,
                values: unpack(&mut bytes, data_type, rows)?,
                status,
                event_time: Arc::clone(event_time),
            });
        }
        match bytes.0 {
            [] => Ok(Self {
                as_of,
                rows,
                features,
                columns,
            }),
            _ => Err(malformed("bytes follow it")),
        }
    }
}

fn count_of(count: usize) -> Result<[u8; 4], ArrowError> {
    let count = u32::try_from(count).map_err(|_| malformed("a number is too large"))?;
    Ok(count.to_le_bytes())
}

fn statuses_of(codes: &[u8]) -> Result<Arc<[FeatureStatus]>, ArrowError> {
    let known = codes.iter().map(|code| FeatureStatus::from_code(*code));
    known
        .collect::<Option<_>>()
        .ok_or_else(|| malformed("an unknown status"))
}

fn event_times(micros: &[i64]) -> Arc<[Option<EventTime>]> {
    let times = micros
        .iter()
        .map(|micros| Some(*micros).filter(|micros| *micros != NEVER));
    times.map(|time| time.map(EventTime::from_micros)).collect()
}

fn type_number(arrow: &ArrowType) -> Result<u8, ArrowError> {
    let (item, list) = match arrow {
        ArrowType::List(item) => (item.data_type(), LIST),
        scalar => (scalar, 0),
    };
    let place = TYPES.iter().position(|candidate| match (candidate, item) {
        (DataType::Timestamp, ArrowType::Timestamp(..)) => candidate.arrow() == *item,
        (DataType::String, ArrowType::Utf8)
        | (DataType::Bool, ArrowType::Boolean)
        | (DataType::I32, ArrowType::Int32)
        | (DataType::I64, ArrowType::Int64)
        | (DataType::F32, ArrowType::Float32)
        | (DataType::F64, ArrowType::Float64) => true,
        _ => false,
    });
    let place = place.and_then(|place| u8::try_from(place).ok());
    place
        .map(|place| place + list)
        .ok_or_else(|| malformed("a column is of no feature's type"))
}

fn type_of(bytes: &mut Bytes<'_>) -> Result<DataType, ArrowError> {
    let [number] = bytes.array()?;
    let scalar = TYPES.get(usize::from(number % LIST)).copied();
    let found = match number / LIST {
        0 => scalar,
        1 => scalar.and_then(DataType::element).map(DataType::List),
        _ => None,
    };
    found.ok_or_else(|| malformed("an unknown type"))
}

fn pack(values: &ArrayRef, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    match values.nulls().filter(|nulls| nulls.null_count() > 0) {
        Some(nulls) => {
            out.push(1);
            pack_bits(nulls.inner(), out);
        }
        None => out.push(0),
    }
    match values.data_type() {
        ArrowType::Int32 => pack_numbers::<Int32Type>(values, out),
        ArrowType::Int64 => pack_numbers::<Int64Type>(values, out),
        ArrowType::Float32 => pack_numbers::<Float32Type>(values, out),
        ArrowType::Float64 => pack_numbers::<Float64Type>(values, out),
        ArrowType::Timestamp(..) => pack_numbers::<TimestampMicrosecondType>(values, out),
        ArrowType::Boolean => pack_bits(values.as_boolean().values(), out),
        ArrowType::Utf8 => {
            let texts = values.as_string::<i32>();
            let (first, last) = pack_offsets(texts.offsets(), out);
            out.extend(texts.value_data().get(first..last).unwrap_or_default());
        }
        ArrowType::List(_) => {
            let lists = values.as_list::<i32>();
            let (first, last) = pack_offsets(lists.offsets(), out);
            pack(&lists.values().slice(first, last - first), out)?;
        }
        _ => return Err(malformed("a column is of no feature's type")),
    }
    Ok(())
}

fn pack_numbers<T>(values: &ArrayRef, out: &mut Vec<u8>)
where
    T: ArrowPrimitiveType,
    T::Native: Number,
{
    for value in values.as_primitive::<T>().values() {
        value.put(out);
    }
}

fn pack_bits(bits: &BooleanBuffer, out: &mut Vec<u8>) {
    out.extend_from_slice(
        bits.sliced()
            .as_slice()
            .get(..bits.len().div_ceil(8))
            .unwrap_or_default(),
    );
}

/// Offsets from 0 on; returns where the first and the last stood.
fn pack_offsets(offsets: &OffsetBuffer<i32>, out: &mut Vec<u8>) -> (usize, usize) {
    let first = offsets.first().copied().unwrap_or_default();
    for offset in offsets.iter() {
        out.extend((offset - first).to_le_bytes());
    }
    (first.as_usize(), offsets.last().copied().unwrap_or_default().as_usize())
}

fn unpack(bytes: &mut Bytes<'_>, data_type: DataType, len: usize) -> Result<ArrayRef, ArrowError> {
    let nulls = match bytes.array()? {
        [0] => None,
        [1] => Some(NullBuffer::new(bytes.bits(len)?)),
        _ => return Err(malformed("neither valid nor null")),
    };
    Ok(match data_type {
        DataType::I32 => Arc::new(PrimitiveArray::<Int32Type>::try_new(bytes.numbers(len)?, nulls)?),
        DataType::I64 => Arc::new(PrimitiveArray::<Int64Type>::try_new(bytes.numbers(len)?, nulls)?),
        DataType::F32 => Arc::new(PrimitiveArray::<Float32Type>::try_new(bytes.numbers(len)?, nulls)?),
        DataType::F64 => Arc::new(PrimitiveArray::<Float64Type>::try_new(bytes.numbers(len)?, nulls)?),
        DataType::Timestamp => {
            let times = PrimitiveArray::<TimestampMicrosecondType>::try_new(bytes.numbers(len)?, nulls)?;
            Arc::new(times.with_timezone("UTC"))
        }
        DataType::Bool => Arc::new(BooleanArray::new(bytes.bits(len)?, nulls)),
        DataType::String => {
            let (offsets, end) = bytes.offsets(len)?;
            Arc::new(StringArray::try_new(offsets, Buffer::from(bytes.take(end)?), nulls)?)
        }
        DataType::List(element) => {
            let (offsets, end) = bytes.offsets(len)?;
            let items = unpack(bytes, element.data_type(), end)?;
            let field = Arc::new(Field::new_list_field(element.data_type().arrow(), true));
            Arc::new(ListArray::try_new(field, offsets, items, nulls)?)
        }
    })
}

/// What is left to read. Nothing is set aside for what has not arrived.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ArrowError> {
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .ok_or_else(|| malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ArrowError> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or_else(|| malformed("it ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn count(&mut self) -> Result<usize, ArrowError> {
        usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|_| malformed("a number is too large"))
    }

    fn numbers<N: Number>(&mut self, len: usize) -> Result<ScalarBuffer<N>, ArrowError> {
        let bytes = len
            .checked_mul(size_of::<N>())
            .ok_or_else(|| malformed("a number is too large"))?;
        Ok(self.take(bytes)?.chunks_exact(size_of::<N>()).map(N::of).collect())
    }

    fn bits(&mut self, len: usize) -> Result<BooleanBuffer, ArrowError> {
        Ok(BooleanBuffer::new(Buffer::from(self.take(len.div_ceil(8))?), 0, len))
    }

    /// Offsets of `len` texts or lists, and where the last ends.
    fn offsets(&mut self, len: usize) -> Result<(OffsetBuffer<i32>, usize), ArrowError> {
        let count = len.checked_add(1).ok_or_else(|| malformed("a number is too large"))?;
        let offsets = self.numbers::<i32>(count)?;
        let ascend = offsets.first() == Some(&0) && offsets.is_sorted();
        let end = offsets.last().copied().unwrap_or_default();
        if !ascend {
            return Err(malformed("offsets do not ascend from 0"));
        }
        Ok((OffsetBuffer::new(offsets), end.as_usize()))
    }
}

/// Numbers as they are sent.
trait Number: ArrowNativeType {
    /// Appends its bytes.
    fn put(self, out: &mut Vec<u8>);

    /// From its bytes, which are as many as it has.
    fn of(bytes: &[u8]) -> Self;
}

macro_rules! number {
    ($($number:ty),+) => {$(
        impl Number for $number {
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn of(bytes: &[u8]) -> Self {
                bytes.try_into().map(Self::from_le_bytes).unwrap_or_default()
            }
        }
    )+};
}

number!(i32, i64, f32, f64);

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float32Array, Float64Array, Int32Array, Int64Array, TimestampMicrosecondArray};

    /// A column with its feature.
    fn column(name: &str, values: ArrayRef) -> (FeatureRef, FeatureColumn) {
        let statuses = [FeatureStatus::Fresh, FeatureStatus::Missing, FeatureStatus::Stale];
        let times = [Some(EventTime::from_micros(5)), None, Some(EventTime::from_micros(-1))];
        let column = FeatureColumn {
            view_version: 2,
            status: statuses[..values.len()].into(),
            event_time: times[..values.len()].into(),
            values,
        };
        (FeatureRef::new("card", name), column)
    }

    /// Every type, with nulls and with none, of three rows.
    fn batch() -> FeatureBatch {
        let lists = [Some(vec![Some(0.1), Some(f64::NAN)]), None, Some(vec![])];
        let mut texts = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
        texts.append_value([Some("가"), Some("")]);
        texts.append_null();
        texts.append_value([Some("c")]);
        let times = TimestampMicrosecondArray::from(vec![Some(1), None, Some(i64::MIN)]).with_timezone("UTC");
        let columns = vec![
            column(
                "bools",
                Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            ),
            column("i32s", Arc::new(Int32Array::from(vec![Some(-1), None, Some(i32::MAX)]))),
            column("counts", Arc::new(Int64Array::from(vec![7, 0, i64::MIN]))),
            column("f32s", Arc::new(Float32Array::from(vec![Some(0.1), None, Some(-0.0)]))),
            column(
                "f64s",
                Arc::new(Float64Array::from(vec![f64::NAN, -0.0, f64::MIN_POSITIVE])),
            ),
            column("texts", Arc::new(StringArray::from(vec![Some("KR"), None, Some("")]))),
            column("times", Arc::new(times)),
            column(
                "lists",
                Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(lists)),
            ),
            column("text_lists", Arc::new(texts.finish())),
        ];
        let (features, columns): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        FeatureBatch {
            as_of: EventTime::from_micros(6),
            rows: 3,
            features: features.into(),
            columns,
        }
    }

    fn names(batch: &FeatureBatch) -> Vec<FeatureRef> {
        batch.features.to_vec()
    }

    fn there_and_back(batch: &FeatureBatch) -> FeatureBatch {
        FeatureBatch::from_packed(&batch.to_packed().unwrap(), names(batch)).unwrap()
    }

    #[test]
    fn a_batch_of_every_type_arrives_as_it_was_sent() {
        let sent = batch();
        let got = there_and_back(&sent);
        assert_eq!(got.as_of, sent.as_of);
        assert_eq!(got.to_arrow().unwrap(), sent.to_arrow().unwrap());
        assert_eq!(
            got.columns[4].values.as_primitive::<Float64Type>().value(0).to_bits(),
            f64::NAN.to_bits()
        );
    }

    #[test]
    fn what_is_a_part_of_longer_columns_arrives_alone() {
        let whole = batch();
        for (from, rows) in [(0, 0), (1, 1), (1, 2), (2, 1)] {
            let columns = whole.columns.iter().map(|column| FeatureColumn {
                values: column.values.slice(from, rows),
                status: column.status[from..from + rows].into(),
                event_time: column.event_time[from..from + rows].into(),
                ..column.clone()
            });
            let part = FeatureBatch {
                rows,
                columns: columns.collect(),
                ..whole.clone()
            };
            assert_eq!(
                there_and_back(&part).to_arrow().unwrap(),
                part.to_arrow().unwrap(),
                "{from} {rows}"
            );
        }
    }

    #[test]
    fn a_batch_of_no_features_has_its_rows() {
        let none = FeatureBatch {
            features: Arc::default(),
            columns: Vec::new(),
            ..batch()
        };
        assert_eq!(there_and_back(&none).rows, 3);
    }

    #[test]
    fn the_bytes_stay_as_they_are() {
        let (feature, column) = column("texts", Arc::new(StringArray::from(vec![Some("KR"), None])));
        let one = FeatureBatch {
            as_of: EventTime::from_micros(6),
            rows: 2,
            features: [feature].into(),
            columns: vec![column],
        };
        let expected: Vec<u8> = [
            b"OFB1".as_slice(),
            &[6, 0, 0, 0, 0, 0, 0, 0],
            &[2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
            &[2, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 2],
            &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80],
            &[1, 0b01],
            &[0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0],
            b"KR",
        ]
        .concat();
        assert_eq!(one.to_packed().unwrap(), expected);
    }

    #[test]
    fn no_more_event_times_than_features_are_read() {
        let none = FeatureBatch {
            rows: 0,
            features: Arc::default(),
            columns: Vec::new(),
            ..batch()
        };
        let mut bytes = none.to_packed().unwrap();
        bytes[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = FeatureBatch::from_packed(&bytes, Vec::new()).unwrap_err().to_string();
        assert!(error.contains("more columns of event times"), "{error}");
    }

    #[test]
    fn what_is_cut_short_or_goes_on_is_refused() {
        let whole = batch();
        let bytes = whole.to_packed().unwrap();
        for len in 0..bytes.len() {
            FeatureBatch::from_packed(&bytes[..len], names(&whole)).unwrap_err();
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        FeatureBatch::from_packed(&longer, names(&whole)).unwrap_err();
        let fewer = names(&whole)[1..].to_vec();
        let error = FeatureBatch::from_packed(&bytes, fewer).unwrap_err().to_string();
        assert!(error.contains("other features"), "{error}");
    }
}
