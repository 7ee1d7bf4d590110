//! Reading a log back: the rows of each generation, within each partition in order of offset.
//!
//! Order matters to whoever feeds fences. A commit spreads one partition's offsets over several files (one per event
//! date), and a compaction puts many commits' rows of one date into one file: files alone are out of order. But each says
//! by its name which commits' rows it holds, and later commits' offsets are greater: files whose commits overlap are
//! merged by position, and such *stretches* follow each other. A small stretch (a commit, most often) is merged
//! at once; a large one partition by partition, so that few files are open at a time.
//!
//! What was added since an earlier scan is told by positions, not by files: at any version, the table holds exactly the
//! events below its positions, in whatever files they stand by then.

use super::failure::{internal, unavailable};
use super::layout::{GENERATION, added_columns, file_schema};
use super::log_file::{LogFile, rows_of};
use super::merge::{Merge, Reader, RowGroup, Run};
use super::positions::{Partitions, Positions};
use super::table::LogTable;
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::ObjectStore;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::columns;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Up to so many files and rows, a stretch is merged at once.
const SMALL_FILES: usize = 16;
const SMALL_ROWS: u64 = 500_000;
/// Files looked into at a time.
const FOOTERS_AT_A_TIME: usize = 8;
/// Batches read ahead.
const READ_AHEAD: usize = 2;

/// The committed files of one source at one moment.
#[derive(Clone)]
pub struct LogScan {
    source: String,
    store: Arc<dyn ObjectStore>,
    schema: SchemaRef,
    version: Option<u64>,
    /// What an earlier scan has read.
    from: Positions,
    to: Positions,
    files: Vec<Arc<LogFile>>,
}

impl LogScan {
    pub(super) fn of(source: &str, table: &LogTable) -> Result<Self, FeatureStoreError> {
        let mut scan = Self {
            source: source.to_owned(),
            store: table.store(),
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            version: None,
            from: Positions::default(),
            to: Positions::default(),
            files: Vec::new(),
        };
        let Some(state) = table.state() else { return Ok(scan) };
        scan.schema = file_schema(state.schema()).map_err(|detail| internal(source, detail))?;
        scan.version = Some(state.version());
        scan.to = state.positions().clone();
        scan.files = state.files().values().cloned().collect();
        Ok(scan)
    }

    /// The table version scanned; none before the table exists.
    pub fn version(&self) -> Option<u64> {
        self.version
    }

    /// Rows of the files, when every one of them says how many it has.
    pub fn rows(&self) -> Option<u64> {
        rows_of(&self.files)
    }

    /// Generations in the order in which they were left.
    pub fn generations(&self) -> Vec<String> {
        self.to.generations()
    }

    /// Leaves out what `earlier` has read.
    pub fn since(mut self, earlier: &Self) -> Self {
        let read: BTreeSet<&str> = earlier.files.iter().map(|file| file.path.as_str()).collect();
        self.files.retain(|file| !read.contains(file.path.as_str()));
        self.from = earlier.to.clone();
        self
    }

    /// Offsets between the positions of the earlier scan and those of this one: at most so many messages are left.
    pub fn offsets(&self) -> u64 {
        let mut offsets = 0_u64;
        for generation in self.to.generations() {
            for (partition, to) in self.to.of(&generation) {
                let from = self.from.next(&generation, partition).unwrap_or(0);
                offsets = offsets.saturating_add(u64::try_from(to.saturating_sub(from)).unwrap_or(0));
            }
        }
        offsets
    }

    /// Whether the table has a column of this name.
    pub fn has(&self, column: &str) -> bool {
        self.schema.field_with_name(column).is_ok()
    }

