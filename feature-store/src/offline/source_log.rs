//! One source's log in this process: its table, and what waits to go there.

use super::buffer::{Buffer, Taken};
use super::positions::Positions;
use super::table::LogTable;
use ondol_feature_store_api::FeatureStoreError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Commits that are due by age take at most one part in so many of the time.
const COMMIT_SHARE: u32 = 20;
/// The longest that an event waits for its commit because commits are slow.
const MAX_PATIENCE: Duration = Duration::from_secs(30);

/// One source's log. A commit holds `table` from taking the buffer until the log entry stands; appends only need
/// `buffer`, so that deliveries go on while files are written.
pub(super) struct SourceLog {
    pub(super) table: Arc<tokio::sync::Mutex<LogTable>>,
    pub(super) memory: Mutex<Memory>,
    /// Held by whoever rewrites or deletes files: two would do the same work.
    pub(super) tidying: tokio::sync::Mutex<()>,
}

#[derive(Default)]
pub(super) struct Memory {
    pub(super) buffer: Buffer,
    pub(super) committed: Positions,
    pub(super) rows: Option<u64>,
    /// How long the last commit took: a store far away, or a busy one, makes it slow.
    pub(super) last_commit: Duration,
}

impl Memory {
    /// Whether the oldest thing that waits has waited for `interval`, or for a commit to be worth its time.
    pub(super) fn is_old(&self, interval: Duration) -> bool {
        let patience = patience(interval, self.last_commit);
        self.buffer.since().is_some_and(|since| since.elapsed() >= patience)
    }
}

fn patience(interval: Duration, last_commit: Duration) -> Duration {
    interval.max((last_commit * COMMIT_SHARE).min(MAX_PATIENCE))
}

impl SourceLog {
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }

    /// Takes over what the log says: after a commit, or whenever another replica may have committed.
    pub(super) fn catch_up(&self, source: &str, table: &LogTable) -> Result<(), FeatureStoreError> {
        let mut memory = self.memory();
        let committed = table.positions();
        memory.buffer.catch_up(&committed)?;
        memory.committed = committed;
        report_buffer(source, &memory.buffer);
        Ok(())
    }
}

/// What a commit has taken out of the buffer. Unless it is committed it goes back, also when the commit is dropped
/// halfway.
pub(super) struct TakenOut<'a> {
    log: &'a SourceLog,
    pub(super) events: Taken,
}

impl<'a> TakenOut<'a> {
    pub(super) fn of(log: &'a SourceLog) -> Self {
        Self {
            log,
            events: log.memory().buffer.take(),
        }
    }

    /// Lets go of the events.
    pub(super) fn committed(&mut self) {
        self.events = Taken::default();
    }
}

impl Drop for TakenOut<'_> {
    fn drop(&mut self) {
        let events = std::mem::take(&mut self.events);
        if !events.is_empty() {
            self.log.memory().buffer.put_back(events);
        }
    }
}

/// A poisoned lock means a panic elsewhere; the data behind these locks is whole between statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn report_buffer(source: &str, buffer: &Buffer) {
    metrics::gauge!("ondol_log_buffered_rows", "source" => source.to_owned()).set(buffer.rows() as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_commits_are_rarer_and_nothing_waits_for_ever() {
        let second = Duration::from_secs(1);
        assert_eq!(patience(second, Duration::from_millis(10)), second);
        assert_eq!(patience(second, Duration::from_millis(500)), 10 * second);
        assert_eq!(patience(second, 60 * second), MAX_PATIENCE);
        assert_eq!(
            patience(60 * second, second),
            60 * second,
            "a longer interval is the user's own"
        );
    }
}
