//! A training set: for every row of a spine, the model's feature vector as it would have been served at that moment.
//!
//! 1. [`spine`] checks what came and casts it to the model's inputs;
//! 2. [`plan`] resolves the model against a registry snapshot and cuts its views down to what is used;
//! 3. [`entities`] groups the spine's rows by each view's key;
//! 4. [`events`] reads what those rows may see from the view's source, at one pinned version of its table;
//! 5. [`merge`] walks events and rows together in time with the engine's own row;
//! 6. [`output`] puts values back into the spine's order, derives, and writes down what went into the set.
//!
//! Cost: reading is proportional to the row groups that may hold a visible event; memory to the events of the spine's
//! entities, about their column widths plus 16 bytes each, in as many passes over the files as keep that within the
//! configured bound.

mod entities;
mod events;
mod merge;
mod output;
mod plan;
mod spine;

use crate::error::JobError;
use crate::pool::Pool;
use crate::progress::Progress;
use crate::table::{Scan, Table, Unit};
use arrow::array::ArrayRef;
use entities::Entities;
use events::{Events, Wanted};
use merge::Finished;
use ondol_feature_store_api::FeatureStore;
use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::wire::{JobResult, Manifest, TrainingSetRequest};
use ondol_vocabulary::{DataType, EventTime, Snapshot};
use plan::{Plan, ViewPlan};
use spine::Spine;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A training set that was checked and can be built.
pub(crate) struct TrainingSet {
    plan: Plan,
    spine: Spine,
}

/// How much of the machine a build may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Compute threads.
    pub threads: usize,
    /// Bytes of events held at a time, about.
    pub memory_bytes: u64,
    /// Rows decoded at a time.
    pub batch_rows: usize,
}

impl TrainingSet {
    /// Checks `request` against `snapshot`. CPU work in proportion to the spine.
    pub(crate) fn check(snapshot: &Snapshot, request: TrainingSetRequest) -> Result<Self, PipelinesError> {
        let plan = Plan::compile(snapshot, &request.options.model, request.options.as_of)?;
        let spine = Spine::check(&plan.model.definition, request)?;
        Ok(Self { plan, spine })
    }

    /// Builds it from the tables as they are now.
    pub(crate) async fn build(
        self,
        store: &dyn FeatureStore,
        limits: Limits,
        built_at: EventTime,
        progress: Arc<Progress>,
    ) -> Result<(JobResult, Manifest), JobError> {
        progress.stage("opening tables", None);
        let tables = tokio::select! {
            tables = open_tables(&self.plan, store) => tables?,
            reason = progress.stopped() => return Err(reason),
        };
        let pool = Pool::new(limits.threads, tokio::runtime::Handle::current());
        let work = move || self.compute(&tables, limits, built_at, &pool, &progress);
        tokio::task::spawn_blocking(work).await.map_err(JobError::internal)?
    }

    fn compute(
        self,
        tables: &BTreeMap<String, Table>,
        limits: Limits,
        built_at: EventTime,
        pool: &Pool,
        progress: &Progress,
    ) -> Result<(JobResult, Manifest), JobError> {
        let mut features: Vec<Option<ArrayRef>> = vec![None; self.plan.vector.needs().len()];
        for view in &self.plan.views {
            let table = tables.get(&view.source.name);
            let table =
                table.ok_or_else(|| JobError::internal(format!("source `{}` was not opened", view.source.name)))?;
            let finished = self.view(view, table, limits, pool, progress)?;
            output::scatter(finished, self.spine.rows(), view, &mut features)?;
        }
        progress.stage("assembling rows", Some(self.spine.rows() as u64));
        output::assemble(&self.plan, &self.spine, features, tables, built_at, progress)
    }

