//! Some rows of a column chunk, taken out of its pages without decoding the others.
//!
//! Numbers of a fixed width lie in a page where their row's place says: side by side, or as numbers of dictionary entries
//! in runs of one width. So of a page that has been decompressed only the wanted values are touched, and pages without
//! any are not even decompressed. Columns of other types and encodings are for the ordinary reader.
//!
//! Formats: Parquet's data pages V1 and V2, `PLAIN`, `RLE_DICTIONARY`, and the hybrid of run lengths and bit packing
//! (<https://parquet.apache.org/docs/file-format/data-pages/encodings/>).

use arrow::array::{ArrayData, ArrayRef, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::{ArrowNativeType, DataType as ArrowType, TimeUnit as ArrowUnit};
use bytes::Bytes;
use parquet::basic::{Encoding, LogicalType, TimeUnit, Type as PhysicalType};
use parquet::column::page::{Page, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::ChunkReader;
use parquet::file::serialized_reader::SerializedPageReader;
use std::ops::Range;
use std::sync::Arc;

/// The values of column `name` of a row group at `rows`, ascending, as an array of type `arrow`, which is the one that
/// the ordinary reader gives; none if the column is not of a kind that is known here.
pub(super) fn pick<R: ChunkReader + 'static>(
    file: &Arc<R>,
    group: &RowGroupMetaData,
    name: &str,
    arrow: &ArrowType,
    rows: &[u32],
) -> Result<Option<ArrayRef>, ParquetError> {
    let chunk = group
        .columns()
        .iter()
        .find(|chunk| chunk.column_path().parts() == [name]);
    let Some(chunk) = chunk.filter(|chunk| is_plain(chunk, arrow)) else {
        return Ok(None);
    };
    match arrow.primitive_width() {
        Some(4) => Picking::<u32>::of(file, group, chunk, rows)?.map(|picked| picked.array(arrow)),
        Some(8) => Picking::<u64>::of(file, group, chunk, rows)?.map(|picked| picked.array(arrow)),
        _ => None,
    }
    .transpose()
}

/// Whether values of `arrow` are those of the chunk as they lie in the file.
fn is_plain(chunk: &ColumnChunkMetaData, arrow: &ArrowType) -> bool {
    let column = chunk.column_descr();
    let is_flat = column.max_rep_level() == 0 && column.max_def_level() <= 1;
    let unit = match column.logical_type_ref() {
        Some(LogicalType::Timestamp(of)) => Some(of.unit),
        _ => None,
    };
    let is_same = match (arrow, column.physical_type()) {
        (ArrowType::Int32, PhysicalType::INT32)
        | (ArrowType::Int64, PhysicalType::INT64)
        | (ArrowType::Float32, PhysicalType::FLOAT)
        | (ArrowType::Float64, PhysicalType::DOUBLE) => true,
        (ArrowType::Timestamp(arrow, _), PhysicalType::INT64) => matches!(
            (arrow, unit),
            (ArrowUnit::Millisecond, Some(TimeUnit::MILLIS))
                | (ArrowUnit::Microsecond, Some(TimeUnit::MICROS))
                | (ArrowUnit::Nanosecond, Some(TimeUnit::NANOS))
        ),
        _ => false,
    };
    is_flat && is_same
}

/// The bits of a value.
trait Bits: ArrowNativeType {
    /// Of its bytes in a file.
    fn read(bytes: &[u8]) -> Option<Self>;
}

impl Bits for u32 {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_le_bytes(*bytes.first_chunk()?))
    }
}

impl Bits for u64 {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_le_bytes(*bytes.first_chunk()?))
    }
}

/// Values picked so far.
struct Picking<T> {
    dictionary: Bytes,
    values: Vec<T>,
    /// Whether there is a value; empty while there always is.
    valid: Vec<bool>,
}

/// A data page, taken apart.
struct Part<'a> {
    levels: &'a [u8],
    values: &'a [u8],
    encoding: Encoding,
    rows: usize,
}

