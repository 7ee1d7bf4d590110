//! The types that travel to and from the pipelines.

mod job;
mod manifest;
mod training_set;

pub use job::*;
pub use manifest::*;
pub use training_set::*;
