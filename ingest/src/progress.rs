//! How far one source has come in this worker, shared between its pipeline, which writes it, and status requests and
//! metrics, which read it.

use crate::batch::Decoded;
use crate::rate::Rate;
use crate::source::Fetching;
use crate::source::scan::PartitionExtent;
use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};
use ondol_feature_store_api::wire::{PartitionPosition, columns};
use ondol_ingest_api::wire::{Fetch, PartitionStatus, SourceStatus};
use ondol_vocabulary::EventTime;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A source's progress.
#[derive(Debug, Default)]
pub struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    partitions: BTreeMap<i32, Reached>,
    events: u64,
    dead_letters: u64,
    late_events: u64,
    skipped_events: u64,
    watermark: Option<EventTime>,
    in_flight_bytes: u64,
    fetching: Arc<Fetching>,
    errors: [Option<String>; PARTS],
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
    /// Messages can't be decoded now.
    Decoding = 3,
    /// Operators' orders can't be read or followed.
    Control = 4,
}

const PARTS: usize = 5;

#[derive(Debug)]
struct Reached {
    delivered: i64,
    durable: i64,
    /// When `delivered` last changed.
    moved: Instant,
    /// Offset and timestamp of the first record of each batch that is on its way, in order.
    ahead: VecDeque<(i64, EventTime)>,
    watermark: Option<EventTime>,
    events: Rate,
    dead_letters: u64,
    recent_dead_letters: Rate,
}

/// What a batch brought of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events.
    pub events: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// The newest event time.
    pub newest: Option<EventTime>,
}

/// Counts a batch by partition; event times stand in the column at `time`.
pub fn tally(decoded: &Decoded, time: usize) -> BTreeMap<i32, Tally> {
    let mut tallies: BTreeMap<i32, Tally> = BTreeMap::new();
    let events = &decoded.delivery.events;
    let partitions = events
        .column_by_name(columns::PARTITION)
        .and_then(|column| column.as_primitive_opt::<Int32Type>());
    let times = events.columns().get(time);
    let times = times.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    if let (Some(partitions), Some(times)) = (partitions, times) {
        // Rows of a partition stand together: one look into the map for each run of them.
        let mut current: Option<(i32, Tally)> = None;
        for (partition, micros) in partitions.values().iter().zip(times.values()) {
            let (_, tally) = match &mut current {
                Some(run) if run.0 == *partition => run,
                _ => {
                    if let Some((partition, tally)) = current.take() {
                        tallies.entry(partition).or_default().merge(tally);
                    }
                    current.insert((*partition, Tally::default()))
                }
            };
            tally.events += 1;
            tally.newest = tally.newest.max(Some(EventTime::from_micros(*micros)));
        }
        if let Some((partition, tally)) = current {
            tallies.entry(partition).or_default().merge(tally);
        }
    }
    for letter in &decoded.dead_letters {
        tallies.entry(letter.position.partition).or_default().dead_letters += 1;
    }
    tallies
}

impl Tally {
    fn merge(&mut self, other: Self) {
        self.events += other.events;
        self.dead_letters += other.dead_letters;
        self.newest = self.newest.max(other.newest);
    }
}

impl Progress {
    /// `partition` is read from `position` on, which is durable.
    pub fn start(&self, partition: i32, position: i64) {
        let reached = Reached {
            delivered: position,
            durable: position,
            moved: Instant::now(),
            ahead: VecDeque::new(),
            watermark: None,
            events: Rate::default(),
            dead_letters: 0,
            recent_dead_letters: Rate::default(),
        };
        self.lock().partitions.insert(partition, reached);
    }

    /// `partition` is no longer this worker's.
    pub fn leave(&self, partition: i32) {
        self.lock().partitions.remove(&partition);
    }

    /// A batch that begins at `from`, with a record of `timestamp`, is on its way.
    pub fn ahead(&self, partition: i32, from: i64, timestamp: EventTime) {
        if let Some(reached) = self.lock().partitions.get_mut(&partition) {
            reached.ahead.push_back((from, timestamp));
        }
    }

    /// Everything on its way was given up.
    pub fn nothing_ahead(&self) {
        let mut state = self.lock();
        state.partitions.values_mut().for_each(|reached| reached.ahead.clear());
    }

    /// The record at `offset`, the first that is not delivered, is of `timestamp`.
    pub fn learn(&self, partition: i32, offset: i64, timestamp: EventTime) {
        if let Some(reached) = self.lock().partitions.get_mut(&partition)
            && reached.ahead.is_empty()
        {
            reached.ahead.push_back((offset, timestamp));
        }
    }

    /// A batch was taken: its events by partition, and how many came too late.
    pub fn delivered(&self, tallies: &BTreeMap<i32, Tally>, late_events: u64) {
        let mut state = self.lock();
        state.late_events += late_events;
        for (partition, tally) in tallies {
            state.events += tally.events;
            state.dead_letters += tally.dead_letters;
            state.watermark = state.watermark.max(tally.newest);
            if let Some(reached) = state.partitions.get_mut(partition) {
                reached.events.add(tally.events);
                reached.dead_letters += tally.dead_letters;
                reached.recent_dead_letters.add(tally.dead_letters);
                reached.watermark = reached.watermark.max(tally.newest);
            }
        }
    }

    /// A skip was delivered.
    pub fn skipped(&self, events: u64) {
        self.lock().skipped_events += events;
    }

