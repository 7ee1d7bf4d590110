//! Jobs from submission to their end.
//!
//! [`submit`] lets a job into the ledger, with its request, within a bound; [`dispatch`](dispatch::dispatch) claims jobs
//! from the ledger as places and memory come free, whichever instance accepted them; [`run`] does one, keeps the lease
//! on it, and writes its end.
//!
//! The ledger is the truth of all jobs. A job that this instance is at work on is [`active`] too: its progress lives in
//! memory behind a watch channel, and reaches the ledger with every renewal of the lease.

pub(crate) mod active;
pub(crate) mod dispatch;
mod run;
pub(crate) mod submit;
mod sweep;

use crate::backfill::{self, BACKFILL};
use crate::config::PipelinesConfig;
use crate::engine::Engines;
use crate::error::JobError;
use crate::kind;
use crate::ledger::Ledger;
use crate::materialize::Reaches;
use crate::memory::Memory;
use crate::results::Results;
use crate::spines::Spines;
use crate::statistics::Kept;
use active::Active;
use ondol_feature_store_api::FeatureStore;
use ondol_pipelines_api::wire::{Job, JobPage, JobQuery, JobState};
use ondol_pipelines_api::{PipelinesError, Rows};
use ondol_runtime::Clock;
use ondol_vocabulary::EventTime;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often a job that is another's to do is looked up while somebody waits for it to change.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What the queue stands on.
pub(crate) struct Parts {
    /// The feature store.
    pub store: Arc<dyn FeatureStore>,
    /// Bounds and ages.
    pub config: PipelinesConfig,
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// Every job.
    pub ledger: Ledger,
    /// How far views have been given batch sources.
    pub reaches: Reaches,
    /// Statistics of sources.
    pub kept: Kept,
    /// Finished training sets.
    pub results: Results,
    /// Spines of jobs.
    pub spines: Spines,
    /// What computes elsewhere.
    pub engines: Engines,
    /// When to stop.
    pub shutdown: CancellationToken,
}

/// The jobs of one instance.
pub(crate) struct Queue {
    parts: Parts,
    memory: Memory,
    /// This instance, in leases.
    owner: String,
    ids: Mutex<ulid::Generator>,
    active: Mutex<HashMap<String, Arc<Active>>>,
    /// Rises whenever this instance changes what is in the ledger: something may have come to do, or to see.
    changes: watch::Sender<u64>,
}

