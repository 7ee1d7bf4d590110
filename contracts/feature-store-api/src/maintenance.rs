//! Upkeep of the offline tables: what compaction and vacuum are asked, and what they answer.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a compaction did: small files of an event date became few large ones, the rows stayed what they were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Compaction {
    /// The source whose table it was.
    pub source: String,
    /// The table's version afterwards; absent when there is no table yet.
    pub version: Option<i64>,
    /// Commits made; 0 when there was nothing to merge.
    pub commits: u64,
    /// Small files that were merged away.
    pub files_removed: u64,
    /// Files written in their place.
    pub files_added: u64,
    /// Size of the files merged away, in bytes. They stay on disk until a vacuum.
    pub bytes_removed: u64,
    /// Size of the files written, in bytes.
    pub bytes_added: u64,
    /// Rows rewritten.
    pub rows: u64,
    /// Files of the table before.
    pub files_before: u64,
    /// Files of the table afterwards, others' commits included.
    pub files_after: u64,
}

/// What a vacuum may delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VacuumOptions {
    /// How long what no version needs any more is kept, in milliseconds; also how far back versions stay readable.
    /// Absent: as the store is configured (7 days).
    pub retention_ms: Option<u64>,
    /// Drop event dates that lie wholly before this long ago, in milliseconds, first. Absent: as the store is
    /// configured (keep for ever).
    pub keep_ms: Option<u64>,
    /// Only say what would be deleted.
    pub dry_run: bool,
}

/// What a vacuum deleted, or would have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vacuum {
    /// The source whose table it was.
    pub source: String,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The table's version afterwards; absent when there is no table yet.
    pub version: Option<i64>,
    /// The oldest version that stays readable.
    pub oldest_version: Option<i64>,
    /// Event dates dropped from the newest version because they are older than what is kept. Their files go with a later
    /// vacuum.
    pub dates_dropped: Vec<String>,
    /// Rows dropped with them, where the files say how many they hold.
    pub rows_dropped: u64,
    /// Data files deleted that no version in the retention needs: merged away, dropped, or left by a commit that never
    /// came to be.
    pub files_deleted: u64,
    /// Their size, in bytes.
    pub bytes_deleted: u64,
    /// Entries of the transaction log deleted, checkpoints included.
    pub log_entries_deleted: u64,
    /// Data files that the newest version has.
    pub files_kept: u64,
}
