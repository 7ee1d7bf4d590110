//! Rows of a table on their way to the store: decoded ahead on a blocking thread, delivered in order, made durable.

use crate::error::JobError;
use crate::progress::Progress;
use crate::table::{Scan, Table, TimeRange, Unit};
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::wire::{Delivery, DeliveryHeader, TableRows, columns};
use ondol_vocabulary::{PartitionRange, SourceVersion};
use ondol_wire::ContractError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::Xxh3;

/// Batches decoded ahead of the store.
const DECODED_AHEAD: usize = 4;
/// Times a delivery is tried before the job fails.
const ATTEMPTS: u32 = 6;
/// Times rows for views that serve are delivered when the store failed in between.
const PASSES: u32 = 4;

/// Rows of a table for some views: one generation, its rows numbered from 0.
pub(super) struct Pass<'a> {
    pub source: &'a SourceVersion,
    /// With only the files that are delivered.
    pub table: Table,
    /// Only rows of this event time or later.
    pub from: i64,
    pub rows: TableRows,
}

/// What a pass has delivered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delivered {
    pub rows: u64,
    /// The greatest event time.
    pub newest: Option<i64>,
}

impl Delivered {
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            rows: self.rows.saturating_add(other.rows),
            newest: self.newest.max(other.newest),
        }
    }
}

impl Pass<'_> {
    /// Delivers every row and makes them durable.
    ///
    /// After a failure the store may have begun a new life, without rows it took before. Where views are provisioned the
    /// store knows, and refuses to activate them; for views that serve, all rows are delivered once more.
    pub(super) async fn run(
        &self,
        store: &dyn FeatureStore,
        delivery_rows: usize,
        progress: &Arc<Progress>,
    ) -> Result<Delivered, JobError> {
        let name = &self.source.definition.name;
        for pass in 1.. {
            let mut disturbed = false;
            let delivered = self.deliver(store, delivery_rows, progress, &mut disturbed).await?;
            let flushed = store.flush(name).await;
            match flushed {
                Ok(_) if self.rows.whole || !disturbed => return Ok(delivered),
                Ok(_) if pass >= PASSES => {
                    let detail = format!("the store failed during each of {PASSES} deliveries of all rows");
                    return Err(JobError::storage(format!("can't bring `{name}` online"), detail));
                }
                Err(error) if !error.retryable() || pass >= PASSES => return Err(error.into()),
                Ok(_) | Err(_) => tracing::warn!(source = name, pass, "the store failed in between: delivering again"),
            }
            progress.checkpoint()?;
            progress.stage(format!("delivering {name} again"), Some(self.table.rows()));
        }
        Ok(Delivered::default())
    }

    async fn deliver(
        &self,
        store: &dyn FeatureStore,
        delivery_rows: usize,
        progress: &Arc<Progress>,
        disturbed: &mut bool,
    ) -> Result<Delivered, JobError> {
        let definition = &self.source.definition;
        let rows = self.table.rows();
        let generation = self.generation();
        let (schema, time) = (definition.schema.clone(), definition.time.clone());
        let scan = Scan::new(self.table.clone(), schema, time.clone(), false, delivery_rows.max(1));
        let range = TimeRange {
            from: self.from,
            before: i64::MAX,
        };
        let units = scan.units(range).await?;
        let (sender, mut decoded) = mpsc::channel(DECODED_AHEAD);
        let io = tokio::runtime::Handle::current();
        let decoder = {
            let (progress, from) = (Arc::clone(progress), self.from);
            tokio::task::spawn_blocking(move || {
                decode(&scan, &units, &io, &progress, &sender, (&time, from)).map(|()| scan)
            })
        };
        let mut delivered = Delivered::default();
        let mut from = 0;
        while let Some(batch) = decoded.recv().await {
            progress.checkpoint()?;
            let part = Delivered {
                rows: batch.num_rows() as u64,
                newest: newest(&batch, &definition.time),
            };
            let to = end(&batch).unwrap_or(from);
            self.write(store, &generation, from..to, batch, progress, disturbed)
                .await?;
            progress.add(part.rows);
            delivered = delivered.and(part);
            from = to;
        }
        let scan = decoder.await.map_err(JobError::internal)??;
        let end = i64::try_from(rows).map_err(JobError::internal)?;
        if from < end {
            // Rows at the table's end that are left out are covered all the same.
            let empty = RecordBatch::new_empty(scan.schema().clone());
            self.write(store, &generation, from..end, empty, progress, disturbed)
                .await?;
        }
        report_rows_without_time(&definition.name, scan.rows_without_time());
        Ok(delivered)
    }

    /// The same for the same rows in the same order, and for no others.
    fn generation(&self) -> String {
        let mut hasher = Xxh3::new();
        hasher.update(self.table.location.as_bytes());
        hasher.update(&self.from.to_le_bytes());
        for file in &self.table.files {
            hasher.update(&[0]);
            hasher.update(file.path().as_bytes());
            hasher.update(&[0]);
            hasher.update(file.fingerprint().as_bytes());
        }
        format!("{:032x}", hasher.digest128())
    }

    async fn write(
        &self,
        store: &dyn FeatureStore,
        generation: &str,
        range: std::ops::Range<i64>,
        events: RecordBatch,
        progress: &Progress,
        disturbed: &mut bool,
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
            table: Some(self.rows.clone()),
        };
        let delivery = Delivery { header, events };
        let mut pause = Duration::from_millis(100);
        for attempt in 1.. {
            let error = match store.write(delivery.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) if error.retryable() && attempt < ATTEMPTS => error,
                Err(error) => return Err(error.into()),
            };
            *disturbed = true;
            tracing::warn!(source = delivery.header.source, attempt, %error, "delivery refused, trying again");
            tokio::select! {
                () = tokio::time::sleep(pause) => pause *= 2,
                reason = progress.stopped() => return Err(reason),
            }
        }
        Ok(())
    }
}

/// Decodes every unit in order, as far as the receiver takes it; of their rows those whose `time` is not before.
fn decode(
    scan: &Scan,
    units: &[Unit],
    io: &tokio::runtime::Handle,
    progress: &Progress,
    sender: &mpsc::Sender<RecordBatch>,
    (time, from): (&str, i64),
) -> Result<(), JobError> {
    for unit in units {
        for batch in scan.read(unit, io)? {
            progress.checkpoint()?;
            let batch = later(batch?, time, from)?;
            // The receiver is gone when delivering failed, and that error is the one to report.
            if batch.num_rows() > 0 && sender.blocking_send(batch).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn later(batch: RecordBatch, time: &str, from: i64) -> Result<RecordBatch, JobError> {
    if from == i64::MIN {
        return Ok(batch);
    }
    let times = times(&batch, time).ok_or_else(|| JobError::internal("rows without their time"))?;
    let mask: BooleanArray = times.values().iter().map(|time| Some(*time >= from)).collect();
    Ok(filter_record_batch(&batch, &mask)?)
}

fn times<'a>(batch: &'a RecordBatch, time: &str) -> Option<&'a arrow::array::TimestampMicrosecondArray> {
    batch
        .column_by_name(time)?
        .as_primitive_opt::<TimestampMicrosecondType>()
}

fn newest(batch: &RecordBatch, time: &str) -> Option<i64> {
    arrow::compute::max(times(batch, time)?)
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