impl Queue {
    /// A queue, which [`dispatch::dispatch`] serves.
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            memory: Memory::new(parts.config.memory_mib),
            owner: format!("{}-{}", std::process::id(), ulid::Ulid::new()),
            ids: Mutex::new(ulid::Generator::new()),
            active: Mutex::new(HashMap::new()),
            changes: watch::Sender::new(0),
            parts,
        })
    }

    /// The present.
    pub(crate) fn now(&self) -> EventTime {
        EventTime::from_micros(self.parts.clock.now_micros())
    }

    /// Jobs, newest first.
    pub(crate) async fn jobs(&self, asked: &JobQuery) -> Result<JobPage, PipelinesError> {
        let mut page = self.parts.ledger.jobs(asked).await.map_err(unavailable)?;
        let active = self.active();
        for job in &mut page.jobs {
            if let Some(active) = active.get(&job.id) {
                *job = active.job();
            }
        }
        Ok(page)
    }

    /// One job; waits for a change since `seen` while it has not ended. Without `seen`, for the next change.
    pub(crate) async fn job(&self, id: &str, seen: Option<u64>, wait: Duration) -> Result<Job, PipelinesError> {
        let until = tokio::time::Instant::now() + wait;
        let mut changes = self.changes.subscribe();
        let mut seen = seen;
        loop {
            changes.mark_unchanged();
            let watched = self.active().get(id).map(|active| active.watch());
            if let Some(mut watched) = watched {
                let before = *seen.get_or_insert(watched.borrow().revision);
                let news = |job: &Job| job.state.is_final() || job.revision != before;
                let change = tokio::time::timeout_at(until, watched.wait_for(news)).await;
                let let_go = matches!(change, Ok(Err(_)));
                drop(change);
                let job = watched.borrow().clone();
                // Let go without an end: another instance may have it, and the ledger knows.
                if !let_go || job.state.is_final() {
                    return Ok(job);
                }
            }
            let job = self.parts.ledger.job(id).await.map_err(unavailable)?;
            let job = job.ok_or_else(|| unknown_job(id))?;
            let over = job.state.is_final() || tokio::time::Instant::now() >= until;
            if over || seen.is_some_and(|seen| job.revision != seen) {
                return Ok(job);
            }
            seen.get_or_insert(job.revision);
            let again = tokio::time::Instant::now() + LOOK_EVERY;
            // Whichever comes first: the answer is looked up anew.
            let _: Result<_, _> = tokio::time::timeout_at(again.min(until), changes.changed()).await;
        }
    }

    /// Where job `id` stands.
    pub(crate) async fn state(&self, id: &str) -> Result<Option<JobState>, JobError> {
        Ok(self.parts.ledger.job(id).await?.map(|job| job.state))
    }

    /// Whether a job of this kind that has not ended works on `subject`.
    pub(crate) async fn works_on(&self, kind: &str, subject: &str) -> Result<bool, JobError> {
        self.parts.ledger.works_on(kind, subject).await
    }

    /// Whether there is a job of this kind, ended or not, that worked on `subject`.
    pub(crate) async fn worked_on(&self, kind: &str, subject: &str) -> Result<bool, JobError> {
        self.parts.ledger.worked_on(kind, subject).await
    }

    /// Asks job `id` to stop. One that waits ends at once, one at work at its next batch, wherever that is.
    pub(crate) async fn cancel(&self, id: &str) -> Result<Job, PipelinesError> {
        let job = self.parts.ledger.job(id).await.map_err(unavailable)?;
        if let Some(job) = job.filter(|job| job.kind == BACKFILL && !job.state.is_final()) {
            backfill::hold(self.parts.store.as_ref(), &job.subject).await?;
        }
        // The ledger first: the wish outlives this process.
        self.parts.ledger.cancel(id, self.now()).await.map_err(unavailable)?;
        if let Some(active) = self.active().get(id) {
            active.cancel();
        }
        self.changed();
        self.job(id, None, Duration::ZERO).await
    }

    /// The rows that job `id` made.
    pub(crate) async fn rows(&self, id: &str) -> Result<Rows, PipelinesError> {
        let job = self.job(id, None, Duration::ZERO).await?;
        let none = |state: String| PipelinesError::NoResult {
            id: id.to_owned(),
            state,
        };
        if !kind::has_rows(&job.kind) || job.state != JobState::Succeeded {
            return Err(none(format!("{} ({})", job.state.name(), job.kind)));
        }
        let read = self.parts.results.read(&result_name(&job)).await;
        read.map_err(unavailable)?.ok_or_else(|| {
            none(format!(
                "older than {} minutes, and removed: build it again",
                self.parts.config.result_minutes
            ))
        })
    }

    /// Bounds and ages.
    pub(crate) fn config(&self) -> &PipelinesConfig {
        &self.parts.config
    }

    /// Tells those who wait that the ledger has changed.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    // A panic while the lock is held can't leave the map half-written.
    fn active(&self) -> MutexGuard<'_, HashMap<String, Arc<Active>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of the result that a job's present attempt writes, or its last one wrote. An attempt that lost its job
/// writes under another name: what it still publishes is nobody's, and is swept away.
fn result_name(job: &Job) -> String {
    match job.attempt {
        // From before there were attempts.
        0 => job.id.clone(),
        attempt => format!("{}-{attempt}", job.id),
    }
}

pub(crate) fn unknown_job(id: &str) -> PipelinesError {
    PipelinesError::Unknown {
        kind: "job".to_owned(),
        name: id.to_owned(),
        suggestion: None,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form `map_err` takes")]
pub(crate) fn unavailable(error: JobError) -> PipelinesError {
    PipelinesError::Unavailable {
        detail: error.to_string(),
    }
}
