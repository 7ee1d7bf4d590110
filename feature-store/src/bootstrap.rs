//! Bootstrap: builds a new view version's online rows from the event log, then hands it to the stream.
//!
//! A stream view in state `provisioning` takes no deliveries. Its log is absorbed commit by commit, while deliveries
//! go on to the views that serve; then the source's deliveries are held back for the moment it takes to absorb what
//! came meanwhile and to activate the view; from there on it takes deliveries like any other. The offset at which it
//! is handed over is exact, because the log's commits end at exact offsets.
//!
//! Killed at any moment, it starts again from the log: the rows' own fences skip what they have absorbed. Fences only
//! tell offsets of one generation apart, so a generation that is absorbed completely is noted in the registry before
//! the next one is begun.

use crate::offline::{EventLog, LogScan};
use crate::registry::Registry;
use arrow::array::{ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Int32Type, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::{DeliveryHeader, columns};
use ondol_transform::ViewEngine;
use ondol_vocabulary::{DataType, PartitionRange, SourceVersion, ViewState, ViewVersion};
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events absorbed at a time: what one delivery of a busy topic holds.
const CHUNK_ROWS: usize = 16_384;
/// A source is held back only once what is left to absorb is at most this many commits…
const FEW_COMMITS: usize = 1;
/// …or after so many attempts to catch up with a stream that is faster.
const CATCH_UPS: usize = 5;
/// After a failure, the time until the next attempt.
const RETRY: Duration = Duration::from_secs(1);

/// What bootstrap needs of the writer.
#[async_trait]
pub trait RowSink: Send + Sync {
    /// Absorbs `events` into the online rows of `view` alone, fenced. Within a partition, events come in the order of
    /// their offsets, in one call and from call to call.
    async fn absorb_into(
        &self,
        view: &ViewVersion,
        header: &DeliveryHeader,
        events: &RecordBatch,
    ) -> Result<(), FeatureStoreError>;

    /// Makes every row absorbed so far survive a crash. Call it before activating a view and before every commit of
    /// the log: a committed position promises that the online rows behind it are durable.
    async fn sync(&self) -> Result<(), FeatureStoreError>;

    /// Holds back deliveries of `source` until the guard is dropped. When it returns, everything delivered before has
    /// been synced online and committed to the log (in that order), so the log's table holds all of it.
    async fn lock_source(&self, source: &str) -> Box<dyn Any + Send>;
}

/// Provisions every stream view that needs it, now and whenever the registry changes. Returns only when the registry
/// is gone: the service drops the future to stop it.
pub async fn run(registry: Registry, log: EventLog, sink: Arc<dyn RowSink>) {
    let mut snapshots = registry.subscribe();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let mut failed = false;
        for view in snapshot
            .views
            .iter()
            .filter(|view| view.state == ViewState::Provisioning)
        {
            let Some(source) = snapshot.source(&view.definition.source) else {
                continue;
            };
            // A table's view is built by deliveries of the table's rows, and activated by whoever delivers them.
            if !source.definition.is_stream() {
                continue;
            }
            if let Err(error) = provision(&registry, &log, sink.as_ref(), source, view).await {
                let name = view.definition.name.clone();
                tracing::error!(feature_view = name, version = view.version, %error, "bootstrap failed: it is tried again");
                metrics::counter!("ondol_bootstrap_failures_total", "feature_view" => name).increment(1);
                failed = true;
            }
        }
        let changed = async {
            if failed {
                tokio::time::timeout(RETRY, snapshots.changed()).await.unwrap_or(Ok(()))
            } else {
                snapshots.changed().await
            }
        };
        if changed.await.is_err() {
            return;
        }
    }
}

/// Builds the rows of one view version and activates it. Does nothing when the view is no longer wanted.
pub async fn provision(
    registry: &Registry,
    log: &EventLog,
    sink: &dyn RowSink,
    source: &SourceVersion,
    view: &ViewVersion,
) -> Result<(), FeatureStoreError> {
    let name = &source.definition.name;
    let started = Instant::now();
    let mut bootstrap = Bootstrap::new(registry, sink, source, view)?;
    let mut scan = log.scan(name).await?;
    tracing::info!(
        feature_view = view.definition.name,
        version = view.version,
        rows = scan.rows(),
        "bootstrap begins"
    );
    if !bootstrap.absorb(&scan).await? {
        return Ok(());
    }
    for _ in 0..CATCH_UPS {
        let now = log.scan(name).await?;
        let left = now.clone().since(&scan);
        if left.commits(None).len() <= FEW_COMMITS {
            break;
        }
        if !bootstrap.absorb(&left).await? {
            return Ok(());
        }
        scan = now;
    }
    let turn = sink.lock_source(name).await;
    let left = log.scan(name).await?.since(&scan);
    if !bootstrap.absorb(&left).await? {
        return Ok(());
    }
    sink.sync().await?;
    // Within the turn: the next delivery must find the view active, or it would miss it.
    registry.activate(view.id).await?;
    drop(turn);
    tracing::info!(
        feature_view = view.definition.name,
        version = view.version,
        rows = bootstrap.rows,
        seconds = started.elapsed().as_secs_f64(),
        "bootstrap done"
    );
    Ok(())
}

