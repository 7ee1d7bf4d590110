//! The digest of rows: equal for equal values in the same columns and order, however they are cut into batches, encoded
//! in dictionaries or kept in a file.
//!
//! SHA-256 over, column by column, the name and what was fed of its values: for each row a byte that says whether it is
//! null; the values that are not, in little-endian bytes (text and bytes after their length, a list after the number of
//! its items). Types are told apart by the width of their values alone: a digest goes with a schema.

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, RecordBatch, downcast_primitive_array};
use arrow::compute::cast;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Schema, ToByteSlice};
use arrow::error::ArrowError;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// Names the method, so that another one could be told from it.
const PREFIX: &str = "sha256:";

/// A digest in the making.
#[derive(Clone, Debug)]
pub struct RowsDigest {
    columns: Vec<Column>,
    rows: u64,
    /// Of the nulls of every column that has none so far: they are fed once for all of them.
    whole: Sha256,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    /// None before the first null.
    nulls: Option<Sha256>,
    values: Sha256,
}

impl RowsDigest {
    /// Of no rows yet, with the columns of `schema`.
    pub fn new(schema: &Schema) -> Self {
        let column = |name: &String| Column {
            name: name.clone(),
            nulls: None,
            values: Sha256::new(),
        };
        Self {
            columns: schema.fields().iter().map(|field| column(field.name())).collect(),
            rows: 0,
            whole: Sha256::new(),
        }
    }

