//! How the columns of a data file are encoded: by what its first rows look like.
//!
//! A dictionary is worth its cost where values repeat. Writing one hashes and keeps every value, and gives up only once the
//! page of distinct ones is full: of long texts that hardly repeat (a decision's vector) that is most of the time that a
//! commit takes besides compressing, and all of it for nothing. Offsets never repeat.

use super::data_file::text;
use arrow::array::{AsArray, RecordBatch, StringArray};
use ondol_feature_store_api::wire::columns;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use std::collections::HashSet;

/// Rows of a row group: what a reader of a large file holds of it at a time, and what it can skip.
const ROW_GROUP_ROWS: usize = 131_072;
/// Values of a column that are looked at.
const SAMPLE: usize = 256;
/// Shorter texts may be keys, which come again in later rows, and are cheap to hash.
const LONG_BYTES: usize = 64;

/// The properties of a file that begins with `rows`.
pub(super) fn of_file(rows: &RecordBatch) -> Result<WriterProperties, String> {
    let level = ZstdLevel::try_new(1).map_err(text)?;
    let plain = |name: &str| ColumnPath::new(vec![name.to_owned()]);
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_column_dictionary_enabled(plain(columns::OFFSET), false);
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        if column.as_string_opt::<i32>().is_some_and(hardly_repeats) {
            properties = properties.set_column_dictionary_enabled(plain(field.name()), false);
        }
    }
    Ok(properties.build())
}

/// Whether `texts` are long and nearly all distinct.
fn hardly_repeats(texts: &StringArray) -> bool {
    let sample: Vec<&str> = texts.iter().take(SAMPLE).flatten().collect();
    let bytes: usize = sample.iter().map(|text| text.len()).sum();
    if bytes < sample.len().max(1) * LONG_BYTES {
        return false;
    }
    let distinct: HashSet<&str> = sample.iter().copied().collect();
    distinct.len() * 10 >= sample.len() * 9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_texts_that_hardly_repeat_have_no_dictionary() {
        let texts = |text: &dyn Fn(usize) -> String| StringArray::from_iter_values((0..1_000).map(text));
        let long = "x".repeat(100);
        assert!(hardly_repeats(&texts(&|row| format!("{long}{row}"))));
        assert!(
            !hardly_repeats(&texts(&|row| format!("{long}{}", row % 100))),
            "they repeat"
        );
        assert!(!hardly_repeats(&texts(&|row| format!("{row}"))), "they are short");
        assert!(!hardly_repeats(&StringArray::new_null(10)));
        assert!(!hardly_repeats(&StringArray::new_null(0)));
    }
}