    /// Names of every column, in the table's order; `_event_date` is not among them.
    pub fn columns(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    /// The rows with `columns` in that order (a column that the table lacks is an error); only those of `generation`
    /// when given. Within a partition rows come in order of offset, a message's rows in one batch.
    pub fn read(
        &self,
        generation: Option<&str>,
        columns: &[String],
    ) -> Result<BoxStream<'static, Result<RecordBatch, FeatureStoreError>>, FeatureStoreError> {
        let asked = self.indexes(columns)?;
        // Merging and choosing the generation need these, asked for or not.
        let needed: BTreeSet<usize> = asked
            .iter()
            .copied()
            .chain(self.indexes(&position_columns())?)
            .collect();
        let needed: Vec<usize> = needed.into_iter().collect();
        let schema = self
            .schema
            .project(&needed)
            .map_err(|error| internal(&self.source, error))?;
        let order = asked
            .iter()
            .filter_map(|index| needed.iter().position(|held| held == index));
        let reading = Reading {
            source: self.source.clone(),
            reader: Reader {
                store: Arc::clone(&self.store),
                schema: Arc::new(schema),
            },
            stretches: stretches(self.files.iter().filter(|file| file.may_hold(generation)).cloned()),
            generation: generation.map(str::to_owned),
            from: self.from.clone(),
            partitions: self.partitions(generation),
            order: order.collect(),
        };
        Ok(reading.start())
    }

    fn partitions(&self, generation: Option<&str>) -> BTreeSet<i32> {
        let generations = match generation {
            Some(name) => vec![name.to_owned()],
            None => self.to.generations(),
        };
        generations
            .iter()
            .flat_map(|name| self.to.of(name).into_keys())
            .collect()
    }

    fn indexes(&self, names: &[String]) -> Result<Vec<usize>, FeatureStoreError> {
        let index = |name: &String| {
            self.schema
                .index_of(name)
                .map_err(|_| FeatureStoreError::InvalidRequest {
                    detail: format!("the offline table of `{}` has no column `{name}`", self.source),
                })
        };
        names.iter().map(index).collect()
    }
}

/// Files in the order of their commits, those whose commits overlap together.
fn stretches(files: impl Iterator<Item = Arc<LogFile>>) -> Vec<Vec<Arc<LogFile>>> {
    let mut files: Vec<_> = files.collect();
    files.sort_by(|a, b| (a.commits, &a.path).cmp(&(b.commits, &b.path)));
    let mut stretches: Vec<Vec<Arc<LogFile>>> = Vec::new();
    let mut reaches = None;
    for file in files {
        match stretches
            .last_mut()
            .filter(|_| reaches.is_some_and(|to| file.commits.0 <= to))
        {
            Some(stretch) => {
                reaches = reaches.max(Some(file.commits.1));
                stretch.push(file);
            }
            None => {
                reaches = Some(file.commits.1);
                stretches.push(vec![file]);
            }
        }
    }
    stretches
}

/// A scan at work.
struct Reading {
    source: String,
    reader: Reader,
    stretches: Vec<Vec<Arc<LogFile>>>,
    generation: Option<String>,
    from: Positions,
    partitions: BTreeSet<i32>,
    /// Which of the columns read are asked for.
    order: Vec<usize>,
}

type Batches = mpsc::Sender<Result<RecordBatch, FeatureStoreError>>;

/// Whoever read the stream has dropped it.
struct Dropped;

