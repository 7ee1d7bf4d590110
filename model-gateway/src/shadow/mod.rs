//! Shadows: versions that score what was served, off the request's path, so that they can be judged before they serve.
//!
//! A request that was answered is handed to the shadows of its model by reference and goes on: nothing it does waits for
//! them. Each shadow has a [`track`] of its own, a bounded queue and one task, so one that hangs holds up no other; what
//! finds no room is dropped and counted. The task takes the vector as it was served, or, for a shadow of another
//! definition, makes its [`vector`] from the same read where that is possible (or of what the caller sent for the model
//! itself: [`raw`]), runs the model, and [`compare`]s both scores.

pub mod compare;
pub(crate) mod raw;
pub mod track;
pub mod vector;

pub use track::{Runner, Track};
