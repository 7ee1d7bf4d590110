//! One source's Delta table: created, evolved, and committed to, files and positions together.
//!
//! The order of a commit is what makes it exactly-once: data files are written and synced first, under names nobody
//! refers to yet; then one log entry adds them *and* moves the positions. A crash before the entry leaves orphan files
//! that no reader sees; after it, everything is there.
//!
//! Several writers may commit: replicas of the store, each for the partitions it is delivered, and compactions. The
//! next version's entry is written only if nobody has: whoever finds it there reads it, lets go of what stands there
//! already, and commits the rest onto it. So a commit always stands on exactly the state it was checked against.
//!
//! The table's configuration also says which view versions take every event from there on ([`LogTable::joined`]): a
//! commit that was not absorbed into all of them is refused. See `docs/adr/0006-a-hand-over-is-a-commit.md`.

use super::buffer::Taken;
use super::data_file::{self, DataFile};
use super::layout::{FileNames, app_id, delta_columns, evolve, file_schema};
use super::log_file::LogFile;
use super::positions::{self, Positions};
use super::table_state::{Commit, TableState};
use crate::offline::failure::{internal, unavailable};
use deltalake_core::kernel::transaction::{CommitData, CommitProperties, TransactionError};
use deltalake_core::kernel::{Action, Add, MetadataExt, StructType, Transaction};
use deltalake_core::logstore::{CommitOrBytes, LogStoreRef, StorageConfig, default_logstore};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::{DeltaTable, TableProperty};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::columns;
use ondol_runtime::Location;
use ondol_vocabulary::SourceDefinition;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use url::Url;

/// Commits between checkpoints.
const CHECKPOINT_INTERVAL: u64 = 100;
/// How long the log's entries and removed files are noted in the log; see `docs/offline-tables.md`.
const LOG_RETENTION: &str = "interval 7 days";
/// How long checkpoints repeat which files were removed. The store's vacuum reads that from the log's entries; a long
/// memory would make checkpoints grow with every commit of a week.
const TOMBSTONE_RETENTION: &str = "interval 10 minutes";
/// How often a commit is tried that other writers overtake.
const COMMIT_ATTEMPTS: u32 = 50;
/// After so long without a look the log's entries may have been cleaned up: then the table is loaded anew.
const FOLLOWS_FOR: Duration = Duration::from_secs(600);
/// The key of the table's configuration that holds the view versions of [`LogTable::joined`], their ids in decimal,
/// separated by commas.
const JOINED_VIEWS: &str = "ondol.views";
/// Data files written at a time.
const PUTS_AT_A_TIME: usize = 4;

/// How a commit ended.
#[derive(Debug)]
pub(super) enum Committed {
    /// Everything stands in the log, by this commit or by another writer's.
    Stands,
    /// Nothing was committed: these view versions take every event, and not all of them have absorbed these.
    Uncovered(BTreeSet<u32>),
}

/// A source's table and what is known of it.
pub(super) struct LogTable {
    source: String,
    log_store: LogStoreRef,
    state: Option<TableState>,
    /// When the log's end was last seen, by both clocks: one stands still while a machine sleeps, the other jumps.
    seen: (Instant, SystemTime),
    /// Whether the last commit's outcome is known. False while one runs, and for ever after one was dropped halfway.
    settled: bool,
    /// The version of which a checkpoint is due.
    checkpoint: Option<u64>,
}

/// Files written for a commit that has yet to stand, and what they were written for.
struct Prepared {
    adds: Vec<Action>,
    schema: StructType,
    /// The positions that the commit moves: from, to.
    moves: BTreeMap<(String, i32), (Option<i64>, i64)>,
}

impl LogTable {
    /// Opens the table at `place`, which need not exist yet.
    pub(super) async fn open(source: &str, place: &Location) -> Result<Self, FeatureStoreError> {
        let url = place.folder_url();
        let mut opened = Self {
            source: source.to_owned(),
            log_store: default_logstore(place.store(), place.root(), &url, &StorageConfig::default()),
            state: None,
            seen: (Instant::now(), SystemTime::now()),
            settled: false,
            checkpoint: None,
        };
        opened.reload().await?;
        Ok(opened)
    }

    /// Reads the table's state and positions anew.
    async fn reload(&mut self) -> Result<(), FeatureStoreError> {
        let mut table = DeltaTable::new(Arc::clone(&self.log_store));
        let exists = table.verify_deltatable_existence().await;
        if exists.map_err(|error| unavailable(&self.source, "looking for", error))? {
            table
                .load()
                .await
                .map_err(|error| unavailable(&self.source, "loading", error))?;
            let loaded = table
                .snapshot()
                .map_err(|error| unavailable(&self.source, "loading", error))?;
            let positions = positions::read(self.store().as_ref(), &self.source, loaded.version())
                .await
                .map_err(|error| unavailable(&self.source, "reading positions of", error))?;
            self.state = Some(TableState::of(loaded, positions).map_err(|detail| internal(&self.source, detail))?);
            self.seen = (Instant::now(), SystemTime::now());
        }
        self.settled = true;
        Ok(())
    }

