//! A view, compiled: from a batch of events to rows, from rows to feature values.
//!
//! A batch of events is *projected* once: keys, the view's filter and each distinct argument are evaluated as columns.
//! Then each entity's row *absorbs* its events one by one, and features are *finished* from any number of rows at any
//! moments, a column per feature. The stream, history and requests run this same code, so they agree to the bit.
//!
//! Who calls what:
//! - the write path, which may see an event twice, calls [`ViewEngine::deliver`]: the row's fences decide;
//! - training, which reads each event of the log once, asks a [`History`] for many moments at once: it reads what it can
//!   off sorted columns, and else calls [`ViewEngine::absorb`] in the order in which events were seen, and
//!   [`ViewEngine::finish`] in between.
//!
//! Cost: projecting allocates per batch and expression; absorbing allocates per new tile and kept text; finishing
//! allocates per feature, not per row.

mod column;
mod compile;
mod fallback;
mod finish;
mod history;
mod projection;

pub use finish::Finisher;
pub use history::{Answers, Folding, History, Moments, Worth};
pub use projection::{Projection, columns};

use crate::expression::{Expression, ExpressionError, on_a_deep_stack};
use crate::row::layout::RowLayout;
use crate::row::{self, Row, RowError, RowSize};
use arrow::array::{ArrayRef, RecordBatch};
use compile::Reading;
pub(crate) use fallback::Fallback;
use ondol_vocabulary::{EventTime, FeatureStatus, Field, SourceDefinition, ViewDefinition};
use std::sync::Arc;

/// A compiled view. Immutable and shared; compile once per snapshot.
#[derive(Debug)]
pub struct ViewEngine {
    definition: ViewDefinition,
    /// Columns of the source that the view reads, in the source's order.
    fields: Vec<Field>,
    /// The same, by name.
    columns: Vec<String>,
    /// Places among `fields`.
    time: usize,
    key: Vec<usize>,
    /// Whether positions say which of two events of one time is later: rows of a table have no order.
    ordered: bool,
    /// The view's filter.
    filter: Option<Expression>,
    /// The latest row's slot that says whether the row was deleted, where rows can be.
    deleted: Option<usize>,
    /// Distinct expressions that features aggregate or keep.
    inputs: Vec<Expression>,
    /// Distinct filters of features.
    filters: Vec<Expression>,
    layout: RowLayout,
    /// How each feature is read off a row.
    readings: Vec<Reading>,
    /// What each feature is where it has no value.
    fallbacks: Vec<Option<Fallback>>,
}

/// What absorbing an event did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absorbed {
    /// The row took it in.
    Applied,
    /// Its tiles are no longer retained and it is no newer latest row: it counts offline only.
    TooLate,
}

/// What delivering an entity's events did, by number of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// The row took them in.
    pub applied: usize,
    /// The row's fence had passed them.
    pub duplicates: usize,
    /// They count offline only: see [`Absorbed::TooLate`].
    pub too_late: usize,
}

/// One feature's values for a batch of rows.
#[derive(Clone, Debug)]
pub struct FinishedFeature {
    /// The values; null unless fresh (a count of a missing row is 0), and the feature's default in place of null.
    pub values: ArrayRef,
    /// What each value is worth.
    pub status: Arc<[FeatureStatus]>,
    /// Time of the newest event behind each value; none for a missing row. The same for every feature of the view.
    pub event_time: Arc<[Option<EventTime>]>,
}

impl ViewEngine {
    /// Compiles `view`, which reads `source`.
    pub fn compile(view: &ViewDefinition, source: &SourceDefinition) -> Result<Self, ExpressionError> {
        on_a_deep_stack(|| compile::compile(view, source))
    }

    /// The view compiled.
    pub fn definition(&self) -> &ViewDefinition {
        &self.definition
    }

    /// How large its rows are: a bound, and what to expect.
    pub fn row_size(&self) -> RowSize {
        self.layout.size()
    }

