//! Commits: online rows durable, then the log with its positions, if every view that takes the events has them.
//!
//! A view version that is handed over to the stream joins the log's table in a commit of its own (see
//! [`crate::bootstrap`]). From there on no commit stands whose events it has not absorbed. A replica that held events
//! at that moment *adopts* the version: it absorbs what it holds, before any later event and before it commits.

use super::absorb::Absorption;
use super::gate::{Gate, SourceTurn};
use super::{Writer, delivery};
use crate::offline::Outcome;
use crate::views::CompiledView;
use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{Field, Schema};
use ondol_feature_store_api::FeatureStoreError;
use ondol_vocabulary::{SourceDefinition, ViewState, ViewVersion};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// How often a commit is tried again after views were adopted for it.
const ADOPTIONS: usize = 4;

impl Writer {
    /// Online rows to disk, then the log with its positions. Waits for the source's turn only if a view must be
    /// adopted first: what the log holds was absorbed before it was appended, so the sync after the log has closed its
    /// buffer covers every event of the commit, and deliveries go on meanwhile.
    pub async fn commit(&self, source: &str) -> Result<(), FeatureStoreError> {
        let Some(uncovered) = self.try_commit(source).await? else {
            return Ok(());
        };
        let turn = self.turn(source).await;
        self.cover(source, &turn, &uncovered).await?;
        self.commit_in(source, &turn).await
    }

    /// As [`Self::commit`], for the holder of the turn.
    pub(super) async fn commit_in(&self, source: &str, turn: &SourceTurn) -> Result<(), FeatureStoreError> {
        for _ in 0..ADOPTIONS {
            let Some(uncovered) = self.try_commit(source).await? else {
                return Ok(());
            };
            self.cover(source, turn, &uncovered).await?;
        }
        Err(FeatureStoreError::Unavailable {
            detail: format!("the views of `{source}` change faster than its events are committed"),
        })
    }

    /// Commits; or says which view versions take every event and have not absorbed all of these.
    async fn try_commit(&self, source: &str) -> Result<Option<BTreeSet<u32>>, FeatureStoreError> {
        let snapshot = self.registry.snapshot();
        let known = snapshot.source(source);
        if known.is_some_and(|source| !source.definition.is_stream()) {
            return self.commit_table(source).await.map(|()| None);
        }
        let (log, continuity, gate) = (self.log.clone(), Arc::clone(&self.continuity), self.gate(source));
        let source = source.to_owned();
        // A task of its own: a commit must not end half-way because whoever asked for it went away.
        let commit = self.tasks.spawn("feature-store-commit", async move {
            let started = Instant::now();
            let rows = gate.uncommitted.swap(0, Ordering::Relaxed);
            let mut lost = false;
            let ready = async {
                lost = !gate.lives_in(&continuity.sync().await?);
                if lost { Err(new_life(&source)) } else { Ok(()) }
            };
            let covers = |views: &BTreeSet<u32>| gate.covers(views);
            let committed = log.commit_after(&source, ready, &covers).await;
            if lost {
                tracing::warn!(
                    source,
                    "the online store began a new life: uncommitted events are asked for again"
                );
                metrics::counter!("ondol_feature_store_online_restarts_total", "source" => source.clone()).increment(1);
                // In this order: a delivery that is appended after the discard finds its life forgotten.
                gate.forget_life();
                log.discard(&source).await?;
            } else if !matches!(committed, Ok(Outcome::Durable(_))) {
                gate.uncommitted.fetch_add(rows, Ordering::Relaxed);
            }
            match committed? {
                Outcome::Durable(_) => {
                    metrics::histogram!("ondol_feature_store_commit_seconds").record(started.elapsed());
                    Ok(None)
                }
                Outcome::Uncovered(views) => Ok(Some(views)),
            }
        });
        commit.await.unwrap_or_else(|error| {
            Err(FeatureStoreError::Internal {
                detail: format!("a commit ended early: {error}"),
            })
        })
    }

    /// A table has no positions to ask again from: its job fails, and writes the table from its beginning.
    async fn commit_table(&self, source: &str) -> Result<(), FeatureStoreError> {
        let life = self.continuity.sync().await?;
        let gate = self.gate(source);
        gate.uncommitted.store(0, Ordering::Relaxed);
        let whole = gate.lives_in(&life);
        gate.forget_life();
        if whole { Ok(()) } else { Err(new_life(source)) }
    }

