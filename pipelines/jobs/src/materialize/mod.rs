//! A batch source brought online: the rows of its table that the views over it lack, delivered to the feature store, then
//! the views that waited for it activated.
//!
//! 1. [`plan`] compares the table, pinned to one version, with what each view has been given ([`reach`]; of a Delta
//!    table by its commits, [`changes`]);
//! 2. views that serve and lack new rows get those, added to what they hold;
//! 3. views that serve and hold rows that the table no longer has are built anew: the store is asked for a rebuild, and
//!    serves the old rows until the new ones are whole;
//! 4. views that wait to be provisioned, those among them, get every row ([`deliver`]) and are activated.
//!
//! Rows of a run that was killed may be in a view that waits, and gone from the table since: such a view is built twice.
//!
//! So a run ends in the rows that a run from the beginning would give, however the table has changed, and one that is
//! killed anywhere is simply run again. What makes repetition harmless: a delivery's generation names its very rows, its
//! offsets are row numbers, and the latest of the same rows is the same.

mod changes;
mod deliver;
mod plan;
mod reach;
mod reconcile;

use crate::error::JobError;
use crate::progress::Progress;
use crate::table::Table;
use deliver::{Delivered, Pass};
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::wire::{RebuildRequest, TableRows};
use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::wire::{MaterializeOutcome, MaterializeRequest};
use ondol_vocabulary::{Snapshot, SourceDefinition, SourceOrigin, SourceVersion, TableFormat, ViewState, ViewVersion};
use plan::{Plan, plan};
use reach::{Extent, Identity, Reach};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use reach::Reaches;
pub(crate) use reconcile::reconcile;

/// How long a registry may take to show the rebuilds it was asked for.
const REBUILD_SHOWS: Duration = Duration::from_secs(30);

/// A materialization that was checked and can run.
pub(crate) struct Materialization {
    request: MaterializeRequest,
}

/// One run over the table as it is now.
struct Run<'a> {
    source: SourceVersion,
    table: Table,
    reaches: &'a Reaches,
    store: &'a dyn FeatureStore,
    delivery_rows: usize,
    progress: Arc<Progress>,
}

impl Materialization {
    /// As `request` says.
    pub(crate) fn check(snapshot: &Snapshot, request: MaterializeRequest) -> Result<Self, PipelinesError> {
        let source = batch_source(snapshot, &request.source)?;
        if request.late_s.is_some() && is_delta(&source.definition) {
            let detail = format!(
                "late_s is for Parquet sources; `{}` is a Delta table, whose log says what is new: leave it out",
                request.source
            );
            return Err(PipelinesError::InvalidRequest { detail });
        }
        Ok(Self { request })
    }

    /// Delivers what the views over the source lack, and activates those that wait.
    pub(crate) async fn run(
        self,
        store: &dyn FeatureStore,
        reaches: &Reaches,
        delivery_rows: usize,
        progress: Arc<Progress>,
    ) -> Result<MaterializeOutcome, JobError> {
        let name = self.request.source;
        progress.stage("opening the table", None);
        let snapshot = store.snapshot().await?;
        let Some(source) = snapshot.source(&name).cloned() else {
            return Err(JobError::internal(format!("source `{name}` is gone")));
        };
        let table = tokio::select! {
            table = Table::open(&source.definition, None) => table?,
            reason = progress.stopped() => return Err(reason),
        };
        let serving: Vec<u32> = in_state(&snapshot, &name, ViewState::Active)
            .map(|view| view.id)
            .collect();
        let known = reaches.of(serving.iter().copied()).await?;
        let late_us = self
            .request
            .late_s
            .map(|late| i64::try_from(late).unwrap_or(i64::MAX).saturating_mul(1_000_000));
        let plan = plan(&table, &source.definition, &serving, &known, self.request.full, late_us).await?;
        let run = Run {
            source,
            table,
            reaches,
            store,
            delivery_rows,
            progress,
        };
        let added = run.add(&plan, &known).await?;
        let names = |ids: &[u32]| {
            let views = snapshot.views_of(&name).filter(|view| ids.contains(&view.id));
            views.map(|view| view.definition.name.clone()).collect::<Vec<_>>()
        };
        let mut outcome = MaterializeOutcome {
            table: run.table.identity.clone(),
            added_to: names(&plan.behind.iter().copied().collect::<Vec<_>>()),
            anew: (plan.anew.iter())
                .filter_map(|(view, why)| Some((names(&[*view]).pop()?, why.clone())))
                .collect(),
            ..MaterializeOutcome::default()
        };
        let mut now = Arc::clone(&snapshot);
        if !plan.anew.is_empty() {
            now = run.ask_for_rebuilds(&snapshot, &plan).await?;
        }
        let waiting: Vec<&ViewVersion> = in_state(&now, &name, ViewState::Provisioning).collect();
        outcome.activated = waiting.iter().map(|view| view.definition.name.clone()).collect();
        let waiting: Vec<u32> = waiting.into_iter().map(|view| view.id).collect();
        let (mut built, stale) = run.build(&waiting).await?;
        if !stale.anew.is_empty() {
            let now = run.ask_for_rebuilds(store.snapshot().await?.as_ref(), &stale).await?;
            let waiting: Vec<u32> = in_state(&now, &name, ViewState::Provisioning)
                .map(|view| view.id)
                .collect();
            built = built.and(run.build(&waiting).await?.0);
        }
        run.report(added, built, &mut outcome);
        Ok(outcome)
    }
}

