//! What operators ask of a source's reading: to rest, to go on, to skip.

use ondol_vocabulary::{EventTime, PartitionRange};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks a source to rest. It lasts, through restarts, until the source is resumed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct PauseRequest {
    /// Why, for whoever reads the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Asks a source to go on elsewhere: forwards only, as what was absorbed stays absorbed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct SeekRequest {
    /// Where to.
    pub to: SeekTarget,
    /// Why: kept with the record of what was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only tell what would be skipped.
    #[serde(default)]
    pub dry_run: bool,
}

/// Where a source should go on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SeekTarget {
    /// The first event the topic holds.
    Beginning,
    /// Behind the last event the topic holds now.
    End,
    /// One partition at one offset.
    Offset {
        /// The partition.
        partition: i32,
        /// The first offset to read.
        offset: i64,
    },
    /// The first record of each partition that is not older, by the records' timestamps in the topic.
    Timestamp {
        /// The moment.
        at: EventTime,
    },
    /// Leaves out one range of one partition, wherever its reading stands before it: a poison event.
    Range {
        /// The partition and its offsets `[from, to)`.
        range: PartitionRange,
    },
}

/// What a seek skips.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct SeekReceipt {
    /// One per partition that goes on elsewhere.
    pub skipped: Vec<SkippedEvents>,
    /// Whether this was a dry run.
    pub dry_run: bool,
}

/// The events of one partition that a seek leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct SkippedEvents {
    /// The partition.
    pub partition: i32,
    /// First offset left out.
    pub from: i64,
    /// First offset read again.
    pub to: i64,
}

impl SkippedEvents {
    /// How many offsets are left out.
    pub const fn events(&self) -> i64 {
        self.to.saturating_sub(self.from)
    }
}
