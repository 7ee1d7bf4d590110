//! One source's Delta table: created, evolved, and committed to, files and positions together.
//!
//! The order of a commit is what makes it exactly-once: data files are written and synced first, under names nobody
//! refers to yet; then one log entry adds them *and* moves the positions. A crash before the entry leaves orphan files
//! that no reader sees; after it, everything is there.
//!
//! Several writers may commit: replicas of the store, each for the partitions it is delivered. Delta refuses a commit
//! when one since the state it stands on moved the same position, or changed the table's metadata, and lets it pass
//! otherwise. Whoever is refused reads the log, lets go of what stands there already, and commits the rest.
//!
//! The table's configuration also says which view versions take every event from there on ([`LogTable::joined`]): a
//! commit that was not absorbed into all of them is refused. See `docs/adr/0006-a-hand-over-is-a-commit.md`.

use super::buffer::Taken;
use super::data_file::{self, DataFile};
use super::layout::{CommitFiles, app_id, delta_columns, file_schema};
use super::positions::{self, Positions};
use crate::offline::failure::{internal, unavailable};
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties, TableReference};
use deltalake_core::kernel::{Action, Metadata, MetadataExt, StructType, Transaction};
use deltalake_core::logstore::LogStoreRef;
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::table::state::DeltaTableState;
use deltalake_core::{DeltaTable, DeltaTableBuilder, TableProperty};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::columns;
use ondol_vocabulary::SourceDefinition;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use url::Url;

/// Commits between checkpoints.
const CHECKPOINT_INTERVAL: u64 = 10;
/// How often a commit is tried that other writers overtake.
const COMMIT_ATTEMPTS: u32 = 20;
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
    state: Option<DeltaTableState>,
    positions: Positions,
    /// Whether the last commit's outcome is known. False while one runs, and for ever after one was dropped halfway.
    settled: bool,
}

impl LogTable {
    /// Opens the table at `url`, which need not exist yet.
    pub(super) async fn open(source: &str, url: &Url, store: Arc<dyn ObjectStore>) -> Result<Self, FeatureStoreError> {
        let table = DeltaTableBuilder::from_url(url.clone())
            .and_then(|builder| builder.with_storage_backend(store, url.clone()).build())
            .map_err(|error| unavailable(source, "opening", error))?;
        let mut opened = Self {
            source: source.to_owned(),
            log_store: table.log_store(),
            state: None,
            positions: Positions::default(),
            settled: false,
        };
        opened.reload().await?;
        Ok(opened)
    }

    /// Reads the table's state and positions anew.
    async fn reload(&mut self) -> Result<(), FeatureStoreError> {
        let mut table = DeltaTable::new(Arc::clone(&self.log_store));
        let exists = table.verify_deltatable_existence().await;
        if !exists.map_err(|error| unavailable(&self.source, "looking for", error))? {
            self.settled = true;
            return Ok(());
        }
        table
            .load()
            .await
            .map_err(|error| unavailable(&self.source, "loading", error))?;
        let state = table
            .snapshot()
            .map_err(|error| unavailable(&self.source, "loading", error))?
            .clone();
        let store = self.log_store.object_store(None);
        self.positions = positions::read(store.as_ref(), &self.source, state.version())
            .await
            .map_err(|error| unavailable(&self.source, "reading positions of", error))?;
        self.state = Some(state);
        self.settled = true;
        Ok(())
    }

    /// Brings the state and the positions up to the newest commit, whoever made it.
    pub(super) async fn refresh(&mut self) -> Result<(), FeatureStoreError> {
        let Some(mut state) = self.state.clone() else {
            return self.reload().await;
        };
        let from = state.version();
        if let Err(error) = state.update(&self.log_store, None).await {
            // What was cleaned up since can't be followed step by step.
            tracing::debug!(source = self.source, %error, "the table can't be followed: it is loaded anew");
            return self.reload().await;
        }
        let mut positions = self.positions.clone();
        let followed = self
            .follow(&mut positions, from, state.version())
            .await
            .map_err(|error| unavailable(&self.source, "reading positions of", error))?;
        if !followed {
            return self.reload().await;
        }
        self.positions = positions;
        self.state = Some(state);
        self.settled = true;
        Ok(())
    }

