//! The registry: definition files in, immutable versions and snapshots out.
//!
//! In the order of the data: [`ondol_transform::definition`] compiles files; `change` compares the result with the
//! `catalog` of all versions (`difference` says what differs, `compatibility` what can't be done in one step);
//! `database` stores the outcome in one transaction; the snapshot in force goes to every subscriber.
//!
//! Reads never touch the database: the snapshot is held in memory. Several processes may share a PostgreSQL registry:
//! each is told of the others' changes, and polls in case it was not ([`Registry::follow`]). What else replicas share
//! is kept here too: `rows` (what is built, built anew, discarded), `provisioning` (how that stands, and what is held
//! back), `losses` (what the online store is known to hold), `lock` (work that one replica does at a time).

mod catalog;
mod change;
mod compatibility;
mod database;
mod difference;
mod lock;
mod losses;
mod provisioning;
mod row_bytes;
mod rows;
mod uses;

pub use lock::WorkLock;
pub use losses::Admission;
pub use rows::RowsProgress;

use catalog::{Catalog, Noun, OpenRebuild, Record};
use change::ChangeSet;
use database::{Change, Database};
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::{Applied, DefinitionFiles, DefinitionHistory, DefinitionVersion, Plan};
use ondol_transform::definition::{self, Definitions, built_in_sources};
use ondol_vocabulary::{EventTime, Snapshot, ViewState};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// Rows in a source's event log, where known: what a new view version would have to read.
pub type RowCount = Arc<dyn Fn(&str) -> Option<u64> + Send + Sync>;

/// The registry of definitions. Cheap to clone: clones share the database and the snapshot.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    database: Database,
    snapshot: watch::Sender<Arc<Snapshot>>,
    rows: OnceLock<RowCount>,
}

impl Registry {
    /// Opens the registry at `sqlite://path` or `postgres://…`, creating its tables when absent and the built-in
    /// sources when they are absent or older than this program's.
    pub async fn open(url: &str) -> Result<Self, FeatureStoreError> {
        let database = Database::open(url).await?;
        let shared = Shared {
            database,
            snapshot: watch::Sender::new(Arc::default()),
            rows: OnceLock::new(),
        };
        let registry = Self {
            shared: Arc::new(shared),
        };
        registry.install_built_in().await?;
        Ok(registry)
    }

    /// Lets plans say how many rows a new view version reads. The first call counts.
    pub fn count_rows_with(&self, rows: RowCount) {
        if self.shared.rows.set(rows).is_err() {
            tracing::warn!("the registry has a row count already: the new one is ignored");
        }
    }

    /// What applying `files` would change. Changes nothing.
    pub async fn plan(&self, files: &DefinitionFiles) -> Result<Plan, FeatureStoreError> {
        let wanted = compile(files)?;
        let mut change = self.shared.database.change().await?;
        let catalog = change.catalog().await?;
        let set = self.compare(&catalog, &wanted, files)?;
        let broken = uses::broken(&catalog, &wanted, &change.uses().await?);
        if !broken.is_empty() {
            return Err(FeatureStoreError::InUse { broken });
        }
        Ok(Plan {
            base_version: catalog.version,
            changes: set.changes,
        })
    }

    /// Makes `files` the definitions in force, all or nothing. What is in force and not in the files is removed; what
    /// is unchanged keeps its version; applying the same files again changes nothing.
    /// Refused where live models read what it takes away or changes.
    pub async fn apply(&self, files: &DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        self.apply_as(files, false).await
    }

    /// As [`Self::apply`], whatever live models read. What it broke is recorded.
    pub async fn apply_forced(&self, files: &DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        self.apply_as(files, true).await
    }

