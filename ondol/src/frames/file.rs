//! One file being written: rows in, in any batches; the same bytes out for the same rows, and under its name only once
//! it is complete.
//!
//! What is written depends on the rows alone: batches are cut to one size first, the writers' settings are fixed here,
//! and no file says when or by which build it was written.

use super::Form;
use anyhow::{Context as _, Result};
use arrow::array::{Array as _, ArrayRef, RecordBatch, StringArray};
use arrow::compute::{BatchCoalescer, cast};
use arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef};
use ondol_feature_store_api::feature_batch::value_at;
use ondol_vocabulary::Value;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows that are written at a time.
pub(super) const BATCH_ROWS: usize = 65_536;
/// Rows of a Parquet file's row group: what a writer holds in memory, encoded.
const ROW_GROUP_ROWS: usize = 262_144;

/// Cuts rows into batches of [`BATCH_ROWS`], the last one apart, however they come.
pub(super) struct Cutter(BatchCoalescer);

impl Cutter {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        Self(BatchCoalescer::new(Arc::clone(schema), BATCH_ROWS))
    }

    /// Takes `batch`, and passes on what is complete.
    pub(super) fn push(&mut self, batch: RecordBatch, mut next: impl FnMut(&RecordBatch) -> Result<()>) -> Result<()> {
        self.0.push_batch(batch)?;
        while let Some(batch) = self.0.next_completed_batch() {
            next(&batch)?;
        }
        Ok(())
    }

    /// Passes on the rest.
    pub(super) fn finish(mut self, mut next: impl FnMut(&RecordBatch) -> Result<()>) -> Result<()> {
        self.0.finish_buffered_batch()?;
        while let Some(batch) = self.0.next_completed_batch() {
            next(&batch)?;
        }
        Ok(())
    }
}

/// A file that becomes visible when it is complete. Dropped before, it leaves nothing.
pub(super) struct WholeFile {
    encoder: Option<Encoder>,
    path: PathBuf,
    unfinished: PathBuf,
}

impl WholeFile {
    /// Begins the file at `path`.
    pub(super) fn create(path: &Path, form: Form, schema: &SchemaRef) -> Result<Self> {
        let unfinished = unfinished_name(path);
        let context = || format!("can't write `{}`", path.display());
        let file = File::create(&unfinished).with_context(context)?;
        let mut whole = Self {
            encoder: None,
            path: path.to_owned(),
            unfinished,
        };
        whole.encoder = Some(Encoder::new(file, form, schema).with_context(context)?);
        Ok(whole)
    }

    /// Adds rows.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let written = match &mut self.encoder {
            Some(encoder) => encoder.write(batch),
            None => Ok(()),
        };
        written.with_context(|| format!("can't write `{}`", self.path.display()))
    }

    /// Completes it. When this returns it stands under its name, on disk.
    pub(super) fn finish(mut self) -> Result<()> {
        let written = self.encoder.take().map_or(Ok(()), Encoder::finish);
        written
            .and_then(|()| std::fs::rename(&self.unfinished, &self.path).map_err(Into::into))
            .with_context(|| format!("can't write `{}`", self.path.display()))
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        // After a rename there is nothing left under this name. Best effort: the error that matters was returned.
        drop(self.encoder.take());
        let _ = std::fs::remove_file(&self.unfinished);
    }
}

/// The name of `path` while it is not complete.
pub(super) fn unfinished_name(path: &Path) -> PathBuf {
    // From its components: a folder may be named with a slash behind it.
    let mut name = path.components().collect::<PathBuf>().into_os_string();
    name.push(".unfinished");
    PathBuf::from(name)
}

/// Turns rows into the bytes of a file.
pub(super) enum Encoder {
    Parquet(Box<ArrowWriter<File>>),
    Csv(Box<arrow::csv::Writer<BufWriter<File>>>),
    Arrow(Box<arrow::ipc::writer::FileWriter<BufWriter<File>>>, SchemaRef),
}

impl Encoder {
    pub(super) fn new(file: File, form: Form, schema: &SchemaRef) -> Result<Self> {
        Ok(match form {
            Form::Parquet => {
                let writer = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties()))?;
                Self::Parquet(Box::new(writer))
            }
            Form::Csv => {
                let mut writer = arrow::csv::WriterBuilder::new()
                    .with_header(true)
                    .build(BufWriter::new(file));
                // The header, whether rows follow or not.
                writer.write(&lists_as_text(&RecordBatch::new_empty(Arc::clone(schema)))?)?;
                Self::Csv(Box::new(writer))
            }
            Form::Arrow => {
                let plain = without_dictionaries(schema);
                let writer = arrow::ipc::writer::FileWriter::try_new(BufWriter::new(file), &plain)?;
                Self::Arrow(Box::new(writer), plain)
            }
        })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Parquet(writer) => writer.write(batch)?,
            Self::Csv(writer) => writer.write(&lists_as_text(batch)?)?,
            Self::Arrow(writer, schema) => writer.write(&plain(batch, schema)?)?,
        }
        Ok(())
    }

    /// Bytes held in memory, about.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Parquet(writer) => writer.in_progress_size(),
            Self::Csv(_) | Self::Arrow(..) => 0,
        }
    }

    /// Writes down what is held.
    pub(super) fn flush(&mut self) -> Result<()> {
        if let Self::Parquet(writer) = self {
            writer.flush()?;
        }
        Ok(())
    }

    /// Ends the file. When this returns it is on disk.
    pub(super) fn finish(self) -> Result<()> {
        let file = match self {
            Self::Parquet(writer) => writer.into_inner()?,
            Self::Csv(writer) => writer.into_inner().into_inner()?,
            Self::Arrow(mut writer, _) => {
                writer.finish()?;
                let mut buffer = writer.into_inner()?;
                buffer.flush()?;
                buffer.into_inner().map_err(std::io::IntoInnerError::into_error)?
            }
        };
        file.sync_all()?;
        Ok(())
    }
}

fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_created_by("ondol".to_owned())
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build()
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

/// An Arrow file keeps one dictionary for all of a column's batches, which rows that stream past don't: their columns
/// become plain.
fn without_dictionaries(schema: &SchemaRef) -> SchemaRef {
    let plain = |field: &Arc<Field>| match field.data_type() {
        ArrowType::Dictionary(_, value) => Arc::new(field.as_ref().clone().with_data_type(value.as_ref().clone())),
        _ => Arc::clone(field),
    };
    let fields: Vec<Arc<Field>> = schema.fields().iter().map(plain).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn plain(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| {
        if column.data_type() == field.data_type() {
            Ok(Arc::clone(column))
        } else {
            cast(column, field.data_type())
        }
    });
    Ok(RecordBatch::try_new(
        Arc::clone(schema),
        columns.collect::<Result<_, _>>()?,
    )?)
}