impl Run<'_> {
    /// Delivers what is new to the views that serve, in one pass for files that are read whole and one for the others.
    async fn add(&self, plan: &Plan, known: &HashMap<u32, Reach>) -> Result<Delivered, JobError> {
        // What has been compacted only is not looked at again.
        self.end(&plan.current, known, Delivered::default()).await?;
        let views: Vec<u32> = plan.behind.iter().copied().collect();
        if views.is_empty() {
            return Ok(Delivered::default());
        }
        self.begin(&views, known).await?;
        let mut froms: Vec<i64> = plan.files.values().copied().collect();
        froms.sort_unstable();
        froms.dedup();
        let mut delivered = Delivered::default();
        for from in froms {
            let table = self
                .table
                .clone()
                .only(|file| plan.files.get(file.path()) == Some(&from));
            delivered = delivered.and(self.pass(table, from, &views, false).await?);
        }
        self.end(&views, known, delivered).await?;
        Ok(delivered)
    }

    /// Asks the store for new rows of the views that need all of them; the snapshot in which they wait.
    async fn ask_for_rebuilds(&self, snapshot: &Snapshot, plan: &Plan) -> Result<Arc<Snapshot>, JobError> {
        let name = &self.source.definition.name;
        let mut views: Vec<&ViewVersion> = in_state(snapshot, name, ViewState::Active).collect();
        views.retain(|view| plan.anew.contains_key(&view.id));
        for view in &views {
            let why = plan.anew.get(&view.id).map(String::as_str).unwrap_or_default();
            tracing::info!(
                source = name,
                feature_view = view.definition.name,
                why,
                "a view's rows are built anew"
            );
        }
        let names: Vec<String> = views.iter().map(|view| view.definition.name.clone()).collect();
        self.store.rebuild(RebuildRequest { names: names.clone() }).await?;
        let shown = async {
            let mut after = snapshot.version;
            loop {
                let now = self.store.snapshot().await?;
                let waits = |wanted: &String| {
                    in_state(&now, name, ViewState::Provisioning).any(|view| view.definition.name == *wanted)
                };
                if names.iter().all(waits) {
                    return Ok(now);
                }
                after = now.version.max(after);
                self.store.next_snapshot(after, Duration::from_secs(1)).await?;
            }
        };
        tokio::select! {
            shown = tokio::time::timeout(REBUILD_SHOWS, shown) => shown.unwrap_or_else(|_| {
                let detail = "the feature store does not show the rebuild it was asked for: try again";
                Err(JobError::storage(format!("can't build the views of `{name}` anew"), detail))
            }),
            reason = self.progress.stopped() => Err(reason),
        }
    }

    /// Delivers every row to `views`, which wait for it, and activates them.
    ///
    /// Only those that waited when the run began: one that appears while rows are under way gets a run of its own. Of
    /// the views, those may hold rows that are gone which an earlier run had begun to give another state of the table,
    /// one that has lost rows since: they are the plan that is answered, and on record as views that need everything anew.
    async fn build(&self, views: &[u32]) -> Result<(Delivered, Plan), JobError> {
        if views.is_empty() {
            return Ok((Delivered::default(), Plan::default()));
        }
        let known = self.reaches.of(views.iter().copied()).await?;
        let begun: HashMap<u32, Reach> = (known.iter())
            .filter_map(|(view, reach)| Some((*view, reach.as_if_ended()?)))
            .collect();
        let interrupted: Vec<u32> = begun.keys().copied().collect();
        let stale = plan(&self.table, &self.source.definition, &interrupted, &begun, false, None).await?;
        let sound: Vec<u32> = views
            .iter()
            .copied()
            .filter(|view| !stale.anew.contains_key(view))
            .collect();
        self.begin(&sound, &HashMap::new()).await?;
        let delivered = self.pass(self.table.clone(), i64::MIN, views, true).await?;
        self.end(&sound, &HashMap::new(), delivered).await?;
        self.progress.stage("activating views", None);
        for view in views {
            self.store.activate(*view).await?;
        }
        Ok((delivered, stale))
    }

    async fn pass(&self, table: Table, from: i64, views: &[u32], whole: bool) -> Result<Delivered, JobError> {
        let rows = table.rows();
        let skipped = self.table.rows().saturating_sub(rows);
        let name = &self.source.definition.name;
        let stage = match skipped {
            0 => format!("delivering {name}"),
            skipped => format!("delivering {name}, {skipped} rows skipped"),
        };
        self.progress.stage(stage, Some(rows));
        let pass = Pass {
            source: &self.source,
            table,
            from,
            rows: TableRows {
                views: views.to_vec(),
                whole,
            },
        };
        pass.run(self.store, self.delivery_rows, &self.progress).await
    }

    /// Notes that `views` may have been given any row of the table from now on.
    async fn begin(&self, views: &[u32], known: &HashMap<u32, Reach>) -> Result<(), JobError> {
        for view in views {
            let before = known.get(view);
            let reach = Reach {
                table: Identity::of(&self.table, &self.source.definition),
                reached: before.and_then(|reach| reach.reached.clone()),
                begun: Some(Extent::of(&self.table)),
                newest: before.and_then(|reach| reach.newest),
            };
            self.reaches.note(&[*view], &reach).await?;
        }
        Ok(())
    }

    /// Notes that `views` have been given every row of the table.
    async fn end(&self, views: &[u32], known: &HashMap<u32, Reach>, delivered: Delivered) -> Result<(), JobError> {
        for view in views {
            let before = known.get(view).and_then(|reach| reach.newest);
            let reach = Reach {
                table: Identity::of(&self.table, &self.source.definition),
                reached: Some(Extent::of(&self.table)),
                begun: None,
                newest: before.max(delivered.newest),
            };
            self.reaches.note(&[*view], &reach).await?;
        }
        Ok(())
    }

    /// What the run has done, in the job's last stage, its outcome and the metrics.
    fn report(&self, added: Delivered, built: Delivered, outcome: &mut MaterializeOutcome) {
        outcome.delivered = added.rows.saturating_add(built.rows);
        outcome.skipped = self.table.rows().saturating_sub(added.rows.max(built.rows));
        let stage = format!("{} rows delivered, {} skipped", outcome.delivered, outcome.skipped);
        self.progress.stage(stage, Some(outcome.delivered));
        self.progress.add(outcome.delivered);
        let source = &self.source.definition.name;
        for (what, rows) in [("delivered", outcome.delivered), ("skipped", outcome.skipped)] {
            metrics::counter!("ondol_pipelines_materialized_rows_total", "source" => source.clone(), "outcome" => what)
                .increment(rows);
        }
    }
}

/// The source called `name`, if it is a table.
pub(crate) fn batch_source<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a SourceVersion, PipelinesError> {
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
    Ok(source)
}

fn is_delta(source: &SourceDefinition) -> bool {
    matches!(
        source.origin,
        SourceOrigin::Table {
            format: TableFormat::Delta,
            ..
        }
    )
}

fn in_state<'a>(snapshot: &'a Snapshot, source: &'a str, state: ViewState) -> impl Iterator<Item = &'a ViewVersion> {
    snapshot.views_of(source).filter(move |view| view.state == state)
}
