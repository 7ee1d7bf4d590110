//! The pure engine shared by the stream, history and request time: text in, plans and values out, no I/O, no clock.
//!
//! In the order of the data:
//! 1. [`definition`] turns definition files into typed definitions, or into diagnostics that point at the text;
//! 2. [`expression`] plans and evaluates SQL expressions over Arrow batches;
//! 3. [`view`] compiles a view definition into a [`ViewEngine`]: events in, an entity's [`Row`] out, features from it;
//! 4. [`row`] is that row: its fences, latest values and window tiles, and its one stored form;
//! 5. [`profile`] keeps what many values of a column come to, in parts that add up;
//! 6. [`vector`] compiles a model definition into a [`VectorEngine`]: features and inputs in, the feature vector out.

pub mod definition;
pub mod expression;
mod nearest;
pub mod profile;
pub mod row;
pub mod vector;
pub mod view;

pub use row::Row;
pub use vector::VectorEngine;
pub use view::{Absorbed, Answers, Folding, History, Moments, Projection, ViewEngine, Worth};
