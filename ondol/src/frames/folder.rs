//! A table in a folder of files: cut by the values of columns (`column=value/`, as Hive does it), by number of rows, or
//! both. The folder appears under its name only when it is complete.
//!
//! A file per partition is open at a time. What Parquet writers hold is bounded: beyond [`HELD_BYTES`] the greatest one
//! writes a row group.

use super::Form;
use super::file::{Encoder, unfinished_name};
use anyhow::{Context as _, Result, anyhow, bail};
use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType as ArrowType, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use ondol_vocabulary::EventTime;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What stands for null in a folder's name.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";
/// The partition that needs no column: the day of the row's moment, in UTC.
pub(super) const EVENT_DATE: &str = "event_date";
/// Partitions at most; each has a file open.
const PARTITIONS: usize = 500;
/// What open files may hold in memory together, encoded.
const HELD_BYTES: usize = 256 << 20;

/// How a table is cut into files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Columns whose values name folders; [`EVENT_DATE`] is one that every table has.
    pub(crate) partition_by: Vec<String>,
    /// Rows of a file at most.
    pub(crate) rows_per_file: Option<u64>,
}

/// A column that names folders.
struct Partition {
    name: String,
    column: usize,
    /// Whether the column is the row's moment, of which the day is taken.
    is_moment: bool,
}

/// A folder that becomes visible when it is complete. Dropped before, it leaves nothing.
pub(super) struct WholeFolder {
    form: Form,
    path: PathBuf,
    unfinished: PathBuf,
    partitions: Vec<Partition>,
    /// Columns that are in the files, and their schema: those that name folders are not.
    kept: Vec<usize>,
    schema: SchemaRef,
    rows_per_file: u64,
    open: BTreeMap<String, OpenFile>,
    finished: bool,
}

/// The newest file of one partition.
struct OpenFile {
    encoder: Encoder,
    rows: u64,
    number: u32,
}

impl WholeFolder {
    /// Begins the folder at `path`, which must not exist (an empty one may). `moment` is the column of the rows' moments.
    pub(super) fn create(path: &Path, form: Form, layout: &Layout, schema: &SchemaRef, moment: &str) -> Result<Self> {
        let partition = |name: &String| {
            let own = schema.index_of(name).ok();
            let is_moment = own.is_none() && name == EVENT_DATE;
            let column = own.or_else(|| if is_moment { schema.index_of(moment).ok() } else { None });
            let column = column.ok_or_else(|| anyhow!("can't partition by `{name}`: there is no such column"))?;
            if !is_moment {
                partitionable(name, schema.field(column).data_type())?;
            }
            Ok(Partition {
                name: name.clone(),
                column,
                is_moment,
            })
        };
        let partitions: Vec<Partition> = layout.partition_by.iter().map(partition).collect::<Result<_>>()?;
        let names_folders = |index: &usize| partitions.iter().any(|part| part.column == *index && !part.is_moment);
        let kept: Vec<usize> = (0..schema.fields().len())
            .filter(|index| !names_folders(index))
            .collect();
        if kept.is_empty() {
            bail!("can't partition by every column: none would be left in the files");
        }
        let unfinished = unfinished_name(path);
        if unfinished.exists() {
            // Of a run that was killed.
            std::fs::remove_dir_all(&unfinished).with_context(|| format!("can't remove `{}`", unfinished.display()))?;
        }
        std::fs::create_dir(&unfinished).with_context(|| format!("can't create `{}`", unfinished.display()))?;
        Ok(Self {
            form,
            path: path.to_owned(),
            unfinished,
            partitions,
            schema: Arc::new(schema.project(&kept)?),
            kept,
            rows_per_file: layout.rows_per_file.unwrap_or(u64::MAX).max(1),
            open: BTreeMap::new(),
            finished: false,
        })
    }