    /// Adds the rows of `batch`, whose columns must be the schema's.
    ///
    /// # Errors
    /// When a column has a type that has no values to digest.
    pub fn update(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        for (column, array) in self.columns.iter_mut().zip(batch.columns()) {
            let array = &plain(array)?;
            if column.nulls.is_some() || has_null(array) {
                feed_nulls(column.nulls.get_or_insert_with(|| self.whole.clone()), array);
            }
            feed_values(&mut column.values, array)?;
        }
        feed_valid(&mut self.whole, batch.num_rows());
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// The digest as text: `sha256:` and 64 hexadecimal digits.
    pub fn finish(self) -> String {
        let mut all = Sha256::new();
        all.update(self.rows.to_le_bytes());
        for column in self.columns {
            all.update((column.name.len() as u64).to_le_bytes());
            all.update(column.name.as_bytes());
            all.update(column.nulls.unwrap_or_else(|| self.whole.clone()).finalize());
            all.update(column.values.finalize());
        }
        let mut text = PREFIX.to_owned();
        for byte in all.finalize() {
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }

    /// The digest of `batches`, whose columns are those of `schema`.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn of(schema: &Schema, batches: &[RecordBatch]) -> Result<String, ArrowError> {
        let mut digest = Self::new(schema);
        for batch in batches {
            digest.update(batch)?;
        }
        Ok(digest.finish())
    }
}

/// `array` without dictionaries, runs or views of lists.
fn plain(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let plain = match array.data_type() {
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        DataType::RunEndEncoded(_, value) => value.data_type().clone(),
        DataType::ListView(item) => DataType::List(item.clone()),
        DataType::LargeListView(item) => DataType::LargeList(item.clone()),
        _ => return Ok(Arc::clone(array)),
    };
    // The values of one may be another.
    self::plain(&cast(array, &plain)?)
}

fn has_null(array: &ArrayRef) -> bool {
    *array.data_type() == DataType::Null || array.null_count() > 0
}

fn feed_nulls(nulls: &mut Sha256, array: &ArrayRef) {
    if *array.data_type() == DataType::Null {
        nulls.update(vec![1; array.len()]);
        return;
    }
    match array.nulls().filter(|found| found.null_count() > 0) {
        Some(found) => nulls.update(found.iter().map(|is_valid| u8::from(!is_valid)).collect::<Vec<u8>>()),
        None => feed_valid(nulls, array.len()),
    }
}

/// Feeds the nulls of so many rows without any.
fn feed_valid(nulls: &mut Sha256, rows: usize) {
    const VALID: [u8; 4_096] = [0; 4_096];
    let mut left = rows;
    while let Some(rows) = VALID.get(..left.min(VALID.len())).filter(|rows| !rows.is_empty()) {
        nulls.update(rows);
        left -= rows.len();
    }
}

fn feed_values(values: &mut Sha256, array: &dyn Array) -> Result<(), ArrowError> {
    let rows = (0..array.len()).filter(|row| array.is_valid(*row));
    downcast_primitive_array!(
        array => feed_primitive(values, array),
        DataType::Null => {}
        DataType::Boolean => {
            let array = array.as_boolean();
            values.update(rows.map(|row| u8::from(array.value(row))).collect::<Vec<u8>>());
        }
        DataType::Utf8 => rows.for_each(|row| feed_bytes(values, array.as_string::<i32>().value(row).as_bytes())),
        DataType::LargeUtf8 => rows.for_each(|row| feed_bytes(values, array.as_string::<i64>().value(row).as_bytes())),
        DataType::Utf8View => rows.for_each(|row| feed_bytes(values, array.as_string_view().value(row).as_bytes())),
        DataType::Binary => rows.for_each(|row| feed_bytes(values, array.as_binary::<i32>().value(row))),
        DataType::LargeBinary => rows.for_each(|row| feed_bytes(values, array.as_binary::<i64>().value(row))),
        DataType::BinaryView => rows.for_each(|row| feed_bytes(values, array.as_binary_view().value(row))),
        DataType::FixedSizeBinary(_) => {
            rows.for_each(|row| feed_bytes(values, array.as_fixed_size_binary().value(row)));
        }
        DataType::List(_) => {
            for row in rows {
                feed_list(values, &array.as_list::<i32>().value(row))?;
            }
        }
        DataType::LargeList(_) => {
            for row in rows {
                feed_list(values, &array.as_list::<i64>().value(row))?;
            }
        }
        DataType::FixedSizeList(..) => {
            for row in rows {
                feed_list(values, &array.as_fixed_size_list().value(row))?;
            }
        }
        DataType::Map(..) => {
            for row in rows {
                feed_list(values, &(Arc::new(array.as_map().value(row)) as ArrayRef))?;
            }
        }
        DataType::Struct(_) => {
            for row in rows {
                for field in array.as_struct().columns() {
                    feed_list(values, &field.slice(row, 1))?;
                }
            }
        }
        other => {
            return Err(ArrowError::NotYetImplemented(format!("no digest of values of type {other}")));
        }
    );
    Ok(())
}

fn feed_primitive<T: ArrowPrimitiveType>(values: &mut Sha256, array: &PrimitiveArray<T>) {
    match array.nulls() {
        None => values.update(array.values().as_ref().to_byte_slice()),
        Some(nulls) => {
            // Where nulls are many, runs are short: copied together they are still fed faster than one by one.
            let mut present = Vec::with_capacity(size_of_val(array.values().as_ref()));
            for (start, end) in nulls.valid_slices() {
                present.extend_from_slice(array.values().get(start..end).unwrap_or_default().to_byte_slice());
            }
            values.update(present);
        }
    }
}

fn feed_bytes(values: &mut Sha256, bytes: &[u8]) {
    values.update((bytes.len() as u64).to_le_bytes());
    values.update(bytes);
}

/// Nested values are fed row by row with digests of their own nulls, so that it does not matter where batches end.
fn feed_list(values: &mut Sha256, items: &ArrayRef) -> Result<(), ArrowError> {
    values.update((items.len() as u64).to_le_bytes());
    let items = &plain(items)?;
    let mut nulls = Sha256::new();
    feed_nulls(&mut nulls, items);
    feed_values(values, items)?;
    values.update(nulls.finalize());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{DictionaryArray, Float64Array, Int64Array, ListArray, StringArray, StructArray};
    use arrow::datatypes::{Field, Int32Type, Int64Type};

    fn digest(name: &str, pieces: &[ArrayRef]) -> String {
        let batches: Vec<RecordBatch> = pieces
            .iter()
            .map(|array| RecordBatch::try_from_iter_with_nullable([(name, Arc::clone(array), true)]).unwrap())
            .collect();
        RowsDigest::of(&batches[0].schema(), &batches).unwrap()
    }

    /// Equal however the rows are cut; returns the digest.
    fn cut(array: &ArrayRef) -> String {
        let whole = digest("x", &[Arc::clone(array)]);
        for at in 0..=array.len() {
            let pieces = [array.slice(0, at), array.slice(at, array.len() - at)];
            assert_eq!(digest("x", &pieces), whole, "cut at {at}");
        }
        whole
    }

    #[test]
    fn a_digest_is_of_the_rows_and_not_of_how_they_are_cut() {
        let integers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        let strings: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("bc")]));
        let lists = [Some(vec![Some(1), None]), None, Some(vec![])];
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists));
        let field = |name: &str, array: &ArrayRef| Arc::new(Field::new(name, array.data_type().clone(), true));
        let pair: ArrayRef = Arc::new(StructArray::from(vec![
            (field("a", &integers), Arc::clone(&integers)),
            (field("b", &strings), Arc::clone(&strings)),
        ]));
        let all = [&integers, &strings, &lists, &pair].map(cut);
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    }

    #[test]
    fn any_other_value_name_or_order_is_another_digest() {
        let of = |values: Vec<Option<f64>>| digest("x", &[Arc::new(Float64Array::from(values)) as ArrayRef]);
        let base = of(vec![Some(0.0), None]);
        assert_eq!(base, of(vec![Some(0.0), None]));
        for other in [
            of(vec![Some(-0.0), None]),
            of(vec![None, Some(0.0)]),
            of(vec![Some(0.0)]),
            digest("y", &[Arc::new(Float64Array::from(vec![Some(0.0), None])) as ArrayRef]),
        ] {
            assert_ne!(base, other);
        }
        let texts = |values: Vec<&str>| digest("x", &[Arc::new(StringArray::from(values)) as ArrayRef]);
        assert_ne!(texts(vec!["ab", "c"]), texts(vec!["a", "bc"]));
    }

    #[test]
    fn a_dictionary_is_as_good_as_its_values() {
        let words: DictionaryArray<Int32Type> = vec![Some("a"), None, Some("a")].into_iter().collect();
        let plain: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("a")]));
        assert_eq!(digest("x", &[Arc::new(words)]), digest("x", &[plain]));
    }

    #[test]
    fn columns_whose_first_null_comes_late_are_as_if_it_had_come_alone() {
        let with = |null: Option<usize>| -> ArrayRef {
            Arc::new(
                (0..40)
                    .map(|row| (Some(row) != null).then_some(row as i64))
                    .collect::<Int64Array>(),
            )
        };
        for (first, second) in [(None, Some(30)), (Some(3), Some(30)), (Some(30), None), (None, None)] {
            let columns = [with(first), with(second)];
            let batch = |rows: std::ops::Range<usize>| {
                let columns = columns.iter().map(|column| column.slice(rows.start, rows.len()));
                RecordBatch::try_from_iter_with_nullable(["a", "b"].into_iter().zip(columns).map(|(n, c)| (n, c, true)))
                    .unwrap()
            };
            let whole = RowsDigest::of(&batch(0..40).schema(), &[batch(0..40)]).unwrap();
            let cut = [batch(0..10), batch(10..25), batch(25..40)];
            assert_eq!(RowsDigest::of(&cut[0].schema(), &cut).unwrap(), whole);
            // As it is written down: each column's nulls by themselves.
            let mut all = Sha256::new();
            all.update(40u64.to_le_bytes());
            for (name, column) in ["a", "b"].into_iter().zip(&columns) {
                all.update(1u64.to_le_bytes());
                all.update(name);
                let nulls: Vec<u8> = (0..40).map(|row| u8::from(column.is_null(row))).collect();
                all.update(Sha256::digest(nulls));
                let mut values = Sha256::new();
                feed_values(&mut values, column).unwrap();
                all.update(values.finalize());
            }
            let expected: String = all.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(whole, format!("{PREFIX}{expected}"));
        }
    }

    #[test]
    fn the_digest_stays_what_it_was_when_manifests_were_written() {
        let integers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        assert_eq!(
            digest("x", &[integers]),
            "sha256:d9625911c79417b1193184570e46c66614f1afcd154f04ddff4cc5b52f59bd39"
        );
    }
}
