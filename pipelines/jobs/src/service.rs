//! The service: what the contract promises, on top of the queue.

use crate::config::PipelinesConfig;
use crate::ledger::Ledger;
use crate::materialize::reconcile;
use crate::queue::{Queue, TRAINING_SET, Task, dispatch};
use crate::results::Results;
use crate::training_set::TrainingSet;
use async_trait::async_trait;
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_pipelines_api::wire::{Job, JobResult, MaterializeRequest, TrainingSetRequest};
use ondol_pipelines_api::{Pipelines, PipelinesError};
use ondol_runtime::{Clock, Health, Shutdown};
use ondol_vocabulary::{EventTime, Snapshot};
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
}

impl PipelinesService {
    /// Opens the ledger, fails what a crash interrupted, and starts the tasks, which `shutdown` owns.
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
        let ready = health.register("job-ledger");
        let fault = |cause: String| PipelinesError::Unavailable { detail: cause };
        let (folder, results) = (config.data_dir.clone(), config.results_dir());
        let results = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder).map_err(|cause| format!("can't create {}: {cause}", folder.display()))?;
            Results::open(results).map_err(|cause| cause.to_string())
        });
        let results = results
            .await
            .map_err(|cause| fault(cause.to_string()))?
            .map_err(fault)?;
        let now = EventTime::from_micros(clock.now_micros());
        let ledger = Ledger::open(&config.ledger_url(), now)
            .await
            .map_err(|cause| fault(cause.to_string()))?;
        let reconciles = config.reconcile;
        let (queue, waiting) = Queue::new(
            Arc::clone(&feature_store),
            config,
            clock,
            ledger,
            results,
            shutdown.token(),
        );
        shutdown.spawn("jobs", dispatch(Arc::clone(&queue), waiting, shutdown.clone()));
        shutdown.spawn("job-sweep", sweep(Arc::clone(&queue), shutdown.clone()));
        if reconciles {
            let reconcile = reconcile(Arc::clone(&feature_store), Arc::clone(&queue), shutdown.token());
            shutdown.spawn("reconcile", reconcile);
        }
        ready.ready();
        Ok(Self {
            store: feature_store,
            queue,
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
    async fn training_set(&self, request: TrainingSetRequest) -> Result<Job, PipelinesError> {
        let snapshot = self.snapshot().await?;
        let model = request.options.model.clone();
        // Casting a spine is CPU work in proportion to its rows.
        let check = tokio::task::spawn_blocking(move || TrainingSet::check(&snapshot, request)).await;
        let checked = check.map_err(|cause| PipelinesError::Internal {
            detail: cause.to_string(),
        })??;
        self.queue
            .submit(TRAINING_SET, &model, Task::TrainingSet(Box::new(checked)))
            .await
    }

    async fn materialize(&self, request: MaterializeRequest) -> Result<Job, PipelinesError> {
        let snapshot = self.snapshot().await?;
        self.queue.materialize(&snapshot, &request.source).await
    }

    async fn jobs(&self) -> Result<Vec<Job>, PipelinesError> {
        self.queue.jobs().await
    }

    async fn job(&self, id: &str, seen_revision: Option<u64>, wait: Duration) -> Result<Job, PipelinesError> {
        self.queue.job(id, seen_revision, wait.min(LONGEST_WAIT)).await
    }

    async fn result(&self, id: &str) -> Result<JobResult, PipelinesError> {
        self.queue.result(id).await
    }

    async fn cancel(&self, id: &str) -> Result<Job, PipelinesError> {
        self.queue.cancel(id).await
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