impl<T: Bits> Picking<T> {
    /// None where a page is not of a kind that is known here.
    fn of<R: ChunkReader + 'static>(
        file: &Arc<R>,
        group: &RowGroupMetaData,
        chunk: &ColumnChunkMetaData,
        rows: &[u32],
    ) -> Result<Option<Self>, ParquetError> {
        let count = usize::try_from(group.num_rows())?;
        let mut pages = SerializedPageReader::new(Arc::clone(file), chunk, count, None)?;
        let has_levels = chunk.column_descr().max_def_level() > 0;
        let mut picking = Self {
            dictionary: Bytes::new(),
            values: Vec::with_capacity(rows.len()),
            valid: Vec::new(),
        };
        let (mut first, mut left) = (0usize, rows);
        while let Some(next) = left.first().map(|row| *row as usize) {
            let Some(header) = pages.peek_next_page()? else {
                return Err(corrupt("a column ends before its last row"));
            };
            let page_rows = header.num_rows.or(header.num_levels).unwrap_or(0);
            if !header.is_dict && page_rows > 0 && first + page_rows <= next {
                pages.skip_next_page()?;
                first += page_rows;
                continue;
            }
            let Some(page) = pages.get_next_page()? else {
                return Err(corrupt("a column ends before its last row"));
            };
            if let Page::DictionaryPage { buf, encoding, .. } = &page {
                if !matches!(encoding, Encoding::PLAIN | Encoding::PLAIN_DICTIONARY) {
                    return Ok(None);
                }
                picking.dictionary = buf.clone();
                continue;
            }
            let Some(part) = part(&page, has_levels)? else {
                return Ok(None);
            };
            let here = left.partition_point(|row| (*row as usize) < first + part.rows);
            let (wanted, rest) = left.split_at(here);
            if !picking.take(&part, first, wanted)? {
                return Ok(None);
            }
            left = rest;
            first += part.rows;
        }
        Ok(Some(picking))
    }

    /// Takes the values of `rows` out of a page whose first row is `first`. `false` if it is encoded in another way.
    fn take(&mut self, part: &Part<'_>, first: usize, rows: &[u32]) -> Result<bool, ParquetError> {
        let local = rows.iter().map(|row| *row as usize - first);
        if part.levels.is_empty() || Runs::new(part.levels, 1).all_are(1, part.rows)? {
            if !self.valid.is_empty() {
                self.valid.resize(self.valid.len() + rows.len(), true);
            }
            return self.take_values(part, local);
        }
        // Nulls have no place among the values: the place of a value is the number of values before it.
        self.valid.resize(self.values.len(), true);
        let mut places = Vec::with_capacity(rows.len());
        let mut levels = Runs::new(part.levels, 1);
        let (mut next, mut before) = (0, 0);
        for row in local {
            while next < row {
                before += levels.get(next)? as usize;
                next += 1;
            }
            let is_valid = levels.get(row)? == 1;
            self.valid.push(is_valid);
            if is_valid {
                places.push(before);
            }
        }
        let start = self.values.len();
        if !self.take_values(part, places.into_iter())? {
            return Ok(false);
        }
        // Spread out over the rows that have one.
        let packed = self.values.split_off(start);
        let mut packed = packed.into_iter();
        for is_valid in self.valid.get(start..).unwrap_or_default() {
            let value = if *is_valid { packed.next() } else { None };
            self.values.push(value.unwrap_or_default());
        }
        Ok(true)
    }

    /// Takes the values at `places`, ascending.
    fn take_values(&mut self, part: &Part<'_>, places: impl Iterator<Item = usize>) -> Result<bool, ParquetError> {
        let width = size_of::<T>();
        let cut = || corrupt("a value lies beyond its page");
        match part.encoding {
            Encoding::PLAIN => {
                for place in places {
                    let value = part.values.get(place * width..).and_then(T::read);
                    self.values.push(value.ok_or_else(cut)?);
                }
            }
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => {
                let mut places = places.peekable();
                if places.peek().is_none() {
                    return Ok(true);
                }
                let (bits, indexes) = part.values.split_first().ok_or_else(cut)?;
                let mut indexes = Runs::new(indexes, *bits);
                for place in places {
                    let index = indexes.get(place)? as usize;
                    let value = self.dictionary.get(index * width..).and_then(T::read);
                    self.values
                        .push(value.ok_or_else(|| corrupt("a value is not in its dictionary"))?);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn array(self, arrow: &ArrowType) -> Result<ArrayRef, ParquetError> {
        let nulls = (!self.valid.is_empty()).then(|| NullBuffer::from(BooleanBuffer::from(self.valid)));
        let data = ArrayData::builder(arrow.clone())
            .len(self.values.len())
            .add_buffer(Buffer::from_vec(self.values))
            .nulls(nulls.filter(|nulls| nulls.null_count() > 0));
        Ok(make_array(data.build()?))
    }
}

/// The levels and values of a data page; none if its levels are encoded in another way.
fn part(page: &Page, has_levels: bool) -> Result<Option<Part<'_>>, ParquetError> {
    let cut = || corrupt("levels lie beyond their page");
    match page {
        Page::DataPage {
            buf,
            num_values,
            encoding,
            def_level_encoding,
            ..
        } => {
            let (levels, values) = if has_levels {
                if *def_level_encoding != Encoding::RLE {
                    return Ok(None);
                }
                let (length, rest) = buf.split_first_chunk::<4>().ok_or_else(cut)?;
                rest.split_at_checked(u32::from_le_bytes(*length) as usize)
                    .ok_or_else(cut)?
            } else {
                (&[][..], &buf[..])
            };
            Ok(Some(Part {
                levels,
                values,
                encoding: *encoding,
                rows: *num_values as usize,
            }))
        }
        Page::DataPageV2 {
            buf,
            num_values,
            encoding,
            def_levels_byte_len,
            rep_levels_byte_len,
            ..
        } => {
            let levels = *rep_levels_byte_len as usize;
            let values = levels + *def_levels_byte_len as usize;
            Ok(Some(Part {
                levels: buf.get(levels..values).ok_or_else(cut)?,
                values: buf.get(values..).ok_or_else(cut)?,
                encoding: *encoding,
                rows: *num_values as usize,
            }))
        }
        Page::DictionaryPage { .. } => Ok(None),
    }
}

/// Small numbers in runs: one number many times, or packed into bits. Read forwards, any number left out.
struct Runs<'a> {
    bytes: &'a [u8],
    bits: u8,
    /// The places of the present run.
    run: Range<usize>,
    content: Content<'a>,
}

#[derive(Clone, Copy)]
enum Content<'a> {
    Same(u32),
    Packed(&'a [u8]),
}

impl<'a> Runs<'a> {
    fn new(bytes: &'a [u8], bits: u8) -> Self {
        Self {
            bytes,
            bits,
            run: 0..0,
            content: Content::Same(0),
        }
    }

    /// The number at `place`, which is not before the one asked for last.
    #[inline]
    fn get(&mut self, place: usize) -> Result<u32, ParquetError> {
        while place >= self.run.end {
            self.advance()?;
        }
        Ok(match self.content {
            Content::Same(value) => value,
            Content::Packed(packed) => {
                let bit = (place - self.run.start) * usize::from(self.bits);
                let bytes = packed.get(bit / 8..).unwrap_or_default();
                let word = match bytes.first_chunk() {
                    Some(word) => u64::from_le_bytes(*word),
                    None => little_endian(bytes),
                };
                ((word >> (bit % 8)) & ((1u64 << self.bits) - 1)) as u32
            }
        })
    }

    /// Whether the first `count` numbers are all `value`.
    fn all_are(mut self, value: u32, count: usize) -> Result<bool, ParquetError> {
        while self.run.end < count {
            self.advance()?;
            let is_same = match self.content {
                Content::Same(same) => same == value,
                Content::Packed(_) => {
                    let mut places = self.run.start..self.run.end.min(count);
                    places.all(|place| self.get(place).is_ok_and(|found| found == value))
                }
            };
            if !is_same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes to the next run.
    fn advance(&mut self) -> Result<(), ParquetError> {
        let cut = || corrupt("a run is cut short");
        if self.bits > 32 {
            return Err(corrupt("numbers of more than 32 bits"));
        }
        let (mut header, mut shift) = (0u64, 0);
        loop {
            let (byte, rest) = self.bytes.split_first().ok_or_else(cut)?;
            self.bytes = rest;
            header |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 56 {
                return Err(corrupt("the length of a run is none"));
            }
        }
        let start = self.run.end;
        let many = usize::try_from(header >> 1)?;
        let (length, bytes) = match header & 1 {
            // Groups of eight; the last ones of a page may be left out.
            1 => (many.saturating_mul(8), many.saturating_mul(usize::from(self.bits))),
            _ => (many, usize::from(self.bits).div_ceil(8)),
        };
        let whole = self.bytes.len().min(bytes);
        if length == 0 || (header & 1 == 0 && whole < bytes) || (whole == 0 && bytes > 0) {
            return Err(cut());
        }
        let (content, rest) = self.bytes.split_at_checked(whole).ok_or_else(cut)?;
        self.bytes = rest;
        self.run = start..start.saturating_add(length);
        self.content = match header & 1 {
            1 => Content::Packed(content),
            _ => Content::Same(little_endian(content) as u32),
        };
        Ok(())
    }
}

/// Of up to eight bytes.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .rev()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn corrupt(what: &str) -> ParquetError {
    ParquetError::General(format!("corrupt: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        Array, AsArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
        UInt32Array,
    };
    use arrow::compute::{concat_batches, take};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::basic::Compression;
    use parquet::file::properties::{WriterProperties, WriterVersion};
    use proptest::prelude::*;

    /// Five columns of different types of `values`, of which those of the narrow types are cut short.
    fn batch(values: &[Option<i64>], has_nulls: bool) -> RecordBatch {
        let values = || {
            values
                .iter()
                .map(|value| if has_nulls { *value } else { Some(value.unwrap_or(7)) })
        };
        let columns: [(&str, ArrayRef); 5] = [
            ("i64", Arc::new(values().collect::<Int64Array>())),
            (
                "i32",
                Arc::new(
                    values()
                        .map(|value| value.map(|value| value as i32))
                        .collect::<Int32Array>(),
                ),
            ),
            (
                "f64",
                Arc::new(
                    values()
                        .map(|value| value.map(|value| value as f64))
                        .collect::<Float64Array>(),
                ),
            ),
            (
                "f32",
                Arc::new(
                    values()
                        .map(|value| value.map(|value| value as f32))
                        .collect::<Float32Array>(),
                ),
            ),
            (
                "ts",
                Arc::new(values().collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
            ),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, has_nulls))).unwrap()
    }

    fn file(batch: &RecordBatch, properties: WriterProperties) -> Bytes {
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
        bytes.into()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        #[test]
        fn picked_values_are_those_of_the_ordinary_reader(
            values in prop::collection::vec(prop::option::weighted(0.8, prop_oneof![0..3i64, any::<i64>()]), 1..700),
            repeated in 1..40usize,
            has_nulls in any::<bool>(),
            is_second in any::<bool>(),
            has_dictionary in any::<bool>(),
            compression in prop_oneof![Just(Compression::UNCOMPRESSED), Just(Compression::SNAPPY)],
            page_rows in 1..300usize,
            share in 0.0..1.0f64,
        ) {
            // In runs, too.
            let values: Vec<Option<i64>> = values.chunks(repeated).flat_map(|run| {
                let same = run.len() == repeated && repeated > 20;
                run.iter().map(move |value| if same { run[0] } else { *value })
            }).collect();
            let batch = batch(&values, has_nulls);
            let properties = WriterProperties::builder()
                .set_compression(compression)
                .set_writer_version(if is_second { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 })
                .set_dictionary_enabled(has_dictionary)
                .set_data_page_row_count_limit(page_rows)
                .set_write_batch_size(page_rows)
                .set_dictionary_page_size_limit(600)
                .build();
            let file = Arc::new(file(&batch, properties));
            let builder = ParquetRecordBatchReaderBuilder::try_new((*file).clone()).unwrap();
            let (metadata, schema) = (Arc::clone(builder.metadata()), Arc::clone(builder.schema()));
            let read: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
            let read = concat_batches(&schema, &read).unwrap();
            let rows: Vec<u32> = (0..values.len() as u32).filter(|row| f64::from(row % 97) < share * 97.0).collect();
            for field in schema.fields() {
                let picked = pick(&file, metadata.row_group(0), field.name(), field.data_type(), &rows).unwrap();
                // What falls back from its dictionary is written in deltas by the second version of pages.
                let Some(picked) = picked else {
                    prop_assert!(is_second && !field.data_type().is_floating());
                    continue;
                };
                let column = read.column_by_name(field.name()).unwrap();
                let expected = take(column, &UInt32Array::from(rows.clone()), None).unwrap();
                prop_assert!(picked.to_data() == expected.to_data(), "{}", field.name());
            }
        }

        #[test]
        fn corrupt_pages_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..60), bits in 0..40u8, place in 0..500usize) {
            let mut runs = Runs::new(&bytes, bits);
            let _ = runs.get(place);
            let _ = Runs::new(&bytes, bits).all_are(1, place);
        }
    }

    #[test]
    fn other_types_are_for_the_ordinary_reader() {
        let flags: ArrayRef = Arc::new(arrow::array::BooleanArray::from(vec![true, false]));
        let batch = RecordBatch::try_from_iter([("flag", flags)]).unwrap();
        let file = Arc::new(file(&batch, WriterProperties::default()));
        let metadata = Arc::clone(
            ParquetRecordBatchReaderBuilder::try_new((*file).clone())
                .unwrap()
                .metadata(),
        );
        let picked = pick(&file, metadata.row_group(0), "flag", &ArrowType::Boolean, &[0]).unwrap();
        assert!(picked.is_none());
        assert_eq!(batch.column(0).as_boolean().len(), 2);
    }
}
