//! The event log: one Delta table per stream source, with source positions committed together with the files.
//!
//! In the order of the data:
//! 1. `buffer` takes deliveries in, drops what is held already and refuses gaps;
//! 2. `data_file` turns what waits into Parquet files, one per event date;
//! 3. `table` commits files and positions in one Delta log entry, on a store that keeps what it acknowledges and creates
//!    an object only once ([`ondol_runtime::objects`]): durable files, or a bucket of S3;
//! 4. [`compaction`] merges small files into large ones, `checkpoint` sums up the log for readers, [`vacuum`] deletes
//!    what no version needs any more;
//! 5. [`scan`] reads the log back, for bootstrapping views. `source_log` holds a source's buffer and table together.
//!
//! `layout` is the published form of the tables, `positions` reads the positions back out of a table's log,
//! `table_state` is what a writer knows of a table, and `merge` puts sorted files into one order.
//!
//! Any number of replicas write a source's log, each for the partitions it is delivered. The table is the truth: what a
//! replica remembers of it is brought up to date before it says where to resume, before it refuses a gap, and whenever
//! a commit finds that another replica has moved the same position. Then what stands is let go, and the rest committed.

mod buffer;
mod checkpoint;
pub mod compaction;
mod data_file;
mod failure;
mod layout;
mod log_file;
mod merge;
mod object_file;
mod order;
mod positions;
mod properties;
pub mod scan;
mod source_log;
mod table;
mod table_state;
mod tidying;
pub mod vacuum;

pub use compaction::{CompactionConfig, Extent};
pub use scan::LogScan;
pub use vacuum::VacuumConfig;

use crate::offline::failure::unavailable;
use arrow::array::RecordBatch;
use buffer::Buffer;
use futures::stream::{BoxStream, TryStreamExt};
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::{DeliveryHeader, OfflineTable, PartitionPosition};
use ondol_runtime::{Location, ObjectStores};
use ondol_vocabulary::SourceDefinition;
use positions::Partitions;
use source_log::{Memory, SourceLog, TakenOut, lock, report_buffer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use table::{Committed, LogTable};

/// Memory of a source's buffered rows at which the log takes no more before a commit, however few they are.
const MAX_BUFFERED_BYTES: usize = 128 << 20;

/// When the log commits, and how much it holds before it must.
#[derive(Clone, Debug)]
pub struct EventLogConfig {
    /// Rows of a source that make a commit due.
    pub commit_rows: usize,
    /// Age of the oldest uncommitted row or position that makes a commit due.
    pub commit_interval: Duration,
    /// Rows of a source at which the log takes no more before a commit.
    pub max_buffered_rows: usize,
}

impl Default for EventLogConfig {
    fn default() -> Self {
        Self {
            commit_rows: 50_000,
            commit_interval: Duration::from_secs(5),
            max_buffered_rows: 200_000,
        }
    }
}

/// The event logs of all stream sources under one root. Cheap to clone: clones share the logs.
#[derive(Clone)]
pub struct EventLog {
    shared: Arc<Shared>,
}

struct Shared {
    root: Location,
    config: EventLogConfig,
    logs: Mutex<BTreeMap<String, Arc<SourceLog>>>,
}

/// How a commit ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything held is in the log; the committed positions of the generation delivered last.
    Durable(Vec<PartitionPosition>),
    /// Nothing was committed, because these view versions take every event, and not all have absorbed what is held.
    Uncovered(BTreeSet<u32>),
}

/// What a source's log holds and has not committed, while it is held so.
pub struct HeldDeliveries {
    /// Generation and rows of each delivery.
    pub deliveries: Vec<(String, RecordBatch)>,
    _no_commit: tokio::sync::OwnedMutexGuard<LogTable>,
}

impl EventLog {
    /// Opens the logs under `root`: a path, a `file://` URL, or a place in one of the process's buckets.
    pub fn open(root: &str, config: EventLogConfig) -> Result<Self, FeatureStoreError> {
        let root = ObjectStores::of_process().at(root);
        let root = root.map_err(|error| FeatureStoreError::InvalidRequest {
            detail: format!("the offline root {error}"),
        })?;
        Self::at(root, config)
    }