    /// Whether the log's end was seen so lately that no entry since can have been cleaned up.
    fn follows(&self) -> bool {
        let slept = SystemTime::now().duration_since(self.seen.1).unwrap_or(Duration::MAX);
        self.seen.0.elapsed().max(slept) < FOLLOWS_FOR
    }

    /// Brings the state and the positions up to the newest commit, whoever made it.
    pub(super) async fn refresh(&mut self) -> Result<(), FeatureStoreError> {
        let now = (Instant::now(), SystemTime::now());
        let follows = self.follows();
        let Some(state) = self.state.as_mut().filter(|_| follows) else {
            return self.reload().await;
        };
        loop {
            let entry = self.log_store.read_commit_entry(state.version() + 1).await;
            let entry = entry.map_err(|error| unavailable(&self.source, "reading the log of", error))?;
            let Some(bytes) = entry else { break };
            let commit = Commit::parse(&bytes)
                .map_err(|why| internal(&self.source, format!("version {}: {why}", state.version() + 1)))?;
            state.apply(&self.source, commit);
        }
        self.seen = now;
        self.settled = true;
        Ok(())
    }

    /// Whether the outcome of every commit is known; if not, [`Self::refresh`] finds out.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Committed positions.
    pub(super) fn positions(&self) -> Positions {
        self.state
            .as_ref()
            .map(|state| state.positions().clone())
            .unwrap_or_default()
    }

    /// Rows, when every file says how many it has.
    pub(super) fn rows(&self) -> Option<u64> {
        self.state.as_ref().map_or(Some(0), TableState::rows)
    }

    /// The state as of the newest commit; none before the table exists.
    pub(super) fn state(&self) -> Option<&TableState> {
        self.state.as_ref()
    }