impl Reading {
    /// Reads on a thread that may block: decoding is most of the work. It ends when the stream is dropped.
    fn start(self) -> BoxStream<'static, Result<RecordBatch, FeatureStoreError>> {
        let (batches, stream) = mpsc::channel(READ_AHEAD);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            runtime.block_on(async move {
                if let Err(error) = self.run(&batches).await {
                    // Nobody is left to hear of it if the stream was dropped.
                    let _ = batches.send(Err(error)).await;
                }
            });
        });
        futures::stream::unfold(stream, |mut stream| async move { Some((stream.recv().await?, stream)) }).boxed()
    }

    async fn run(&self, batches: &Batches) -> Result<(), FeatureStoreError> {
        for stretch in &self.stretches {
            let known = rows_of(stretch).is_some_and(|rows| rows <= SMALL_ROWS);
            let sent = if known && stretch.len() <= SMALL_FILES {
                let runs = stretch.iter().map(|file| Run {
                    least: file.least,
                    file: Arc::clone(file),
                    row_groups: None,
                    partition: None,
                });
                self.send(runs.collect(), batches).await?
            } else {
                self.by_partition(stretch, batches).await?
            };
            if let Err(Dropped) = sent {
                break;
            }
        }
        Ok(())
    }

    /// Few files of a large stretch overlap within one partition; each is opened when its rows' turn comes.
    async fn by_partition(
        &self,
        stretch: &[Arc<LogFile>],
        batches: &Batches,
    ) -> Result<Result<(), Dropped>, FeatureStoreError> {
        let groups: Vec<_> = futures::stream::iter(stretch.iter().map(|file| self.reader.row_groups(file)))
            .buffered(FOOTERS_AT_A_TIME)
            .collect()
            .await;
        let groups: Result<Vec<_>, String> = groups.into_iter().collect();
        let groups = groups.map_err(|why| unavailable(&self.source, "reading", why))?;
        for &partition in &self.partitions {
            let runs = stretch.iter().zip(&groups);
            let runs = runs.filter_map(|(file, groups)| self.run_of(file, groups, partition));
            if let Err(Dropped) = self.send(runs.collect(), batches).await? {
                return Ok(Err(Dropped));
            }
        }
        Ok(Ok(()))
    }

    /// What of a file may hold rows of `partition` that are not read yet.
    fn run_of(&self, file: &Arc<LogFile>, groups: &[RowGroup], partition: i32) -> Option<Run> {
        let read = self.read_of(file).and_then(|read| read.get(&partition).copied());
        let wanted = |group: &RowGroup| {
            let holds = (group.partitions.0..=group.partitions.1).contains(&partition);
            holds && read.is_none_or(|read| group.offsets.1 >= read)
        };
        let wanted: Vec<(usize, &RowGroup)> = groups.iter().enumerate().filter(|(_, group)| wanted(group)).collect();
        let least = wanted.iter().map(|(_, group)| group.offsets.0).min()?;
        Some(Run {
            file: Arc::clone(file),
            row_groups: Some(wanted.into_iter().map(|(index, _)| index).collect()),
            least: (partition, least),
            partition: Some(partition),
        })
    }

    /// The positions up to which a file's rows were read before; none when it is not known of what generation it is.
    fn read_of(&self, file: &LogFile) -> Option<Partitions> {
        file.generation.as_deref().map(|generation| self.from.of(generation))
    }

    async fn send(&self, runs: Vec<Run>, batches: &Batches) -> Result<Result<(), Dropped>, FeatureStoreError> {
        let mut merge = Merge::new(self.reader.clone(), runs);
        loop {
            let rows = merge
                .next()
                .await
                .map_err(|why| unavailable(&self.source, "reading", why))?;
            let Some(rows) = rows else { return Ok(Ok(())) };
            let rows = self.chosen(rows).map_err(|why| internal(&self.source, why))?;
            if rows.num_rows() > 0 && batches.send(Ok(rows)).await.is_err() {
                return Ok(Err(Dropped));
            }
        }
    }

    /// The rows of the generation, past what was read before, with the columns asked for.
    fn chosen(&self, rows: RecordBatch) -> Result<RecordBatch, String> {
        let generations = rows
            .column_by_name(GENERATION)
            .and_then(|column| column.as_string_opt::<i32>())
            .ok_or("column `_generation` is missing")?;
        let partitions = rows
            .column_by_name(columns::PARTITION)
            .and_then(|column| column.as_primitive_opt::<Int32Type>())
            .ok_or("column `_partition` is missing")?;
        let offsets = rows
            .column_by_name(columns::OFFSET)
            .and_then(|column| column.as_primitive_opt::<Int64Type>())
            .ok_or("column `_offset` is missing")?;
        let positions = partitions.values().iter().zip(offsets.values());
        let keep: BooleanArray = generations
            .iter()
            .zip(positions)
            .map(|(generation, (partition, offset))| {
                let generation = generation.unwrap_or_default();
                let wanted = self.generation.as_deref().is_none_or(|wanted| wanted == generation);
                let unread = self
                    .from
                    .next(generation, *partition)
                    .is_none_or(|read| *offset >= read);
                Some(wanted && unread)
            })
            .collect();
        let rows = if keep.true_count() == rows.num_rows() {
            rows
        } else {
            filter_record_batch(&rows, &keep).map_err(|error| error.to_string())?
        };
        rows.project(&self.order).map_err(|error| error.to_string())
    }
}

fn position_columns() -> Vec<String> {
    added_columns()
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .filter(|name| name != columns::INGESTED_AT)
        .collect()
}
