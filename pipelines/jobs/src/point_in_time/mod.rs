//! The point-in-time join: what each row of a spine may see of a view's events, and the view's features as of it.
//!
//! [`JoinTask`] is the seam for whoever groups and reads by itself (a query engine, an executor of a cluster): one
//! partition, on one thread, in as much memory as it is given. The embedded training set reads tables and goes the same
//! way piece by piece:
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
mod task;
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
pub use ondol_transform::{Answers, Worth};
pub use task::{Done, JoinTask, Room};

#[cfg(test)]
mod tests;