    /// The store rooted at the table.
    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        self.log_store.object_store(None)
    }

    /// Where its log is.
    pub(super) fn log_store(&self) -> LogStoreRef {
        Arc::clone(&self.log_store)
    }

    /// The table's address.
    pub(super) fn url(&self) -> &Url {
        self.log_store.root_url()
    }

    /// The view versions that take every event committed from now on.
    pub(super) fn joined(&self) -> BTreeSet<u32> {
        let configured = self
            .state
            .as_ref()
            .and_then(|state| state.metadata().configuration().get(JOINED_VIEWS));
        configured
            .map(|ids| ids.split(',').filter_map(|id| id.trim().parse().ok()).collect())
            .unwrap_or_default()
    }

    /// Adds `view` to the ones that take every event, and drops those that are not `living`: a commit of its own, after
    /// which no commit stands that another writer prepared before it. Creates the table if it does not exist.
    pub(super) async fn join(
        &mut self,
        definition: &SourceDefinition,
        view: u32,
        living: &BTreeSet<u32>,
    ) -> Result<(), FeatureStoreError> {
        for attempt in 1_u32.. {
            let mut views = self.joined();
            if views.contains(&view) {
                break;
            }
            views.retain(|view| living.contains(view));
            views.insert(view);
            self.settled = false;
            let joined = self.try_join(definition, &views).await;
            if let Ok(true) = joined {
                break;
            }
            self.refresh().await?;
            if attempt >= COMMIT_ATTEMPTS {
                joined?;
                return Err(self.overtaken());
            }
        }
        Ok(())
    }

    async fn try_join(
        &mut self,
        definition: &SourceDefinition,
        views: &BTreeSet<u32>,
    ) -> Result<bool, FeatureStoreError> {
        let Some(state) = &self.state else {
            self.create(definition).await?;
            return Ok(false);
        };
        let ids: Vec<String> = views.iter().map(u32::to_string).collect();
        let metadata = state.metadata().clone();
        let metadata = metadata
            .add_config_key(JOINED_VIEWS.to_owned(), ids.join(","))
            .map_err(|error| internal(&self.source, error))?;
        let operation = DeltaOperation::SetTableProperties {
            properties: HashMap::from([(JOINED_VIEWS.to_owned(), ids.join(","))]),
        };
        self.write_entry(vec![Action::Metadata(metadata)], operation, Vec::new())
            .await
    }

    /// Writes the next version's log entry and goes on to it; false when another writer has written one.
    async fn write_entry(
        &mut self,
        actions: Vec<Action>,
        operation: DeltaOperation,
        transactions: Vec<Transaction>,
    ) -> Result<bool, FeatureStoreError> {
        let failed = |error: &dyn std::fmt::Display| unavailable(&self.source, "committing to", error);
        if !self.follows() {
            return Ok(false);
        }
        let Some(state) = &self.state else { return Ok(false) };
        let version = state.version() + 1;
        let entry = CommitData::new(actions, operation, HashMap::new(), transactions);
        let bytes = entry.get_bytes().map_err(|error| failed(&error))?;
        let commit = Commit::parse(&bytes).map_err(|error| failed(&error))?;
        self.settled = false;
        let written = self
            .log_store
            .write_commit_entry(version, CommitOrBytes::LogBytes(bytes), Default::default());
        match written.await {
            Ok(()) => {}
            Err(TransactionError::VersionAlreadyExists(_)) => return Ok(false),
            Err(error) => return Err(failed(&error)),
        }
        if !self.follows() {
            // This process was stopped meanwhile, others have gone on, and this version was free because its entry was
            // cleaned up: what is written there is no part of the table. Loading it anew says so.
            return Err(failed(&"the process was stopped in the middle of it"));
        }
        let Some(state) = &mut self.state else { return Ok(false) };
        state.apply(&self.source, commit);
        self.seen = (Instant::now(), SystemTime::now());
        self.settled = true;
        if (version + 1).is_multiple_of(CHECKPOINT_INTERVAL) {
            self.checkpoint = Some(version);
        }
        Ok(true)
    }

    /// What a checkpoint is to be made of, if one is due; asking makes it the caller's duty.
    pub(super) fn take_checkpoint(&mut self) -> Option<(LogStoreRef, u64)> {
        Some((Arc::clone(&self.log_store), self.checkpoint.take()?))
    }

    /// Commits `taken`: its rows, and the positions they reach. `covers` says whether they were absorbed into all of
    /// these view versions. When another writer was faster, what it has committed is taken out of `taken`, and the rest
    /// is tried again.
    pub(super) async fn commit(
        &mut self,
        taken: &mut Taken,
        covers: &(dyn Fn(&BTreeSet<u32>) -> bool + Send + Sync),
    ) -> Result<Committed, FeatureStoreError> {
        let mut prepared = None;
        for attempt in 1_u32.. {
            taken.catch_up(&self.positions())?;
            let Some(definition) = taken.definition.clone().filter(|_| !taken.is_empty()) else {
                break;
            };
            let joined = self.joined();
            if !covers(&joined) {
                return Ok(Committed::Uncovered(joined));
            }
            self.settled = false;
            let error = match self.try_commit(&definition, taken, &mut prepared).await {
                Ok(true) => return Ok(Committed::Stands),
                Ok(false) => None,
                Err(error) => Some(error),
            };
            // Another writer was faster, or it is not known whether the entry was written: the log itself says which.
            self.refresh().await?;
            let mut left = taken.clone();
            left.catch_up(&self.positions())?;
            if left.is_empty() {
                tracing::info!(source = self.source, error = ?error, "the events of a commit stand already");
            } else if attempt >= COMMIT_ATTEMPTS {
                return Err(error.unwrap_or_else(|| self.overtaken()));
            } else {
                metrics::counter!("ondol_log_commit_conflicts_total", "source" => self.source.clone()).increment(1);
                tracing::debug!(source = self.source, error = ?error, "an offline commit lost a race: it is tried again");
            }
        }
        Ok(Committed::Stands)
    }

    fn overtaken(&self) -> FeatureStoreError {
        unavailable(
            &self.source,
            "committing to",
            format!("other writers were faster {COMMIT_ATTEMPTS} times"),
        )
    }

    async fn try_commit(
        &mut self,
        definition: &SourceDefinition,
        taken: &Taken,
        prepared: &mut Option<Prepared>,
    ) -> Result<bool, FeatureStoreError> {
        let Some(state) = &self.state else {
            self.create(definition).await?;
            return Ok(false);
        };
        let evolved =
            evolve(state.schema(), state.metadata(), definition).map_err(|detail| internal(&self.source, detail))?;
        let (schema, metadata) = match evolved {
            Some((schema, metadata)) => (schema, Some(metadata)),
            None => (state.schema().as_ref().clone(), None),
        };
        let moves: BTreeMap<(String, i32), (Option<i64>, i64)> = taken
            .reached
            .iter()
            .map(|(key, to)| (key.clone(), (state.positions().next(&key.0, key.1), *to)))
            .collect();
        // Files of an attempt that others overtook hold what they should, unless a position of theirs moved meanwhile.
        let adds = match prepared.take() {
            Some(ready) if ready.schema == schema && ready.moves == moves => ready.adds,
            Some(_) | None => {
                let files = self.encode(&schema, definition, taken, state.version() + 1).await?;
                self.put(files).await?
            }
        };
        *prepared = Some(Prepared {
            adds: adds.clone(),
            schema,
            moves,
        });
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(vec![columns::EVENT_DATE.to_owned()]),
            predicate: None,
        };
        let actions = metadata.into_iter().map(Action::Metadata).chain(adds).collect();
        self.write_entry(actions, operation, self.transactions(&taken.reached))
            .await
    }

    /// Takes `removed` out of the table and `added` into it in one commit; `data_change` says whether rows go. False,
    /// and nothing changed, when one of the removed is gone already: somebody else was at it.
    pub(super) async fn replace(
        &mut self,
        removed: &[Arc<LogFile>],
        added: Vec<Add>,
        operation: &DeltaOperation,
        data_change: bool,
    ) -> Result<bool, FeatureStoreError> {
        for attempt in 1_u32.. {
            let Some(state) = &self.state else { return Ok(false) };
            let files = state.files();
            if attempt > 1 && !added.is_empty() && added.iter().all(|add| files.contains_key(&add.path)) {
                // An attempt whose end was not known has come to be.
                return Ok(true);
            }
            if removed.iter().any(|file| !files.contains_key(&file.path)) {
                return Ok(attempt > 1 && added.is_empty());
            }
            let now_ms = chrono::Utc::now().timestamp_millis();
            let removals = removed
                .iter()
                .map(|file| Action::Remove(file.removal(now_ms, data_change)));
            let actions = removals.chain(added.iter().cloned().map(Action::Add)).collect();
            match self.write_entry(actions, operation.clone(), Vec::new()).await {
                Ok(true) => return Ok(true),
                Ok(false) if attempt >= COMMIT_ATTEMPTS => return Err(self.overtaken()),
                Err(error) if attempt >= COMMIT_ATTEMPTS => return Err(error),
                Ok(false) | Err(_) => {
                    metrics::counter!("ondol_log_commit_conflicts_total", "source" => self.source.clone()).increment(1);
                    self.refresh().await?;
                }
            }
        }
        Ok(false)
    }

    /// Creates the table, unless another writer is faster.
    async fn create(&self, definition: &SourceDefinition) -> Result<(), FeatureStoreError> {
        CreateBuilder::new()
            .with_log_store(Arc::clone(&self.log_store))
            .with_table_name(&definition.name)
            .with_comment("Event log of a source, written by Ondol; see docs/offline-tables.md")
            .with_columns(delta_columns(definition))
            .with_partition_columns([columns::EVENT_DATE])
            .with_configuration_property(TableProperty::CheckpointInterval, Some(CHECKPOINT_INTERVAL.to_string()))
            .with_configuration_property(TableProperty::LogRetentionDuration, Some(LOG_RETENTION))
            .with_configuration_property(TableProperty::DeletedFileRetentionDuration, Some(TOMBSTONE_RETENTION))
            .with_save_mode(SaveMode::Ignore)
            // Tried again, the library would commit it once more onto the table that another writer has just created.
            .with_commit_properties(CommitProperties::default().with_max_retries(0))
            .await
            .map(drop)
            .map_err(|error| unavailable(&self.source, "creating", error))
    }

    fn transactions(&self, reached: &BTreeMap<(String, i32), i64>) -> Vec<Transaction> {
        let now_ms = chrono::Utc::now().timestamp_millis();
        let transaction = |((generation, partition), next): (&(String, i32), &i64)| {
            Transaction::new_with_last_update(app_id(&self.source, generation, *partition), *next, Some(now_ms))
        };
        reached.iter().map(transaction).collect()
    }

    async fn encode(
        &self,
        schema: &StructType,
        definition: &SourceDefinition,
        taken: &Taken,
        version: u64,
    ) -> Result<Vec<DataFile>, FeatureStoreError> {
        let schema = file_schema(schema).map_err(|detail| internal(&self.source, detail))?;
        let pending = taken.pending.clone();
        let time = definition.time.clone();
        let encoded = tokio::task::spawn_blocking(move || {
            data_file::encode(&pending, &schema, &time, &mut FileNames::of_commit(version))
        });
        let files = encoded.await.map_err(|error| internal(&self.source, error))?;
        files.map_err(|detail| internal(&self.source, detail))
    }

    async fn put(&self, files: Vec<DataFile>) -> Result<Vec<Action>, FeatureStoreError> {
        let store = self.store();
        futures::stream::iter(files.into_iter().map(|file| {
            let store = Arc::clone(&store);
            async move {
                store.put(&Path::from(file.path.as_str()), file.bytes.into()).await?;
                Ok(Action::Add(file.add))
            }
        }))
        .buffered(PUTS_AT_A_TIME)
        .try_collect()
        .await
        .map_err(|error: object_store::Error| unavailable(&self.source, "writing a file of", error))
    }
}
