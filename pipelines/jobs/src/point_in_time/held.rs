//! Events in memory that wait for their partition's turn.
//!
//! A batch's events come as a run, in order of their partitions. Now and then the runs so far are parted: put together
//! partition by partition, each by itself, so that its memory is free again once its turn has come. What values take grows
//! as what waits shrinks.

use super::crowd::Part;
use super::spill::Segment;
use arrow::array::RecordBatch;
use std::ops::Range;

/// Rows of a partition that are worth an array of their own: fewer take less memory than what describes them.
const PART_ROWS: u64 = 512;

/// What has been kept.
#[derive(Default)]
pub(super) struct Held {
    /// What has not been parted.
    runs: Vec<Run>,
    /// By partition.
    parted: Vec<Vec<RecordBatch>>,
    /// Of both.
    bytes: u64,
    /// What is in the file, by partition.
    segments: Vec<Vec<Segment>>,
}

/// Events of one batch by partition.
pub(super) struct Run {
    events: RecordBatch,
    /// Where each partition's events end.
    ends: Vec<u32>,
    bytes: u64,
}

impl Run {
    /// Of `events`, in order of their partitions, which end at `ends`.
    pub(super) fn new(events: RecordBatch, ends: Vec<u32>) -> Self {
        let bytes = events.get_array_memory_size() as u64;
        Self { events, ends, bytes }
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its events of `partition`, if there are any.
    pub(super) fn part(&self, partition: usize) -> Option<RecordBatch> {
        let range = self.range(partition);
        (!range.is_empty()).then(|| self.events.slice(range.start, range.len()))
    }

    fn range(&self, partition: usize) -> Range<usize> {
        let start = partition
            .checked_sub(1)
            .map_or(0, |previous| self.ends[previous] as usize);
        start..self.ends[partition] as usize
    }
}

impl Held {
    pub(super) fn push(&mut self, run: Run) {
        self.bytes += run.bytes;
        self.runs.push(run);
    }

    /// Bytes of events in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Runs to part into so many partitions, once there are enough of them; none if they take more than `most` bytes by
    /// then. They count as held again when they are given back to [`Self::keep`].
    pub(super) fn take_to_part(&mut self, partitions: usize, most: u64) -> Option<Vec<Run>> {
        let rows: u64 = self.runs.iter().map(|run| run.events.num_rows() as u64).sum();
        let bytes: u64 = self.runs.iter().map(|run| run.bytes).sum();
        if rows < PART_ROWS.saturating_mul(partitions as u64) || bytes > most {
            return None;
        }
        self.bytes -= bytes;
        Some(std::mem::take(&mut self.runs))
    }

    /// Keeps `parts`, by partition, of so many bytes.
    pub(super) fn keep(&mut self, parts: Vec<Option<RecordBatch>>, bytes: u64) {
        self.bytes += bytes;
        if self.parted.len() < parts.len() {
            self.parted.resize_with(parts.len(), Vec::new);
        }
        for (parted, part) in self.parted.iter_mut().zip(parts) {
            parted.extend(part);
        }
    }

    /// The events of `partition` that are in memory.
    pub(super) fn parts(&self, partition: usize) -> impl Iterator<Item = RecordBatch> {
        let parted = self.parted.get(partition).into_iter().flatten().cloned();
        parted.chain(self.runs.iter().filter_map(move |run| run.part(partition)))
    }

    /// All events of `partition`, and how many bytes of them will be free once they are dropped.
    pub(super) fn take(&mut self, partition: usize) -> (Vec<Part>, u64) {
        let parted = self.parted.get_mut(partition).map(std::mem::take).unwrap_or_default();
        let bytes = parted.iter().map(|part| part.get_array_memory_size() as u64).sum();
        let runs = self.runs.iter().filter_map(|run| run.part(partition));
        let segments = self.segments.get(partition).into_iter().flatten();
        let kept = parted.into_iter().chain(runs).map(Part::Held);
        (kept.chain(segments.copied().map(Part::Spilled)).collect(), bytes)
    }

    /// The events of `partition` that were in memory are in the file now, too.
    pub(super) fn spilled(&mut self, partition: usize, segments: Vec<Segment>) {
        if self.segments.len() <= partition {
            self.segments.resize_with(partition + 1, Vec::new);
        }
        if let Some(of_partition) = self.segments.get_mut(partition) {
            of_partition.extend(segments);
        }
    }

    /// Forgets all that is in memory, and says how many bytes that were.
    pub(super) fn clear(&mut self) -> u64 {
        self.runs.clear();
        self.parted.clear();
        std::mem::take(&mut self.bytes)
    }
}
