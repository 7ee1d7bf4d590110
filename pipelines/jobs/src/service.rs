//! The service: what the contract promises, on top of the queue.

use crate::backfill;
use crate::config::PipelinesConfig;
use crate::engine::Engines;
use crate::error::JobError;
use crate::ledger::Ledger;
use crate::materialize::{Reaches, reconcile};
use crate::queue::dispatch::{Lane, dispatch};
use crate::queue::{Parts, Queue};
use crate::results::Results;
use crate::schedule;
use crate::spines::Spines;
use crate::statistics::{self, Kept, Summary};
use async_trait::async_trait;
use futures::StreamExt;
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_pipelines_api::wire::{
    ColumnStatistics, IdempotencyKey, Job, JobPage, JobQuery, JobRequest, Schedule, ScheduleRequest, SourceStatistics,
    StatisticsQuery, TrainingSetRequest,
};
use ondol_pipelines_api::{Pipelines, PipelinesError, Rows};
use ondol_runtime::objects::ObjectStores;
use ondol_runtime::{Clock, Health, Shutdown};
use ondol_vocabulary::Snapshot;
use std::sync::Arc;
use std::time::Duration;

/// How often results and ledger entries are looked at for age.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// The longest a call may wait for a job to change.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The pipelines service. Clones share the same jobs.
#[derive(Clone)]
pub struct PipelinesService {
    store: Arc<dyn FeatureStore>,
    queue: Arc<Queue>,
    ledger: Ledger,
    kept: Kept,
}

impl PipelinesService {
    /// Opens the ledger and starts the tasks, which `shutdown` owns. Jobs that a crash interrupted start again.
    ///
    /// # Errors
    /// When the data folder or the ledger can't be opened.
    pub async fn open(
        config: PipelinesConfig,
        feature_store: Arc<dyn FeatureStore>,
        clock: Arc<dyn Clock>,
        shutdown: &Shutdown,
        health: &Health,
    ) -> Result<Self, PipelinesError> {
        Self::open_on(Engines::default(), config, feature_store, clock, shutdown, health).await
    }

    /// As [`Self::open`], computing with `engines`.
    ///
    /// # Errors
    /// As of [`Self::open`].
    pub async fn open_on(
        engines: Engines,
        config: PipelinesConfig,
        feature_store: Arc<dyn FeatureStore>,
        clock: Arc<dyn Clock>,
        shutdown: &Shutdown,
        health: &Health,
    ) -> Result<Self, PipelinesError> {
        let ready = health.register("job-ledger");
        let fault = |cause: JobError| PipelinesError::Unavailable {
            detail: cause.to_string(),
        };
        let folder = config.data_dir.clone();
        let (results_place, own_results) = (config.results_place(), config.results_dir());
        let spines_place = config.spines_place();
        let created = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder)
                .map_err(|cause| JobError::storage(format!("can't create {}", folder.display()), cause))
        });
        created
            .await
            .map_err(|cause| fault(JobError::internal(cause)))?
            .map_err(fault)?;
        let ledger = Ledger::open(&config.ledger_url()).await.map_err(fault)?;
        let exclusive = ledger.is_exclusive();
        let opened = tokio::task::spawn_blocking(move || {
            let objects = ObjectStores::of_process();
            let spines = Spines::open(&objects, &spines_place)?;
            let results = Results::open(&objects, &results_place, own_results, exclusive)?;
            Ok((results, spines))
        });
        let opened = opened.await.map_err(|cause| fault(JobError::internal(cause)))?;
        let (results, spines) = opened.map_err(fault)?;
        let reaches = Reaches::open(ledger.pool()).await.map_err(fault)?;
        let kept = Kept::open(ledger.pool()).await.map_err(fault)?;
        let reconciles = config.reconcile;
        let queue = Queue::new(Parts {
            store: Arc::clone(&feature_store),
            config,
            clock,
            ledger: ledger.clone(),
            reaches,
            kept: kept.clone(),
            results,
            spines,
            engines,
            shutdown: shutdown.token(),
        });
        queue.sweep_leftovers().await.map_err(fault)?;
        for lane in Lane::ALL {
            shutdown.spawn(lane.name(), dispatch(Arc::clone(&queue), lane, shutdown.clone()));
        }
        shutdown.spawn("job-sweep", sweep(Arc::clone(&queue), shutdown.clone()));
        let schedules = schedule::keep(
            Arc::clone(&queue),
            ledger.clone(),
            Arc::clone(&feature_store),
            shutdown.clone(),
        );
        shutdown.spawn("schedules", schedules);
        if reconciles {
            let reconcile = reconcile(Arc::clone(&feature_store), Arc::clone(&queue), shutdown.token());
            shutdown.spawn("reconcile", reconcile);
            let follow = backfill::follow(Arc::clone(&feature_store), Arc::clone(&queue), shutdown.token());
            shutdown.spawn("backfills", follow);
        }
        ready.ready();
        Ok(Self {
            store: feature_store,
            queue,
            ledger,
            kept,
        })
    }

    async fn snapshot(&self) -> Result<Arc<Snapshot>, PipelinesError> {
        self.store
            .snapshot()
            .await
            .map_err(|cause: FeatureStoreError| PipelinesError::Unavailable {
                detail: format!("the registry can't be read: {cause}"),
            })
    }
}