    async fn apply_as(&self, files: &DefinitionFiles, forced: bool) -> Result<Applied, FeatureStoreError> {
        let wanted = compile(files)?;
        let mut change = self.shared.database.change().await?;
        let catalog = change.catalog().await?;
        let set = self.compare(&catalog, &wanted, files)?;
        if set.is_empty() {
            let snapshot = catalog.snapshot();
            self.publish(&snapshot);
            return Ok(Applied {
                changes: Vec::new(),
                snapshot,
            });
        }
        let broken = uses::broken(&catalog, &wanted, &change.uses().await?);
        if !broken.is_empty() && !forced {
            return Err(FeatureStoreError::InUse { broken });
        }
        change.store(&set, files).await?;
        let snapshot = change.catalog().await?.snapshot();
        if !broken.is_empty() {
            change.record_forced(snapshot.version, &broken).await?;
        }
        change.commit().await?;
        self.publish(&snapshot);
        for broken in &broken {
            tracing::warn!(registry_version = snapshot.version, %broken, "applied by force under a live model");
        }
        tracing::info!(
            registry_version = snapshot.version,
            changes = set.changes.len(),
            "definitions applied"
        );
        Ok(Applied {
            changes: set.changes,
            snapshot,
        })
    }

    /// Every version of the definition called `name`, newest first. A name that several nouns share means the view,
    /// then the model, then the source; `source.NAME`, `view.NAME` and `model.NAME` say which.
    pub async fn history(&self, name: &str) -> Result<DefinitionHistory, FeatureStoreError> {
        let catalog = self.shared.database.change().await?.catalog().await?;
        let qualified = name
            .split_once('.')
            .and_then(|(noun, name)| Some((Noun::parse(noun)?, name)));
        let candidates = match qualified {
            Some(one) => vec![one],
            None => [Noun::View, Noun::Model, Noun::Source]
                .map(|noun| (noun, name))
                .to_vec(),
        };
        let found = candidates
            .into_iter()
            .find(|(noun, name)| catalog.versions(*noun, name).next().is_some());
        let Some((noun, name)) = found else {
            let nearest = crate::read::nearest(name, catalog.records.iter().map(Record::name));
            return Err(unknown("source, view or model", name, nearest));
        };
        let mut versions = catalog
            .versions(noun, name)
            .map(history_entry)
            .collect::<Result<Vec<_>, _>>()?;
        versions.sort_by_key(|entry| std::cmp::Reverse(entry.version));
        Ok(DefinitionHistory {
            noun: noun.name().to_owned(),
            name: name.to_owned(),
            versions,
        })
    }

    /// Makes a provisioned view version serve, and retires the one it replaces, at once. Idempotent.
    pub async fn activate(&self, view_id: u32) -> Result<(), FeatureStoreError> {
        let mut change = self.shared.database.change().await?;
        let catalog = change.catalog().await?;
        if let Some(rebuild) = catalog.rebuilds.iter().find(|rebuild| rebuild.view_id == view_id) {
            return self.activate_rebuild(change, &catalog, rebuild).await;
        }
        let record = catalog.records.iter().find(|record| record.view_id == Some(view_id));
        let record = record.ok_or_else(|| unknown("view id", &view_id.to_string(), None))?;
        match record.state {
            ViewState::Active => {
                self.publish(&catalog.snapshot());
                return Ok(());
            }
            ViewState::Retired => {
                return Err(FeatureStoreError::InvalidRequest {
                    detail: format!(
                        "view `{}@{}` is retired and can't be activated: apply its definition again",
                        record.name(),
                        record.version
                    ),
                });
            }
            ViewState::Provisioning => {}
        }
        if let Some(before) = catalog.active(Noun::View, record.name()) {
            change
                .set_state(Noun::View, before.name(), before.version, ViewState::Retired)
                .await?;
        }
        change
            .set_state(Noun::View, record.name(), record.version, ViewState::Active)
            .await?;
        change.forget_provisioning(view_id).await?;
        change.next_version().await?;
        let snapshot = change.catalog().await?.snapshot();
        change.commit().await?;
        self.publish(&snapshot);
        tracing::info!(
            feature_view = record.name(),
            version = record.version,
            "feature view active"
        );
        Ok(())
    }

    /// Makes rows that were built anew serve in place of those of the same version.
    async fn activate_rebuild(
        &self,
        mut change: Change,
        catalog: &Catalog,
        rebuild: &OpenRebuild,
    ) -> Result<(), FeatureStoreError> {
        let serving = catalog
            .active(Noun::View, &rebuild.name)
            .filter(|record| record.version == rebuild.version)
            .and_then(|record| record.view_id);
        let before = serving.ok_or_else(|| FeatureStoreError::InvalidRequest {
            detail: format!(
                "view `{}@{}` serves no longer: its rows are not built anew",
                rebuild.name, rebuild.version
            ),
        })?;
        change.finish_rebuild(rebuild, before).await?;
        change.next_version().await?;
        let snapshot = change.catalog().await?.snapshot();
        change.commit().await?;
        self.publish(&snapshot);
        tracing::info!(
            feature_view = rebuild.name,
            version = rebuild.version,
            "feature view serves rows built anew"
        );
        Ok(())
    }