    /// The features of one view for every row of the spine.
    fn view(
        &self,
        view: &ViewPlan,
        table: &Table,
        limits: Limits,
        pool: &Pool,
        progress: &Progress,
    ) -> Result<Vec<Finished>, JobError> {
        let key: Vec<String> = view
            .engine
            .definition()
            .key
            .iter()
            .map(|field| field.name.clone())
            .collect();
        let entities = Entities::group(&self.spine, &key)?;
        let ignore_arrival = self.plan.as_of == ondol_pipelines_api::wire::AsOf::EventTime;
        let scan = Scan::new(
            table.clone(),
            view.columns.clone(),
            view.source.time.clone(),
            ignore_arrival,
            limits.batch_rows,
        );
        let everyone = 0..u32::try_from(entities.len()).map_err(JobError::internal)?;
        let mut wanted = Wanted {
            view,
            spine: &self.spine,
            entities: &entities,
            range: everyone,
        };
        let units = pool.io().block_on(scan.units(wanted.time_range()))?;
        let mut finished = vec![merge::finish_absent(
            &view.engine,
            entities.keyless(),
            &self.spine.times,
        )];
        for range in passes(entities.len(), &units, view, limits.memory_bytes) {
            wanted.range = range;
            progress.stage(
                format!("reading {}", view.source.name),
                Some(units.iter().map(|unit| unit.rows).sum()),
            );
            let events = Events::read(&wanted, &scan, &units, pool, progress)?;
            tracing::debug!(view = %view.name, events = events.len(), "events read");
            progress.stage(format!("computing {}", view.name.name), Some(self.spine.rows() as u64));
            finished.extend(merge::merge(&wanted, &events, pool, progress)?);
        }
        if scan.rows_without_time() > 0 {
            metrics::counter!("ondol_pipelines_rows_without_time_total", "source" => view.source.name.clone())
                .increment(scan.rows_without_time());
            tracing::warn!(
                source = view.source.name,
                rows = scan.rows_without_time(),
                "rows without an event time are left out"
            );
        }
        Ok(finished)
    }
}

/// Opens every source of the plan, each once, so that all views of a source read the same version.
async fn open_tables(plan: &Plan, store: &dyn FeatureStore) -> Result<BTreeMap<String, Table>, JobError> {
    let mut tables = BTreeMap::new();
    for source in plan.views.iter().map(|view| &view.source) {
        if tables.contains_key(&source.name) {
            continue;
        }
        let log_url = if source.is_stream() {
            // What the store has accepted but not committed yet belongs to the present too.
            store.flush(&source.name).await?;
            let logs = store.tables().await?;
            logs.into_iter()
                .find(|log| log.source == source.name && log.version.is_some())
                .map(|log| log.url)
        } else {
            None
        };
        tables.insert(source.name.clone(), Table::open(source, log_url.as_deref()).await?);
    }
    Ok(tables)
}

/// The entities of each pass over the files, so that a pass's events fit in `memory_bytes`.
fn passes(entities: usize, units: &[Unit], view: &ViewPlan, memory_bytes: u64) -> Vec<std::ops::Range<u32>> {
    let width: u64 = view.columns.iter().map(|field| width(field.data_type)).sum();
    // Position, arrival and place in the order.
    let event = width + 20 + 16;
    let bytes = units.iter().map(|unit| unit.rows).sum::<u64>().saturating_mul(event);
    let passes = bytes.div_ceil(memory_bytes.max(1)).clamp(1, entities.max(1) as u64);
    let per_pass = (entities as u64).div_ceil(passes).max(1);
    let bound = |pass: u64| (pass * per_pass).min(entities as u64) as u32;
    (0..passes)
        .map(|pass| bound(pass)..bound(pass + 1))
        .filter(|range| !range.is_empty())
        .collect()
}

fn width(data_type: DataType) -> u64 {
    match data_type {
        DataType::Bool => 1,
        DataType::I32 | DataType::F32 => 4,
        DataType::I64 | DataType::F64 | DataType::Timestamp => 8,
        // An offset and a guess; so of lists, which no source has today.
        DataType::String => 20,
        DataType::List(items) => 4 + 8 * width(items.data_type()),
    }
}
