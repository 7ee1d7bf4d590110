//! A training set: for every row of a spine, the model's feature vector as it would have been served at that moment.
//!
//! 1. [`spine`] checks what came and casts it to the model's inputs;
//! 2. [`plan`] resolves the model against a registry snapshot and cuts its views down to what is used;
//! 3. [`join`] computes each view by [`crate::point_in_time`], from its source at one pinned version; or [`remote`] has it
//!    computed on a cluster;
//! 4. [`output`] derives, puts the rows together, and writes down what went into the set;
//! 5. [`again`] holds a set that is made from a manifest to what that pins.
//!
//! Cost: reading is proportional to the row groups that may hold a visible event, each read once (twice where only latest
//! rows are wanted: keys and times, then the values of what won); memory to the spine and its features, and to the
//! configured bound for events: what is beyond goes to a file.

mod again;
mod join;
mod output;
mod plan;
mod remote;
mod spine;
mod statuses;

use crate::engine::JoinEngine;
use crate::error::JobError;
use crate::pool::Pool;
use crate::progress::Progress;
use crate::results::Results;
use crate::table::Table;
use again::Again;
use arrow::array::RecordBatch;
use join::Reading;
use ondol_feature_store_api::FeatureStore;
use ondol_pipelines_api::wire::{AsOf, FeatureStatuses, Manifest, ManifestFeature, TrainingSetRequest};
use ondol_pipelines_api::{PipelinesError, RowsDigest};
use ondol_vocabulary::{EventTime, FeatureOrigin, Snapshot, SourceDefinition};
use output::Assembled;
use plan::Plan;
use spine::Spine;
use statuses::Joined;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A training set that was checked and can be built.
pub(crate) struct TrainingSet {
    plan: Plan,
    spine: Spine,
    /// What it must come out as, when it is made again.
    again: Option<Again>,
    /// Whether statuses are told exactly, whatever has to be read for it.
    exact_status: bool,
}

/// Whether training sets of `model` can be built: it is known, and all its views serve.
pub(crate) fn check_model(snapshot: &Snapshot, model: &str) -> Result<(), PipelinesError> {
    Plan::compile(snapshot, model, AsOf::default()).map(drop)
}

/// How much of the machine a build may take.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Compute threads.
    pub threads: usize,
    /// Bytes of events held at a time, about.
    pub memory_bytes: u64,
    /// Rows decoded at a time.
    pub batch_rows: usize,
    /// The folder for what memory has no room for.
    pub spill: PathBuf,
}

impl TrainingSet {
    /// Checks `request` against `snapshot`, or against the definitions of the manifest it brings. CPU work in proportion
    /// to the spine.
    pub(crate) fn check(snapshot: &Snapshot, mut request: TrainingSetRequest) -> Result<Self, PipelinesError> {
        let again = Again::take(&mut request)?;
        let snapshot = again.as_ref().map_or(snapshot, Again::definitions);
        let plan = Plan::compile(snapshot, &request.options.model, request.options.as_of)?;
        let exact_status = request.options.exact_status;
        let spine = Spine::check(&plan.model.definition, request)?;
        Ok(Self {
            plan,
            spine,
            again,
            exact_status,
        })
    }

    /// Builds it from the tables as they are now, or were when its manifest was written, as the result that
    /// `result` names.
    pub(crate) async fn build(
        self,
        store: &dyn FeatureStore,
        limits: Limits,
        built_at: EventTime,
        progress: Arc<Progress>,
        result: (Results, String),
        engine: Option<&dyn JoinEngine>,
    ) -> Result<Manifest, JobError> {
        progress.stage("opening tables", None);
        let tables = tokio::select! {
            tables = self.open_tables(store) => tables?,
            reason = progress.stopped() => return Err(reason),
        };
        let reading = Reading {
            as_of: self.plan.as_of,
            is_exact: self.exact_status,
        };
        let joined = match engine {
            Some(engine) => Some(remote::views(engine, &self.plan, &self.spine, reading, &tables, &progress).await?),
            None => None,
        };
        let pool = Pool::new(limits.threads, tokio::runtime::Handle::current());
        let work = move || {
            let joined = match joined {
                Some(joined) => joined,
                None => self.joined(reading, &tables, &limits, &pool, &progress)?,
            };
            let (results, name) = &result;
            self.write(joined, &tables, built_at, &progress, results, name)
        };
        tokio::task::spawn_blocking(work).await.map_err(JobError::internal)?
    }

