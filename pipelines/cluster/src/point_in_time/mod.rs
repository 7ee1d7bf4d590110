//! The point-in-time join as operators of a plan, so that it runs wherever plans do.
//!
//! ```text
//! spine (row, keys, moment)          events (files of the view's source)
//!   └─ repartition by the view's key   └─ repartition by the same key
//!        └──────────── PointInTimeExec ────────────┘
//!                     the spine's rows, each with the view's features
//! ```
//!
//! A training set is one plan: its spine goes through a join for each view, one after the other, and comes out with all
//! features, in any order: its row numbers put it back. [`node`] is the join in a logical plan, [`exec`] and [`events`] are
//! its operators, [`spec`] what of them travels. What is computed in a partition is `ondol_jobs::point_in_time::JoinTask`:
//! the same fold of the same events, so results do not depend on partitions, memory or machines.
//!
//! Cost: a partition holds its spine rows, and of their events as much as it is given memory for: the rest goes to a file and
//! is read once more. Too few partitions, or one that most events fall into, take time but no memory.

/// What the message of a fault in the events begins with, on whatever machine it was found.
pub(crate) const OF_DATA: &str = "the events can't be joined: ";

mod events;
mod exec;
mod node;
mod spec;

pub(crate) use events::EventsExec;
pub(crate) use exec::PointInTimeExec;
pub(crate) use node::{PlannerWithJoins, PointInTimeNode};
pub(crate) use spec::Join;
pub use spec::JoinSpec;

#[cfg(test)]
mod tests;
