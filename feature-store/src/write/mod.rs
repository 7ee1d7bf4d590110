//! The write path: a delivery of events into online rows and the event log.
//!
//! For one source, one delivery at a time, in this order:
//! 1. [`delivery`] checks its form; the log refuses it if it would leave a gap;
//! 2. [`absorb`] takes its events into the online rows of the source's views, behind each row's fence;
//! 3. the log appends its events (streams only: a table is its own archive).
//!
//! A commit makes what was written durable: first the online rows, then the log with its positions. So a committed
//! position promises that online rows hold everything before it, and whatever a crash takes away lies after it and is
//! delivered again. The fences make that repetition harmless.
//!
//! Two things keep "whatever a crash takes away" whole. Events that are not committed are forgotten with the process or
//! when the online store began a new life, so a partition without a committed position starts at its beginning: a
//! delivery from further on is refused with the position to resume from. And a commit is refused, and its events are
//! asked for again, if the online store's life changed since they were absorbed.
//!
//! Deliveries of a source wait in line behind a lock, at most [`WriterLimits::max_pending_deliveries`] of them; sources
//! don't wait for each other.

mod absorb;
mod delivery;

use crate::bootstrap::RowSink;
use crate::offline::EventLog;
use crate::online::OnlineStore;
use crate::registry::Registry;
use crate::views::{CompiledView, CompiledViews};
use absorb::{Absorption, Tally};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::{Delivery, DeliveryHeader, PartitionPosition, WriteReceipt};
use ondol_runtime::Shutdown;
use ondol_vocabulary::{Snapshot, SourceVersion, ViewState, ViewVersion};
use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedMutexGuard, Semaphore};

/// Bounds of the write path.
#[derive(Clone, Copy, Debug)]
pub struct WriterLimits {
    /// Deliveries of one source that may wait.
    pub max_pending_deliveries: usize,
    /// Events of one source that may be uncommitted before a write commits first.
    pub max_uncommitted_rows: usize,
}

/// Takes deliveries. Shared by the service's requests, its commit task and the bootstrap.
pub struct Writer {
    registry: Registry,
    views: Arc<CompiledViews>,
    online: Arc<dyn OnlineStore>,
    log: EventLog,
    limits: WriterLimits,
    tasks: Shutdown,
    /// One for each source that was written to; bounded by the registry's sources.
    gates: Mutex<HashMap<String, Arc<Gate>>>,
}

/// What the deliveries of one source pass through.
struct Gate {
    /// Held while a delivery is written, or a bootstrap hands over.
    turn: Arc<tokio::sync::Mutex<Turn>>,
    waiting: Semaphore,
    /// Events written since the last commit.
    uncommitted: AtomicUsize,
    /// The online store's life in which the uncommitted events were absorbed; none before the first.
    life: Mutex<Option<u64>>,
}

/// What only the holder of a source's turn may touch.
#[derive(Default)]
struct Turn {
    /// How far a table has been written; a stream's positions are the log's.
    table: Vec<PartitionPosition>,
}

/// The exclusive right to write a source. Dropping it lets the next delivery in.
pub struct SourceTurn {
    gate: Arc<Gate>,
    turn: OwnedMutexGuard<Turn>,
}

impl Writer {
    /// Over the parts it writes to; its commits are tasks of `tasks`.
    pub fn new(
        registry: Registry,
        views: Arc<CompiledViews>,
        online: Arc<dyn OnlineStore>,
        log: EventLog,
        limits: WriterLimits,
        tasks: Shutdown,
    ) -> Self {
        Self {
            registry,
            views,
            online,
            log,
            limits,
            tasks,
            gates: Mutex::default(),
        }
    }

    /// Writes one delivery: see [`ondol_feature_store_api::FeatureStore::write`].
    pub async fn write(&self, delivery: Delivery) -> Result<WriteReceipt, FeatureStoreError> {
        let name = delivery.header.source.clone();
        known_source(&self.registry.snapshot(), &name)?;
        let gate = self.gate(&name);
        let Ok(_place) = gate.waiting.try_acquire() else {
            metrics::counter!("ondol_feature_store_deliveries_refused_total", "source" => name.clone()).increment(1);
            return Err(FeatureStoreError::Unavailable {
                detail: format!(
                    "{} deliveries of `{name}` are waiting already",
                    self.limits.max_pending_deliveries
                ),
            });
        };
        let started = Instant::now();
        let mut turn = self.turn(&name).await;
        if gate.uncommitted.load(Ordering::Relaxed) > self.limits.max_uncommitted_rows {
            self.commit(&name).await?;
        }
        // Read within the turn: a bootstrap activates a view before it gives the turn back.
        let snapshot = self.registry.snapshot();
        let source = known_source(&snapshot, &name)?;
        let events = delivery::check(source, &delivery)?;
        let rows = events.num_rows() as u64;
        let written = self
            .write_checked(&snapshot, source, &delivery.header, events, &mut turn)
            .await;
        if written.is_err() {
            self.look_for_new_life(source, &gate).await?;
        }
        let tally = written?;
        metrics::counter!("ondol_feature_store_events_total", "source" => name.clone()).increment(rows);
        count(&name, tally);
        metrics::histogram!("ondol_feature_store_write_seconds").record(started.elapsed());
        self.receipt(source, &turn).await
    }

