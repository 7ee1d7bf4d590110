//! Tables in files: the spine a user brings and the training set they take away, as Parquet, CSV or Arrow.

mod csv;
mod file;
mod folder;
mod inlet;
mod outlet;
mod place;

use anyhow::{Context as _, Result, bail};
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use clap::ValueEnum;
use file::{Cutter, WholeFile};
pub(crate) use folder::Layout;
use folder::WholeFolder;
pub(crate) use inlet::Inlet;
use ondol_vocabulary::Field as NamedField;
pub(crate) use outlet::Outlet;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// What the name of a manifest ends in.
const MANIFEST_ENDING: &str = ".manifest.json";

/// The forms a table can have, by file ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Apache Parquet, compressed with zstd.
    Parquet,
    /// Text with a header line.
    Csv,
    /// An Arrow IPC file.
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

impl Form {
    /// The ending of its files.
    fn ending(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
        }
    }
}

/// Where a table is to be written, and how it is cut into files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    path: PathBuf,
    form: Form,
    /// Absent: one file.
    layout: Option<Layout>,
}

impl Target {
    /// `path` as one file of the form its ending tells, or as a folder where `layout` cuts it into files of `form`.
    /// Refuses, before any work is done, what could not be written.
    pub(crate) fn new(path: &Path, layout: Layout, form: Option<Form>) -> Result<Self> {
        let parent = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        if !parent.is_dir() {
            bail!(
                "can't write `{}`: there is no folder `{}`",
                path.display(),
                parent.display()
            );
        }
        if layout == Layout::default() {
            let of_ending = Form::of(path)?;
            if form.is_some_and(|form| form != of_ending) {
                bail!("`{}`: its ending says another format than --format", path.display());
            }
            return Ok(Self {
                path: path.to_owned(),
                form: of_ending,
                layout: None,
            });
        }
        let taken = if path.is_dir() {
            std::fs::read_dir(path)?.next().is_some()
        } else {
            path.exists()
        };
        if taken {
            bail!(
                "can't write a folder to `{}`: it exists; remove it or name another",
                path.display()
            );
        }
        Ok(Self {
            path: path.to_owned(),
            form: form.unwrap_or(Form::Parquet),
            layout: Some(layout),
        })
    }

    /// Whether it is a folder.
    pub(crate) fn is_folder(&self) -> bool {
        self.layout.is_some()
    }

    /// Refuses a layout that columns known beforehand don't allow.
    pub(crate) fn check(&self, known: &Schema) -> Result<()> {
        self.layout
            .as_ref()
            .map_or(Ok(()), |layout| folder::check_known(layout, known))
    }

    /// Begins the table. `moment` is the column of the rows' moments.
    pub(crate) fn begin(&self, schema: &SchemaRef, moment: &str) -> Result<TableWriter> {
        let files = match &self.layout {
            None => Files::One(WholeFile::create(&self.path, self.form, schema)?),
            Some(layout) => Files::Folder(WholeFolder::create(&self.path, self.form, layout, schema, moment)?),
        };
        Ok(TableWriter {
            cutter: Cutter::new(schema),
            files,
        })
    }
}

/// A table being written. It appears under its name once it is complete; dropped before, it leaves nothing.
pub(crate) struct TableWriter {
    cutter: Cutter,
    files: Files,
}

enum Files {
    One(WholeFile),
    Folder(WholeFolder),
}

impl Files {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::One(file) => file.write(batch),
            Self::Folder(folder) => folder.write(batch),
        }
    }
}

impl TableWriter {
    /// Adds rows.
    pub(crate) fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let files = &mut self.files;
        self.cutter.push(batch, |batch| files.write(batch))
    }

    /// Completes the table.
    pub(crate) fn finish(self) -> Result<()> {
        let mut files = self.files;
        self.cutter.finish(|batch| files.write(batch))?;
        match files {
            Files::One(file) => file.finish(),
            Files::Folder(folder) => folder.finish(),
        }
    }
}

/// Reads a whole table. In CSV, columns named in `typed` take those types; see [`csv`] for the others.
pub(crate) fn read(path: &Path, typed: &[NamedField]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    read_columns(path, typed, None)
}

/// As [`read`], the named columns alone, which must be there.
pub(crate) fn read_columns(
    path: &Path,
    typed: &[NamedField],
    columns: Option<&[String]>,
) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let form = Form::of(path)?;
    if path.is_dir() {
        bail!("`{}` is a folder: name one file", path.display());
    }
    let file = File::open(path).with_context(|| format!("can't open `{}`", path.display()))?;
    let (schema, batches) = match form {
        Form::Parquet => read_parquet(file, columns),
        Form::Csv => csv::read(file, typed),
        Form::Arrow => read_arrow(file),
    }
    .with_context(|| format!("can't read `{}`", path.display()))?;
    let Some(columns) = columns else {
        return Ok((schema, batches));
    };
    let index = |name: &String| {
        let index = schema.index_of(name).ok();
        index.with_context(|| format!("`{}` has no column `{name}`", path.display()))
    };
    let indexes: Vec<usize> = columns.iter().map(index).collect::<Result<_>>()?;
    let projected = batches.iter().map(|batch| batch.project(&indexes));
    let projected = projected.collect::<Result<_, _>>()?;
    Ok((std::sync::Arc::new(schema.project(&indexes)?), projected))
}

fn read_parquet(file: File, columns: Option<&[String]>) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let mut builder = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(65_536);
    if let Some(columns) = columns {
        let fields = builder.parquet_schema().root_schema().get_fields().iter().enumerate();
        let wanted = fields.filter(|(_, field)| columns.iter().any(|name| name == field.name()));
        let wanted: Vec<usize> = wanted.map(|(index, _)| index).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
        builder = builder.with_projection(mask);
    }
    let reader = builder.build()?;
    let schema = arrow::array::RecordBatchReader::schema(&reader);
    Ok((schema, reader.collect::<Result<_, _>>()?))
}

fn read_arrow(file: File) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let reader = arrow::ipc::reader::FileReader::try_new(file, None)?;
    let schema = reader.schema();
    Ok((schema, reader.collect::<Result<_, _>>()?))
}

/// Writes `text` to `path`, which shows it whole or not at all.
pub(crate) fn write_text(path: &Path, text: &[u8]) -> Result<()> {
    let unfinished = file::unfinished_name(path);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&unfinished)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path)
    };
    write().with_context(|| format!("can't write `{}`", path.display()))
}

/// Where the manifest of the training set at `path` stands.
pub(crate) fn manifest_path(path: &Path) -> PathBuf {
    // From its components: a folder may be named with a slash behind it.
    let mut name = path.components().collect::<PathBuf>().into_os_string();
    name.push(MANIFEST_ENDING);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
