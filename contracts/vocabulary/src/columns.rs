//! Names of the columns that a batch of events carries beside the source's own.

/// `Int32`, never null: the event's partition.
pub const PARTITION: &str = "_partition";
/// `Int64`, never null: the event's offset.
pub const OFFSET: &str = "_offset";
/// `Timestamp(Microsecond, UTC)`, never null: when the event counts as known.
pub const INGESTED_AT: &str = "_ingested_at";
/// `Boolean`: whether the event deletes its row; only of sources whose rows can be deleted.
pub const DELETED: &str = "_deleted";
/// `Boolean`: whether the event came later than its source allows, so that no view counts it; only of sources that say
/// how late an event may be. Null is no.
pub const LATE: &str = "_late";
/// `Date32`: the event date (UTC), the partition column of offline tables; not part of a delivery.
pub const EVENT_DATE: &str = "_event_date";
