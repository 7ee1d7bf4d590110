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
//! Any number of replicas write a source at once, each the partitions that ingest delivers to it. They share online
//! rows, where fences and compare-and-set keep them apart, and the log, where a position moves once. What a replica
//! remembers of the log is a cache that is brought up to date before it refuses a delivery; a position it holds means,
//! for as long as it lives, that every event before it is in the online rows. See [`commit`] for how a new view version
//! comes in, and what happens to a commit that another replica has overtaken.
//!
//! Two things keep "whatever a crash takes away" whole. Events that are not committed are forgotten with the process or
//! when the online store began a new life, so a partition without a committed position starts at its beginning: a
//! delivery from further on is refused with the position to resume from. And a commit is refused, and its events are
//! asked for again, if the online store's life changed since they were absorbed.
//!
//! Deliveries of a source wait in line behind a lock, at most [`WriterLimits::max_pending_deliveries`] of them; sources
//! don't wait for each other.

mod absorb;
pub mod commit;
mod delivery;
mod gate;

pub use gate::SourceTurn;

use crate::bootstrap::RowSink;
use crate::offline::EventLog;
use crate::online::{Continuity, Life, OnlineStore};
use crate::registry::Registry;
use crate::views::CompiledViews;
use absorb::{Absorption, Tally};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use gate::Gate;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::{Delivery, DeliveryHeader, PartitionPosition, WriteReceipt};
use ondol_runtime::Shutdown;
use ondol_vocabulary::{Snapshot, SourceVersion, ViewState, ViewVersion};
use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often, and how far apart, a commit is tried for a hand-over that holds deliveries back.
const HAND_OVER_ATTEMPTS: u32 = 20;
const HAND_OVER_PAUSE: Duration = Duration::from_millis(200);

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
    continuity: Arc<Continuity>,
    log: EventLog,
    limits: WriterLimits,
    tasks: Shutdown,
    /// One for each source that was written to; bounded by the registry's sources.
    gates: Mutex<HashMap<String, Arc<Gate>>>,
}

