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
}

#[derive(Default)]
pub(super) struct Memory {
    pub(super) buffer: Buffer,
    pub(super) committed: Positions,
    pub(super) rows: Option<u64>,
    /// How long the last commit took: it grows with the table's number of files, until they are compacted.
    pub(super) last_commit: Duration,
}

impl Memory {
    /// Whether the oldest thing that waits has waited for `interval`, or for a commit to be worth its time.
    pub(super) fn is_old(&self, interval: Duration) -> bool {
        let patience = interval
            .max(self.last_commit * COMMIT_SHARE)
            .min(interval.max(MAX_PATIENCE));
        self.buffer.since().is_some_and(|since| since.elapsed() >= patience)
    }
}

impl SourceLog {
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }

    /// Takes over what the log says: after a commit, or whenever another replica may have committed.
    pub(super) fn catch_up(&self, source: &str, table: &LogTable) -> Result<(), FeatureStoreError> {
        let mut memory = self.memory();
        memory.buffer.catch_up(table.positions())?;
        memory.committed = table.positions().clone();
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
    use ondol_feature_store_api::wire::DeliveryHeader;
    use ondol_vocabulary::PartitionRange;

    #[tokio::test(start_paused = true)]
    async fn slow_commits_are_rarer_and_none_waits_for_ever() {
        let mut memory = Memory::default();
        let second = Duration::from_secs(1);
        assert!(!memory.is_old(Duration::ZERO), "nothing waits");
        hold_a_position(&mut memory);
        tokio::time::advance(second).await;
        assert!(memory.is_old(second));
        memory.last_commit = Duration::from_millis(500);
        assert!(!memory.is_old(second));
        tokio::time::advance(9 * second).await;
        assert!(memory.is_old(second));
        memory.last_commit = 60 * second;
        assert!(!memory.is_old(second));
        tokio::time::advance(MAX_PATIENCE).await;
        assert!(memory.is_old(second));
        assert!(!memory.is_old(60 * second), "a longer interval is the user's own");
    }

    fn hold_a_position(memory: &mut Memory) {
        let definition = ondol_vocabulary::SourceDefinition {
            name: "s".to_owned(),
            origin: ondol_vocabulary::SourceOrigin::Stream {
                topic: "s".to_owned(),
                format: ondol_vocabulary::StreamFormat::Json,
                shape: ondol_vocabulary::MessageShape::default(),
            },
            time: "ts".to_owned(),
            late_us: 0,
            arrival: ondol_vocabulary::Arrival::Ingest,
            schema: Vec::new(),
        };
        let header = DeliveryHeader {
            source: "s".to_owned(),
            source_version: 1,
            generation: "g".to_owned(),
            ranges: vec![PartitionRange {
                partition: 0,
                from: 0,
                to: 5,
            }],
        };
        let schema = arrow::datatypes::Schema::new(vec![
            arrow::datatypes::Field::new("_partition", arrow::datatypes::DataType::Int32, false),
            arrow::datatypes::Field::new("_offset", arrow::datatypes::DataType::Int64, false),
        ]);
        let nothing = arrow::array::RecordBatch::new_empty(Arc::new(schema));
        memory.buffer.append(&definition, &header, &nothing).unwrap();
    }
}
