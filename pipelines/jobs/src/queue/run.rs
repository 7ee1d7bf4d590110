//! One job done: its work, its progress and its lease side by side, then its end.

use super::active::Active;
use super::{Queue, result_name};
use crate::error::JobError;
use crate::kind::{self, Context, Outcome, TRAINING_SET, Work};
use crate::ledger::Claimed;
use crate::memory::Room;
use crate::training_set::TrainingSet;
use futures::FutureExt;
use ondol_pipelines_api::wire::{Job, JobRequest, JobState, TrainingSetOptions};
use ondol_vocabulary::EventTime;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The least time between two changes of a job's progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// The longest time between two renewals of a lease: also how old progress in the ledger may be.
const LONGEST_BEAT: Duration = Duration::from_secs(1);
/// The longest pause between two attempts to write a job's end.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Queue {
    /// Makes a claimed job one of those at work here.
    pub(super) fn begin(&self, claimed: &Claimed) -> Arc<Active> {
        let job = claimed.job.clone();
        if job.attempt > 1 {
            tracing::warn!(
                job = job.id,
                kind = job.kind,
                attempt = job.attempt,
                "job started again"
            );
            metrics::counter!("ondol_pipelines_jobs_restarted_total", "kind" => job.kind.clone()).increment(1);
        }
        let active = Arc::new(Active::new(job, self.parts.shutdown.clone()));
        self.active().insert(claimed.job.id.clone(), Arc::clone(&active));
        self.report();
        self.changed();
        active
    }

    /// Runs a claimed job to its end.
    pub(super) async fn run(&self, claimed: Claimed, active: Arc<Active>, room: &Room) {
        let started = Instant::now();
        let (id, kind) = (claimed.job.id.clone(), claimed.job.kind.clone());
        let outcome = {
            let work = AssertUnwindSafe(self.work(claimed, &active, room)).catch_unwind();
            let lease = self.keep_lease(&active);
            tokio::pin!(work, lease);
            let mut ticks = tokio::time::interval(PROGRESS_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    outcome = &mut work => break outcome,
                    never = &mut lease => match never {},
                    _ = ticks.tick() => active.publish(),
                }
            }
        };
        active.publish();
        let outcome = outcome.unwrap_or_else(|_| Err(JobError::internal("the job panicked: see the log")));
        self.finish(&active, outcome).await;
        if active.job().attempt > 1
            && let Err(error) = self.sweep_results(EventTime::from_micros(i64::MIN)).await
        {
            tracing::warn!(job = id, %error, "what earlier attempts left waits for the sweep");
        }
        drop(self.active().remove(&id));
        self.report();
        metrics::histogram!("ondol_pipelines_job_seconds", "kind" => kind).record(started.elapsed());
    }

    async fn work(&self, claimed: Claimed, active: &Active, room: &Room) -> Result<Outcome, JobError> {
        let progress = active.progress();
        progress.checkpoint()?;
        let work = tokio::select! {
            work = self.prepare(&claimed) => work?,
            reason = progress.stopped() => return Err(reason),
        };
        let context = Context {
            store: Arc::clone(&self.parts.store),
            config: self.parts.config.clone(),
            memory_mib: room.mib(),
            results: self.parts.results.clone(),
            result: result_name(&claimed.job),
            reaches: self.parts.reaches.clone(),
            kept: self.parts.kept.clone(),
            engines: self.parts.engines.clone(),
            now: self.now(),
            progress,
        };
        work.run(&context).await
    }

    /// The work of a stored request, checked against the definitions in force now.
    async fn prepare(&self, claimed: &Claimed) -> Result<Box<dyn Work>, JobError> {
        let refused = |error: ondol_pipelines_api::PipelinesError| JobError::Refused(error.to_string());
        let unread = |cause: serde_json::Error| JobError::internal(format!("its request can't be read: {cause}"));
        let snapshot = self.parts.store.snapshot().await?;
        if claimed.job.kind != TRAINING_SET {
            let request: JobRequest = serde_json::from_str(&claimed.request).map_err(unread)?;
            return Ok(kind::check(&snapshot, &request, &self.parts.config)
                .map_err(refused)?
                .work);
        }
        let options: TrainingSetOptions = serde_json::from_str(&claimed.request).map_err(unread)?;
        let request = self.parts.spines.request(&claimed.job.id, options).await?;
        // Casting a spine is CPU work in proportion to its rows.
        let check = tokio::task::spawn_blocking(move || TrainingSet::check(&snapshot, request)).await;
        let checked = check.map_err(JobError::internal)?.map_err(refused)?;
        Ok(Box::new(checked))
    }

    /// Renews the lease on a job for as long as it is polled. Once the job is, or may be, another's, its work is told.
    async fn keep_lease(&self, active: &Active) -> std::convert::Infallible {
        let lease = self.parts.config.lease();
        let beat = (lease / 4).min(LONGEST_BEAT);
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(beat).await;
            let asked = Instant::now();
            let left = lease.saturating_sub(renewed.elapsed());
            let job = active.job();
            let renewal = tokio::time::timeout(left, self.parts.ledger.renew(&job, lease)).await;
            match renewal {
                Ok(Ok(Some(cancelled))) => {
                    renewed = asked;
                    if cancelled {
                        active.cancel();
                    }
                    continue;
                }
                Ok(Ok(None)) => tracing::warn!(job = job.id, attempt = job.attempt, "another instance has the job"),
                Ok(Err(error)) if renewed.elapsed() < lease => {
                    tracing::warn!(job = job.id, %error, "the lease on a job is not renewed, trying again");
                    continue;
                }
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!(job = job.id, attempt = job.attempt, "the lease on a job ran out");
                }
            }
            metrics::counter!("ondol_pipelines_leases_lost_total").increment(1);
            active.progress().lose();
            std::future::pending::<()>().await;
        }
    }

    /// Writes a job's end to the ledger and tells those who watch; or puts it back, or lets it go.
    async fn finish(&self, active: &Active, outcome: Result<Outcome, JobError>) {
        let mut job = active.job();
        match outcome {
            Err(JobError::Lost) => return self.discard(&job).await,
            Err(JobError::Shutdown) => return self.put_back(&job).await,
            Ok(Outcome { value, manifest }) => {
                (job.state, job.outcome, job.manifest) = (JobState::Succeeded, value, manifest);
            }
            Err(JobError::Cancelled) => job.state = JobState::Cancelled,
            Err(JobError::Withdrawn(why)) => (job.state, job.error) = (JobState::Cancelled, Some(why)),
            Err(error) => (job.state, job.error) = (JobState::Failed, Some(error.to_string())),
        }
        job.revision += 1;
        job.ended_at = Some(self.now());
        (job.rows_per_second, job.eta_seconds) = (None, None);
        if !self.write_end(&job).await {
            return self.discard(&job).await;
        }
        let state = job.state.name();
        match &job.error {
            Some(error) if job.state == JobState::Failed => tracing::warn!(
                job = job.id,
                kind = job.kind,
                subject = job.subject,
                error,
                "job failed"
            ),
            _ => tracing::info!(job = job.id, kind = job.kind, subject = job.subject, state, "job ended"),
        }
        metrics::counter!("ondol_pipelines_jobs_total", "kind" => job.kind.clone(), "state" => state).increment(1);
        active.end(job);
    }

    /// Writes a job's end, for as long as it takes: until then the job is not done. `false` when it is another's, or
    /// this process ends first.
    async fn write_end(&self, job: &Job) -> bool {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.parts.ledger.end(job).await {
                Ok(written) => return written,
                Err(error) => {
                    tracing::error!(job = job.id, %error, "the end of a job is not in the ledger, trying again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = self.parts.shutdown.cancelled() => return false,
            }
        }
    }

    /// Lets the next instance, or the next start of this one, have the job.
    async fn put_back(&self, job: &Job) {
        match self.parts.ledger.release(job).await {
            Ok(()) => tracing::info!(job = job.id, "job put back into the queue"),
            Err(error) => tracing::warn!(job = job.id, %error, "a job waits for its lease to run out"),
        }
    }

    /// Forgets a job that is another's by now, and what this attempt made of it.
    async fn discard(&self, job: &Job) {
        if let Err(error) = self.parts.results.remove(&result_name(job)).await {
            tracing::warn!(job = job.id, %error, "the result of a lost attempt waits for the sweep");
        }
    }

    fn report(&self) {
        let working = self.active().len();
        metrics::gauge!("ondol_pipelines_jobs_running").set(working as f64);
        let taken = self.memory.taken_mib() << 20;
        metrics::gauge!("ondol_pipelines_memory_taken_bytes").set(taken as f64);
    }
}