    /// Adds rows.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let kept = batch.project(&self.kept)?.with_schema(Arc::clone(&self.schema))?;
        for (folder, rows) in self.folders(batch)? {
            let part = match rows {
                Some(rows) => take_record_batch(&kept, &UInt32Array::from(rows))?,
                None => kept.clone(),
            };
            self.write_part(&folder, &part)?;
        }
        self.bound_memory()
    }

    /// Completes it. When this returns it stands under its name, on disk.
    pub(super) fn finish(mut self) -> Result<()> {
        if self.open.is_empty() && self.partitions.is_empty() {
            // Without rows there is a file nevertheless, which tells the columns.
            self.write_part("", &RecordBatch::new_empty(Arc::clone(&self.schema)))?;
        }
        for (_, file) in std::mem::take(&mut self.open) {
            file.encoder.finish()?;
        }
        sync_folders(&self.unfinished)?;
        if self.path.is_dir() {
            std::fs::remove_dir(&self.path)
                .with_context(|| format!("can't replace `{}`: it is not empty any more", self.path.display()))?;
        }
        std::fs::rename(&self.unfinished, &self.path)
            .with_context(|| format!("can't write `{}`", self.path.display()))?;
        self.finished = true;
        Ok(())
    }

    /// The rows of `batch` by folder; all of them where nothing is partitioned.
    fn folders(&self, batch: &RecordBatch) -> Result<Vec<(String, Option<Vec<u32>>)>> {
        if self.partitions.is_empty() {
            return Ok(vec![(String::new(), None)]);
        }
        let texts: Vec<Vec<String>> = self
            .partitions
            .iter()
            .map(|part| part.texts(batch.column(part.column)))
            .collect::<Result<_>>()?;
        let mut folders: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let mut folder = String::new();
        for row in 0..batch.num_rows() {
            folder.clear();
            for text in texts.iter().filter_map(|texts| texts.get(row)) {
                folder.push_str(text);
                folder.push('/');
            }
            match folders.get_mut(&folder) {
                Some(rows) => rows.push(row as u32),
                None => drop(folders.insert(folder.clone(), vec![row as u32])),
            }
        }
        Ok(folders.into_iter().map(|(folder, rows)| (folder, Some(rows))).collect())
    }

    fn write_part(&mut self, folder: &str, rows: &RecordBatch) -> Result<()> {
        let mut from = 0;
        loop {
            if !self.open.contains_key(folder) {
                if self.open.len() == PARTITIONS {
                    let names: Vec<&str> = self.partitions.iter().map(|part| part.name.as_str()).collect();
                    bail!(
                        "`{}` has more than {PARTITIONS} values: partition by a column with fewer of them",
                        names.join("`, `")
                    );
                }
                let file = self.begin(folder, 0)?;
                self.open.insert(folder.to_owned(), file);
            }
            let Some(file) = self.open.get_mut(folder) else {
                return Ok(());
            };
            let room = usize::try_from(self.rows_per_file - file.rows).unwrap_or(usize::MAX);
            let count = room.min(rows.num_rows() - from);
            file.encoder.write(&rows.slice(from, count))?;
            file.rows += count as u64;
            from += count;
            if from == rows.num_rows() {
                return Ok(());
            }
            let number = file.number + 1;
            let next = self.begin(folder, number)?;
            if let Some(full) = self.open.insert(folder.to_owned(), next) {
                full.encoder.finish()?;
            }
        }
    }

    fn begin(&self, folder: &str, number: u32) -> Result<OpenFile> {
        let folder = self.unfinished.join(folder);
        let path = folder.join(format!("part-{number:05}.{}", self.form.ending()));
        let context = || format!("can't write `{}`", path.display());
        std::fs::create_dir_all(&folder).with_context(context)?;
        let file = File::create(&path).with_context(context)?;
        Ok(OpenFile {
            encoder: Encoder::new(file, self.form, &self.schema).with_context(context)?,
            rows: 0,
            number,
        })
    }

    fn bound_memory(&mut self) -> Result<()> {
        let mut held: usize = self.open.values().map(|file| file.encoder.held_bytes()).sum();
        while held > HELD_BYTES {
            let greatest = self.open.values_mut().max_by_key(|file| file.encoder.held_bytes());
            let Some(file) = greatest else { break };
            held -= file.encoder.held_bytes();
            file.encoder.flush()?;
        }
        Ok(())
    }
}

impl Drop for WholeFolder {
    fn drop(&mut self) {
        if !self.finished {
            self.open.clear();
            // Best effort: the error that matters was returned.
            let _ = std::fs::remove_dir_all(&self.unfinished);
        }
    }
}

impl Partition {
    /// Each row's part of the folder's name.
    fn texts(&self, column: &ArrayRef) -> Result<Vec<String>> {
        let name = escape(&self.name);
        let column = if self.is_moment {
            days(column)?
        } else {
            Arc::clone(column)
        };
        let options = FormatOptions::new();
        let formatter = ArrayFormatter::try_new(&column, &options)?;
        let text = |row| {
            if column.is_null(row) {
                format!("{name}={NULL}")
            } else {
                format!("{name}={}", escape(&formatter.value(row).to_string()))
            }
        };
        Ok((0..column.len()).map(text).collect())
    }
}

/// The day of each moment, in UTC. Moments may be text with a zone, as in a spine from CSV.
fn days(column: &ArrayRef) -> Result<ArrayRef> {
    let utc = ArrowType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
    let moments = match column.data_type() {
        ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View | ArrowType::Dictionary(..) => {
            let texts = cast(column, &ArrowType::Utf8)?;
            let parsed = texts
                .as_string::<i32>()
                .iter()
                .map(|text| text.map(EventTime::parse).transpose());
            let parsed: Vec<Option<EventTime>> =
                parsed.collect::<Result<_, _>>().map_err(|cause| anyhow!("{cause}"))?;
            let micros = parsed.into_iter().map(|moment| moment.map(EventTime::micros));
            let micros: arrow::array::PrimitiveArray<TimestampMicrosecondType> = micros.collect();
            Arc::new(micros.with_timezone("UTC")) as ArrayRef
        }
        _ => cast(column, &utc)?,
    };
    Ok(cast(&moments, &ArrowType::Date32)?)
}

fn partitionable(name: &str, data_type: &ArrowType) -> Result<()> {
    let value = match data_type {
        ArrowType::Dictionary(_, value) => value.as_ref(),
        other => other,
    };
    let fits = value.is_integer()
        || matches!(
            value,
            ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View | ArrowType::Boolean | ArrowType::Date32
        );
    if !fits {
        bail!("can't partition by `{name}`: it is {data_type}; text, integers, booleans and dates name folders");
    }
    Ok(())
}

/// As Hive writes names: what a path or a reader could take for something else is a percent sign and two digits.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        let plain = !character.is_ascii() || character.is_ascii_alphanumeric() || "-_. ".contains(character);
        if plain {
            escaped.push(character);
        } else {
            escaped.push_str(&format!("%{:02X}", character as u32));
        }
    }
    escaped
}

/// Makes the names in `folder` and below durable; the files' contents are already.
fn sync_folders(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_folders(&path)?;
        }
    }
    File::open(folder)?.sync_all()?;
    Ok(())
}

/// Whether `name` can be told to partition by before any row is there: of a column it is not known yet, it can.
pub(super) fn check_known(layout: &Layout, schema: &Schema) -> Result<()> {
    for name in &layout.partition_by {
        if let Ok(field) = schema.field_with_name(name) {
            partitionable(name, field.data_type())?;
        }
    }
    Ok(())
}
