//! The registry: definition files in, immutable versions and snapshots out.

use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::{Applied, DefinitionFiles, DefinitionHistory, Plan};
use ondol_vocabulary::Snapshot;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Rows in a source's event log, where known: what a new view version would have to read.
pub type RowCount = Arc<dyn Fn(&str) -> Option<u64> + Send + Sync>;

/// The registry of definitions. Cheap to clone: clones share the database and the snapshot.
#[derive(Clone)]
pub struct Registry;

impl Registry {
    /// Opens the registry at `sqlite://path` or `postgres://…`, creating its tables when absent.
    pub async fn open(url: &str) -> Result<Self, FeatureStoreError> {
        Err(FeatureStoreError::Internal { detail: format!("not written yet: {url}") })
    }

    /// Lets plans say how many rows a new view version reads.
    pub fn count_rows_with(&self, _rows: RowCount) {}

    /// What applying `files` would change. Changes nothing.
    pub async fn plan(&self, _files: &DefinitionFiles) -> Result<Plan, FeatureStoreError> {
        Err(FeatureStoreError::Internal { detail: "not written yet".to_owned() })
    }

    /// Makes `files` the definitions in force, atomically.
    pub async fn apply(&self, _files: &DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        Err(FeatureStoreError::Internal { detail: "not written yet".to_owned() })
    }

    /// Every version of the definition called `name`, newest first.
    pub async fn history(&self, _name: &str) -> Result<DefinitionHistory, FeatureStoreError> {
        Err(FeatureStoreError::Internal { detail: "not written yet".to_owned() })
    }

    /// Makes a provisioned view version serve, and retires the one it replaces. Idempotent.
    pub async fn activate(&self, _view_id: u32) -> Result<(), FeatureStoreError> {
        Err(FeatureStoreError::Internal { detail: "not written yet".to_owned() })
    }

    /// The definitions in force, from memory.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::default()
    }

    /// Follows the snapshot.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        watch::channel(Arc::default()).1
    }

    /// Reloads the snapshot if another process changed the registry.
    pub async fn refresh(&self) -> Result<(), FeatureStoreError> {
        Ok(())
    }

    /// Calls [`Self::refresh`] every `every`, for ever: the service drops the future to stop it.
    pub async fn follow(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
        }
    }
}
