//! What a source's log holds in memory: rows not yet committed, and the position each partition has reached.
//!
//! Invariant: `held` is at or past the committed position of every partition, and the buffered rows are exactly the
//! good events in `[committed, held)`.

use super::positions::{Partitions, Positions};
use crate::event_positions::event_positions;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::DeliveryHeader;
use ondol_vocabulary::{PartitionRange, SourceDefinition};
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Rows of one delivery that wait for a commit.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// The generation they belong to.
    pub(super) generation: String,
    /// The delivery's columns; not empty.
    pub(super) rows: RecordBatch,
}

/// What a commit takes out of the buffer.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    /// In order of arrival.
    pub(super) pending: Vec<Pending>,
    /// Where each partition will stand once this is committed: `(generation, partition) → next offset`.
    pub(super) reached: BTreeMap<(String, i32), i64>,
    /// The source as last delivered.
    pub(super) definition: Option<SourceDefinition>,
    since: Option<Instant>,
}

/// The buffer of one source.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// Positions held, committed or not.
    held: Positions,
    /// The generation delivered last.
    generation: Option<String>,
    waiting: Taken,
}

impl Buffer {
    /// A buffer that continues from committed positions.
    pub(super) fn resuming(committed: &Positions) -> Self {
        Self {
            held: committed.clone(),
            generation: committed.newest(),
            waiting: Taken::default(),
        }
    }

    /// Refuses a delivery that starts after what is held. A partition never seen may start anywhere: a topic's oldest
    /// events may be gone.
    pub(super) fn admit(&self, header: &DeliveryHeader) -> Result<(), FeatureStoreError> {
        for range in &header.ranges {
            match self.held.next(&header.generation, range.partition) {
                Some(expected) if range.from > expected => {
                    return Err(FeatureStoreError::Gap {
                        source_name: header.source.clone(),
                        partition: range.partition,
                        expected,
                        from: range.from,
                    });
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    /// Takes a delivery in. What is held already is dropped; a delivery that leaves a gap is refused whole.
    pub(super) fn append(
        &mut self,
        source: &SourceDefinition,
        header: &DeliveryHeader,
        events: &RecordBatch,
    ) -> Result<(), FeatureStoreError> {
        self.admit(header)?;
        check_covered(header, events)?;
        let rows = beyond(events, &self.held.of(&header.generation))?;
        let mut moved = false;
        for range in &header.ranges {
            if self
                .held
                .next(&header.generation, range.partition)
                .is_none_or(|held| range.to > held)
            {
                self.held.set(&header.generation, range.partition, range.to, now_ms());
                self.waiting
                    .reached
                    .insert((header.generation.clone(), range.partition), range.to);
                moved = true;
            }
        }
        if rows.num_rows() > 0 {
            self.waiting.pending.push(Pending {
                generation: header.generation.clone(),
                rows,
            });
        }
        if moved {
            self.waiting.since.get_or_insert_with(Instant::now);
        }
        self.waiting.definition = Some(source.clone());
        self.generation = Some(header.generation.clone());
        Ok(())
    }

    /// Takes everything that waits.
    pub(super) fn take(&mut self) -> Taken {
        std::mem::take(&mut self.waiting)
    }

    /// Puts back what could not be committed, before what came since.
    pub(super) fn put_back(&mut self, taken: Taken) {
        let newer = std::mem::replace(&mut self.waiting, taken);
        self.waiting.pending.extend(newer.pending);
        self.waiting.reached.extend(newer.reached);
        self.waiting.definition = newer.definition.or(self.waiting.definition.take());
        self.waiting.since = self.waiting.since.or(newer.since);
    }

    /// Accepts that the log stands further than this process knew: another writer moved it.
    pub(super) fn catch_up(&mut self, committed: &Positions) -> Result<(), FeatureStoreError> {
        for generation in committed.generations() {
            for (partition, next) in committed.of(&generation) {
                if self.held.next(&generation, partition).is_none_or(|held| next > held) {
                    self.held.set(&generation, partition, next, now_ms());
                }
            }
        }
        self.waiting.catch_up(committed)
    }

    /// The rows that wait, in order of arrival.
    pub(super) fn waiting(&self) -> Vec<Pending> {
        self.waiting.pending.clone()
    }

    /// Positions held, of any generation.
    pub(super) fn held(&self) -> &Positions {
        &self.held
    }

    /// The generation delivered last.
    pub(super) fn generation(&self) -> Option<&str> {
        self.generation.as_deref()
    }

    /// Rows that wait.
    pub(super) fn rows(&self) -> usize {
        self.waiting.rows()
    }

    /// Memory of the rows that wait. Slices of one delivery count it whole, so this errs on the safe side.
    pub(super) fn bytes(&self) -> usize {
        self.waiting
            .pending
            .iter()
            .map(|pending| pending.rows.get_array_memory_size())
            .sum()
    }

    /// When the oldest thing that waits came.
    pub(super) fn since(&self) -> Option<Instant> {
        self.waiting.since
    }
}

impl Taken {
    /// Whether there is nothing to commit.
    pub(super) fn is_empty(&self) -> bool {
        self.reached.is_empty()
    }

    /// Lets go of what another writer has committed meanwhile; what lies past that stays.
    pub(super) fn catch_up(&mut self, committed: &Positions) -> Result<(), FeatureStoreError> {
        self.reached.retain(|(generation, partition), next| {
            committed
                .next(generation, *partition)
                .is_none_or(|committed| *next > committed)
        });
        for pending in &mut self.pending {
            pending.rows = beyond(&pending.rows, &committed.of(&pending.generation))?;
        }
        self.pending.retain(|pending| pending.rows.num_rows() > 0);
        if self.reached.is_empty() {
            self.since = None;
        }
        Ok(())
    }

    /// Rows that wait.
    pub(super) fn rows(&self) -> usize {
        self.pending.iter().map(|pending| pending.rows.num_rows()).sum()
    }
}

/// Refuses rows that the header's ranges don't cover: their positions would never be committed.
fn check_covered(header: &DeliveryHeader, events: &RecordBatch) -> Result<(), FeatureStoreError> {
    for (partition, offset) in positions_of(events)? {
        let covers = |range: &PartitionRange| range.partition == partition && (range.from..range.to).contains(&offset);
        if !header.ranges.iter().any(covers) {
            return Err(FeatureStoreError::InvalidRequest {
                detail: format!(
                    "delivery of `{}` holds partition {partition} offset {offset}, which its ranges don't cover",
                    header.source
                ),
            });
        }
    }
    Ok(())
}

/// The rows that lie at or past `next`.
fn beyond(rows: &RecordBatch, next: &Partitions) -> Result<RecordBatch, FeatureStoreError> {
    let is_beyond = |(partition, offset)| next.get(&partition).is_none_or(|next| offset >= *next);
    let keep: Vec<bool> = positions_of(rows)?.map(is_beyond).collect();
    if keep.iter().all(|keep| *keep) {
        return Ok(rows.clone());
    }
    filter_record_batch(rows, &BooleanArray::from(keep)).map_err(|error| FeatureStoreError::Internal {
        detail: format!("filtering a delivery: {error}"),
    })
}

fn positions_of(rows: &RecordBatch) -> Result<impl Iterator<Item = (i32, i64)> + '_, FeatureStoreError> {
    let (partitions, offsets) = event_positions(rows).map_err(|name| FeatureStoreError::InvalidRequest {
        detail: format!("the delivery lacks column `{name}` of the contract's type"),
    })?;
    Ok(partitions.iter().copied().zip(offsets.iter().copied()))
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
