//! One partition of a join, for whoever groups and reads by itself: an operator of a query engine, an executor of a cluster.

use super::{Account, Assembly, Beyond, Entities, JoinView, Layout, Shuffle};
use crate::error::JobError;
use arrow::array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray};
use ondol_pipelines_api::wire::AsOf;
use ondol_transform::Answers;
use std::path::Path;

/// The part of what may be held that a batch may be.
const BATCH_SHARE: u64 = 16;
/// Fewest rows of a batch: less is all overhead.
const FEWEST_ROWS: usize = 256;

/// The spine's rows of a partition, and what their join may take.
#[derive(Clone, Copy, Debug)]
pub struct JoinTask<'a> {
    /// What is joined.
    pub view: &'a JoinView,
    /// The rows' key columns, in the view's declared order. A row whose key has a null part names no entity.
    pub keys: &'a [ArrayRef],
    /// Their moments.
    pub times: &'a TimestampMicrosecondArray,
    /// What rows may see.
    pub as_of: AsOf,
    /// What it may take.
    pub room: Room<'a>,
}

/// What a join may take beside its spine and the values it answers.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    /// Events that are expected, about: it is laid out for them, and copes with more.
    pub events: u64,
    /// Bytes that may be held of events, and of what is made of them.
    pub memory_bytes: u64,
    /// The folder for events that memory has no room for. It is made once it is needed.
    pub spill: &'a Path,
}

/// What a join came to.
#[derive(Clone, Debug)]
pub struct Done {
    /// A column for each feature, in the view's order, a value for each row, defaults not filled in yet
    /// ([`JoinView::filled`]); and what each row's entity is worth.
    pub answers: Answers,
    /// Bytes that went to the folder.
    pub spilled_bytes: u64,
    /// The most that was held of events.
    pub peak_bytes: u64,
}

impl JoinTask<'_> {
    /// Joins `events`: at least all events of the rows' entities, each once, in any order, in batches that have the columns of
    /// [`JoinView::columns`]. Events of other entities, and those that no row may see, are left out.
    ///
    /// Works on this thread. Asks `goes_on` now and then once all events are there, and ends as cancelled when it does not.
    ///
    /// # Errors
    /// When rows and keys do not fit together, an event can't be understood, or what is spilled can't be kept.
    pub fn run(
        &self,
        events: impl Iterator<Item = Result<RecordBatch, JobError>>,
        goes_on: impl Fn() -> bool,
    ) -> Result<Done, JobError> {
        let Self { view, times, .. } = *self;
        if times.null_count() > 0 {
            return Err(JobError::internal("a spine row without a moment"));
        }
        let entities = Entities::group(&[self.keys.iter().collect()], times.values())?;
        let account = Account::default();
        let beyond = Beyond::new(view, &entities);
        let layout = Layout {
            events: self.room.events,
            limit: self.room.memory_bytes,
            threads: 1,
        };
        let shuffle = Shuffle::new(view, (&entities, &beyond), layout, self.room.spill, &account);
        let most = self.rows_at_a_time();
        for batch in events {
            let batch = view.as_known(&batch?, self.as_of)?;
            for start in (0..batch.num_rows()).step_by(most) {
                shuffle.push(&batch.slice(start, most.min(batch.num_rows() - start)))?;
            }
        }
        let assembly = Assembly::new(view.features().map(|feature| feature.data_type), times.len());
        for partition in 0..shuffle.partitions() {
            if !goes_on() {
                return Err(JobError::Cancelled);
            }
            let slots = entities.slots(&shuffle.entities_of(partition));
            assembly.place(&entities.rows()[slots], shuffle.answers(partition)?)?;
        }
        let mut joined = assembly.finish()?;
        beyond.settle(view, &entities, false, &mut joined.worth);
        Ok(Done {
            answers: joined.into_answers()?,
            spilled_bytes: shuffle.spilled_bytes(),
            peak_bytes: account.peak(),
        })
    }

    /// Rows that are looked at at a time: a small part of what may be held.
    fn rows_at_a_time(&self) -> usize {
        let width = self.view.carried_width().max(1);
        let rows = self.room.memory_bytes / BATCH_SHARE / width;
        usize::try_from(rows).unwrap_or(usize::MAX).max(FEWEST_ROWS)
    }
}
