//! An entity's row in one view: fences, latest values, window tiles. The stored value of the online store.

mod result_type;

pub use result_type::{ArgumentError, result_type};

/// What one view knows of one entity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row;

/// Stored bytes that are not a row of this view.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the stored row is unreadable: {0}")]
pub struct RowError(pub String);
