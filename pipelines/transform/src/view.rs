//! A view, compiled: from a batch of events to rows, from rows to feature values.

use crate::expression::ExpressionError;
use crate::row::{Row, RowError};
use arrow::array::{ArrayRef, RecordBatch};
use ondol_vocabulary::{EntityKey, EventTime, FeatureStatus, SourceDefinition, SourcePosition, ViewDefinition};

/// A compiled view. Immutable and shared; compile once per snapshot.
#[derive(Debug)]
pub struct ViewEngine;

/// A batch of events as one view sees it: keys, times, positions and the evaluated arguments and filters.
#[derive(Debug)]
pub struct Projection;

/// What absorbing an event did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absorbed {
    /// The row took it in.
    Applied,
    /// The row's fence has passed it: a replay, or a second delivery.
    Duplicate,
    /// Its tiles are no longer retained and it is no newer latest row: it counts offline only.
    TooLate,
}

/// One feature's values for a batch of rows.
#[derive(Clone, Debug)]
pub struct FinishedFeature {
    /// The values; null unless fresh (a count of a missing row is 0).
    pub values: ArrayRef,
    /// What each value is worth.
    pub status: Vec<FeatureStatus>,
    /// Time of the newest event behind each value.
    pub event_time: Vec<Option<EventTime>>,
}

impl ViewEngine {
    /// Compiles `view`, which reads `source`.
    pub fn compile(view: &ViewDefinition, source: &SourceDefinition) -> Result<Self, ExpressionError> {
        todo!("{view:?} {source:?}")
    }

    /// The view compiled.
    pub fn definition(&self) -> &ViewDefinition {
        todo!()
    }

    /// Evaluates the view's expressions over `events`: the source's columns (those the view uses suffice), then
    /// `_partition: Int32`, `_offset: Int64`, `_ingested_at: Timestamp(us, UTC)`. Events with a null key or that fail
    /// the view's filter are left out.
    pub fn project(&self, events: &RecordBatch) -> Result<Projection, ExpressionError> {
        todo!("{events:?}")
    }

    /// Takes event `index` of `projection` into `row`, unless the row's fence for its partition has passed it.
    /// Does not move the fence: see [`Row::advance`].
    pub fn absorb(&self, row: &mut Row, projection: &Projection, index: usize) -> Absorbed {
        todo!("{row:?} {projection:?} {index}")
    }

    /// Feature values of `rows` (None: the entity has no row), each as of its own moment. `features` are indexes into
    /// the view's features.
    pub fn finish(&self, rows: &[Option<&Row>], as_of: &[EventTime], features: &[usize]) -> Vec<FinishedFeature> {
        todo!("{rows:?} {as_of:?} {features:?}")
    }

    /// Decodes a stored row.
    pub fn decode(&self, bytes: &[u8]) -> Result<Row, RowError> {
        todo!("{bytes:?}")
    }

    /// Appends the stored form of `row` to `bytes`. Equal rows give equal bytes, whatever the order and batches in
    /// which their events were absorbed.
    pub fn encode(&self, row: &Row, bytes: &mut Vec<u8>) {
        todo!("{row:?} {bytes:?}")
    }
}

impl Projection {
    /// The entities of the projection, each with the indexes of its events in batch order.
    pub fn entities(&self) -> Vec<(EntityKey, Vec<u32>)> {
        todo!()
    }

    /// Event `index`'s time.
    pub fn event_time(&self, index: usize) -> EventTime {
        todo!("{index}")
    }

    /// Where event `index` stands in the source: the writer moves fences by it.
    pub fn position(&self, index: usize) -> SourcePosition {
        todo!("{index}")
    }

    /// When event `index` counts as known.
    pub fn ingested_at(&self, index: usize) -> EventTime {
        todo!("{index}")
    }
}

impl Row {
    /// The first offset of `partition` not absorbed, in the row's present generation; none if the row has seen nothing
    /// of it, or if `generation` differs from the row's.
    pub fn fence(&self, generation: u64, partition: i32) -> Option<i64> {
        todo!("{generation} {partition}")
    }

    /// Moves the fence of `partition` to `next_offset`. A new generation drops the fences of the old one.
    pub fn advance(&mut self, generation: u64, partition: i32, next_offset: i64) {
        todo!("{generation} {partition} {next_offset}")
    }

    /// Time of the newest event folded into the row.
    pub fn newest(&self) -> Option<EventTime> {
        todo!()
    }
}
