//! Removes what has had its time, and what attempts that never ended have left.

use super::{Queue, result_name};
use crate::error::JobError;
use ondol_pipelines_api::wire::Job;
use ondol_vocabulary::EventTime;
use std::time::Duration;

/// How old a spine without a job must be before it is nobody's: submissions write the spine first.
const SUBMISSION: Duration = Duration::from_secs(3_600);

impl Queue {
    /// Removes results, spines, keys and ledger entries whose time has passed.
    pub(crate) async fn sweep(&self) -> Result<(), JobError> {
        let before = |age: Duration| {
            self.now()
                .plus_micros(-i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
        };
        let config = &self.parts.config;
        self.sweep_results(before(config.result_age())).await?;
        self.sweep_spines(before(config.spine_age()), before(SUBMISSION))
            .await?;
        self.parts.ledger.forget(before(config.ledger_age()), self.now()).await
    }

    /// Removes results whose time has passed, and those of attempts that lost their job.
    pub(super) async fn sweep_results(&self, before: EventTime) -> Result<(), JobError> {
        for name in self.parts.results.ids().await? {
            // A result without a job has no reader; one of another attempt has none either.
            let job = self.job_of(&name).await?;
            if !job.is_some_and(|job| is_wanted(&job, before)) {
                self.parts.results.remove(&name).await?;
            }
        }
        let results = self.parts.results.clone();
        let unfinished = tokio::task::spawn_blocking(move || results.unfinished());
        let unfinished = unfinished.await.map_err(JobError::internal)??;
        let mut give_up = Vec::new();
        for file in unfinished {
            let job = self.job_of(&file.name).await?;
            if job.is_none_or(|job| job.state.is_final()) {
                give_up.push(file);
            }
        }
        let results = self.parts.results.clone();
        let removed =
            tokio::task::spawn_blocking(move || give_up.iter().try_for_each(|file| results.remove_unfinished(file)));
        removed.await.map_err(JobError::internal)?
    }

    /// The job whose present attempt, or last one, a result is of.
    async fn job_of(&self, result: &str) -> Result<Option<Job>, JobError> {
        let id = result.split_once('-').map_or(result, |(id, _)| id);
        let job = self.parts.ledger.job(id).await?;
        Ok(job.filter(|job| result_name(job) == result))
    }

    async fn sweep_spines(&self, before: EventTime, submitted_before: EventTime) -> Result<(), JobError> {
        for id in self.parts.spines.ids().await? {
            let kept = match self.parts.ledger.job(&id).await? {
                Some(job) => is_wanted(&job, before),
                None => self.may_be_submitted(&id, submitted_before),
            };
            if !kept {
                self.parts.spines.remove(&id).await?;
            }
        }
        self.parts.spines.remove_unfinished(SUBMISSION).await
    }

    /// Whether a submission may be under way that has written its spine, and not its job yet.
    fn may_be_submitted(&self, id: &str, before: EventTime) -> bool {
        let made = ulid::Ulid::from_string(id).map(|id| id.timestamp_ms());
        let made = made.ok().and_then(|ms| i64::try_from(ms).ok());
        made.is_some_and(|ms| EventTime::from_micros(ms.saturating_mul(1_000)) >= before)
    }

    /// Removes what a former process of an exclusive ledger was about to submit, or to write. Called before the first
    /// submission.
    pub(crate) async fn sweep_leftovers(&self) -> Result<(), JobError> {
        if !self.parts.ledger.is_exclusive() {
            return Ok(());
        }
        // Nobody else writes here.
        self.parts.spines.remove_unfinished(Duration::ZERO).await?;
        for id in self.parts.spines.ids().await? {
            if self.parts.ledger.job(&id).await?.is_none() {
                self.parts.spines.remove(&id).await?;
            }
        }
        Ok(())
    }
}

/// Whether what belongs to a job is kept: it has not ended, or not before that moment.
fn is_wanted(job: &Job, before: EventTime) -> bool {
    job.ended_at.is_none_or(|ended| ended >= before)
}