    /// Absorbs what this replica holds of `source` into the versions that have begun to serve since, if it holds
    /// anything: readers of the new version miss it until then.
    pub async fn adopt_active(&self, source: &str) -> Result<(), FeatureStoreError> {
        let gate = self.gate(source);
        let waits = |view: &ViewVersion| view.state == ViewState::Active && !gate.covers_one(view.id);
        if !self.registry.snapshot().views_of(source).any(waits) || self.log.buffered(source) == 0 {
            return Ok(());
        }
        let turn = gate.turn().await;
        let snapshot = self.registry.snapshot();
        let views = snapshot.views_of(source).filter(|view| view.state == ViewState::Active);
        self.adopt(source, &turn, views.cloned().collect()).await
    }

    /// Sees to it that everything held was absorbed into `uncovered`, as far as these versions still count.
    async fn cover(&self, source: &str, turn: &SourceTurn, uncovered: &BTreeSet<u32>) -> Result<(), FeatureStoreError> {
        // A version joins the log's table after the registry knows it: one that the registry does not have is retired.
        self.registry.refresh().await?;
        let snapshot = self.registry.snapshot();
        let mut views = Vec::new();
        for id in uncovered {
            match snapshot.views.iter().find(|view| view.id == *id) {
                None => turn.gate.cover(*id),
                Some(view) if view.state == ViewState::Active => views.push(view.clone()),
                Some(view) => {
                    return Err(FeatureStoreError::Unavailable {
                        detail: format!(
                            "view `{}@{}` is being handed over to `{source}`: its events are committed in a moment",
                            view.definition.name, view.version
                        ),
                    });
                }
            }
        }
        self.adopt(source, turn, views).await
    }

    /// Absorbs what is held of `source`, in order, into those of `views` that have not absorbed it.
    pub(super) async fn adopt(
        &self,
        source: &str,
        turn: &SourceTurn,
        views: Vec<ViewVersion>,
    ) -> Result<(), FeatureStoreError> {
        let mut views = views;
        views.retain(|view| !turn.gate.covers_one(view.id));
        if views.is_empty() {
            return Ok(());
        }
        let compiled = views
            .iter()
            .map(|view| self.compiled(view))
            .collect::<Result<Vec<_>, _>>()?;
        let held = self.log.held_deliveries(source).await?;
        let life = turn.gate.lives_since(&self.continuity).await?;
        let snapshot = self.registry.snapshot();
        let definition = &super::known_source(&snapshot, source)?.definition;
        for (generation, rows) in &held.deliveries {
            let absorption = Absorption {
                life: life.clone(),
                generation: delivery::generation_number(generation),
                later: Vec::new(),
                starts_over: false,
                views: compiled.clone(),
                events: with_columns_of(&compiled, definition, rows)?,
            };
            absorption.run(self.online.as_ref()).await?;
        }
        for view in views {
            turn.gate.cover(view.id);
        }
        drop(held);
        Ok(())
    }

    fn compiled(&self, view: &ViewVersion) -> Result<Arc<CompiledView>, FeatureStoreError> {
        self.views.get(&self.registry.snapshot(), view)
    }
}

/// `rows` with the columns the views read: those that the source has gained since they were delivered are null.
fn with_columns_of(
    views: &[Arc<CompiledView>],
    source: &SourceDefinition,
    rows: &RecordBatch,
) -> Result<RecordBatch, FeatureStoreError> {
    let schema = rows.schema();
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    for name in views.iter().flat_map(|view| view.engine.columns()) {
        let known = fields.iter().any(|field| field.name() == name);
        if let Some(field) = source.field(name).filter(|_| !known) {
            let data_type = field.data_type.arrow();
            columns.push(new_null_array(&data_type, rows.num_rows()));
            fields.push(Arc::new(Field::new(name, data_type, true)));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|error| FeatureStoreError::Internal {
        detail: format!("events that wait to be committed: {error}"),
    })
}

pub(super) fn new_life(source: &str) -> FeatureStoreError {
    FeatureStoreError::Unavailable {
        detail: format!("the online store restarted: the uncommitted events of `{source}` are asked for again"),
    }
}

impl SourceTurn {
    /// The gate that this turn keeps others out of.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }
}