    /// Opens the logs under `root`: a folder, created if need be, or a place in a bucket. Nothing is read yet.
    pub fn at(root: Location, config: EventLogConfig) -> Result<Self, FeatureStoreError> {
        let root = root.created().map_err(|error| FeatureStoreError::Unavailable {
            detail: format!("the offline root {error}"),
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                root,
                config,
                logs: Mutex::default(),
            }),
        })
    }

    /// Whether tables can be written under the root, before anything relies on it.
    pub async fn check_writable(&self) -> Result<(), FeatureStoreError> {
        let checked = self.shared.root.check_writable().await;
        checked.map_err(|error| FeatureStoreError::Unavailable {
            detail: format!("the offline root {error}"),
        })
    }

    /// Refuses a delivery that would leave a gap after what is held, and any delivery while the buffer is at its bound.
    /// To be called before anything absorbs the delivery: a row's fence must never pass events the log has not seen.
    pub async fn admit(&self, header: &DeliveryHeader) -> Result<(), FeatureStoreError> {
        let log = self.log(&header.source).await?;
        let memory = log.memory();
        self.room(&header.source, &memory.buffer)?;
        memory.buffer.admit(header)
    }

    /// Buffers a delivery's rows; those already held are dropped silently, a gap is refused. Never commits by itself:
    /// the writer syncs online rows before it commits the log. At its bound the buffer refuses until it is committed.
    pub async fn append(
        &self,
        source: &SourceDefinition,
        header: &DeliveryHeader,
        events: &RecordBatch,
    ) -> Result<(), FeatureStoreError> {
        if !source.is_stream() {
            return Err(FeatureStoreError::InvalidRequest {
                detail: format!("source `{}` is a table: it has no event log", source.name),
            });
        }
        let log = self.log(&source.name).await?;
        let mut memory = log.memory();
        self.room(&source.name, &memory.buffer)?;
        memory.buffer.append(source, header, events)?;
        report_buffer(&source.name, &memory.buffer);
        Ok(())
    }

    /// One delivery may pass the bound, the next one waits for a commit.
    fn room(&self, source: &str, buffer: &Buffer) -> Result<(), FeatureStoreError> {
        if buffer.rows() < self.shared.config.max_buffered_rows && buffer.bytes() < MAX_BUFFERED_BYTES {
            return Ok(());
        }
        Err(FeatureStoreError::Unavailable {
            detail: format!(
                "{} events of `{source}` wait to be committed: try again shortly",
                buffer.rows()
            ),
        })
    }

    /// Committed positions of one generation, as they stand in the table now.
    pub async fn positions(&self, source: &str, generation: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        let log = self.refreshed(source).await?;
        let memory = log.memory();
        Ok(listed(&memory.committed.of(generation)))
    }

    /// Learns what other replicas have committed.
    pub async fn refresh(&self, source: &str) -> Result<(), FeatureStoreError> {
        self.refreshed(source).await.map(drop)
    }

    async fn refreshed(&self, source: &str) -> Result<Arc<SourceLog>, FeatureStoreError> {
        let log = self.log(source).await?;
        let mut table = log.table.lock().await;
        table.refresh().await?;
        log.catch_up(source, &table)?;
        log.memory().rows = table.rows();
        drop(table);
        Ok(log)
    }

    /// The view versions that take every event of `source`, as of the table's state last seen.
    pub async fn joined(&self, source: &str) -> Result<BTreeSet<u32>, FeatureStoreError> {
        let log = self.log(source).await?;
        let table = log.table.lock().await;
        Ok(table.joined())
    }

    /// Adds `view` to the versions that take every event of `source` from now on, and forgets those that are not
    /// `living`: no commit stands any more whose events were not absorbed into it. Idempotent.
    pub async fn join(
        &self,
        source: &SourceDefinition,
        view: u32,
        living: &BTreeSet<u32>,
    ) -> Result<(), FeatureStoreError> {
        let log = self.log(&source.name).await?;
        let mut table = log.table.lock().await;
        table.refresh().await?;
        let joined = table.join(source, view, living).await;
        log.catch_up(&source.name, &table)?;
        drop(table);
        self.checkpoint(&source.name, &log).await;
        joined
    }

    /// Every delivery that is not committed, in order of arrival. No commit runs as long as the answer is held;
    /// whoever calls it sees to it that nothing is appended either.
    pub async fn held_deliveries(&self, source: &str) -> Result<HeldDeliveries, FeatureStoreError> {
        let log = self.log(source).await?;
        let no_commit = Arc::clone(&log.table).lock_owned().await;
        let waiting = log.memory().buffer.waiting();
        let deliveries = waiting.into_iter().map(|pending| (pending.generation, pending.rows));
        Ok(HeldDeliveries {
            deliveries: deliveries.collect(),
            _no_commit: no_commit,
        })
    }

    /// Rows of `source` that are not committed; without I/O.
    pub fn buffered(&self, source: &str) -> usize {
        let log = lock(&self.shared.logs).get(source).cloned();
        log.map_or(0, |log| log.memory().buffer.rows())
    }

    /// Positions held, committed or buffered, of one generation.
    pub async fn held(&self, source: &str, generation: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        Ok(listed(&self.log(source).await?.memory().buffer.held().of(generation)))
    }

    /// Forgets what is not committed, as a restart would: its positions are asked for again.
    pub async fn discard(&self, source: &str) -> Result<(), FeatureStoreError> {
        let log = self.log(source).await?;
        let mut table = log.table.lock().await;
        // Also where the log can't be read now: what was held must not be committed.
        let refreshed = table.refresh().await;
        let mut memory = log.memory();
        memory.committed = table.positions();
        memory.buffer = Buffer::resuming(&memory.committed);
        refreshed?;
        report_buffer(source, &memory.buffer);
        Ok(())
    }

    /// Positions held, committed or buffered, of the generation delivered last.
    pub async fn written(&self, source: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        let log = self.log(source).await?;
        let memory = log.memory();
        let generation = memory.buffer.generation().unwrap_or_default();
        Ok(listed(&memory.buffer.held().of(generation)))
    }

    /// Committed positions of the generation delivered last.
    pub async fn durable(&self, source: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        let log = self.log(source).await?;
        let memory = log.memory();
        Ok(listed(
            &memory.committed.of(memory.buffer.generation().unwrap_or_default()),
        ))
    }

    /// Sources whose buffers hold enough rows, or old enough ones, to commit.
    pub fn due(&self) -> Vec<String> {
        let config = &self.shared.config;
        let is_due = |log: &SourceLog| {
            let memory = log.memory();
            let old = memory.is_old(config.commit_interval);
            old || memory.buffer.rows() >= config.commit_rows || memory.buffer.bytes() >= MAX_BUFFERED_BYTES / 2
        };
        let logs = lock(&self.shared.logs);
        logs.iter()
            .filter(|(_, log)| is_due(log))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Commits what `source` has buffered, and returns [`Self::durable`]. On failure everything stays buffered.
    ///
    /// Cancel-safe: a dropped commit puts its rows back, and the next one first reads from the log whether they stand
    /// there already.
    pub async fn commit(&self, source: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        match self.commit_after(source, async { Ok(()) }, &|_| true).await? {
            Outcome::Durable(positions) => Ok(positions),
            Outcome::Uncovered(_) => Ok(Vec::new()),
        }
    }

    /// As [`Self::commit`], with `first` done between taking the buffer and committing it: what `first` makes durable
    /// covers everything the commit holds, while deliveries go on. `covers` says whether everything held was absorbed
    /// into all of these view versions; where it was not, nothing is committed.
    pub async fn commit_after(
        &self,
        source: &str,
        first: impl Future<Output = Result<(), FeatureStoreError>> + Send,
        covers: &(dyn Fn(&BTreeSet<u32>) -> bool + Send + Sync),
    ) -> Result<Outcome, FeatureStoreError> {
        let log = self.log(source).await?;
        let mut table = log.table.lock().await;
        if !table.is_settled() {
            table.refresh().await?;
            log.catch_up(source, &table)?;
        }
        let mut taken = TakenOut::of(&log);
        let ready = first.await;
        if taken.events.is_empty() {
            ready?;
        } else {
            let started = std::time::Instant::now();
            let before = taken.events.rows();
            let committed = match ready {
                Ok(()) => table.commit(&mut taken.events, covers).await,
                Err(error) => Err(error),
            };
            match committed {
                Ok(Committed::Stands) => {
                    taken.committed();
                    metrics::histogram!("ondol_log_commit_seconds", "source" => source.to_owned())
                        .record(started.elapsed().as_secs_f64());
                    metrics::counter!("ondol_log_rows_total", "source" => source.to_owned()).increment(before as u64);
                    let version = table.state().map(|state| state.version());
                    tracing::debug!(source, rows = before, version, "offline commit");
                    log.catch_up(source, &table)?;
                    let mut memory = log.memory();
                    memory.last_commit = started.elapsed();
                    memory.rows = memory.rows.map(|held| held + before as u64);
                }
                Ok(Committed::Uncovered(views)) => {
                    drop(taken);
                    log.catch_up(source, &table)?;
                    return Ok(Outcome::Uncovered(views));
                }
                Err(error) => {
                    metrics::counter!("ondol_log_commit_failures_total", "source" => source.to_owned()).increment(1);
                    drop(taken);
                    log.catch_up(source, &table)?;
                    return Err(error);
                }
            }
        }
        drop(table);
        self.checkpoint(source, &log).await;
        self.durable(source).await.map(Outcome::Durable)
    }

    /// Writes a checkpoint if one is due. Not under the table's lock: its cost grows with the table.
    async fn checkpoint(&self, source: &str, log: &SourceLog) {
        let due = log.table.lock().await.take_checkpoint();
        if let Some((log_store, version)) = due {
            checkpoint::write(source, log_store, version).await;
        }
    }

    /// The tables that exist, this process's or an earlier one's.
    pub async fn tables(&self) -> Result<Vec<OfflineTable>, FeatureStoreError> {
        let mut tables = Vec::new();
        for source in self.folders().await? {
            let log = self.refreshed(&source).await?;
            let table = log.table.lock().await;
            let Some(state) = table.state() else { continue };
            tables.push(OfflineTable {
                url: table.url().to_string(),
                version: i64::try_from(state.version()).ok(),
                rows: log.memory().rows,
                source,
            });
        }
        Ok(tables)
    }

    /// Rows committed for `source`, without I/O: none until its table was opened by another call.
    pub fn rows(&self, source: &str) -> Option<u64> {
        let log = lock(&self.shared.logs).get(source).cloned()?;
        log.memory().rows
    }

    /// The files committed for `source` so far.
    pub async fn scan(&self, source: &str) -> Result<LogScan, FeatureStoreError> {
        let log = self.log(source).await?;
        let mut table = log.table.lock().await;
        table.refresh().await?;
        log.catch_up(source, &table)?;
        let scan = LogScan::of(source, &table)?;
        log.memory().rows = scan.rows();
        Ok(scan)
    }

    /// The committed rows of `source`; within a partition in order of offset. `columns` empty means all.
    pub async fn read(
        &self,
        source: &str,
        columns: &[String],
    ) -> Result<BoxStream<'static, Result<RecordBatch, FeatureStoreError>>, FeatureStoreError> {
        let scan = self.scan(source).await?;
        let columns = if columns.is_empty() {
            scan.columns()
        } else {
            columns.to_vec()
        };
        scan.read(None, &columns)
    }

    /// The source's log, if this process has used it.
    fn opened(&self, source: &str) -> Option<Arc<SourceLog>> {
        lock(&self.shared.logs).get(source).cloned()
    }

    /// The source's log, opened on first use.
    async fn log(&self, source: &str) -> Result<Arc<SourceLog>, FeatureStoreError> {
        if let Some(log) = lock(&self.shared.logs).get(source) {
            return Ok(Arc::clone(log));
        }
        if source.is_empty() || source.starts_with('.') || source.contains(['/', '\\']) {
            return Err(FeatureStoreError::InvalidRequest {
                detail: format!("`{source}` can't name a source: use letters, digits and underscores"),
            });
        }
        let place = self.shared.root.join(source);
        let place = place.map_err(|error| unavailable(source, "opening", error))?;
        let table = LogTable::open(source, &place).await?;
        let committed = table.positions();
        let rows = table.rows();
        let memory = Memory {
            buffer: Buffer::resuming(&committed),
            committed,
            rows,
            ..Memory::default()
        };
        let log = Arc::new(SourceLog {
            table: Arc::new(tokio::sync::Mutex::new(table)),
            memory: Mutex::new(memory),
            tidying: tokio::sync::Mutex::default(),
        });
        // Two callers may have opened it at once: the first one in stays, the other is dropped unused.
        Ok(Arc::clone(
            lock(&self.shared.logs).entry(source.to_owned()).or_insert(log),
        ))
    }

    async fn folders(&self) -> Result<Vec<String>, FeatureStoreError> {
        let (root, path) = (self.shared.root.root(), self.shared.root.path());
        let failed = |error: object_store::Error| FeatureStoreError::Unavailable {
            detail: format!("offline tables: {}", self.shared.root.explain("listing", &error)),
        };
        let mut names = Vec::new();
        for folder in root
            .list_with_delimiter(Some(path))
            .await
            .map_err(failed)?
            .common_prefixes
        {
            let mut log = root.list(Some(&folder.clone().join("_delta_log")));
            if log.try_next().await.map_err(failed)?.is_some() {
                names.extend(folder.filename().map(str::to_owned));
            }
        }
        names.sort();
        Ok(names)
    }
}

fn listed(partitions: &Partitions) -> Vec<PartitionPosition> {
    partitions
        .iter()
        .map(|(&partition, &next_offset)| PartitionPosition { partition, next_offset })
        .collect()
}
