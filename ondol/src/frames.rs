//! Tables in files: the spine a user brings and the training set they take away, as Parquet, CSV or Arrow.

mod csv;

use anyhow::{Context as _, Result, bail};
use arrow::array::{Array as _, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef};
use ondol_feature_store_api::feature_batch::value_at;
use ondol_vocabulary::{Field as NamedField, Value};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The forms a table can have, by file ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Parquet,
    Csv,
    Arrow,
}

impl Form {
    /// By the ending of `path`.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("parquet" | "pq") => Ok(Self::Parquet),
            Some("csv") => Ok(Self::Csv),
            Some("arrow" | "feather" | "ipc") => Ok(Self::Arrow),
            _ => bail!(
                "`{}`: the ending must say what it is: .parquet, .csv or .arrow",
                path.display()
            ),
        }
    }
}

/// Refuses, before any work is done, a path that [`write`] could not write to.
pub(crate) fn writable(path: &Path) -> Result<()> {
    Form::of(path)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!(
            "can't write `{}`: there is no folder `{}`",
            path.display(),
            folder.display()
        );
    }
    Ok(())
}

/// Reads a whole table. In CSV, columns named in `typed` take those types; see [`csv`] for the others.
pub(crate) fn read(path: &Path, typed: &[NamedField]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let form = Form::of(path)?;
    if path.is_dir() {
        bail!("`{}` is a folder: name one file", path.display());
    }
    let file = File::open(path).with_context(|| format!("can't open `{}`", path.display()))?;
    let read = match form {
        Form::Parquet => read_parquet(file),
        Form::Csv => csv::read(file, typed),
        Form::Arrow => read_arrow(file),
    };
    read.with_context(|| format!("can't read `{}`", path.display()))
}

fn read_parquet(file: File) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?
        .with_batch_size(65_536)
        .build()?;
    let schema = arrow::array::RecordBatchReader::schema(&reader);
    Ok((schema, reader.collect::<Result<_, _>>()?))
}

fn read_arrow(file: File) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let reader = arrow::ipc::reader::FileReader::try_new(file, None)?;
    let schema = reader.schema();
    Ok((schema, reader.collect::<Result<_, _>>()?))
}

/// Writes a whole table. The file appears under its name only when it is complete.
pub(crate) fn write(path: &Path, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<()> {
    let form = Form::of(path)?;
    let unfinished = unfinished_name(path);
    let context = || format!("can't write `{}`", path.display());
    let file = File::create(&unfinished).with_context(context)?;
    let written = match form {
        Form::Parquet => write_parquet(file, schema, batches),
        Form::Csv => write_csv(file, batches),
        Form::Arrow => write_arrow(file, schema, batches),
    };
    if let Err(error) = written.and_then(|()| std::fs::rename(&unfinished, path).map_err(Into::into)) {
        // Best effort: the error that matters is the one returned.
        let _ = std::fs::remove_file(&unfinished);
        return Err(error.context(context()));
    }
    Ok(())
}

fn unfinished_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    PathBuf::from(name)
}

fn write_parquet(file: File, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<()> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut writer = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties))?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.into_inner()?.sync_all()?;
    Ok(())
}

fn write_csv(file: File, batches: &[RecordBatch]) -> Result<()> {
    let mut writer = arrow::csv::WriterBuilder::new()
        .with_header(true)
        .build(BufWriter::new(file));
    for batch in batches {
        writer.write(&lists_as_text(batch)?)?;
    }
    writer.into_inner().into_inner()?.sync_all()?;
    Ok(())
}

/// CSV has no lists: each becomes its JSON text.
fn lists_as_text(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if !matches!(column.data_type(), ArrowType::List(_)) {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
            continue;
        }
        let text = |row| match value_at(column, row) {
            Value::Null => Ok(None),
            list => serde_json::to_string(&list).map(Some),
        };
        let texts = (0..column.len()).map(text).collect::<Result<StringArray, _>>()?;
        fields.push(Arc::new(Field::new(field.name(), ArrowType::Utf8, true)));
        columns.push(Arc::new(texts) as ArrayRef);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn write_arrow(file: File, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<()> {
    let mut writer = arrow::ipc::writer::FileWriter::try_new(BufWriter::new(file), schema)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    let mut buffer = writer.into_inner()?;
    buffer.flush()?;
    buffer.get_ref().sync_all()?;
    Ok(())
}

/// Where the manifest of the training set at `path` stands.
pub(crate) fn manifest_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".manifest.json");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray as _, Float64Array, ListArray};
    use arrow::datatypes::Float64Type;
    use ondol_vocabulary::DataType;

    fn sample() -> (SchemaRef, Vec<RecordBatch>) {
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("card_id", ArrowType::Utf8, true),
            Field::new("amount", ArrowType::Float64, true),
        ]));
        let batch = RecordBatch::try_new(
            Arc::clone(&schema),
            vec![
                Arc::new(StringArray::from(vec![Some("007"), None])),
                Arc::new(Float64Array::from(vec![Some(0.1 + 0.2), Some(1e300)])),
            ],
        )
        .unwrap();
        (schema, vec![batch])
    }

    #[test]
    fn every_form_brings_the_same_rows_back() {
        let folder = tempfile::tempdir().unwrap();
        let (schema, batches) = sample();
        let typed = [NamedField {
            name: "card_id".to_owned(),
            data_type: DataType::String,
        }];
        for name in ["a.parquet", "a.csv", "a.arrow"] {
            let path = folder.path().join(name);
            write(&path, &schema, &batches).unwrap();
            let (_, read) = read(&path, &typed).unwrap();
            assert_eq!(read, batches, "{name}");
        }
    }

    #[test]
    fn a_list_is_a_list_in_parquet_and_arrow_and_json_text_in_csv() {
        let folder = tempfile::tempdir().unwrap();
        let lists = [Some(vec![Some(0.1), Some(f64::NAN)]), None, Some(vec![])];
        let column: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(lists));
        let batch = RecordBatch::try_from_iter_with_nullable([("card.recent", column, true)]).unwrap();
        for name in ["a.parquet", "a.arrow"] {
            let path = folder.path().join(name);
            write(&path, &batch.schema(), std::slice::from_ref(&batch)).unwrap();
            let (_, read) = read(&path, &[]).unwrap();
            assert_eq!(format!("{read:?}"), format!("{:?}", [&batch]), "{name}");
        }
        let path = folder.path().join("a.csv");
        write(&path, &batch.schema(), std::slice::from_ref(&batch)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "card.recent\n\"[0.1,\"\"NaN\"\"]\"\n\"\"\n[]\n");
    }

    #[test]
    fn a_moment_in_csv_stays_text_until_its_zone_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        std::fs::write(&path, "time\n2013-01-01T05:17:00Z\n").unwrap();
        let (_, batches) = read(&path, &[]).unwrap();
        assert_eq!(batches[0].column(0).as_string::<i32>().value(0), "2013-01-01T05:17:00Z");
        assert_eq!(batches[0].column(0).null_count(), 0);
    }

    #[test]
    fn an_unknown_ending_is_refused() {
        assert!(
            Form::of(Path::new("spine.xlsx"))
                .unwrap_err()
                .to_string()
                .contains(".parquet, .csv or .arrow")
        );
    }
}
