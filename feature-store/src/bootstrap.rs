//! Bootstrap: builds a view's online rows from the event log, then hands them to the stream. A new view version's, and
//! those of a version that serves, built anew under another id (see `registry::rows`): a rebuild is no other thing.
//!
//! How far it is, and whether somebody holds it back, stands in the registry (`registry::provisioning`): a view that is
//! held is left where it is, between two chunks of events, and begun again from the log once it is released. Once it is
//! being handed over it is no longer stopped: its source's commits wait for it.
//!
//! A stream view in state `provisioning` takes no deliveries. Its log is absorbed from its beginning, while deliveries
//! go on to the views that serve. Then the view *joins* the log's table, in a commit of its own: no replica's commit
//! stands any more that does not reckon with it. What was committed up to there is absorbed, the view is activated, and
//! from there on it takes deliveries like any other: a replica that holds events which are not committed absorbs them
//! into it first. The position at which it is handed over is exact, because the log's commits end at exact offsets, and
//! none falls between the join and the activation. See `docs/adr/0006-a-hand-over-is-a-commit.md`.
//!
//! Killed at any moment, it starts again from the log, here or in another replica: the rows' own fences skip what they
//! have absorbed. Fences only tell offsets of one generation apart, so generations are absorbed one after the other,
//! and a row that is in a later one is left alone. All of it happens in one life of the online store; when that ends it
//! starts over. One replica builds a view at a time; if two do, both end in the same rows.

use crate::event_positions::event_positions;
use crate::offline::{EventLog, LogScan};
use crate::online::Life;
use crate::registry::{Registry, RowsProgress};
use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Schema, SchemaRef};
use async_trait::async_trait;
use futures::TryStreamExt;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::{DeliveryHeader, columns};
use ondol_transform::ViewEngine;
use ondol_vocabulary::{DataType, PartitionRange, SourceVersion, ViewState, ViewVersion};
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events absorbed at a time: what one delivery of a busy topic holds.
const CHUNK_ROWS: usize = 16_384;
/// A source is held back only once what is left to absorb is at most this many messages…
const FEW_MESSAGES: u64 = 50_000;
/// …or after so many attempts to catch up with a stream that is faster.
const CATCH_UPS: usize = 5;
/// How often progress is noted.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// After a failure, or while another replica is at work, the time until the next attempt.
const RETRY: Duration = Duration::from_secs(1);

/// What bootstrap needs of the writer.
#[async_trait]
pub trait RowSink: Send + Sync {
    /// The online store's present life.
    async fn life(&self) -> Result<Life, FeatureStoreError>;

    /// Absorbs `events` into the online rows of `view` alone, fenced, and leaves rows alone that are in one of the
    /// `later` generations. Within a partition, events come in the order of their offsets, in one call and from call to
    /// call. Refused once the online store's `life` is over.
    async fn absorb_into(
        &self,
        life: &Life,
        view: &ViewVersion,
        header: &DeliveryHeader,
        later: &[String],
        events: &RecordBatch,
    ) -> Result<(), FeatureStoreError>;

    /// Makes every row absorbed so far survive a crash. Refused if the online store's `life` is over. Call it before
    /// activating a view: a committed position promises that the online rows behind it are durable.
    async fn sync(&self, life: &Life) -> Result<(), FeatureStoreError>;