    /// Everything before `position` is visible.
    pub fn reach(&self, partition: i32, position: i64) {
        if let Some(reached) = self.lock().partitions.get_mut(&partition) {
            reached.delivered = position;
            reached.moved = Instant::now();
            while reached.ahead.front().is_some_and(|(from, _)| *from < position) {
                reached.ahead.pop_front();
            }
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

    /// Where the reader tells how it fetches.
    pub fn fetches(&self, fetching: Arc<Fetching>) {
        self.lock().fetching = fetching;
    }

    /// Bytes of messages between the stream and the store.
    pub fn in_flight(&self, bytes: u64) {
        self.lock().in_flight_bytes = bytes;
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
        self.positions(|reached| reached.durable)
    }

    /// Delivered positions of this worker's partitions.
    pub fn delivered_positions(&self) -> Vec<PartitionPosition> {
        self.positions(|reached| reached.delivered)
    }

    fn positions(&self, of: impl Fn(&Reached) -> i64) -> Vec<PartitionPosition> {
        let place = |(&partition, reached): (&i32, &Reached)| PartitionPosition {
            partition,
            next_offset: of(reached),
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

    /// Partitions that have not moved for `still`, before the topic's end, with nothing of them on its way: where they
    /// stand. Their next record's time is not known here.
    pub fn waiting(&self, extents: &[PartitionExtent], still: Duration) -> Vec<PartitionPosition> {
        let state = self.lock();
        let mut waiting = Vec::new();
        for (&partition, reached) in &state.partitions {
            let end = extents.iter().find(|extent| extent.partition == partition);
            if reached.ahead.is_empty()
                && reached.moved.elapsed() >= still
                && end.is_some_and(|extent| extent.end > reached.delivered)
            {
                waiting.push(PartitionPosition {
                    partition,
                    next_offset: reached.delivered,
                });
            }
        }
        waiting
    }

    /// This worker's part, as the contract shows it at `now`, with the topic's `extents` where they are known.
    pub fn status(
        &self,
        source: &str,
        topic: &str,
        worker: &str,
        extents: &[PartitionExtent],
        now: EventTime,
    ) -> SourceStatus {
        let state = self.lock();
        let partition = |(&partition, reached): (&i32, &Reached)| {
            let end = extents.iter().find(|extent| extent.partition == partition);
            reached.status(partition, worker, end.map(|extent| extent.end), now)
        };
        SourceStatus {
            source: source.to_owned(),
            topic: topic.to_owned(),
            partitions: state.partitions.iter().map(partition).collect(),
            events: state.events,
            dead_letters: state.dead_letters,
            late_events: state.late_events,
            skipped_events: state.skipped_events,
            watermark: state.watermark,
            fetch: Fetch {
                stopped: state.fetching.is_stopped(),
                queued_bytes: state.fetching.queued_bytes(),
                in_flight_bytes: state.in_flight_bytes,
            },
            error: state.errors.iter().flatten().next().cloned(),
            ..SourceStatus::default()
        }
    }

    // Nothing panics while the lock is held: a poisoned state is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reached {
    fn status(&self, partition: i32, worker: &str, end: Option<i64>, now: EventTime) -> PartitionStatus {
        let lag_events = end.map(|end| end.saturating_sub(self.delivered).max(0));
        let lag_seconds = match (lag_events, self.ahead.front()) {
            (Some(0), _) => Some(0.0),
            (_, Some((_, timestamp))) => Some(seconds_since(*timestamp, now)),
            _ => None,
        };
        PartitionStatus {
            partition,
            delivered: self.delivered,
            durable: self.durable,
            end,
            lag_events,
            lag_seconds,
            watermark: self.watermark,
            events_per_second_10s: self.events.within(10) as f64 / 10.0,
            events_per_second_60s: self.events.within(60) as f64 / 60.0,
            dead_letters: self.dead_letters,
            dead_letters_60s: self.recent_dead_letters.within(60),
            owner: Some(worker.to_owned()),
        }
    }
}

/// Seconds from `timestamp` to `now`; 0 for a timestamp ahead of the clock.
pub fn seconds_since(timestamp: EventTime, now: EventTime) -> f64 {
    now.since(timestamp).max(0) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENT: PartitionExtent = PartitionExtent {
        partition: 0,
        begin: 0,
        end: 100,
    };

    fn lag(progress: &Progress, now_us: i64) -> Option<f64> {
        let status = progress.status("s", "t", "w", &[EXTENT], EventTime::from_micros(now_us));
        status.partitions[0].lag_seconds
    }

    #[tokio::test]
    async fn lag_in_seconds_is_how_long_the_first_undelivered_record_waits() {
        let progress = Progress::default();
        progress.start(0, 0);
        assert_eq!(lag(&progress, 10_000_000), None, "nothing is known of the next record");
        progress.ahead(0, 0, EventTime::from_micros(1_000_000));
        progress.ahead(0, 50, EventTime::from_micros(4_000_000));
        assert_eq!(lag(&progress, 10_000_000), Some(9.0));
        progress.reach(0, 50);
        assert_eq!(lag(&progress, 10_000_000), Some(6.0));
        assert_eq!(lag(&progress, 3_000_000), Some(0.0), "a clock behind the producer's");
        progress.reach(0, 100);
        assert_eq!(lag(&progress, 10_000_000), Some(0.0));
    }

    #[tokio::test]
    async fn a_partition_that_stands_still_is_asked_about() {
        let progress = Progress::default();
        progress.start(0, 7);
        assert_eq!(
            progress.waiting(&[EXTENT], Duration::from_secs(60)),
            [],
            "it has only just begun"
        );
        assert_eq!(progress.waiting(&[EXTENT], Duration::ZERO)[0].next_offset, 7);
        progress.learn(0, 7, EventTime::from_micros(0));
        assert_eq!(progress.waiting(&[EXTENT], Duration::ZERO), []);
        assert_eq!(lag(&progress, 2_500_000), Some(2.5));
    }
}
