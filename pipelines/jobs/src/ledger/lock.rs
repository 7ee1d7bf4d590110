//! A lock on a file: one process at a time. The system lets go of it when the process ends, however it ends.

use crate::error::JobError;
use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::time::Duration;

/// How long the process before may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A locked file; dropping it unlocks.
pub(super) struct FileLock {
    _file: File,
}

impl FileLock {
    /// Locks the SQLite ledger at `url`, by a file beside it. A ledger in memory needs none.
    pub(super) async fn of_ledger(url: &str) -> Result<Option<Self>, JobError> {
        let path = url.trim_start_matches("sqlite:").trim_start_matches("//");
        let path = path.split('?').next().unwrap_or(path);
        if path.is_empty() || path.contains(":memory:") {
            return Ok(None);
        }
        let path = PathBuf::from(format!("{path}.lock"));
        let action = || format!("can't lock the job ledger with {}", path.display());
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|cause| JobError::storage(action(), cause))?;
        let started = tokio::time::Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self { _file: file })),
                Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let remedy = "another process uses it: give each its own data folder, or share a PostgreSQL ledger";
                    return Err(JobError::storage(action(), remedy));
                }
                Err(TryLockError::Error(cause)) => return Err(JobError::storage(action(), cause)),
            }
        }
    }
}
