//! One source's Delta table: created, evolved, and committed to, files and positions together.
//!
//! The order of a commit is what makes it exactly-once: data files are written and synced first, under names nobody
//! refers to yet; then one log entry adds them *and* moves the positions. A crash before the entry leaves orphan files
//! that no reader sees; after it, everything is there.

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
use std::collections::BTreeMap;
use std::sync::Arc;
use url::Url;

/// Commits between checkpoints.
const CHECKPOINT_INTERVAL: u64 = 10;
/// Data files written at a time.
const PUTS_AT_A_TIME: usize = 4;

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
    pub(super) async fn reload(&mut self) -> Result<(), FeatureStoreError> {
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

    /// Commits `taken`: its rows, and the positions they reach.
    pub(super) async fn commit(&mut self, taken: &Taken) -> Result<(), FeatureStoreError> {
        let Some(definition) = &taken.definition else {
            return Ok(());
        };
        self.settled = false;
        let state = match &self.state {
            Some(state) => state.clone(),
            None => self.create(definition).await?,
        };
        match self.commit_onto(&state, definition, taken).await {
            Ok(committed) => {
                self.state = Some(committed);
                let now_ms = chrono::Utc::now().timestamp_millis();
                for ((generation, partition), next) in &taken.reached {
                    self.positions.set(generation, *partition, *next, now_ms);
                }
                self.settled = true;
                Ok(())
            }
            Err(error) => self.settle(taken, error).await,
        }
    }

    /// After a failed commit: the failure may have come after the log entry was written (while making a checkpoint),
    /// or because another writer was faster. The log itself says which.
    async fn settle(&mut self, taken: &Taken, error: FeatureStoreError) -> Result<(), FeatureStoreError> {
        self.reload().await?;
        let stands = |((generation, partition), next): (&(String, i32), &i64)| {
            self.positions.next(generation, *partition) == Some(*next)
        };
        if taken.reached.iter().all(stands) {
            tracing::warn!(source = self.source, %error, "offline commit stands although its follow-up failed");
            return Ok(());
        }
        Err(error)
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