impl Writer {
    /// Over the parts it writes to; its commits are tasks of `tasks`.
    pub fn new(
        registry: Registry,
        views: Arc<CompiledViews>,
        online: Arc<dyn OnlineStore>,
        continuity: Arc<Continuity>,
        log: EventLog,
        limits: WriterLimits,
        tasks: Shutdown,
    ) -> Self {
        Self {
            registry,
            views,
            online,
            continuity,
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
            self.commit_in(&name, &turn).await?;
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
            self.look_for_new_life(source, &turn).await?;
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
        let life = if stream {
            turn.gate().lives_since(&self.continuity).await?
        } else {
            self.life_of_table(snapshot, header, turn).await?
        };
        // A stream's new view is built from the log and then handed over; a table's is built by these very deliveries.
        let named = |view: &ViewVersion| header.table.as_ref().is_none_or(|rows| rows.views.contains(&view.id));
        let takes = |view: &&ViewVersion| {
            if stream {
                view.state == ViewState::Active
            } else {
                named(view)
            }
        };
        let views: Vec<&ViewVersion> = snapshot.views_of(&source.definition.name).filter(takes).collect();
        if stream {
            let cloned = views.iter().map(|view| (*view).clone()).collect();
            self.adopt(&source.definition.name, turn, cloned).await?;
        }
        let views = views
            .into_iter()
            .map(|view| self.views.get(snapshot, view))
            .collect::<Result<Vec<_>, _>>()?;
        let absorption = Absorption {
            life: life.clone(),
            generation: delivery::generation(header),
            later: Vec::new(),
            starts_over: !stream && header.table.as_ref().is_none_or(|rows| rows.whole),
            views,
            events: events.clone(),
        };
        let tally = absorption.run(self.online.as_ref()).await?;
        if stream {
            self.log.append(&source.definition, header, &events).await?;
            // A commit that found a new life may have let go of everything before these came: then they go, too.
            if !turn.gate().lives_on_in(&life) {
                self.log.discard(&source.definition.name).await?;
                return Err(commit::new_life(&source.definition.name));
            }
        } else {
            turn.turn.advance_table(header);
        }
        turn.gate.uncommitted.fetch_add(events.num_rows(), Ordering::Relaxed);
        Ok(tally)
    }

    /// A table is loaded in one life of the online store, from its first row to the activation of views that wait for
    /// it: what the registry notes here is checked there, whichever replica is asked.
    async fn life_of_table(
        &self,
        snapshot: &Snapshot,
        header: &DeliveryHeader,
        turn: &SourceTurn,
    ) -> Result<Life, FeatureStoreError> {
        if header.ranges.iter().any(|range| range.from == 0) {
            turn.gate().forget_life();
            let life = turn.gate().lives_since(&self.continuity).await?;
            let waiting = snapshot.views_of(&header.source).filter(|view| {
                let named = header.table.as_ref().is_none_or(|rows| rows.views.contains(&view.id));
                named && view.state == ViewState::Provisioning
            });
            for view in waiting {
                self.registry.begin_rows(view.id, &life.0).await?;
            }
            return Ok(life);
        }
        turn.gate().lives_since(&self.continuity).await
    }

    /// After a write failed: if that is because the online store began a new life, lets go of the old one, so that the
    /// next attempt is told where to resume. Nothing need be due for a commit to find out.
    async fn look_for_new_life(&self, source: &SourceVersion, turn: &SourceTurn) -> Result<(), FeatureStoreError> {
        if !source.definition.is_stream() {
            turn.gate().forget_life();
        } else if !turn.gate().lives_in(&self.continuity.life().await?) {
            self.commit_in(&source.definition.name, turn).await?;
        }
        Ok(())
    }

    /// Refuses a delivery that the log can't join to what it holds. A partition it holds nothing of starts at 0, as
    /// ingest's ranges do, even where a topic's oldest events are gone: otherwise nobody would notice that events
    /// which a killed store had taken but not committed were never delivered again.
    ///
    /// Before it refuses, it learns what other replicas have committed.
    async fn admit(&self, header: &DeliveryHeader) -> Result<(), FeatureStoreError> {
        match self.admit_now(header).await {
            Err(FeatureStoreError::Gap { .. }) => {
                self.log.refresh(&header.source).await?;
                self.admit_now(header).await
            }
            admitted => admitted,
        }
    }

    async fn admit_now(&self, header: &DeliveryHeader) -> Result<(), FeatureStoreError> {
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
        self.commit_in(source, &turn).await?;
        let written = self.written(version, &turn).await?;
        Ok(WriteReceipt {
            written: written.clone(),
            durable: written,
        })
    }

    /// Waits for the turn of `source`.
    pub async fn turn(&self, source: &str) -> SourceTurn {
        self.gate(source).turn().await
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
        let gate = gates
            .entry(source.to_owned())
            .or_insert_with(|| Arc::new(Gate::new(self.limits.max_pending_deliveries)));
        Arc::clone(gate)
    }
}

/// What the bootstrap of a new view version needs.
#[async_trait]
impl RowSink for Writer {
    async fn life(&self) -> Result<Life, FeatureStoreError> {
        self.continuity.life().await
    }

    /// Within a partition, events must come in the order of their offsets, in one call and from call to call: a row's
    /// fence passes what is skipped.
    async fn absorb_into(
        &self,
        life: &Life,
        view: &ViewVersion,
        header: &DeliveryHeader,
        later: &[String],
        events: &RecordBatch,
    ) -> Result<(), FeatureStoreError> {
        let absorption = Absorption {
            life: life.clone(),
            generation: delivery::generation(header),
            later: later.iter().map(|name| delivery::generation_number(name)).collect(),
            starts_over: false,
            views: vec![self.views.get(&self.registry.snapshot(), view)?],
            events: events.clone(),
        };
        absorption.run(self.online.as_ref()).await.map(drop)
    }

    async fn sync(&self, life: &Life) -> Result<(), FeatureStoreError> {
        let present = self.continuity.sync().await?;
        if present == *life {
            return Ok(());
        }
        Err(FeatureStoreError::Unavailable {
            detail: "the online store began a new life while rows were built: they are built from the beginning"
                .to_owned(),
        })
    }

    async fn lock_source(&self, source: &str) -> Result<Box<dyn Any + Send>, FeatureStoreError> {
        let turn = self.turn(source).await;
        let mut attempt = 0;
        while let Err(error) = self.commit_in(source, &turn).await {
            attempt += 1;
            if attempt >= HAND_OVER_ATTEMPTS {
                return Err(error);
            }
            tracing::warn!(source, %error, "the log can't be committed for a hand-over yet: trying again");
            tokio::time::sleep(HAND_OVER_PAUSE).await;
        }
        Ok(Box::new(turn))
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