    /// The definitions in force, from memory.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.shared.snapshot.borrow())
    }

    /// Follows the snapshot.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.shared.snapshot.subscribe()
    }

    /// Reloads the snapshot if another process changed the registry.
    pub async fn refresh(&self) -> Result<(), FeatureStoreError> {
        if self.shared.database.version().await? != self.snapshot().version {
            let snapshot = self.shared.database.change().await?.catalog().await?.snapshot();
            self.publish(&snapshot);
        }
        Ok(())
    }

    /// Generations of its source that a bootstrap has absorbed into a view version completely.
    pub async fn provisioned(&self, view_id: u32) -> Result<Vec<String>, FeatureStoreError> {
        self.shared.database.provisioned(view_id).await
    }

    /// Notes that a bootstrap has absorbed a generation into a view version completely.
    pub async fn set_provisioned(&self, view_id: u32, generation: &str) -> Result<(), FeatureStoreError> {
        self.shared.database.set_provisioned(view_id, generation).await
    }

    async fn install_built_in(&self) -> Result<(), FeatureStoreError> {
        let mut change = self.shared.database.change().await?;
        let catalog = change.catalog().await?;
        let mut set = ChangeSet::default();
        for source in built_in_sources() {
            let name = source.name.clone();
            let definition = catalog::Definition::Source(source);
            let current = catalog.current(Noun::Source, &name);
            if current.is_some_and(|current| current.definition == definition) {
                continue;
            }
            set.retire
                .extend(current.map(|current| (Noun::Source, name.clone(), current.version)));
            set.insert.push(Record {
                version: catalog.next_version(Noun::Source, &name),
                view_id: None,
                source_version: None,
                state: ViewState::Active,
                definition,
                applied_at: EventTime::now(),
            });
        }
        if set.is_empty() {
            self.publish(&catalog.snapshot());
            return Ok(());
        }
        change.store(&set, &DefinitionFiles::default()).await?;
        let snapshot = change.catalog().await?.snapshot();
        change.commit().await?;
        self.publish(&snapshot);
        Ok(())
    }

    fn compare(
        &self,
        catalog: &Catalog,
        wanted: &Definitions,
        files: &DefinitionFiles,
    ) -> Result<ChangeSet, FeatureStoreError> {
        let rows = |source: &str| self.shared.rows.get().and_then(|rows| rows(source));
        change::compare(catalog, wanted, &rows, EventTime::now()).map_err(|refusals| {
            FeatureStoreError::InvalidDefinitions {
                diagnostics: compatibility::diagnostics(files, &refusals),
            }
        })
    }

    /// Hands a snapshot to the subscribers, unless a newer one is there already.
    fn publish(&self, snapshot: &Snapshot) {
        self.shared.snapshot.send_if_modified(|held| {
            let newer = snapshot.version > held.version;
            if newer {
                *held = Arc::new(snapshot.clone());
            }
            newer
        });
    }
}

fn compile(files: &DefinitionFiles) -> Result<Definitions, FeatureStoreError> {
    definition::compile(files).map_err(|diagnostics| FeatureStoreError::InvalidDefinitions { diagnostics })
}

fn history_entry(record: &Record) -> Result<DefinitionVersion, FeatureStoreError> {
    let definition = record
        .definition
        .to_json()
        .map_err(|error| FeatureStoreError::Internal {
            detail: format!("the definition of `{}` has no JSON form: {error}", record.name()),
        })?;
    Ok(DefinitionVersion {
        version: record.version,
        applied_at: record.applied_at,
        in_force: record.state == ViewState::Active,
        definition,
    })
}

fn unknown(kind: &str, name: &str, suggestion: Option<String>) -> FeatureStoreError {
    FeatureStoreError::Unknown {
        kind: kind.to_owned(),
        name: name.to_owned(),
        suggestion,
    }
}
