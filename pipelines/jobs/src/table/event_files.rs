//! The files of a table's events as data: what an engine elsewhere needs to read the very events that a job here would.
//!
//! A job pins the table and lists its files once; the list travels with the plan. Who reads a part of it decodes it with
//! the same [`Scan`], so columns, positions and errors are those of the embedded engine.

use super::{Positions, Scan, Table, TableFile, TimeRange};
use crate::error::JobError;
use crate::point_in_time::JoinView;
use arrow::array::RecordBatch;
use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};
use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use ondol_feature_store_api::wire::columns;
use ondol_pipelines_api::wire::AsOf;
use ondol_vocabulary::{Field, SourceDefinition};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use url::Url;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 16_384;

/// Files of a table at one version, or a part of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFiles {
    /// Where the table is, for messages.
    location: String,
    /// The URL that the files' paths start from.
    root: Url,
    /// The delay after which rows count as known, of tables whose position is the row's number; none of a log, which
    /// holds both itself.
    delay_us: Option<i64>,
    absent_is_null: bool,
    files: Vec<EventFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct EventFile {
    path: String,
    size: u64,
    rows: u64,
    first_row: i64,
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    partition_values: HashMap<String, Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    statistics: Option<String>,
}

/// Which events of a table are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRange {
    /// Events at or after this moment, in microseconds; of older ones none can matter.
    pub from: i64,
    /// Events before it.
    pub before: i64,
    /// When they count as known.
    pub as_of: AsOf,
}

impl EventFiles {
    /// The files of what `source` reads, as it is now: the stream's log at `log_url`, or its table.
    pub async fn open(source: &SourceDefinition, log_url: Option<&str>) -> Result<Self, JobError> {
        Ok(Self::of(&Table::open(source, log_url).await?))
    }

    /// The files of `table`.
    pub(crate) fn of(table: &Table) -> Self {
        let files = table.files.iter().map(|file| EventFile {
            path: file.path.to_string(),
            size: file.size,
            rows: file.rows,
            first_row: file.first_row,
            partition_values: file.partition_values.clone(),
            statistics: file.statistics.clone(),
        });
        Self {
            location: table.location.clone(),
            root: table.root.clone(),
            delay_us: match table.positions {
                Positions::Log => None,
                Positions::RowNumber { delay_us } => Some(delay_us),
            },
            absent_is_null: table.absent_is_null,
            files: files.collect(),
        }
    }

    /// The object store that holds them: scheme and authority.
    pub fn store_url(&self) -> Url {
        let mut url = self.root.clone();
        url.set_path("/");
        url
    }

    /// Their size, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Their rows.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// Leaves out files that hold none of the events in `range`, as far as their places and statistics tell.
    pub fn narrow(&mut self, time: &str, range: EventRange) {
        let range = range.times();
        self.files
            .retain(|file| range.overlaps(file.table_file().time_bounds(time)));
    }

    /// Whether there may be events before `from` that a reading of what comes after does not meet.
    pub(crate) fn has_older(&self, time: &str, from: i64) -> bool {
        let is_older = |file: &EventFile| {
            let bounds = file.table_file().time_bounds(time);
            file.rows > 0 && bounds.is_none_or(|(least, _)| least < from)
        };
        from > i64::MIN && self.files.iter().any(is_older)
    }

    /// In `parts` parts of about the same size, fewer where there are fewer files.
    pub fn split(self, parts: usize) -> Vec<Self> {
        let Self { mut files, .. } = self.clone();
        let parts = parts.clamp(1, files.len().max(1));
        let mut split: Vec<Self> = (0..parts)
            .map(|_| Self {
                files: Vec::new(),
                ..self.clone()
            })
            .collect();
        // The largest first, each to the part that has least: within a third of the best.
        files.sort_by_key(|file| std::cmp::Reverse(file.size));
        for file in files {
            if let Some(part) = split.iter_mut().min_by_key(|part| part.bytes()) {
                part.files.push(file);
            }
        }
        split
    }

    /// Reads the columns that a join of `view` needs, from `store`, which is the one at [`Self::store_url`]. Each batch
    /// goes to `take`, until that says no. Blocks on I/O: call it on a thread that may.
    pub fn read(
        &self,
        view: &JoinView,
        range: EventRange,
        store: Arc<dyn ObjectStore>,
        io: &tokio::runtime::Handle,
        mut take: impl FnMut(RecordBatch) -> bool,
    ) -> Result<(), JobError> {
        let marks = [columns::PARTITION, columns::OFFSET, columns::INGESTED_AT];
        let wanted = view.columns().iter();
        let wanted = wanted.filter(|field| !marks.contains(&field.name.as_str())).cloned();
        let scan = Scan::new(
            self.table(store)?,
            wanted.collect(),
            view.source().time.clone(),
            range.as_of == AsOf::EventTime,
            BATCH_ROWS,
        );
        for unit in io.block_on(scan.units(range.times()))? {
            for batch in scan.read(&unit, io)? {
                if !take(batch?) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn table(&self, store: Arc<dyn ObjectStore>) -> Result<Table, JobError> {
        let prefix = Path::from_url_path(self.root.path()).map_err(|cause| JobError::table(&self.location, cause))?;
        let store = if prefix.as_ref().is_empty() {
            store
        } else {
            Arc::new(PrefixStore::new(store, prefix)) as Arc<dyn ObjectStore>
        };
        Ok(Table {
            files: self.files.iter().map(EventFile::table_file).collect(),
            absent_is_null: self.absent_is_null,
            store,
            root: self.root.clone(),
            ..Table::empty(
                self.location.clone(),
                self.delay_us
                    .map_or(Positions::Log, |delay_us| Positions::RowNumber { delay_us }),
            )
        })
    }
}

impl EventFile {
    fn table_file(&self) -> TableFile {
        TableFile {
            // As listed: encoded already.
            path: Path::parse(&self.path).unwrap_or_else(|_| Path::from(self.path.as_str())),
            size: self.size,
            modified_us: 0,
            rows: self.rows,
            first_row: self.first_row,
            partition_values: self.partition_values.clone(),
            statistics: self.statistics.clone(),
        }
    }
}

impl EventRange {
    fn times(self) -> TimeRange {
        TimeRange {
            from: self.from,
            before: self.before,
        }
    }
}

/// The schema of the batches that [`EventFiles::read`] gives for `view`.
pub fn event_schema(view: &JoinView) -> SchemaRef {
    let marks = [columns::PARTITION, columns::OFFSET, columns::INGESTED_AT];
    let field = |field: &Field| {
        let nullable = !marks.contains(&field.name.as_str());
        ArrowField::new(&field.name, field.data_type.arrow(), nullable)
    };
    Arc::new(Schema::new(view.columns().iter().map(field).collect::<Vec<_>>()))
}
