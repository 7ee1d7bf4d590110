//! How far a job is: written by compute threads without a lock, read by whoever publishes it.

use crate::error::JobError;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

const UNKNOWN: u64 = u64::MAX;

/// How far a job is, and whether it should go on.
#[derive(Debug)]
pub(crate) struct Progress {
    stage: Mutex<String>,
    done: AtomicU64,
    total: AtomicU64,
    cancel: CancellationToken,
    shutdown: CancellationToken,
    /// Cancelled once the job is another instance's.
    lost: CancellationToken,
}

/// One look at a [`Progress`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What the job does now.
    pub stage: String,
    /// Rows done of the stage.
    pub rows_done: u64,
    /// Rows of the stage, where known.
    pub rows_total: Option<u64>,
}

impl Progress {
    /// Nothing done; stops once `cancel` or `shutdown` is cancelled.
    pub(crate) fn new(cancel: CancellationToken, shutdown: CancellationToken) -> Self {
        Self {
            stage: Mutex::new("starting".to_owned()),
            done: AtomicU64::new(0),
            total: AtomicU64::new(UNKNOWN),
            cancel,
            shutdown,
            lost: CancellationToken::new(),
        }
    }

    /// The job may be another instance's by now: whatever is under way must stop, and nothing more be published.
    pub(crate) fn lose(&self) {
        self.lost.cancel();
    }

    /// Begins a stage of `total` rows.
    pub(crate) fn stage(&self, stage: impl Into<String>, total: Option<u64>) {
        if let Ok(mut current) = self.stage.lock() {
            *current = stage.into();
            self.done.store(0, Ordering::Relaxed);
            self.total.store(total.unwrap_or(UNKNOWN), Ordering::Relaxed);
        }
    }

    /// So many rows of a stage are done, of so many.
    pub(crate) fn reach(&self, stage: &str, done: u64, total: Option<u64>) {
        if let Ok(mut current) = self.stage.lock() {
            if *current != stage {
                stage.clone_into(&mut current);
            }
            self.done.store(done, Ordering::Relaxed);
            self.total.store(total.unwrap_or(UNKNOWN), Ordering::Relaxed);
        }
    }

    /// `rows` more are done.
    pub(crate) fn add(&self, rows: u64) {
        self.done.fetch_add(rows, Ordering::Relaxed);
    }

    /// An error once the job should stop. Called between batches.
    pub(crate) fn checkpoint(&self) -> Result<(), JobError> {
        if self.lost.is_cancelled() {
            Err(JobError::Lost)
        } else if self.cancel.is_cancelled() {
            Err(JobError::Cancelled)
        } else if self.shutdown.is_cancelled() {
            Err(JobError::Shutdown)
        } else {
            Ok(())
        }
    }

    /// Returns once the job should stop, with the reason.
    pub(crate) async fn stopped(&self) -> JobError {
        tokio::select! {
            () = self.lost.cancelled() => JobError::Lost,
            () = self.cancel.cancelled() => JobError::Cancelled,
            () = self.shutdown.cancelled() => JobError::Shutdown,
        }
    }

    /// How far it is now.
    pub(crate) fn look(&self) -> Seen {
        let stage = self.stage.lock().map(|stage| stage.clone()).unwrap_or_default();
        let total = self.total.load(Ordering::Relaxed);
        Seen {
            stage,
            rows_done: self.done.load(Ordering::Relaxed),
            rows_total: (total != UNKNOWN).then_some(total),
        }
    }
}
