//! The point-in-time join: what each row of a spine may see of a view's events, and the view's features as of it.
//!
//! [`join`] is the seam for whoever groups and reads by itself (a query engine, an executor of a cluster): one partition,
//! in memory, on one thread. The embedded training set reads tables and goes the same way piece by piece:
//! 1. `view` is what is joined, made from definitions alone;
//! 2. `entities` groups the spine's rows by key and time, and finds an event's entity (`dense`: in a list); `seen` cuts a
//!    batch down to what they may see;
//! 3. `timeline` joins views of latest rows over tables in order of time, `latest` those over others, a candidate a row;
//!    `shuffle` brings the events of all others together by
//!    entity, `held` in memory or, beyond its limit, in a `spill` file, where a `crowd` is put in order by parts;
//! 4. [`ondol_transform::History`] computes a partition's features;
//! 5. `assembly` keeps values for the spine's order, `beyond` tells rows of which only the past is known from those of
//!    strangers.

mod account;
mod assembly;
mod beyond;
mod crowd;
mod dense;
mod entities;
mod held;
mod latest;
mod packed;
mod seen;
mod shuffle;
mod spill;
mod timeline;
mod view;

pub(crate) use account::Account;
pub(crate) use assembly::{Assembled, Assembly};
pub(crate) use beyond::Beyond;
pub(crate) use entities::{Entities, KeyedRows, NO_ENTITY};
pub(crate) use latest::Latest;
pub(crate) use shuffle::{Layout, Shuffle};
pub(crate) use timeline::{Found, Moments as SpineMoments, Tie, Timeline};
pub use view::JoinView;

pub use crate::error::JobError;
use arrow::array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray};
use ondol_pipelines_api::wire::AsOf;
pub use ondol_transform::{Answers, Worth};

/// The features of `view` for each spine row: a column per feature, in the view's order, a value per row, defaults not
/// filled in yet ([`JoinView::filled`]); and what each row's entity is worth.
///
/// `keys` are the rows' key columns in the view's declared order, `times` their moments. `events` hold at least all events
/// of the rows' entities, each once, in any order, in batches that have the columns of [`JoinView::columns`]; events of
/// other entities, and those that no row may see, are left out. A row whose key has a null part names no entity.
///
/// Works on this thread, in memory: a few times that of the events that some row may see.
pub fn join(
    view: &JoinView,
    keys: &[ArrayRef],
    times: &TimestampMicrosecondArray,
    events: &[RecordBatch],
    as_of: AsOf,
) -> Result<Answers, JobError> {
    if times.null_count() > 0 {
        return Err(JobError::internal("a spine row without a moment"));
    }
    let entities = Entities::group(&[keys.iter().collect()], times.values())?;
    let account = Account::default();
    let beyond = Beyond::new(view, &entities);
    let shuffle = Shuffle::in_memory(view, &entities, &beyond, &account);
    for batch in events {
        shuffle.push(&view.as_known(batch, as_of)?)?;
    }
    let assembly = Assembly::new(view.features().map(|feature| feature.data_type), times.len());
    for partition in 0..shuffle.partitions() {
        let slots = entities.slots(&shuffle.entities_of(partition));
        assembly.place(&entities.rows()[slots], shuffle.answers(partition)?)?;
    }
    let mut joined = assembly.finish()?;
    beyond.settle(view, &entities, false, &mut joined.worth);
    joined.into_answers()
}

#[cfg(test)]
mod tests;
