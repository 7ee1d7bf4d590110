//! Jobs from submission to their end: a bounded queue, a fixed number at work, progress for those who watch.
//!
//! A job that has not ended is *active*: it lives in memory behind a watch channel, and in the ledger with its last
//! state. One that has ended lives in the ledger alone. The channel's value is the truth while a job is active, and
//! moves only forward: queued → running → ended.

use crate::config::PipelinesConfig;
use crate::error::JobError;
use crate::ledger::{Ledger, state_name};
use crate::materialize::Materialization;
use crate::progress::Progress;
use crate::results::Results;
use crate::training_set::TrainingSet;
use futures::FutureExt;
use ondol_feature_store_api::FeatureStore;
use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::wire::{Job, JobState, Manifest};
use ondol_runtime::{Clock, Shutdown};
use ondol_vocabulary::{EventTime, Snapshot};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The least time between two changes of a job's progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// A job's kind as the contract names it.
pub(crate) const TRAINING_SET: &str = "training-set";
/// A job's kind as the contract names it.
pub(crate) const MATERIALIZE: &str = "materialize";

/// What a job is to do.
pub(crate) enum Task {
    /// Build a training set.
    TrainingSet(Box<TrainingSet>),
    /// Bring a batch source online.
    Materialize(Box<Materialization>),
}

/// A job that waits for its turn.
pub(crate) struct Waiting {
    id: String,
    task: Task,
}

/// A job that has not ended.
struct Active {
    job: watch::Sender<Job>,
    cancel: CancellationToken,
    progress: Arc<Progress>,
}

/// The jobs of one service.
pub(crate) struct Queue {
    store: Arc<dyn FeatureStore>,
    config: PipelinesConfig,
    clock: Arc<dyn Clock>,
    ledger: Ledger,
    results: Results,
    shutdown: CancellationToken,
    ids: Mutex<ulid::Generator>,
    active: Mutex<HashMap<String, Arc<Active>>>,
    waiting: mpsc::Sender<Waiting>,
}

impl Queue {
    /// A queue and its receiving end, which [`dispatch`] serves.
    pub(crate) fn new(
        store: Arc<dyn FeatureStore>,
        config: PipelinesConfig,
        clock: Arc<dyn Clock>,
        ledger: Ledger,
        results: Results,
        shutdown: CancellationToken,
    ) -> (Arc<Self>, mpsc::Receiver<Waiting>) {
        let (waiting, receiver) = mpsc::channel(config.queued_jobs.max(1));
        let queue = Self {
            store,
            config,
            clock,
            ledger,
            results,
            shutdown,
            ids: Mutex::new(ulid::Generator::new()),
            active: Mutex::new(HashMap::new()),
            waiting,
        };
        (Arc::new(queue), receiver)
    }

    /// The present.
    pub(crate) fn now(&self) -> EventTime {
        EventTime::from_micros(self.clock.now_micros())
    }

    /// Checks and submits a materialization of source `name`.
    pub(crate) async fn materialize(&self, snapshot: &Snapshot, name: &str) -> Result<Job, PipelinesError> {
        let task = Materialization::check(snapshot, name)?;
        self.submit(MATERIALIZE, name, Task::Materialize(Box::new(task))).await
    }

