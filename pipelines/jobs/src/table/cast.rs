//! Columns as files hold them, turned into the types that the source declares.

use arrow::array::{Array, ArrayRef, StringArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType as ArrowType;
use ondol_vocabulary::Field;
use std::sync::Arc;

/// An overflow or an unreadable text is an error, never a null.
const STRICT: CastOptions<'static> = CastOptions {
    safe: false,
    format_options: arrow::util::display::FormatOptions::new(),
};

/// Whether a column of type `found` can be read as `field`. The error says what to change.
pub(super) fn check(found: &ArrowType, field: &Field) -> Result<(), String> {
    let declared = field.data_type.arrow();
    if *found == declared || sensible(found, &declared) {
        return Ok(());
    }
    if let (ArrowType::Timestamp(_, None), ArrowType::Timestamp(..)) = (found, &declared) {
        return Err(format!(
            "column `{}` is a timestamp without a time zone: write it with zone UTC (Parquet `isAdjustedToUTC`)",
            field.name
        ));
    }
    Err(mismatch(field, found))
}

/// `array` as the declared type of `field`. The error says what to change.
pub(super) fn to_declared(array: &ArrayRef, field: &Field) -> Result<ArrayRef, String> {
    let declared = field.data_type.arrow();
    if *array.data_type() == declared {
        return Ok(Arc::clone(array));
    }
    check(array.data_type(), field)?;
    cast_with_options(array, &declared, &STRICT)
        .map_err(|cause| format!("{}: {cause}", mismatch(field, array.data_type())))
}

/// A partition column: `text` repeated `rows` times, as the declared type of `field`.
pub(super) fn constant(text: Option<&str>, field: &Field, rows: usize) -> Result<ArrayRef, String> {
    let declared = field.data_type.arrow();
    let Some(text) = text else {
        return Ok(new_null_array(&declared, rows));
    };
    let one = StringArray::from(vec![text]);
    let one = cast_with_options(&one, &declared, &STRICT).map_err(|cause| {
        format!(
            "partition column `{}` is not {}: {cause}",
            field.name,
            field.data_type.name()
        )
    })?;
    let indices = arrow::array::UInt32Array::from(vec![0u32; rows]);
    arrow::compute::take(&one, &indices, None).map_err(|cause| cause.to_string())
}

fn mismatch(field: &Field, found: &ArrowType) -> String {
    format!(
        "column `{}` is {found} where the source declares {}: change the schema in the definition, or the table",
        field.name,
        field.data_type.name()
    )
}

/// Arrow casts nearly anything into anything; a table whose text happens to be a number is still not a number.
fn sensible(from: &ArrowType, to: &ArrowType) -> bool {
    if let ArrowType::Dictionary(_, value) = from {
        return sensible(value, to) || **value == *to;
    }
    match to {
        ArrowType::Utf8 => matches!(
            from,
            ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View | ArrowType::Null
        ),
        ArrowType::Boolean => matches!(from, ArrowType::Null),
        ArrowType::Timestamp(..) => matches!(from, ArrowType::Timestamp(_, Some(_)) | ArrowType::Null),
        ArrowType::Int32 | ArrowType::Int64 => from.is_integer() || matches!(from, ArrowType::Null),
        ArrowType::Float32 | ArrowType::Float64 => from.is_numeric() || matches!(from, ArrowType::Null),
        _ => false,
    }
}
