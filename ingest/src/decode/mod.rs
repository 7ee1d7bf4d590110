//! From a record to Arrow columns. In the order of the data:
//!
//! 1. [`place`]: where each column of a source is, compiled from its definition; [`wanted`], what of a message that needs;
//! 2. [`value`]: the tree of values that every format gives, and the frame before it; [`formats`] has the formats:
//!    [`json_tree`] is one;
//! 3. [`decoder`]: a record to rows of cells: key, headers, nested fields, arrays, deletions, and `changes` of databases;
//!    [`json`] is its short way for plain JSON, without a tree;
//! 4. [`convert`]: a value to a cell of its column's type;
//! 5. [`columns`]: cells to Arrow arrays.
//!
//! A bad record is a [`Rejection`] of its own and touches no column.

mod avro;
mod changes;
pub mod columns;
mod convert;
pub mod decoder;
pub mod formats;
mod json;
pub(crate) mod json_tree;
pub mod place;
mod programs;
mod protobuf;
pub mod value;
pub mod wanted;

use std::borrow::Cow;
use std::fmt;

/// One typed value of an event, borrowed from the message where it can be.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Cell<'a> {
    /// Null or absent.
    #[default]
    Null,
    /// Of a `bool` column.
    Bool(bool),
    /// Of an `i32` or `i64` column, within its range.
    Int(i64),
    /// Of an `f32` or `f64` column; within range of `f32` for the former.
    Float(f64),
    /// Of a `string` column.
    Text(Cow<'a, str>),
    /// Of a `timestamp` column: microseconds since the epoch, UTC.
    Micros(i64),
}

/// Why an event can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The message has no bytes: a deletion marker of a compacted topic, which is no event.
    Tombstone,
    /// The message is not what its format says: not one JSON object, for example.
    Malformed,
    /// The message is a change of a database that is no change of one row.
    UnsupportedChange,
    /// The schema that the message names is not in the registry.
    UnknownSchema,
    /// The message's schema can't be read, or not as the source's.
    IncompatibleSchema,
    /// A field has another type than its column, or a value outside of its range.
    WrongType,
    /// The event has no time.
    MissingTime,
    /// A column that is part of a view's key is null.
    MissingKey,
    /// The message is larger than the configured limit.
    TooLarge,
    /// The event's time lies more than an hour after its arrival.
    Future,
}

impl Reason {
    /// The stable name, in kebab case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::Malformed => "malformed",
            Self::UnsupportedChange => "unsupported-change",
            Self::UnknownSchema => "unknown-schema",
            Self::IncompatibleSchema => "incompatible-schema",
            Self::WrongType => "wrong-type",
            Self::MissingTime => "missing-time",
            Self::MissingKey => "missing-key",
            Self::TooLarge => "too-large",
            Self::Future => "future",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An event refused. `detail` may quote the event: it belongs into dead letters, never into a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The kind of fault.
    pub reason: Reason,
    /// The field, the value and the remedy.
    pub detail: String,
}

impl Rejection {
    /// An event refused for `reason`.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// Why a record has no rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It never will: a dead letter.
    Rejected(Rejection),
    /// It can't be told now, for example because the schema registry does not answer: what, and the remedy. The batch
    /// is tried again.
    Unavailable(String),
}

impl From<Rejection> for Fault {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

/// Longest excerpt of a value in a rejection, in characters.
const EXCERPT_CHARS: usize = 64;

/// The start of `text`, marked when it goes on.
fn excerpt(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(EXCERPT_CHARS) {
        Some((end, _)) => Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default())),
        None => Cow::Borrowed(text),
    }
}