    async fn write_checked(
        &self,
        snapshot: &Snapshot,
        source: &SourceVersion,
        header: &DeliveryHeader,
        events: RecordBatch,
        turn: &mut SourceTurn,
    ) -> Result<Tally, FeatureStoreError> {
        let stream = source.definition.is_stream();
        if stream {
            self.admit(header).await?;
        }
        let life = turn.gate.lives_since(self.online.as_ref()).await?;
        // A stream's new view is built from the log and then handed over; a table's is built by these very deliveries.
        let takes = |view: &&ViewVersion| view.state == ViewState::Active || !stream;
        let views = snapshot.views_of(&source.definition.name).filter(takes);
        let views = views
            .map(|view| self.views.get(snapshot, view))
            .collect::<Result<Vec<_>, _>>()?;
        let absorption = Absorption {
            life,
            generation: delivery::generation(header),
            starts_over: !stream,
            views,
            events: events.clone(),
        };
        let tally = absorption.run(self.online.as_ref()).await?;
        if stream {
            self.log.append(&source.definition, header, &events).await?;
        } else {
            turn.turn.advance_table(header);
        }
        turn.gate.uncommitted.fetch_add(events.num_rows(), Ordering::Relaxed);
        Ok(tally)
    }

    /// After a write failed: if that is because the online store began a new life, lets go of the old one, so that the
    /// next attempt is told where to resume. Nothing need be due for a commit to find out.
    async fn look_for_new_life(&self, source: &SourceVersion, gate: &Gate) -> Result<(), FeatureStoreError> {
        if !source.definition.is_stream() {
            gate.forget_life();
        } else if !gate.lives_on(self.online.as_ref()).await? {
            self.commit(&source.definition.name).await?;
        }
        Ok(())
    }

    /// Refuses a delivery that the log can't join to what it holds. A partition it holds nothing of starts at 0, as
    /// ingest's ranges do, even where a topic's oldest events are gone: otherwise nobody would notice that events
    /// which a killed store had taken but not committed were never delivered again.
    async fn admit(&self, header: &DeliveryHeader) -> Result<(), FeatureStoreError> {
        let held = self.log.held(&header.source, &header.generation).await?;
        let is_held = |partition: i32| held.iter().any(|position| position.partition == partition);
        if let Some(range) = header
            .ranges
            .iter()
            .find(|range| range.from > 0 && !is_held(range.partition))
        {
            return Err(FeatureStoreError::Gap {
                source_name: header.source.clone(),
                partition: range.partition,
                expected: 0,
                from: range.from,
            });
        }
        self.log.admit(header).await
    }

    /// Makes everything written for `source` durable.
    pub async fn flush(&self, source: &str) -> Result<WriteReceipt, FeatureStoreError> {
        let snapshot = self.registry.snapshot();
        let version = known_source(&snapshot, source)?;
        // In turn: after the deliveries that came before.
        let turn = self.turn(source).await;
        self.commit(source).await?;
        let written = self.written(version, &turn).await?;
        Ok(WriteReceipt {
            written: written.clone(),
            durable: written,
        })
    }

    /// Online rows to disk, then the log with its positions. Needs no turn: what the log holds was absorbed before it
    /// was appended, so the sync after the log has closed its buffer covers every event of the commit, and deliveries
    /// go on meanwhile.
    pub async fn commit(&self, source: &str) -> Result<(), FeatureStoreError> {
        let stream = self
            .registry
            .snapshot()
            .source(source)
            .is_none_or(|source| source.definition.is_stream());
        if !stream {
            self.online.sync().await?;
            // A table has no positions to ask again from: its job fails, and writes the table from its beginning.
            let gate = self.gate(source);
            gate.uncommitted.store(0, Ordering::Relaxed);
            let whole = gate.lives_on(self.online.as_ref()).await?;
            gate.forget_life();
            return if whole { Ok(()) } else { Err(new_life(source)) };
        }
        let (log, online, gate) = (self.log.clone(), Arc::clone(&self.online), self.gate(source));
        let source = source.to_owned();
        // A task of its own: a commit must not end half-way because whoever asked for it went away.
        let commit = self.tasks.spawn("feature-store-commit", async move {
            let started = Instant::now();
            let rows = gate.uncommitted.swap(0, Ordering::Relaxed);
            let mut lost = false;
            let ready = async {
                online.sync().await?;
                lost = !gate.lives_on(online.as_ref()).await?;
                if lost { Err(new_life(&source)) } else { Ok(()) }
            };
            let committed = log.commit_after(&source, ready).await;
            if lost {
                tracing::warn!(
                    source,
                    "the online store restarted: uncommitted events are asked for again"
                );
                metrics::counter!("ondol_feature_store_online_restarts_total", "source" => source.clone()).increment(1);
                log.discard(&source).await?;
                gate.forget_life();
            } else if committed.is_err() {
                gate.uncommitted.fetch_add(rows, Ordering::Relaxed);
            }
            committed?;
            metrics::histogram!("ondol_feature_store_commit_seconds").record(started.elapsed());
            Ok(())
        });
        commit.await.unwrap_or_else(|error| {
            Err(FeatureStoreError::Internal {
                detail: format!("a commit ended early: {error}"),
            })
        })
    }

