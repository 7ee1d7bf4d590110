//! CSV: text whose types are declared or guessed. What is guessed must lose nothing: `007` stays text, and so does a
//! column that looks like numbers for ten thousand rows and then does not. What looks like a moment stays text too, so
//! that its time zone is checked where the moment is used.

use anyhow::{Result, bail};
use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef};
use ondol_vocabulary::Field as NamedField;
use std::fs::File;
use std::io::{BufReader, Seek as _};
use std::sync::Arc;

/// Types that are guessed, from the narrowest: the first that every value fits.
const GUESSES: [ArrowType; 3] = [ArrowType::Boolean, ArrowType::Int64, ArrowType::Float64];

/// Reads a whole file. Columns named in `typed` take those types.
pub(super) fn read(mut file: File, typed: &[NamedField]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let (header, _) = arrow::csv::reader::Format::default()
        .with_header(true)
        .infer_schema(&mut file, Some(0))?;
    if header.fields().is_empty() {
        bail!("the file is empty: its first line must name the columns");
    }
    file.rewind()?;
    let text = |name: &str| Field::new(name, ArrowType::Utf8, true);
    let as_text = Arc::new(Schema::new(
        header
            .fields()
            .iter()
            .map(|field| text(field.name()))
            .collect::<Vec<_>>(),
    ));
    let reader = arrow::csv::ReaderBuilder::new(Arc::clone(&as_text))
        .with_header(true)
        .with_batch_size(65_536)
        .build(BufReader::new(file))?;
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>()?;

    let mut fields = Vec::with_capacity(as_text.fields().len());
    for (index, field) in as_text.fields().iter().enumerate() {
        let column: Vec<&ArrayRef> = batches.iter().map(|batch| batch.column(index)).collect();
        let data_type = match typed.iter().find(|typed| typed.name == *field.name()) {
            Some(declared) => declared_type(declared, &column)?,
            None => guess(&column)?,
        };
        fields.push(Field::new(field.name(), data_type, true));
    }
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let batches = batches
        .iter()
        .map(|batch| typed_batch(batch, &schema))
        .collect::<Result<_>>()?;
    Ok((schema, batches))
}

/// The declared type, which every value must fit. Moments stay text.
fn declared_type(declared: &NamedField, column: &[&ArrayRef]) -> Result<ArrowType> {
    let data_type = declared.data_type.arrow();
    if matches!(data_type, ArrowType::Timestamp(..)) {
        return Ok(ArrowType::Utf8);
    }
    let mut row = 0;
    for part in column {
        let values = parse(part, &data_type)?;
        if let Some(at) = (0..part.len()).find(|at| part.is_valid(*at) && values.is_null(*at)) {
            let value = part.as_string::<i32>().value(at);
            let (row, name) = (row + at + 1, &declared.name);
            bail!(
                "column `{name}` in row {row}: `{value}` is no {}",
                declared.data_type.name()
            );
        }
        row += part.len();
    }
    Ok(data_type)
}

fn guess(column: &[&ArrayRef]) -> Result<ArrowType> {
    if column.iter().all(|part| part.null_count() == part.len()) {
        return Ok(ArrowType::Utf8);
    }
    'types: for data_type in GUESSES {
        for part in column {
            if !fits(part, &data_type)? {
                continue 'types;
            }
        }
        return Ok(data_type);
    }
    Ok(ArrowType::Utf8)
}

/// Whether `part` has the same meaning as `data_type`. Integers must also look the same when written back; a number
/// with a leading zero is a name (`007`), unless it is a fraction.
fn fits(part: &ArrayRef, data_type: &ArrowType) -> Result<bool> {
    if *data_type == ArrowType::Boolean {
        let is_bool = |text: &str| text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false");
        return Ok(part.as_string::<i32>().iter().flatten().all(is_bool));
    }
    let values = parse(part, data_type)?;
    if values.null_count() != part.null_count() {
        return Ok(false);
    }
    if *data_type == ArrowType::Float64 {
        let is_name = |text: &str| {
            let digits = text.trim_start_matches('-');
            digits.starts_with(['+', ' ']) || (digits.starts_with('0') && !digits.starts_with("0.") && digits.len() > 1)
        };
        return Ok(!part.as_string::<i32>().iter().flatten().any(is_name) && whole_numbers_fit(part));
    }
    let back = parse(&values, &ArrowType::Utf8)?;
    Ok(back.as_string::<i32>() == part.as_string::<i32>())
}

/// Whole numbers beyond 2^53 would be rounded: they are names.
fn whole_numbers_fit(part: &ArrayRef) -> bool {
    let is_long = |text: &str| text.len() > 15 && text.bytes().all(|byte| byte.is_ascii_digit());
    !part.as_string::<i32>().iter().flatten().any(is_long)
}

/// `part` as `data_type`; what does not fit is null.
fn parse(part: &ArrayRef, data_type: &ArrowType) -> Result<ArrayRef> {
    Ok(cast_with_options(
        part,
        data_type,
        &CastOptions {
            safe: true,
            ..CastOptions::default()
        },
    )?)
}

fn typed_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| parse(column, field.data_type()));
    Ok(RecordBatch::try_new(
        Arc::clone(schema),
        columns.collect::<Result<_>>()?,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ondol_vocabulary::DataType;
    use std::io::Write as _;

    fn read_text(text: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        read(
            file,
            &[NamedField {
                name: "amount".to_owned(),
                data_type: DataType::F64,
            }],
        )
    }

    #[track_caller]
    fn guessed(values: &str) -> ArrowType {
        let (schema, batches) = read_text(&format!("x,y\n{}\n", values.replace(' ', ",\n") + ",")).unwrap();
        assert_eq!(batches[0].num_rows(), values.split(' ').count());
        schema.field(0).data_type().clone()
    }

    #[test]
    fn a_guessed_type_loses_nothing() {
        assert_eq!(guessed("1 -2 30"), ArrowType::Int64);
        assert_eq!(guessed("1 2.5"), ArrowType::Float64);
        assert_eq!(guessed("True false"), ArrowType::Boolean);
        assert_eq!(guessed("007 123"), ArrowType::Utf8);
        assert_eq!(guessed("1 x"), ArrowType::Utf8);
        assert_eq!(guessed("12345678901234567890 1"), ArrowType::Utf8);
        assert_eq!(guessed("2013-01-01T05:17:00Z"), ArrowType::Utf8);
    }

    #[test]
    fn a_value_that_does_not_fit_is_named_with_its_column_and_row() {
        let error = read_text("amount,card\n1,a\nfive,b\n").unwrap_err().to_string();
        assert_eq!(error, "column `amount` in row 2: `five` is no f64");
    }

    #[test]
    fn an_empty_file_is_refused_and_a_header_alone_is_not() {
        assert!(read_text("").unwrap_err().to_string().contains("the file is empty"));
        let (schema, batches) = read_text("amount,card\n").unwrap();
        assert_eq!((schema.fields().len(), batches.len()), (2, 0));
    }
}
