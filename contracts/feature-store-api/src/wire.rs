//! The types that travel to and from the feature store.

use arrow::array::{ArrayRef, RecordBatch};
pub use ondol_vocabulary::columns;
pub use ondol_vocabulary::files::{DefinitionFile, DefinitionFiles, Diagnostic};
use ondol_vocabulary::{EventTime, FeatureRef, FeatureStatus, PartitionRange, Snapshot, Value, VersionedName};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// What applying definitions would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// The registry version the plan compares with.
    pub base_version: u64,
    /// One entry per source, view and model that would change; empty when nothing would.
    pub changes: Vec<Change>,
}

/// One definition that would change, or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// `source`, `view` or `model`.
    pub noun: String,
    /// The name with the version it would become (or had, when removed).
    pub name: VersionedName,
    /// What happens to it.
    pub action: ChangeAction,
    /// What differs, a line each: `feature spend_24h: sum(amount) over 12h → sum(amount) over 24h`.
    pub differences: Vec<String>,
    /// Events or rows that would be read to provision it, as far as known.
    pub rows_to_backfill: Option<u64>,
    /// Models whose feature vector the change touches.
    pub models_affected: Vec<String>,
    /// How large the view's rows would be; absent for what has no rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_bytes: Option<RowBytes>,
}

/// How many bytes the stored row of one entity takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RowBytes {
    /// To be expected.
    pub typical: u64,
    /// With every tile filled, texts of 256 bytes, and events of one partition.
    pub most: u64,
    /// What the row is made of.
    pub parts: Vec<RowPartBytes>,
}

/// How many bytes a part of a row takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RowPartBytes {
    /// What it is: `up to 25 tiles of 1h`.
    pub part: String,
    /// To be expected.
    pub typical: u64,
    /// At most.
    pub most: u64,
}

/// What happens to a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeAction {
    /// It is new.
    Create,
    /// It becomes a new version.
    Update,
    /// It is no longer in the files.
    Remove,
}

/// The outcome of an apply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// What changed; empty when the files were in force already.
    pub changes: Vec<Change>,
    /// The definitions now in force.
    pub snapshot: Snapshot,
}

/// Every version of one definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DefinitionHistory {
    /// `source`, `view` or `model`.
    pub noun: String,
    /// Its name.
    pub name: String,
    /// Newest first.
    pub versions: Vec<DefinitionVersion>,
}

/// One immutable version of a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DefinitionVersion {
    /// Counts from 1.
    pub version: u32,
    /// When it was applied.
    pub applied_at: EventTime,
    /// Whether it is the one in force.
    pub in_force: bool,
    /// The definition as stored (a `SourceDefinition`, `ViewDefinition` or `ModelDefinition`).
    #[schema(value_type = Object)]
    pub definition: serde_json::Value,
}

/// A partition and the next offset it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartitionPosition {
    /// The partition.
    pub partition: i32,
    /// The first offset not covered.
    pub next_offset: i64,
}

/// Decoded events of one source, with the positions they cover.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// What it is.
    pub header: DeliveryHeader,
    /// The source's columns in declared order, then [`columns::PARTITION`], [`columns::OFFSET`] and
    /// [`columns::INGESTED_AT`]; within a partition rows stand in offset order. The time column is never null.
    pub events: RecordBatch,
}

/// What a delivery is; travels as JSON in the Arrow schema's metadata under [`DeliveryHeader::METADATA_KEY`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryHeader {
    /// The source's name.
    pub source: String,
    /// The source version the events were decoded by.
    pub source_version: u32,
    /// Names one life of the topic (or one version of a table): offsets compare only within it.
    pub generation: String,
    /// What is covered, at most one range a partition.
    pub ranges: Vec<PartitionRange>,
    /// Of a batch source's rows: what they are to the rows that are online. Absent: every view takes them, and an
    /// entity's row starts over with a generation that it has not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableRows>,
}

/// What delivered rows of a batch source are to those that are online.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableRows {
    /// Ids of the view versions that take them. One that nobody reads any more is passed over.
    pub views: Vec<u32>,
    /// Whether they are the whole table: an entity's row starts over with a generation that it has not seen. Otherwise
    /// they are added to what the row has absorbed.
    pub whole: bool,
}

impl DeliveryHeader {
    /// The key of the Arrow schema's metadata that holds the header.
    pub const METADATA_KEY: &'static str = "ondol.delivery";
}

/// How far a source is held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WriteReceipt {
    /// Held, and visible online.
    pub written: Vec<PartitionPosition>,
    /// Committed to the offline table and synced online: survives any crash.
    pub durable: Vec<PartitionPosition>,
}

/// A read of features for a batch of entities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReadRequest {
    /// Which features, in the order of the answer.
    // Who asks for the same ones again and again shares their list: a store in the same process knows it by where it is.
    #[schema(value_type = Vec<FeatureRef>)]
    pub features: Arc<[FeatureRef]>,
    /// One column per join key that the features' views need. All of the same length, one value per entity.
    pub entities: Vec<EntityColumn>,
    /// The moment to read as of; absent means now. A moment at or before an absorbed event is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<EventTime>,
}

/// One join key's values, a row per entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EntityColumn {
    /// The join key's name.
    pub name: String,
    /// Its values.
    pub values: Vec<Value>,
}

/// Feature values for a batch of entities: columns in the order asked, rows in the order of the entities.
#[derive(Clone, Debug)]
pub struct FeatureBatch {
    /// The moment the values are as of.
    pub as_of: EventTime,
    /// Number of entities.
    pub rows: usize,
    /// The features asked for.
    pub features: Arc<[FeatureRef]>,
    /// One per feature, in their order.
    pub columns: Vec<FeatureColumn>,
}

/// One feature's values. Columns of a batch share what they have in common: an online read has few rows and tens of
/// columns, and what each of them had to itself would cost more than the values.
#[derive(Clone, Debug)]
pub struct FeatureColumn {
    /// The view version it came from.
    pub view_version: u32,
    /// The values; null unless the status is fresh (a count of a missing entity is 0).
    pub values: ArrayRef,
    /// What each value is worth.
    pub status: Arc<[FeatureStatus]>,
    /// Time of the newest event behind each value; none for a missing entity.
    pub event_time: Arc<[Option<EventTime>]>,
}

/// An offline table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OfflineTable {
    /// The source it archives.
    pub source: String,
    /// Where it is: a URL any Delta reader takes.
    pub url: String,
    /// Its newest version; absent before the first commit.
    pub version: Option<i64>,
    /// Rows in it, where the files' statistics say so.
    pub rows: Option<u64>,
}

/// Which views' online rows to build anew from the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RebuildRequest {
    /// Views, or sources for all views over them; empty for every view.
    #[serde(default)]
    pub names: Vec<String>,
}

/// How the rebuild of a view's online rows stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rebuild {
    /// The view.
    pub view: String,
    /// Its version that serves.
    pub version: u32,
    /// The source it reads.
    pub source: String,
    /// Where it stands.
    pub state: RebuildState,
    /// Events of the log read so far.
    pub rows_done: u64,
    /// Events of the log to read, where known.
    pub rows_total: Option<u64>,
    /// When it was asked for.
    pub started_at: Option<EventTime>,
    /// When the new rows began to serve.
    pub finished_at: Option<EventTime>,
    /// What holds it up; it is tried again.
    pub error: Option<String>,
}

/// Where a rebuild stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RebuildState {
    /// The online store has lost rows of the view that it had acknowledged: nobody has asked for a rebuild yet.
    Advised,
    /// New rows are being built; reads are answered from the old ones.
    Running,
    /// The new rows serve.
    Done,
}