    /// Holds back this process's deliveries of `source` until the guard is dropped. When it returns, everything that it
    /// took before has been synced online and committed to the log (in that order). Fails when that takes long: another
    /// view may have to be handed over first.
    async fn lock_source(&self, source: &str) -> Result<Box<dyn Any + Send>, FeatureStoreError>;
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
            match attempt(&registry, &log, sink.as_ref(), source, view).await {
                Ok(done) => failed |= !done,
                Err(error) => {
                    let name = view.definition.name.clone();
                    tracing::error!(feature_view = name, version = view.version, %error, "bootstrap failed: it is tried again");
                    metrics::counter!("ondol_bootstrap_failures_total", "feature_view" => name).increment(1);
                    failed = true;
                }
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

/// Provisions one view, unless another replica is at it: then false.
async fn attempt(
    registry: &Registry,
    log: &EventLog,
    sink: &dyn RowSink,
    source: &SourceVersion,
    view: &ViewVersion,
) -> Result<bool, FeatureStoreError> {
    let Some(_lock) = registry.lock(&format!("bootstrap/{}", view.id)).await? else {
        return Ok(false);
    };
    // Another replica may have finished it before it let go of the lock.
    registry.refresh().await?;
    // Its release changes the registry, and so brings it here again.
    if registry.is_held(view.id).await? {
        return Ok(true);
    }
    let provisioned = provision(registry, log, sink, source, view).await;
    if let Err(error) = &provisioned {
        let progress = RowsProgress::default();
        registry
            .set_progress(view.id, progress, Some(&error.to_string()))
            .await?;
    }
    provisioned.map(|()| true)
}

/// Builds the rows of one view version and activates it. Ends early when the view is no longer wanted, or held back.
pub async fn provision(
    registry: &Registry,
    log: &EventLog,
    sink: &dyn RowSink,
    source: &SourceVersion,
    view: &ViewVersion,
) -> Result<(), FeatureStoreError> {
    let name = &source.definition.name;
    let started = Instant::now();
    let life = sink.life().await?;
    let mut bootstrap = Bootstrap::new(registry, sink, source, view, life)?;
    if !bootstrap.wanted() {
        return Ok(());
    }
    registry.begin_rows(view.id, &bootstrap.life.0).await?;
    registry.begin_building(view.id).await?;
    let mut scan = log.scan(name).await?;
    bootstrap.total = scan.rows();
    bootstrap.report().await?;
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
        if left.offsets() <= FEW_MESSAGES {
            break;
        }
        bootstrap.total = now.rows();
        if !bootstrap.absorb(&left).await? {
            return Ok(());
        }
        scan = now;
    }
    let turn = sink.lock_source(name).await?;
    sink.sync(&bootstrap.life).await?;
    if !bootstrap.hand_over().await? {
        return Ok(());
    }
    // From here to the activation no commit of the log stands.
    let living = registry.snapshot().views.iter().map(|view| view.id).collect();
    log.join(&source.definition, view.id, &living).await?;
    let left = log.scan(name).await?.since(&scan);
    if !bootstrap.absorb(&left).await? {
        return Ok(());
    }
    sink.sync(&bootstrap.life).await?;
    bootstrap.report().await?;
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
    /// The online store's life in which all of it happens.
    life: Life,
    /// What of a delivery the view reads.
    schema: SchemaRef,
    rows: usize,
    total: Option<u64>,
    reported: Instant,
    /// The registry's version when it was last asked whether the view is held.
    asked: Option<u64>,
    handing_over: bool,
}

impl<'a> Bootstrap<'a> {
    fn new(
        registry: &'a Registry,
        sink: &'a dyn RowSink,
        source: &'a SourceVersion,
        view: &'a ViewVersion,
        life: Life,
    ) -> Result<Self, FeatureStoreError> {
        let engine =
            ViewEngine::compile(&view.definition, &source.definition).map_err(|error| FeatureStoreError::Internal {
                detail: format!(
                    "view `{}@{}` does not compile: {error}",
                    view.definition.name, view.version
                ),
            })?;
        let own = engine.fields().iter();
        let own = own.map(|field| ArrowField::new(&field.name, field.data_type.arrow(), true));
        let added = [
            ArrowField::new(columns::PARTITION, ArrowType::Int32, false),
            ArrowField::new(columns::OFFSET, ArrowType::Int64, false),
            ArrowField::new(columns::INGESTED_AT, DataType::Timestamp.arrow(), false),
            // Of a log that has it, whatever the source says by now: what came late stays late.
            ArrowField::new(columns::LATE, ArrowType::Boolean, true),
        ];
        let schema = Arc::new(Schema::new(own.chain(added).collect::<Vec<_>>()));
        Ok(Self {
            registry,
            sink,
            source,
            view,
            life,
            schema,
            rows: 0,
            total: None,
            reported: Instant::now(),
            asked: None,
            handing_over: false,
        })
    }