struct Bootstrap<'a> {
    registry: &'a Registry,
    sink: &'a dyn RowSink,
    source: &'a SourceVersion,
    view: &'a ViewVersion,
    /// What of a delivery the view reads.
    schema: SchemaRef,
    rows: usize,
}

impl<'a> Bootstrap<'a> {
    fn new(
        registry: &'a Registry,
        sink: &'a dyn RowSink,
        source: &'a SourceVersion,
        view: &'a ViewVersion,
    ) -> Result<Self, FeatureStoreError> {
        let engine =
            ViewEngine::compile(&view.definition, &source.definition).map_err(|error| FeatureStoreError::Internal {
                detail: format!(
                    "view `{}@{}` does not compile: {error}",
                    view.definition.name, view.version
                ),
            })?;
        let own = engine.columns().iter().filter_map(|name| source.definition.field(name));
        let own = own.map(|field| ArrowField::new(&field.name, field.data_type.arrow(), true));
        let added = [
            ArrowField::new(columns::PARTITION, ArrowType::Int32, false),
            ArrowField::new(columns::OFFSET, ArrowType::Int64, false),
            ArrowField::new(columns::INGESTED_AT, DataType::Timestamp.arrow(), false),
        ];
        let schema = Arc::new(Schema::new(own.chain(added).collect::<Vec<_>>()));
        Ok(Self {
            registry,
            sink,
            source,
            view,
            schema,
            rows: 0,
        })
    }

    /// Absorbs every commit of `scan`; false when the view has been retired meanwhile.
    async fn absorb(&mut self, scan: &LogScan) -> Result<bool, FeatureStoreError> {
        let done = self.registry.provisioned(self.view.id).await?;
        let generations: Vec<&String> = scan.generations().iter().filter(|name| !done.contains(name)).collect();
        for (index, generation) in generations.iter().enumerate() {
            for commit in scan.commits(Some(generation)) {
                if !self.wanted() {
                    tracing::info!(
                        feature_view = self.view.definition.name,
                        "bootstrap given up: no longer wanted"
                    );
                    return Ok(false);
                }
                let names = self.schema.fields().iter().map(|field| field.name());
                let present: Vec<String> = names.filter(|name| scan.has(name)).cloned().collect();
                let rows = scan.read(&commit, Some(generation), &present).await?;
                self.deliver(generation, &self.as_delivery(&rows)?).await?;
            }
            if index + 1 < generations.len() {
                self.sink.sync().await?;
                self.registry.set_provisioned(self.view.id, generation).await?;
            }
        }
        Ok(true)
    }

    fn wanted(&self) -> bool {
        let snapshot = self.registry.snapshot();
        snapshot
            .views
            .iter()
            .any(|view| view.id == self.view.id && view.state == ViewState::Provisioning)
    }

    async fn deliver(&mut self, generation: &str, events: &RecordBatch) -> Result<(), FeatureStoreError> {
        let mut start = 0;
        while start < events.num_rows() {
            let chunk = events.slice(start, CHUNK_ROWS.min(events.num_rows() - start));
            let header = DeliveryHeader {
                source: self.source.definition.name.clone(),
                source_version: self.source.version,
                generation: generation.to_owned(),
                ranges: ranges(&chunk)?,
            };
            self.sink.absorb_into(self.view, &header, &chunk).await?;
            start += chunk.num_rows();
            self.rows += chunk.num_rows();
            metrics::counter!("ondol_bootstrap_rows_total", "feature_view" => self.view.definition.name.clone())
                .increment(chunk.num_rows() as u64);
        }
        Ok(())
    }

    /// Columns that the source has gained since the last commit are not in the log yet: null.
    fn as_delivery(&self, rows: &RecordBatch) -> Result<RecordBatch, FeatureStoreError> {
        let column = |field: &Arc<ArrowField>| match rows.column_by_name(field.name()) {
            Some(column) => Arc::clone(column),
            None => new_null_array(field.data_type(), rows.num_rows()),
        };
        let columns: Vec<ArrayRef> = self.schema.fields().iter().map(column).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|error| self.broken(&error.to_string()))
    }

    fn broken(&self, why: &str) -> FeatureStoreError {
        FeatureStoreError::Internal {
            detail: format!(
                "the event log of `{}` can't be absorbed: {why}",
                self.source.definition.name
            ),
        }
    }
}

/// What rows in order of (partition, offset) cover: from each partition's first offset past its last.
fn ranges(rows: &RecordBatch) -> Result<Vec<PartitionRange>, FeatureStoreError> {
    let missing = |name: &str| FeatureStoreError::Internal {
        detail: format!("the event log lacks column `{name}`"),
    };
    let partitions = rows
        .column_by_name(columns::PARTITION)
        .and_then(|column| column.as_primitive_opt::<Int32Type>())
        .ok_or_else(|| missing(columns::PARTITION))?;
    let offsets = rows
        .column_by_name(columns::OFFSET)
        .and_then(|column| column.as_primitive_opt::<Int64Type>())
        .ok_or_else(|| missing(columns::OFFSET))?;
    let mut ranges: Vec<PartitionRange> = Vec::new();
    for (&partition, &offset) in partitions.values().iter().zip(offsets.values()) {
        match ranges.last_mut() {
            Some(range) if range.partition == partition => range.to = offset + 1,
            Some(_) | None => ranges.push(PartitionRange {
                partition,
                from: offset,
                to: offset + 1,
            }),
        }
    }
    Ok(ranges)
}
