//! The definitions in force: followed from the feature store, kept in a file, so that the gateway starts and compiles
//! its plans while the store is down.

use crate::artifact::write_durably;
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_runtime::{ReadyHandle, Shutdown};
use ondol_vocabulary::Snapshot;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long one call of the store may take at the start, and when a request needs the newest definitions.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a long poll waits for a change.
const POLL: Duration = Duration::from_secs(30);
/// Pauses between attempts while the store is down: from the first, doubled up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The definitions in force, as far as known. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Definitions {
    store: Arc<dyn FeatureStore>,
    current: Arc<watch::Sender<Arc<Snapshot>>>,
    file: PathBuf,
    ready: ReadyHandle,
}

impl Definitions {
    /// Asks the store for the definitions; when it does not answer, takes those of the last run from `file`. Without
    /// either they are empty, and `ready` says why, until [`Self::follow`] has them.
    pub async fn open(store: Arc<dyn FeatureStore>, file: PathBuf, ready: ReadyHandle) -> Self {
        let known = read_file(&file).await;
        let (current, _) = watch::channel(Arc::new(Snapshot::default()));
        let definitions = Self {
            store,
            current: Arc::new(current),
            file,
            ready,
        };
        if let Some(snapshot) = known {
            definitions.current.send_replace(Arc::new(snapshot));
            definitions.ready.ready();
        }
        if let Err(error) = definitions.refresh().await {
            tracing::warn!(%error, "definitions can't be read: starting from the last known ones");
            if definitions.current().version == 0 {
                definitions
                    .ready
                    .not_ready(format!("no definitions are known yet: {error}"));
            }
        }
        definitions
    }

    /// The definitions in force.
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow())
    }

    /// The definitions in force, asked of the store now.
    pub async fn refresh(&self) -> Result<Arc<Snapshot>, FeatureStoreError> {
        let snapshot = tokio::time::timeout(PATIENCE, self.store.snapshot())
            .await
            .map_err(|_| FeatureStoreError::Unavailable {
                detail: format!("it did not answer within {} s", PATIENCE.as_secs()),
            })??;
        // An answer that was overtaken by the follower's does not turn the definitions back.
        if snapshot.version >= self.current().version {
            self.publish(&snapshot).await;
        }
        Ok(snapshot)
    }

    /// Spawns the task that follows the store until the shutdown.
    pub fn follow(&self, shutdown: &Shutdown) {
        let definitions = self.clone();
        let token = shutdown.token();
        shutdown.spawn("gateway-definitions", async move {
            token.run_until_cancelled(definitions.poll()).await;
        });
    }

    async fn poll(&self) {
        let mut pause = BACKOFF.0;
        loop {
            let version = self.current().version;
            match self.store.next_snapshot(version, POLL).await {
                // Also an older one: then the registry was set back, and the store is right.
                Ok(snapshot) => {
                    pause = BACKOFF.0;
                    self.publish(&snapshot).await;
                }
                Err(error) => {
                    metrics::counter!("ondol_gateway_snapshot_errors_total").increment(1);
                    tracing::warn!(%error, pause_ms = pause.as_millis(), "the feature store can't be followed");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
            }
        }
    }

    async fn publish(&self, snapshot: &Arc<Snapshot>) {
        let changed = self.current.send_if_modified(|current| {
            let changed = **current != **snapshot;
            if changed {
                *current = Arc::clone(snapshot);
            }
            changed
        });
        self.ready.ready();
        if !changed {
            return;
        }
        metrics::gauge!("ondol_gateway_snapshot_version").set(snapshot.version as f64);
        tracing::info!(
            version = snapshot.version,
            models = snapshot.models.len(),
            "definitions changed"
        );
        if let Err(error) = write_file(self.file.clone(), Arc::clone(snapshot)).await {
            tracing::error!(%error, file = %self.file.display(), "the definitions can't be kept for the next start");
        }
    }
}

async fn read_file(file: &Path) -> Option<Snapshot> {
    let bytes = match tokio::fs::read(file).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "the last definitions can't be read");
            return None;
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(snapshot) => Some(snapshot),
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "the last definitions can't be read");
            None
        }
    }
}

async fn write_file(file: PathBuf, snapshot: Arc<Snapshot>) -> std::io::Result<()> {
    let write = move || write_durably(&file, &serde_json::to_vec(&*snapshot)?);
    tokio::task::spawn_blocking(write)
        .await
        .map_err(std::io::Error::other)?
}