    /// Puts `task` in the queue.
    pub(crate) async fn submit(&self, kind: &str, subject: &str, task: Task) -> Result<Job, PipelinesError> {
        let place = self.waiting.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => PipelinesError::Overloaded {
                detail: format!(
                    "{} jobs are waiting already (`queued_jobs`)",
                    self.config.queued_jobs.max(1)
                ),
            },
            mpsc::error::TrySendError::Closed(()) => going_down(),
        })?;
        let job = Job {
            id: self.new_id()?,
            kind: kind.to_owned(),
            subject: subject.to_owned(),
            state: JobState::Queued,
            revision: 0,
            stage: "waiting for its turn".to_owned(),
            rows_done: 0,
            rows_total: None,
            created_at: self.now(),
            ended_at: None,
            error: None,
            manifest: None,
        };
        self.ledger.insert(&job).await.map_err(unavailable)?;
        let cancel = CancellationToken::new();
        let progress = Arc::new(Progress::new(cancel.clone(), self.shutdown.clone()));
        let active = Active {
            job: watch::Sender::new(job.clone()),
            cancel,
            progress,
        };
        self.active().insert(job.id.clone(), Arc::new(active));
        self.report_active();
        place.send(Waiting {
            id: job.id.clone(),
            task,
        });
        tracing::info!(job = job.id, kind, subject, "job submitted");
        Ok(job)
    }

    /// Every job, newest first.
    pub(crate) async fn jobs(&self) -> Result<Vec<Job>, PipelinesError> {
        let mut jobs = self.ledger.jobs().await.map_err(unavailable)?;
        let active = self.active();
        for job in &mut jobs {
            if let Some(active) = active.get(&job.id) {
                *job = active.job.borrow().clone();
            }
        }
        Ok(jobs)
    }

    /// One job; waits for a change since `seen` while it is active.
    pub(crate) async fn job(&self, id: &str, seen: Option<u64>, wait: Duration) -> Result<Job, PipelinesError> {
        let watched = self.active().get(id).map(|active| active.job.subscribe());
        if let Some(mut watched) = watched {
            let changed = watched.wait_for(|job| seen.is_none_or(|seen| job.revision != seen) || job.state.is_final());
            // When the time is up, or the job was let go, what it was last is the answer.
            let _: Result<bool, _> = tokio::time::timeout(wait, changed).await.map(|change| change.is_ok());
            let job = watched.borrow().clone();
            return Ok(job);
        }
        self.ledger
            .job(id)
            .await
            .map_err(unavailable)?
            .ok_or_else(|| unknown_job(id))
    }

    /// Where job `id` stands.
    pub(crate) async fn state(&self, id: &str) -> Result<Option<JobState>, JobError> {
        if let Some(active) = self.active().get(id) {
            return Ok(Some(active.job.borrow().state));
        }
        Ok(self.ledger.job(id).await?.map(|job| job.state))
    }

    /// Whether an active job of this kind works on `subject`.
    pub(crate) fn works_on(&self, kind: &str, subject: &str) -> bool {
        self.active().values().any(|active| {
            let job = active.job.borrow();
            job.kind == kind && job.subject == subject && !job.state.is_final()
        })
    }

    /// Asks job `id` to stop. One that waits ends at once, one at work at its next batch.
    pub(crate) async fn cancel(&self, id: &str) -> Result<Job, PipelinesError> {
        let active = self.active().get(id).cloned();
        let Some(active) = active else {
            return self
                .ledger
                .job(id)
                .await
                .map_err(unavailable)?
                .ok_or_else(|| unknown_job(id));
        };
        active.cancel.cancel();
        let waits = active.job.send_if_modified(|job| {
            let waits = job.state == JobState::Queued;
            if waits {
                job.state = JobState::Running;
            }
            waits
        });
        if waits {
            self.end(id, &active, Err(JobError::Cancelled)).await;
        }
        let job = active.job.borrow().clone();
        Ok(job)
    }

    /// The result of job `id`.
    pub(crate) async fn result(&self, id: &str) -> Result<ondol_pipelines_api::wire::JobResult, PipelinesError> {
        let job = self.job(id, None, Duration::ZERO).await?;
        let none = |state: String| PipelinesError::NoResult {
            id: id.to_owned(),
            state,
        };
        if job.kind != TRAINING_SET || job.state != JobState::Succeeded {
            return Err(none(format!("{} ({})", state_name(job.state), job.kind)));
        }
        let (results, id) = (self.results.clone(), job.id);
        let read = tokio::task::spawn_blocking(move || results.read(&id)).await;
        let read = read
            .map_err(|cause| PipelinesError::Internal {
                detail: cause.to_string(),
            })?
            .map_err(unavailable)?;
        read.ok_or_else(|| {
            none(format!(
                "older than {} minutes, and removed: build it again",
                self.config.result_minutes
            ))
        })
    }

    /// Removes results and ledger entries whose time has passed.
    pub(crate) async fn sweep(&self) -> Result<(), JobError> {
        let before = |age: Duration| {
            self.now()
                .plus_micros(-i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
        };
        for id in self.results.ids()? {
            let job = self.ledger.job(&id).await?;
            let ended = job.map(|job| job.ended_at);
            // A job that is writing its result has no end yet; a result without a job has no reader.
            let kept = matches!(ended, Some(None)) || ended.flatten() >= Some(before(self.config.result_age()));
            if !kept {
                self.results.remove(&id)?;
            }
        }
        self.ledger.forget_ended_before(before(self.config.ledger_age())).await
    }

    /// Runs one job to its end.
    async fn run(&self, Waiting { id, task }: Waiting) {
        let Some(active) = self.active().get(&id).cloned() else {
            return;
        };
        let begun = active.job.send_if_modified(|job| {
            let waits = job.state == JobState::Queued;
            if waits {
                job.state = JobState::Running;
                job.revision += 1;
            }
            waits
        });
        if !begun {
            return;
        }
        let started = Instant::now();
        let job = active.job.borrow().clone();
        if let Err(error) = self.ledger.update(&job).await {
            tracing::warn!(job = id, %error, "the start of a job is not in the ledger");
        }
        let work = AssertUnwindSafe(self.execute(&id, task, &active.progress)).catch_unwind();
        tokio::pin!(work);
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                _ = ticks.tick() => active.publish(),
            }
        };
        active.publish();
        self.end(
            &id,
            &active,
            outcome.unwrap_or_else(|_| Err(JobError::internal("the job panicked: see the log"))),
        )
        .await;
        metrics::histogram!("ondol_pipelines_job_seconds", "kind" => job.kind).record(started.elapsed());
    }

    async fn execute(&self, id: &str, task: Task, progress: &Arc<Progress>) -> Result<Option<Manifest>, JobError> {
        progress.checkpoint()?;
        match task {
            Task::Materialize(task) => {
                task.run(self.store.as_ref(), self.config.delivery_rows, Arc::clone(progress))
                    .await?;
                Ok(None)
            }
            Task::TrainingSet(task) => {
                let build = task
                    .build(
                        self.store.as_ref(),
                        self.config.limits(),
                        self.now(),
                        Arc::clone(progress),
                    )
                    .await;
                let (result, manifest) = build?;
                progress.stage("writing the result", Some(manifest.rows));
                let (results, id) = (self.results.clone(), id.to_owned());
                tokio::task::spawn_blocking(move || results.write(&id, &result))
                    .await
                    .map_err(JobError::internal)??;
                progress.add(manifest.rows);
                Ok(Some(manifest))
            }
        }
    }

    /// Writes a job's end to the ledger, tells those who watch, and lets it go.
    async fn end(&self, id: &str, active: &Active, outcome: Result<Option<Manifest>, JobError>) {
        let mut job = active.job.borrow().clone();
        job.revision += 1;
        job.ended_at = Some(self.now());
        match outcome {
            Ok(manifest) => (job.state, job.manifest) = (JobState::Succeeded, manifest),
            Err(JobError::Cancelled) => job.state = JobState::Cancelled,
            Err(error) => (job.state, job.error) = (JobState::Failed, Some(error.to_string())),
        }
        let state = state_name(job.state);
        match &job.error {
            Some(error) => tracing::warn!(job = id, kind = job.kind, subject = job.subject, error, "job failed"),
            None => tracing::info!(job = id, kind = job.kind, subject = job.subject, state, "job ended"),
        }
        metrics::counter!("ondol_pipelines_jobs_total", "kind" => job.kind.clone(), "state" => state).increment(1);
        let written = self.ledger.update(&job).await;
        active.job.send_replace(job);
        match written {
            Ok(()) => {
                drop(self.active().remove(id));
                self.report_active();
            }
            // Kept in memory, so that its end is known for as long as this process lives.
            Err(error) => tracing::error!(job = id, %error, "the end of a job is not in the ledger"),
        }
    }

    fn new_id(&self) -> Result<String, PipelinesError> {
        let micros = u64::try_from(self.clock.now_micros()).unwrap_or(0);
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let id = ids.generate_from_datetime(now);
        id.map(|id| id.to_string()).map_err(|cause| PipelinesError::Internal {
            detail: cause.to_string(),
        })
    }

    fn report_active(&self) {
        let active = self.active().len();
        metrics::gauge!("ondol_pipelines_jobs_active").set(active as f64);
    }

    // A panic while the lock is held can't leave the map half-written.
    fn active(&self) -> MutexGuard<'_, HashMap<String, Arc<Active>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Active {
    /// Makes progress visible, if there was any.
    fn publish(&self) {
        let seen = self.progress.look();
        self.job.send_if_modified(|job| {
            let changed =
                job.stage != seen.stage || job.rows_done != seen.rows_done || job.rows_total != seen.rows_total;
            if changed {
                (job.stage, job.rows_done, job.rows_total) = (seen.stage, seen.rows_done, seen.rows_total);
                job.revision += 1;
            }
            changed
        });
    }
}

/// Starts jobs as places come free, until shutdown.
pub(crate) async fn dispatch(queue: Arc<Queue>, mut waiting: mpsc::Receiver<Waiting>, shutdown: Shutdown) {
    let places = Arc::new(Semaphore::new(queue.config.concurrent_jobs.max(1)));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((place, waiting.recv().await?))
        };
        let (place, next) = tokio::select! {
            next = next => match next {
                Some(next) => next,
                None => return,
            },
            () = shutdown.triggered() => return,
        };
        let queue = Arc::clone(&queue);
        shutdown.spawn("job", async move {
            queue.run(next).await;
            drop(place);
        });
    }
}

fn unknown_job(id: &str) -> PipelinesError {
    PipelinesError::Unknown {
        kind: "job".to_owned(),
        name: id.to_owned(),
        suggestion: None,
    }
}

fn going_down() -> PipelinesError {
    PipelinesError::Unavailable {
        detail: "they are shutting down".to_owned(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form `map_err` takes")]
fn unavailable(error: JobError) -> PipelinesError {
    PipelinesError::Unavailable {
        detail: error.to_string(),
    }
}
