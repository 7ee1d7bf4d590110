//! Where in a source an event stands.

use serde::{Deserialize, Serialize};

/// One event's place in its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SourcePosition {
    /// Partition of the topic; 0 for a table.
    pub partition: i32,
    /// Offset within the partition; the row number for a table.
    pub offset: i64,
}

/// The half-open run of offsets `[from, to)` of one partition. It includes offsets that carried no good event
/// (dead letters, gaps left by compaction), so that consecutive ranges always touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PartitionRange {
    /// Partition of the topic; 0 for a table.
    pub partition: i32,
    /// First offset covered.
    pub from: i64,
    /// First offset not covered: where the next range starts.
    pub to: i64,
}