    /// The source's columns that the view reads, in the source's order: what [`Self::project`] needs beside
    /// [`columns`]. The time column is one of them, and so is [`columns::DELETED`] where rows can be deleted.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// As [`Self::columns`], with their types.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Evaluates the view's expressions over `events`: the source's columns (those of [`Self::columns`] suffice), then
    /// `_partition: Int32`, `_offset: Int64`, `_ingested_at: Timestamp(us, UTC)`, in any order, and `_late: Boolean`
    /// where the events have it. Events without a key or a time, that are late, or that fail the view's filter (unless
    /// they delete a row), are left out.
    pub fn project(&self, events: &RecordBatch) -> Result<Projection, ExpressionError> {
        projection::project(self, events)
    }

    /// Takes event `index` of `projection` into `row`. Looks at no fence and moves none: an event absorbed twice counts
    /// twice. For readers that see each event once; the write path uses [`Self::deliver`].
    pub fn absorb(&self, row: &mut Row, projection: &Projection, index: usize) -> Absorbed {
        let ingested_at = projection.ingested_at(index).micros();
        if row.absorb(&self.layout, &projection.event(index), ingested_at) {
            Absorbed::Applied
        } else {
            Absorbed::TooLate
        }
    }

    /// Takes the events `indexes` of one entity into its `row`, leaving out those that its fences of `generation` have
    /// passed, then moves the fences past them. Delivering any of them again changes nothing.
    ///
    /// Within a partition, events may stand in any order in one call, but none may come in a later call than an event
    /// of a greater offset: deliveries of a partition follow one another.
    pub fn deliver(&self, row: &mut Row, projection: &Projection, indexes: &[u32], generation: u64) -> Delivered {
        let mut delivered = Delivered::default();
        // The fences as they were decide for the whole call: they move only once every event is in.
        let mut reached: Vec<(i32, Option<i64>, i64)> = Vec::new();
        for index in indexes.iter().map(|index| *index as usize) {
            let position = projection.position(index);
            let at = match reached
                .iter()
                .position(|(partition, ..)| *partition == position.partition)
            {
                Some(at) => at,
                None => {
                    reached.push((position.partition, row.fence(generation, position.partition), i64::MIN));
                    reached.len() - 1
                }
            };
            let (_, fence, next) = &mut reached[at];
            if fence.is_some_and(|fence| position.offset < fence) {
                delivered.duplicates += 1;
                continue;
            }
            *next = (*next).max(position.offset.saturating_add(1));
            match self.absorb(row, projection, index) {
                Absorbed::TooLate => delivered.too_late += 1,
                Absorbed::Applied => delivered.applied += 1,
            }
        }
        for (partition, _, next) in reached.into_iter().filter(|(_, _, next)| *next > i64::MIN) {
            row.advance(generation, partition, next);
        }
        delivered
    }

    /// Feature values of `rows` (None: the entity has no row), each as of its own moment. `features` are indexes into
    /// the view's features.
    ///
    /// A row can't be read as of a moment at or before its [`Row::newest`]: it is read as of just after that, which is
    /// what a read of the present means to a row whose newest event is ahead of the reader's clock. Callers refuse
    /// such a moment where a user asked for it.
    pub fn finish(&self, rows: &[Option<&Row>], as_of: &[EventTime], features: &[usize]) -> Vec<FinishedFeature> {
        debug_assert_eq!(rows.len(), as_of.len(), "a moment per row");
        let mut finisher = self.finisher(features, rows.len());
        for (row, moment) in rows.iter().zip(as_of) {
            finisher.push(*row, *moment);
        }
        finisher.finish()
    }

    /// As [`Self::finish`], one row after another: for readers whose rows change in between. `rows` is how many to
    /// make room for.
    pub fn finisher(&self, features: &[usize], rows: usize) -> Finisher<'_> {
        Finisher::new(self, features, rows)
    }

    /// Decodes a stored row.
    pub fn decode(&self, bytes: &[u8]) -> Result<Row, RowError> {
        row::decode(bytes, &self.layout)
    }

    /// Appends the stored form of `row` to `bytes`. Equal rows give equal bytes, whatever the order and batches in
    /// which their events were absorbed.
    pub fn encode(&self, row: &Row, bytes: &mut Vec<u8>) {
        row::encode(row, &self.layout, bytes);
    }
}