    /// Waits for the turn of `source`.
    pub async fn turn(&self, source: &str) -> SourceTurn {
        let gate = self.gate(source);
        let turn = Arc::clone(&gate.turn).lock_owned().await;
        SourceTurn { gate, turn }
    }

    async fn receipt(&self, source: &SourceVersion, turn: &SourceTurn) -> Result<WriteReceipt, FeatureStoreError> {
        let durable = if source.definition.is_stream() {
            self.log.durable(&source.definition.name).await?
        } else {
            Vec::new()
        };
        Ok(WriteReceipt {
            written: self.written(source, turn).await?,
            durable,
        })
    }

    async fn written(
        &self,
        source: &SourceVersion,
        turn: &SourceTurn,
    ) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        if source.definition.is_stream() {
            return self.log.written(&source.definition.name).await;
        }
        Ok(turn.turn.table.clone())
    }

    fn gate(&self, source: &str) -> Arc<Gate> {
        // A panic can't leave the map half-changed, so a poisoned lock is as good as any.
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = gates.entry(source.to_owned()).or_insert_with(|| {
            Arc::new(Gate {
                turn: Arc::default(),
                waiting: Semaphore::new(self.limits.max_pending_deliveries.max(1)),
                uncommitted: AtomicUsize::new(0),
                life: Mutex::new(None),
            })
        });
        Arc::clone(gate)
    }

    fn compiled(&self, view: &ViewVersion) -> Result<Arc<CompiledView>, FeatureStoreError> {
        self.views.get(&self.registry.snapshot(), view)
    }
}

/// What the bootstrap of a new view version needs.
#[async_trait]
impl RowSink for Writer {
    /// Within a partition, events must come in the order of their offsets, in one call and from call to call: a row's
    /// fence passes what is skipped.
    async fn absorb_into(
        &self,
        view: &ViewVersion,
        header: &DeliveryHeader,
        events: &RecordBatch,
    ) -> Result<(), FeatureStoreError> {
        let absorption = Absorption {
            life: self.online.life().await?,
            generation: delivery::generation(header),
            starts_over: false,
            views: vec![self.compiled(view)?],
            events: events.clone(),
        };
        absorption.run(self.online.as_ref()).await.map(drop)
    }

    async fn sync(&self) -> Result<(), FeatureStoreError> {
        self.online.sync().await
    }

    async fn lock_source(&self, source: &str) -> Box<dyn Any + Send> {
        let turn = self.turn(source).await;
        while let Err(error) = self.commit(source).await {
            tracing::warn!(source, %error, "the log can't be committed for a hand-over yet: trying again");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Box::new(turn)
    }
}

impl Gate {
    /// The life in which the uncommitted events were absorbed; noted when the first of them comes.
    async fn lives_since(&self, online: &dyn OnlineStore) -> Result<u64, FeatureStoreError> {
        let noted = *self.life();
        let life = match noted {
            Some(life) => return Ok(life),
            None => online.life().await?,
        };
        *self.life() = Some(life);
        Ok(life)
    }

    /// Whether the online store still is in the life that was noted.
    async fn lives_on(&self, online: &dyn OnlineStore) -> Result<bool, FeatureStoreError> {
        let life = online.life().await?;
        Ok(self.life().is_none_or(|noted| noted == life))
    }

    fn forget_life(&self) {
        *self.life() = None;
    }

    fn life(&self) -> MutexGuard<'_, Option<u64>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new_life(source: &str) -> FeatureStoreError {
    FeatureStoreError::Unavailable {
        detail: format!("the online store restarted: the uncommitted events of `{source}` are asked for again"),
    }
}

impl Turn {
    fn advance_table(&mut self, header: &DeliveryHeader) {
        self.table = header
            .ranges
            .iter()
            .map(|range| PartitionPosition {
                partition: range.partition,
                next_offset: range.to,
            })
            .collect();
    }
}

pub(crate) fn known_source<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a SourceVersion, FeatureStoreError> {
    snapshot.source(name).ok_or_else(|| FeatureStoreError::Unknown {
        kind: "source".to_owned(),
        name: name.to_owned(),
        suggestion: crate::read::nearest(
            name,
            snapshot.sources.iter().map(|source| source.definition.name.as_str()),
        ),
    })
}

/// Counts what the views made of events: an event counts once for each view that takes it.
fn count(source: &str, tally: Tally) {
    let outcomes = [
        ("applied", tally.applied),
        ("duplicate", tally.duplicate),
        ("late", tally.late),
    ];
    for (outcome, events) in outcomes {
        if events > 0 {
            metrics::counter!("ondol_feature_store_absorbed_total", "source" => source.to_owned(), "outcome" => outcome)
                .increment(events);
        }
    }
    if tally.conflicts > 0 {
        metrics::counter!("ondol_feature_store_row_conflicts_total", "source" => source.to_owned())
            .increment(tally.conflicts);
    }
}
