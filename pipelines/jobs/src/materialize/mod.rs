//! A batch source brought online: every row of its table, at one pinned version, delivered to the feature store, then
//! the views that waited for it activated.
//!
//! A delivery's generation is the table's identity and its offsets are row numbers, so repeating a job after a failure
//! changes nothing, and a job over a changed table starts afresh.

mod reconcile;

use crate::error::JobError;
use crate::progress::Progress;
use crate::table::{Scan, Table, TimeRange, Unit};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use ondol_feature_store_api::wire::{Delivery, DeliveryHeader, columns};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_pipelines_api::PipelinesError;
use ondol_vocabulary::{PartitionRange, Snapshot, SourceVersion, ViewState};
use ondol_wire::ContractError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

pub(crate) use reconcile::reconcile;

/// Batches decoded ahead of the store.
const DECODED_AHEAD: usize = 4;
/// Times a delivery is tried before the job fails.
const ATTEMPTS: u32 = 6;

/// A materialization that was checked and can run.
pub(crate) struct Materialization {
    source: SourceVersion,
    /// Ids of the view versions that this run provisions: those that were waiting when it was submitted. One that
    /// appears while rows are already under way would miss some, and gets a run of its own.
    provisioning: Vec<u32>,
}

impl Materialization {
    /// Of the source called `name`.
    pub(crate) fn check(snapshot: &Snapshot, name: &str) -> Result<Self, PipelinesError> {
        let source = snapshot.source(name).ok_or_else(|| {
            let tables = snapshot.sources.iter().filter(|source| !source.definition.is_stream());
            PipelinesError::Unknown {
                kind: "source".to_owned(),
                name: name.to_owned(),
                suggestion: crate::nearest::nearest(name, tables.map(|source| source.definition.name.as_str())),
            }
        })?;
        if source.definition.is_stream() {
            let detail = format!(
                "source `{name}` is a stream: its views follow it by themselves; only parquet and delta sources are materialized"
            );
            return Err(PipelinesError::InvalidRequest { detail });
        }
        let waiting = snapshot
            .views_of(name)
            .filter(|view| view.state == ViewState::Provisioning);
        Ok(Self {
            provisioning: waiting.map(|view| view.id).collect(),
            source: source.clone(),
        })
    }

    /// Delivers every row, then activates.
    pub(crate) async fn run(
        self,
        store: &dyn FeatureStore,
        delivery_rows: usize,
        progress: Arc<Progress>,
    ) -> Result<(), JobError> {
        progress.stage("opening the table", None);
        let table = tokio::select! {
            table = Table::open(&self.source.definition, None) => table?,
            reason = progress.stopped() => return Err(reason),
        };
        progress.stage(
            format!("delivering {}", self.source.definition.name),
            Some(table.rows()),
        );
        self.deliver(store, table, delivery_rows, &progress).await?;
        progress.stage("activating views", None);
        for view in self.provisioning {
            store.activate(view).await?;
        }
        Ok(())
    }

    async fn deliver(
        &self,
        store: &dyn FeatureStore,
        table: Table,
        delivery_rows: usize,
        progress: &Arc<Progress>,
    ) -> Result<(), JobError> {
        let definition = &self.source.definition;
        let (generation, rows) = (table.identity.clone(), table.rows());
        let scan = Scan::new(
            table,
            definition.schema.clone(),
            definition.time.clone(),
            false,
            delivery_rows.max(1),
        );
        let units = scan.units(TimeRange::ALL).await?;
        let (sender, mut decoded) = mpsc::channel(DECODED_AHEAD);
        let io = tokio::runtime::Handle::current();
        let decoder = {
            let progress = Arc::clone(progress);
            tokio::task::spawn_blocking(move || decode(&scan, &units, &io, &progress, &sender).map(|()| scan))
        };
        let mut from = 0;
        while let Some(batch) = decoded.recv().await {
            progress.checkpoint()?;
            let rows = batch.num_rows() as u64;
            let to = end(&batch).unwrap_or(from);
            self.write(store, &generation, from..to, batch, progress).await?;
            progress.add(rows);
            from = to;
        }
        let scan = decoder.await.map_err(JobError::internal)??;
        let end = i64::try_from(rows).map_err(JobError::internal)?;
        if from < end {
            // Rows without a time at the table's end are covered all the same.
            let empty = RecordBatch::new_empty(scan.schema().clone());
            self.write(store, &generation, from..end, empty, progress).await?;
        }
        report_rows_without_time(&definition.name, scan.rows_without_time());
        Ok(())
    }

    async fn write(
        &self,
        store: &dyn FeatureStore,
        generation: &str,
        range: std::ops::Range<i64>,
        events: RecordBatch,
        progress: &Progress,
    ) -> Result<(), JobError> {
        let header = DeliveryHeader {
            source: self.source.definition.name.clone(),
            source_version: self.source.version,
            generation: generation.to_owned(),
            ranges: vec![PartitionRange {
                partition: 0,
                from: range.start,
                to: range.end,
            }],
        };
        let delivery = Delivery { header, events };
        let mut pause = Duration::from_millis(100);
        for attempt in 1.. {
            let error: FeatureStoreError = match store.write(delivery.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) if error.retryable() && attempt < ATTEMPTS => error,
                Err(error) => return Err(error.into()),
            };
            tracing::warn!(source = delivery.header.source, attempt, %error, "delivery refused, trying again");
            tokio::select! {
                () = tokio::time::sleep(pause) => pause *= 2,
                reason = progress.stopped() => return Err(reason),
            }
        }
        Ok(())
    }
}

/// Decodes every unit in order, as far as the receiver takes it.
fn decode(
    scan: &Scan,
    units: &[Unit],
    io: &tokio::runtime::Handle,
    progress: &Progress,
    sender: &mpsc::Sender<RecordBatch>,
) -> Result<(), JobError> {
    for unit in units {
        for batch in scan.read(unit, io)? {
            progress.checkpoint()?;
            // The receiver is gone when delivering failed, and that error is the one to report.
            if sender.blocking_send(batch?).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The first row number after a batch.
fn end(batch: &RecordBatch) -> Option<i64> {
    let offsets = batch.column_by_name(columns::OFFSET)?.as_primitive_opt::<Int64Type>()?;
    let last = offsets.len().checked_sub(1)?;
    Some(offsets.value(last).saturating_add(1))
}

fn report_rows_without_time(source: &str, rows: u64) {
    if rows > 0 {
        metrics::counter!("ondol_pipelines_rows_without_time_total", "source" => source.to_owned()).increment(rows);
        tracing::warn!(source, rows, "rows without an event time are left out");
    }
}
