//! How far one source has come, shared between its pipeline, which writes it, and status requests, which read it.

use ondol_feature_store_api::wire::PartitionPosition;
use ondol_ingest_api::wire::{PartitionStatus, SourceStatus};
use ondol_vocabulary::EventTime;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A source's progress.
#[derive(Debug, Default)]
pub struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    partitions: BTreeMap<i32, Reached>,
    events: u64,
    dead_letters: u64,
    watermark: Option<EventTime>,
    errors: [Option<String>; 4],
}

/// Which part is in trouble. Each mends on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The source is stopped for good: somebody must act.
    Source = 0,
    /// The feature store does not take deliveries.
    Store = 1,
    /// The stream does not give records.
    Stream = 2,
    /// Messages can't be decoded now: what tells their schema does not answer.
    Decoding = 3,
}

#[derive(Clone, Copy, Debug)]
struct Reached {
    delivered: i64,
    durable: i64,
}

impl Progress {
    /// `partition` is read from `position` on, which is durable.
    pub fn start(&self, partition: i32, position: i64) {
        self.lock().partitions.insert(
            partition,
            Reached {
                delivered: position,
                durable: position,
            },
        );
    }

    /// `partition` is no longer this worker's.
    pub fn leave(&self, partition: i32) {
        self.lock().partitions.remove(&partition);
    }

    /// A batch was taken.
    pub fn delivered(&self, events: usize, dead_letters: usize, newest: Option<EventTime>) {
        let mut state = self.lock();
        state.events += events as u64;
        state.dead_letters += dead_letters as u64;
        state.watermark = state.watermark.max(newest);
    }

    /// Everything before `position` is visible.
    pub fn reach(&self, partition: i32, position: i64) {
        if let Some(reached) = self.lock().partitions.get_mut(&partition) {
            reached.delivered = position;
        }
    }

    /// The store lost what it held of `partition` from `position` on.
    pub fn rewind(&self, partition: i32, position: i64) {
        if let Some(reached) = self.lock().partitions.get_mut(&partition) {
            reached.delivered = position;
            reached.durable = reached.durable.min(position);
        }
    }

    /// The store says what is durable.
    pub fn durable(&self, positions: &[PartitionPosition]) {
        let mut state = self.lock();
        for position in positions {
            if let Some(reached) = state.partitions.get_mut(&position.partition) {
                reached.durable = reached.durable.max(position.next_offset);
            }
        }
    }

    /// What keeps `part` from working, logged when it is new.
    pub fn trouble(&self, part: Part, error: String) {
        let slot = &mut self.lock().errors[part as usize];
        if slot.as_ref() != Some(&error) {
            tracing::warn!(?part, error, "the source is held up");
            *slot = Some(error);
        }
    }

    /// `part` works.
    pub fn well(&self, part: Part) {
        if self.lock().errors[part as usize].take().is_some() {
            tracing::info!(?part, "the source goes on");
        }
    }

    /// The newest event time delivered.
    pub fn watermark(&self) -> Option<EventTime> {
        self.lock().watermark
    }

    /// Durable positions of this worker's partitions.
    pub fn durable_positions(&self) -> Vec<PartitionPosition> {
        let place = |(&partition, reached): (&i32, &Reached)| PartitionPosition {
            partition,
            next_offset: reached.durable,
        };
        self.lock().partitions.iter().map(place).collect()
    }

    /// Delivered positions of this worker's partitions.
    pub fn delivered_positions(&self) -> Vec<PartitionPosition> {
        let place = |(&partition, reached): (&i32, &Reached)| PartitionPosition {
            partition,
            next_offset: reached.delivered,
        };
        self.lock().partitions.iter().map(place).collect()
    }

    /// Whether something delivered is not durable yet.
    pub fn is_undurable(&self) -> bool {
        self.lock()
            .partitions
            .values()
            .any(|reached| reached.durable < reached.delivered)
    }

    /// As the contract shows it, with the topic's `ends` where they are known.
    pub fn status(&self, source: &str, topic: &str, ends: &[PartitionPosition]) -> SourceStatus {
        let state = self.lock();
        let end = |partition: i32| {
            ends.iter()
                .find(|end| end.partition == partition)
                .map(|end| end.next_offset)
        };
        let partition = |(&partition, reached): (&i32, &Reached)| PartitionStatus {
            partition,
            delivered: reached.delivered,
            durable: reached.durable,
            end: end(partition),
            ..PartitionStatus::default()
        };
        SourceStatus {
            source: source.to_owned(),
            topic: topic.to_owned(),
            partitions: state.partitions.iter().map(partition).collect(),
            events: state.events,
            dead_letters: state.dead_letters,
            watermark: state.watermark,
            error: state.errors.iter().flatten().next().cloned(),
            ..SourceStatus::default()
        }
    }

    // Nothing panics while the lock is held: a poisoned state is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