    /// Absorbs every event of `scan`; false when the view has been retired meanwhile, or is held back.
    async fn absorb(&mut self, scan: &LogScan) -> Result<bool, FeatureStoreError> {
        let done = self.registry.provisioned(self.view.id).await?;
        let all = scan.generations();
        let generations: Vec<&String> = all.iter().filter(|name| !done.contains(name)).collect();
        let names = self.schema.fields().iter().map(|field| field.name());
        let present: Vec<String> = names.filter(|name| scan.has(name)).cloned().collect();
        for (index, generation) in generations.iter().enumerate() {
            let later: Vec<String> = all
                .iter()
                .skip_while(|name| name != generation)
                .skip(1)
                .cloned()
                .collect();
            let mut batches = scan.read(Some(generation), &present)?;
            while let Some(rows) = batches.try_next().await? {
                if !self.wanted() {
                    tracing::info!(
                        feature_view = self.view.definition.name,
                        "bootstrap given up: no longer wanted"
                    );
                    return Ok(false);
                }
                if !self.deliver(generation, &later, &self.as_delivery(&rows)?).await? {
                    return Ok(false);
                }
            }
            if index + 1 < generations.len() {
                self.sink.sync(&self.life).await?;
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

    /// Whether somebody holds the view back. The database is asked once for each version of the registry: a hold is one.
    async fn held(&mut self) -> Result<bool, FeatureStoreError> {
        let version = self.registry.snapshot().version;
        if self.handing_over || self.asked == Some(version) {
            return Ok(false);
        }
        if self.registry.is_held(self.view.id).await? {
            self.report().await?;
            tracing::info!(
                feature_view = self.view.definition.name,
                version = self.view.version,
                "bootstrap stops: the view is held back"
            );
            return Ok(true);
        }
        self.asked = Some(version);
        Ok(false)
    }

    /// Begins the hand-over, unless somebody holds the view back: then false.
    async fn hand_over(&mut self) -> Result<bool, FeatureStoreError> {
        self.report().await?;
        self.handing_over = self.registry.begin_hand_over(self.view.id).await?;
        Ok(self.handing_over)
    }

    /// Notes how far it has come.
    async fn report(&mut self) -> Result<(), FeatureStoreError> {
        self.reported = Instant::now();
        let done = self.rows as u64;
        let progress = RowsProgress {
            done,
            total: self.total.map(|total| total.max(done)),
        };
        self.registry.set_progress(self.view.id, progress, None).await
    }

    /// Delivers events in chunks; false when the view is held back from one of them on.
    async fn deliver(
        &mut self,
        generation: &str,
        later: &[String],
        events: &RecordBatch,
    ) -> Result<bool, FeatureStoreError> {
        let mut start = 0;
        while start < events.num_rows() {
            if self.held().await? {
                return Ok(false);
            }
            let chunk = events.slice(start, chunk_rows(events, start)?);
            let header = DeliveryHeader {
                source: self.source.definition.name.clone(),
                source_version: self.source.version,
                generation: generation.to_owned(),
                ranges: ranges(&chunk)?,
                table: None,
            };
            self.sink
                .absorb_into(&self.life, self.view, &header, later, &chunk)
                .await?;
            start += chunk.num_rows();
            self.rows += chunk.num_rows();
            metrics::counter!("ondol_bootstrap_rows_total", "feature_view" => self.view.definition.name.clone())
                .increment(chunk.num_rows() as u64);
            if self.reported.elapsed() >= PROGRESS_EVERY {
                self.report().await?;
            }
        }
        Ok(true)
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

/// How many rows from `start` on are absorbed at a time. Events of one message are never split: fences are offsets, so
/// the rest of them would be taken for a repetition.
fn chunk_rows(rows: &RecordBatch, start: usize) -> Result<usize, FeatureStoreError> {
    let (partitions, offsets) = positions(rows)?;
    let position = |row: usize| Some((partitions.get(row)?, offsets.get(row)?));
    let mut end = start.saturating_add(CHUNK_ROWS).min(rows.num_rows());
    while end < rows.num_rows() && position(end) == position(end - 1) {
        end += 1;
    }
    Ok(end - start)
}

/// What rows in order of (partition, offset) cover: from each partition's first offset past its last.
fn ranges(rows: &RecordBatch) -> Result<Vec<PartitionRange>, FeatureStoreError> {
    let (partitions, offsets) = positions(rows)?;
    let mut ranges: Vec<PartitionRange> = Vec::new();
    for (&partition, &offset) in partitions.iter().zip(offsets) {
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

fn positions(rows: &RecordBatch) -> Result<(&[i32], &[i64]), FeatureStoreError> {
    event_positions(rows).map_err(|name| FeatureStoreError::Internal {
        detail: format!("the event log lacks column `{name}`"),
    })
}