    /// Every view joined, in the plan's order.
    fn joined(
        &self,
        reading: Reading,
        tables: &BTreeMap<String, Table>,
        limits: &Limits,
        pool: &Pool,
        progress: &Progress,
    ) -> Result<Vec<Joined>, JobError> {
        let views = self.plan.views.iter().map(|view| {
            let table = tables.get(&view.source.name);
            let table =
                table.ok_or_else(|| JobError::internal(format!("source `{}` was not opened", view.source.name)))?;
            Ok((view, table))
        });
        join::views(&self.spine, views, reading, limits, pool, progress)
    }

    /// Writes the rows as the result of job `id`. It becomes visible once it is whole, and what it should be.
    fn write(
        &self,
        mut joined: Vec<Joined>,
        tables: &BTreeMap<String, Table>,
        built_at: EventTime,
        progress: &Progress,
        results: &Results,
        id: &str,
    ) -> Result<Manifest, JobError> {
        progress.stage("writing rows", Some(self.spine.rows() as u64));
        let schema = output::schema(&self.plan, &self.spine);
        let mut writer = results.write(id, &schema)?;
        let write = |batch: &RecordBatch| writer.push(batch);
        let (assembled, spine) = std::thread::scope(|scope| {
            let spine = scope.spawn(|| RowsDigest::of(&self.spine.schema, &self.spine.batches));
            let assembled = output::assemble(&self.plan, &self.spine, &mut joined, &schema, progress, write);
            (assembled, spine.join())
        });
        let Assembled { mut features, digest } = assembled?;
        self.tell(&joined, &mut features);
        let spine = spine.map_err(|_| JobError::internal("digesting the spine panicked"))??;
        let pins = tables.iter().map(|(source, table)| (source.clone(), table.pin()));
        let pins = pins.collect();
        let snapshot = again::snapshot(&self.plan, pins, (&self.spine.schema, spine), (&schema, digest))?;
        if let Some(again) = &self.again {
            again.check(&snapshot)?;
        }
        writer.finish()?;
        Ok(output::manifest(
            &self.plan,
            &self.spine,
            features,
            tables,
            snapshot,
            built_at,
        ))
    }

    /// Puts the statuses of what views serve beside the features that show it.
    fn tell(&self, joined: &[Joined], features: &mut [ManifestFeature]) {
        let mut statuses: Vec<Option<FeatureStatuses>> = vec![None; self.plan.vector.needs().len()];
        for (view, joined) in self.plan.views.iter().zip(joined) {
            for (of_feature, places) in joined.statuses().into_iter().zip(&view.needs) {
                for place in places {
                    if let Some(statuses) = statuses.get_mut(*place) {
                        *statuses = Some(of_feature.clone());
                    }
                }
            }
        }
        let needs = self.plan.vector.needs();
        for (told, defined) in features.iter_mut().zip(&self.plan.model.definition.features) {
            let FeatureOrigin::View { feature } = &defined.origin else {
                continue;
            };
            let place = needs.iter().position(|need| need == feature);
            told.statuses = place.and_then(|place| statuses.get(place).cloned().flatten());
        }
    }

    /// Opens every source of the plan, each once, so that all views of a source read the same version: the present one,
    /// or the one that the manifest pins.
    async fn open_tables(&self, store: &dyn FeatureStore) -> Result<BTreeMap<String, Table>, JobError> {
        let mut tables = BTreeMap::new();
        for source in self.plan.views.iter().map(|view| &view.source) {
            if tables.contains_key(&source.name) {
                continue;
            }
            let table = match &self.again {
                Some(again) => {
                    let log = log_url(source, store).await?;
                    Table::open_pinned(source, log.as_deref(), again.table(&source.name)?).await?
                }
                None => {
                    if source.is_stream() {
                        // What the store has accepted but not committed yet belongs to the present too.
                        store.flush(&source.name).await?;
                    }
                    Table::open(source, log_url(source, store).await?.as_deref()).await?
                }
            };
            tables.insert(source.name.clone(), table);
        }
        Ok(tables)
    }
}

/// Where the log of a stream is, if anything of it has been committed.
async fn log_url(source: &SourceDefinition, store: &dyn FeatureStore) -> Result<Option<String>, JobError> {
    if !source.is_stream() {
        return Ok(None);
    }
    let logs = store.tables().await?;
    let log = logs
        .into_iter()
        .find(|log| log.source == source.name && log.version.is_some());
    Ok(log.map(|log| log.url))
}
