//! Source tables as the jobs read them: the event log of a stream, or a table that stands where its owner put it.
//!
//! [`Table::open`] pins one version: the list of files, their row counts and what their statistics say of time.
//! [`scan`] prunes that list and turns what is left into units of work, a row group each; [`scan::Scan::read`] decodes
//! one unit into batches of the source's declared types, followed by position and arrival columns, so that everything
//! behind it sees a log and a table alike.

mod cast;
pub(crate) mod commits;
mod delta;
pub mod event_files;
mod file;
mod folder;
mod local_file;
mod location;
mod pin;
pub(crate) mod scan;

use crate::error::JobError;
use object_store::ObjectStore;
use object_store::path::Path;
use ondol_vocabulary::{Arrival, SourceDefinition, SourceOrigin, TableFormat};
use std::collections::HashMap;
use std::sync::Arc;
use url::Url;

pub use delta::delta_table;
pub(crate) use scan::{Marks, Scan, TimeRange, Unit};

/// A table at one version.
#[derive(Clone)]
pub(crate) struct Table {
    /// Where it is, for messages.
    pub location: String,
    /// The URL that the files' paths start from.
    pub root: Url,
    /// Its Delta version, or a fingerprint of its files: equal only while the table is.
    pub identity: String,
    /// What makes it the table it is, through all its versions: a Delta table's id; nothing for files without a log.
    pub lineage: Option<String>,
    /// Its files in an order that depends on the version alone, so that row numbers do too.
    pub files: Vec<TableFile>,
    /// Where events' positions and arrival come from.
    pub positions: Positions,
    /// Whether a column that a file lacks reads as null (Delta: files written before the column existed).
    pub absent_is_null: bool,
    store: Arc<dyn ObjectStore>,
}

/// Where positions and arrival come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Positions {
    /// The log's own columns.
    Log,
    /// Partition 0, the row's number in the table, and event time plus a delay.
    RowNumber {
        /// Delay in microseconds.
        delay_us: i64,
    },
}

/// One Parquet file of a table.
#[derive(Clone, Debug)]
pub(crate) struct TableFile {
    path: Path,
    size: u64,
    /// When it was written, in microseconds since 1970, as its store or log says.
    modified_us: i64,
    /// Rows in it.
    pub rows: u64,
    /// Number of its first row within the table.
    pub first_row: i64,
    /// Values of the columns that are not in the file but in its place (Delta partition columns).
    partition_values: HashMap<String, Option<String>>,
    /// The file's statistics as the Delta log holds them.
    statistics: Option<String>,
}

impl Table {
    /// Opens what `source` reads: the stream's log at `log_url`, or its table.
    pub(crate) async fn open(source: &SourceDefinition, log_url: Option<&str>) -> Result<Self, JobError> {
        match &source.origin {
            SourceOrigin::Stream { .. } => match log_url {
                Some(url) => delta::open(url, Positions::Log, &[]).await,
                None => Ok(Self::empty(format!("the log of `{}`", source.name), Positions::Log)),
            },
            SourceOrigin::Table { location, format } => {
                let positions = Positions::of(source.arrival);
                match format {
                    TableFormat::Delta => delta::open(location, positions, &source.schema).await,
                    TableFormat::Parquet => folder::open(location, positions).await,
                }
            }
        }
    }

    /// A table without files: a stream of which nothing has been committed.
    fn empty(location: String, positions: Positions) -> Self {
        Self {
            location,
            root: location::here(),
            identity: "empty".to_owned(),
            lineage: None,
            files: Vec::new(),
            positions,
            absent_is_null: true,
            store: Arc::new(object_store::memory::InMemory::new()),
        }
    }

    /// Rows in all files.
    pub(crate) fn rows(&self) -> u64 {
        self.files.iter().filter_map(TableFile::known_rows).sum()
    }

    /// Its Delta version; none without a log.
    pub(crate) fn version(&self) -> Option<i64> {
        self.lineage.as_ref().and_then(|_| self.identity.parse().ok())
    }

    /// The same table with only the files that `keeps`, their rows numbered from 0.
    pub(crate) fn only(mut self, keeps: impl Fn(&TableFile) -> bool) -> Self {
        self.files.retain(keeps);
        number_rows(&mut self.files);
        self
    }

    fn error(&self, detail: impl std::fmt::Display) -> JobError {
        JobError::table(&self.location, detail)
    }
}

impl TableFile {
    /// Where it is, below the table's store.
    pub(crate) fn path(&self) -> &str {
        self.path.as_ref()
    }

    /// Changes when the file is written again.
    pub(crate) fn fingerprint(&self) -> String {
        format!("{}-{}", self.size, self.modified_us)
    }
}

impl Positions {
    fn of(arrival: Arrival) -> Self {
        match arrival {
            Arrival::EventTime { delay_us } => Self::RowNumber { delay_us },
            // A table has no moment of ingestion: its rows count as known at their time.
            Arrival::Ingest => Self::RowNumber { delay_us: 0 },
        }
    }
}

/// Numbers the files' rows through, in the files' order.
fn number_rows(files: &mut [TableFile]) {
    let mut next = 0i64;
    for file in files {
        file.first_row = next;
        next = next.saturating_add_unsigned(file.rows);
    }
}
