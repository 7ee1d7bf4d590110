//! The types that travel to and from the pipelines.

mod backfill;
mod job;
mod manifest;
mod materialize;
mod schedule;
mod statistics;
mod training_set;

pub use backfill::*;
pub use job::*;
pub use manifest::*;
pub use materialize::*;
pub use schedule::*;
pub use statistics::*;
pub use training_set::*;