    async fn follow(&self, positions: &mut Positions, from: u64, to: u64) -> Result<bool, String> {
        let store = self.log_store.object_store(None);
        positions::advance(store.as_ref(), &self.source, positions, from, to).await
    }

    /// Whether the outcome of every commit is known; if not, [`Self::reload`] finds out.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Committed positions.
    pub(super) fn positions(&self) -> &Positions {
        &self.positions
    }

    /// The state as of the newest commit; none before the table exists.
    pub(super) fn state(&self) -> Option<&DeltaTableState> {
        self.state.as_ref()
    }

    /// The store rooted at the table.
    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        self.log_store.object_store(None)
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
            let Err(error) = self.try_join(definition, &views).await else {
                break;
            };
            self.refresh().await?;
            if attempt >= COMMIT_ATTEMPTS {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn try_join(
        &mut self,
        definition: &SourceDefinition,
        views: &BTreeSet<u32>,
    ) -> Result<(), FeatureStoreError> {
        let failed = |error: &dyn std::fmt::Display| unavailable(&self.source, "handing over a view of", error);
        let state = match &self.state {
            Some(state) => state.clone(),
            None => self.create(definition).await?,
        };
        let ids: Vec<String> = views.iter().map(u32::to_string).collect();
        let metadata = state.metadata().clone();
        let metadata = metadata.add_config_key(JOINED_VIEWS.to_owned(), ids.join(","));
        let from = state.version();
        let operation = DeltaOperation::SetTableProperties {
            properties: HashMap::from([(JOINED_VIEWS.to_owned(), ids.join(","))]),
        };
        let commit = CommitBuilder::from(CommitProperties::default())
            .with_actions(vec![Action::Metadata(metadata.map_err(|error| failed(&error))?)])
            .build(
                Some(&state as &dyn TableReference),
                Arc::clone(&self.log_store),
                operation,
            )
            .await
            .map_err(|error| failed(&error))?;
        self.stand_at(from, commit.snapshot()).await
    }

    /// Commits `taken`: its rows, and the positions they reach. `covers` says whether they were absorbed into all of
    /// these view versions. When another writer was faster, what it has committed is taken out of `taken`, and the rest
    /// is tried again.
    pub(super) async fn commit(
        &mut self,
        taken: &mut Taken,
        covers: &(dyn Fn(&BTreeSet<u32>) -> bool + Send + Sync),
    ) -> Result<Committed, FeatureStoreError> {
        for attempt in 1_u32.. {
            taken.catch_up(&self.positions)?;
            let Some(definition) = taken.definition.clone().filter(|_| !taken.is_empty()) else {
                break;
            };
            let joined = self.joined();
            if !covers(&joined) {
                return Ok(Committed::Uncovered(joined));
            }
            self.settled = false;
            let Err(error) = self.try_commit(&definition, taken, covers).await else {
                return Ok(Committed::Stands);
            };
            // The failure may have come after the log entry was written (while making a checkpoint), or because
            // another writer was faster. The log itself says which.
            self.refresh().await?;
            let mut left = taken.clone();
            left.catch_up(&self.positions)?;
            if left.is_empty() {
                tracing::info!(source = self.source, %error, "the events of a commit stand already");
            } else if attempt >= COMMIT_ATTEMPTS {
                return Err(error);
            } else {
                metrics::counter!("ondol_log_commit_conflicts_total", "source" => self.source.clone()).increment(1);
                tracing::debug!(source = self.source, %error, "an offline commit lost a race: it is tried again");
            }
        }
        Ok(Committed::Stands)
    }

    async fn try_commit(
        &mut self,
        definition: &SourceDefinition,
        taken: &Taken,
        covers: &(dyn Fn(&BTreeSet<u32>) -> bool + Send + Sync),
    ) -> Result<(), FeatureStoreError> {
        let state = match &self.state {
            Some(state) => state.clone(),
            None => {
                let state = self.create(definition).await?;
                // Another writer may have been faster, and have gone on.
                self.state = Some(state.clone());
                self.positions = self.positions_at(state.version()).await?;
                if state.version() > 0 || !covers(&self.joined()) {
                    return Err(unavailable(&self.source, "creating", "another writer has created it"));
                }
                state
            }
        };
        let from = state.version();
        let committed = self.commit_onto(&state, definition, taken).await?;
        self.stand_at(from, committed).await
    }

    /// Takes over the state that a commit of this writer has led to; others may have committed between.
    async fn stand_at(&mut self, from: u64, state: DeltaTableState) -> Result<(), FeatureStoreError> {
        let mut positions = self.positions.clone();
        let followed = self.follow(&mut positions, from, state.version()).await;
        match followed {
            Ok(true) => self.positions = positions,
            Ok(false) | Err(_) => self.positions = self.positions_at(state.version()).await?,
        }
        self.state = Some(state);
        self.settled = true;
        Ok(())
    }

    async fn positions_at(&self, version: u64) -> Result<Positions, FeatureStoreError> {
        let store = self.log_store.object_store(None);
        positions::read(store.as_ref(), &self.source, version)
            .await
            .map_err(|error| unavailable(&self.source, "reading positions of", error))
    }

    async fn create(&self, definition: &SourceDefinition) -> Result<DeltaTableState, FeatureStoreError> {
        let table = CreateBuilder::new()
            .with_log_store(Arc::clone(&self.log_store))
            .with_table_name(&definition.name)
            .with_comment("Event log of a source, written by Ondol; see docs/offline-tables.md")
            .with_columns(delta_columns(definition))
            .with_partition_columns([columns::EVENT_DATE])
            .with_configuration_property(TableProperty::CheckpointInterval, Some(CHECKPOINT_INTERVAL.to_string()))
            .with_save_mode(SaveMode::Ignore)
            // Tried again, the library would commit it once more onto the table that another writer has just created.
            .with_commit_properties(CommitProperties::default().with_max_retries(0))
            .await
            .map_err(|error| unavailable(&self.source, "creating", error))?;
        table
            .snapshot()
            .cloned()
            .map_err(|error| unavailable(&self.source, "loading", error))
    }

    async fn commit_onto(
        &self,
        state: &DeltaTableState,
        definition: &SourceDefinition,
        taken: &Taken,
    ) -> Result<DeltaTableState, FeatureStoreError> {
        let evolved = evolve(state, definition).map_err(|detail| internal(&self.source, detail))?;
        let (schema, metadata) = match &evolved {
            Some((schema, metadata)) => (schema, Some(metadata.clone())),
            None => (&*state.schema(), None),
        };
        let files = self.encode(schema, definition, taken, state.version() + 1).await?;
        let adds = self.put(files).await?;
        let actions = metadata.into_iter().map(Action::Metadata).chain(adds).collect();
        let version = state.version() + 1;
        let properties = CommitProperties::default()
            .with_application_transactions(self.transactions(&taken.reached))
            // Listing the log for expired entries is worth it only when a checkpoint has just made some superfluous.
            .with_cleanup_expired_logs(Some((version + 1).is_multiple_of(CHECKPOINT_INTERVAL)));
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(vec![columns::EVENT_DATE.to_owned()]),
            predicate: None,
        };
        let commit = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(
                Some(state as &dyn TableReference),
                Arc::clone(&self.log_store),
                operation,
            )
            .await
            .map_err(|error| unavailable(&self.source, "committing to", error))?;
        Ok(commit.snapshot())
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
            data_file::encode(&pending, &schema, &time, &mut CommitFiles::new(version))
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

/// The table's new schema when the source has columns the table lacks. Columns are only ever added: files written
/// before read as null.
fn evolve(state: &DeltaTableState, source: &SourceDefinition) -> Result<Option<(StructType, Metadata)>, String> {
    let schema = state.schema();
    let wanted = delta_columns(source);
    if let Some(column) = wanted.iter().find(|column| {
        schema
            .field(column.name())
            .is_some_and(|held| held.data_type() != column.data_type())
    }) {
        return Err(format!(
            "column `{}` can't become {}: the archived log holds another type, give the new column another name",
            column.name(),
            column.data_type()
        ));
    }
    let new: Vec<_> = wanted
        .into_iter()
        .filter(|column| schema.field(column.name()).is_none())
        .collect();
    if new.is_empty() {
        return Ok(None);
    }
    let evolved = StructType::try_new(schema.fields().cloned().chain(new)).map_err(|error| error.to_string())?;
    let metadata = state
        .metadata()
        .clone()
        .with_schema(&evolved)
        .map_err(|error| error.to_string())?;
    Ok(Some((evolved, metadata)))
}