#[async_trait]
impl Pipelines for PipelinesService {
    async fn submit_training_set(
        &self,
        request: TrainingSetRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Job, PipelinesError> {
        let snapshot = self.snapshot().await?;
        self.queue.submit_training_set(snapshot, request, key).await
    }

    async fn submit(&self, request: JobRequest, key: Option<IdempotencyKey>) -> Result<Job, PipelinesError> {
        let snapshot = self.snapshot().await?;
        self.queue.submit(&snapshot, &request, key).await
    }

    async fn jobs(&self, query: JobQuery) -> Result<JobPage, PipelinesError> {
        self.queue.jobs(&query).await
    }

    async fn job(&self, id: &str, seen_revision: Option<u64>, wait: Duration) -> Result<Job, PipelinesError> {
        self.queue.job(id, seen_revision, wait.min(LONGEST_WAIT)).await
    }

    async fn rows(&self, id: &str) -> Result<Rows, PipelinesError> {
        self.queue.rows(id).await
    }

    async fn cancel(&self, id: &str) -> Result<Job, PipelinesError> {
        self.queue.cancel(id).await
    }

    async fn retry(&self, id: &str, key: Option<IdempotencyKey>) -> Result<Job, PipelinesError> {
        self.queue.retry(id, key).await
    }

    async fn create_schedule(&self, request: ScheduleRequest) -> Result<Schedule, PipelinesError> {
        let snapshot = self.snapshot().await?;
        schedule::create(&self.ledger, &snapshot, self.queue.config(), request, self.queue.now()).await
    }

    async fn schedules(&self) -> Result<Vec<Schedule>, PipelinesError> {
        schedule::list(&self.ledger).await
    }

    async fn schedule(&self, name: &str) -> Result<Schedule, PipelinesError> {
        schedule::find(&self.ledger, name).await
    }

    async fn pause_schedule(&self, name: &str, paused: bool) -> Result<Schedule, PipelinesError> {
        schedule::pause(&self.ledger, name, paused, self.queue.now()).await
    }

    async fn remove_schedule(&self, name: &str) -> Result<Schedule, PipelinesError> {
        schedule::remove(&self.ledger, name).await
    }

    async fn statistics(&self, source: &str, query: StatisticsQuery) -> Result<SourceStatistics, PipelinesError> {
        let snapshot = self.snapshot().await?;
        let definition = statistics::source(&snapshot, source)?;
        let (from, to) = statistics::days(&query)?;
        let unavailable = |cause: JobError| PipelinesError::Unavailable {
            detail: cause.to_string(),
        };
        let Some(computed) = self.kept.computed(source).await.map_err(unavailable)? else {
            return Err(PipelinesError::NoResult {
                id: format!("statistics of {source}"),
                state: "not computed yet: submit one of kind `statistics` (`ondol statistics`)".to_owned(),
            });
        };
        let days = self.kept.days(source, from, to).await.map_err(unavailable)?;
        let (source, columns) = (source.to_owned(), definition.schema.clone());
        // Merging takes time in proportion to dates and columns.
        let merged =
            tokio::task::spawn_blocking(move || statistics::statistics(&source, &columns, computed, &days)).await;
        merged.map_err(internal)
    }

    async fn result_statistics(&self, id: &str) -> Result<Vec<ColumnStatistics>, PipelinesError> {
        let mut rows = self.queue.rows(id).await?;
        let mut summary = Summary::of(&rows.schema);
        while let Some(batch) = rows.batches.next().await {
            let batch = batch?;
            // CPU work in proportion to the batch.
            let taken = tokio::task::spawn_blocking(move || summary.add(&batch).map(|()| summary)).await;
            summary = taken.map_err(internal)?.map_err(internal)?;
        }
        Ok(summary.columns())
    }
}

async fn sweep(queue: Arc<Queue>, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.triggered() => return,
        }
        if let Err(error) = queue.sweep().await {
            tracing::warn!(%error, "old results are not removed, trying again");
        }
    }
}

fn internal(cause: impl std::fmt::Display) -> PipelinesError {
    PipelinesError::Internal {
        detail: cause.to_string(),
    }
}
