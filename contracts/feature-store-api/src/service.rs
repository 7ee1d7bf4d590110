//! What the feature store promises.

use crate::error::FeatureStoreError;
use crate::maintenance::{Compaction, Vacuum, VacuumOptions};
use crate::provisioning::Provisioning;
use crate::uses::{ConsumerUses, ModelUse};
use crate::wire::{
    Applied, DefinitionFiles, DefinitionHistory, Delivery, FeatureBatch, OfflineTable, PartitionPosition, Plan,
    ReadRequest, Rebuild, RebuildRequest, WriteReceipt,
};
use async_trait::async_trait;
use ondol_vocabulary::{EventTime, Snapshot};
use std::sync::Arc;
use std::time::Duration;

/// The feature store: registry of definitions, write path, online reads, offline tables.
///
/// Callers hold `Arc<dyn FeatureStore>` and can't tell a local one from a remote one. Dropping a future abandons the
/// wait, not the work: a write that was sent may still be applied, and repeating it changes nothing.
#[async_trait]
pub trait FeatureStore: Send + Sync + 'static {
    /// What applying `files` would change. Changes nothing.
    async fn plan(&self, files: DefinitionFiles) -> Result<Plan, FeatureStoreError>;

    /// Makes `files` the definitions in force: changed ones become new immutable versions. Atomic and idempotent:
    /// applying the same files again changes nothing. New view versions start in state `provisioning`; the result
    /// returns before they are active.
    async fn apply(&self, files: DefinitionFiles) -> Result<Applied, FeatureStoreError>;

    /// As [`Self::apply`], also where live models read what it takes away or changes ([`FeatureStoreError::InUse`]). That
    /// it was forced, and past what, is recorded.
    async fn apply_forced(&self, files: DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        self.apply(files).await
    }

    /// Takes what the live models of `consumer` read, in the place of what it read before. Durable when it returns. A store
    /// whose definitions never change has no need to know.
    async fn publish_uses(&self, consumer: &str, models: Vec<ModelUse>) -> Result<ConsumerUses, FeatureStoreError> {
        Ok(ConsumerUses {
            consumer: consumer.to_owned(),
            published_at: EventTime::now(),
            models,
        })
    }

    /// What live models read, by consumer.
    async fn uses(&self) -> Result<Vec<ConsumerUses>, FeatureStoreError> {
        Ok(Vec::new())
    }

    /// The definitions in force.
    async fn snapshot(&self) -> Result<Arc<Snapshot>, FeatureStoreError>;

    /// Waits until the snapshot's version exceeds `after`, at most `wait`; then the snapshot in force, changed or not.
    async fn next_snapshot(&self, after: u64, wait: Duration) -> Result<Arc<Snapshot>, FeatureStoreError>;

    /// Every version of the source, view or model called `name`, newest first.
    async fn history(&self, name: &str) -> Result<DefinitionHistory, FeatureStoreError>;

    /// Marks a view version that reads a table as provisioned, so that it serves from now on. Idempotent. (Views over
    /// streams are bootstrapped from the log and activated by the store itself.)
    async fn activate(&self, view_id: u32) -> Result<(), FeatureStoreError>;

    /// Where ingest must resume each partition of `source`: the first offset that is not yet in the committed log.
    /// A partition that is not listed starts at its beginning.
    async fn resume(&self, source: &str, generation: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError>;

    /// Takes decoded events. When it returns, they are visible to online reads; they are durable once a receipt's
    /// `durable` positions have passed them. Repeating a delivery, in whole or in part, changes nothing. A delivery
    /// that would leave a gap after what the store holds is refused with [`FeatureStoreError::Gap`]: resume from the
    /// position it names.
    async fn write(&self, delivery: Delivery) -> Result<WriteReceipt, FeatureStoreError>;

    /// Commits everything that was written for `source` to its offline table.
    async fn flush(&self, source: &str) -> Result<WriteReceipt, FeatureStoreError>;

    /// Reads features of a batch of entities in one round trip to the online store.
    async fn read(&self, request: ReadRequest) -> Result<FeatureBatch, FeatureStoreError>;

    /// The offline tables, readable by any Delta reader.
    async fn tables(&self) -> Result<Vec<OfflineTable>, FeatureStoreError>;

    /// Begins to build the online rows of the views named (or over the sources named; all when none is) anew from the
    /// log, while they serve; one rebuild of a view at a time, so asking again changes nothing. Returns at once, with
    /// how the rebuilds of these views stand. A store that keeps no rows has nothing to build anew.
    async fn rebuild(&self, request: RebuildRequest) -> Result<Vec<Rebuild>, FeatureStoreError> {
        let _ = request;
        Ok(Vec::new())
    }

    /// The last rebuild of each view that serves, and the views that need one because the online store has lost rows.
    async fn rebuilds(&self) -> Result<Vec<Rebuild>, FeatureStoreError> {
        Ok(Vec::new())
    }

    /// The view versions that are being provisioned, and rows that are being built anew, by view and version. A store that
    /// provisions at once has none to tell of.
    async fn provisionings(&self) -> Result<Vec<Provisioning>, FeatureStoreError> {
        Ok(Vec::new())
    }

    /// Holds the provisioning of a version over a stream back: its rows are built no further until it is released, whatever
    /// restarts. Refused once it is being handed over to the stream, and of a version that is not being provisioned.
    /// Idempotent.
    async fn hold(&self, view_id: u32) -> Result<Provisioning, FeatureStoreError> {
        Err(not_provisioned(view_id))
    }

    /// Lets the provisioning of a version that is held go on. Idempotent.
    async fn release(&self, view_id: u32) -> Result<Provisioning, FeatureStoreError> {
        Err(not_provisioned(view_id))
    }

    /// Merges every small file of `source`'s offline table, date by date, into large ones; the store does so by itself
    /// as well, once a date has many. Rows, positions and older versions stay what they are. Returns when it is done; a
    /// dropped call leaves finished merges in place and nothing half done. A store without offline tables has nothing
    /// to merge.
    async fn compact(&self, source: &str) -> Result<Compaction, FeatureStoreError> {
        Ok(Compaction {
            source: source.to_owned(),
            ..Compaction::default()
        })
    }

    /// Deletes files of `source`'s offline table that no version within the retention needs, and the log entries of
    /// older versions; event dates older than what is kept are dropped first. Repeating it deletes nothing more.
    async fn vacuum(&self, source: &str, options: VacuumOptions) -> Result<Vacuum, FeatureStoreError> {
        Ok(Vacuum {
            source: source.to_owned(),
            dry_run: options.dry_run,
            ..Vacuum::default()
        })
    }
}

fn not_provisioned(view_id: u32) -> FeatureStoreError {
    FeatureStoreError::Unknown {
        kind: "view version that is being provisioned".to_owned(),
        name: view_id.to_string(),
        suggestion: None,
    }
}
