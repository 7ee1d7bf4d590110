//! Who works on what: claims, leases, and the ends that jobs are given under them.

use super::rows::{COLUMNS, job, reading};
use super::{Kinds, Ledger, count, micros, number, storage};
use crate::error::JobError;
use ondol_pipelines_api::wire::{Job, JobState};
use ondol_vocabulary::EventTime;
use sqlx::{AssertSqlSafe, Row};
use std::time::Duration;

/// Jobs that a look for work considers.
const CONSIDERED: i64 = 64;

/// More than progress can have raised a revision between two renewals of a lease: the next attempt starts this much
/// higher, so that a revision never falls.
const REVISIONS_OF_A_LEASE: i64 = 10_000;

/// A job that waits for a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// The job.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// Memory that it takes.
    pub memory_mib: u64,
}

/// A job that is this instance's to do.
#[derive(Clone, Debug)]
pub(crate) struct Claimed {
    /// The job, running.
    pub job: Job,
    /// Its request as it was stored.
    pub request: String,
}

impl Ledger {
    fn claimable(&self) -> String {
        let now = self.now;
        format!("(state = 'queued' OR (state = 'running' AND lease_until < {now}))")
    }

    /// Ends jobs that were left by their process and are not to be started again: those that somebody asked to stop, and
    /// those whose `attempts` are used up. Returns the latter.
    pub(crate) async fn settle_abandoned(&self, attempts: u32, now: EventTime) -> Result<Vec<Job>, JobError> {
        let abandoned = format!("state = 'running' AND lease_until < {}", self.now);
        let cancel = AssertSqlSafe(format!(
            "UPDATE pipelines_jobs SET state = 'cancelled', ended_at = $1, owner = NULL, lease_until = NULL,
             rows_per_second = NULL, eta_seconds = NULL, revision = revision + {REVISIONS_OF_A_LEASE}
             WHERE {abandoned} AND cancel_requested = 1"
        ));
        self.run(
            sqlx::query(cancel).bind(now.micros()),
            "cancel abandoned jobs in the ledger",
        )
        .await?;
        let fail = AssertSqlSafe(format!(
            "UPDATE pipelines_jobs SET state = 'failed', ended_at = $1, owner = NULL, lease_until = NULL,
             rows_per_second = NULL, eta_seconds = NULL, revision = revision + {REVISIONS_OF_A_LEASE}, error = $2
             WHERE {abandoned} AND crashes + 1 >= $3 RETURNING {COLUMNS}"
        ));
        let error = format!(
            "given up after {attempts} attempts, each of which ended with the process at work on it: did it run out of \
             memory? (`memory_mib`, `event_memory_mib`, `attempts`)"
        );
        let rows = sqlx::query(fail)
            .bind(now.micros())
            .bind(error)
            .bind(i64::from(attempts))
            .fetch_all(&self.pool)
            .await;
        rows.map_err(|cause| storage("give up abandoned jobs in the ledger", &cause))?
            .iter()
            .map(job)
            .collect()
    }

    /// Jobs of these kinds that may be started, oldest first.
    pub(crate) async fn waiting(&self, kinds: Kinds) -> Result<Vec<Waiting>, JobError> {
        let query = AssertSqlSafe(format!(
            "SELECT id, kind, memory_mib FROM pipelines_jobs WHERE {} AND {} ORDER BY id LIMIT $1",
            self.claimable(),
            kinds.condition()
        ));
        let rows = sqlx::query(query).bind(CONSIDERED).fetch_all(&self.pool).await;
        let waiting = |row: &sqlx::any::AnyRow| -> Result<Waiting, sqlx::Error> {
            Ok(Waiting {
                id: row.try_get("id")?,
                kind: row.try_get("kind")?,
                memory_mib: count(row.try_get("memory_mib")?),
            })
        };
        rows.and_then(|rows| rows.iter().map(waiting).collect())
            .map_err(|cause| reading(&cause))
    }

    /// Makes job `id` the owner's, as its next attempt; none when another was faster, or it has ended.
    pub(crate) async fn claim(
        &self,
        id: &str,
        owner: &str,
        lease: Duration,
        now: EventTime,
    ) -> Result<Option<Claimed>, JobError> {
        let query = AssertSqlSafe(format!(
            "UPDATE pipelines_jobs SET state = 'running', owner = $2, lease_until = {} + $3, attempt = attempt + 1,
             crashes = crashes + CASE WHEN state = 'running' THEN 1 ELSE 0 END,
             revision = revision + CASE WHEN state = 'running' THEN {REVISIONS_OF_A_LEASE} ELSE 1 END,
             started_at = COALESCE(started_at, $4), stage = 'starting', rows_done = 0, rows_total = NULL,
             rows_per_second = NULL, eta_seconds = NULL
             WHERE id = $1 AND cancel_requested = 0 AND {} RETURNING {COLUMNS}, request",
            self.now,
            self.claimable()
        ));
        let row = sqlx::query(query)
            .bind(id.to_owned())
            .bind(owner.to_owned())
            .bind(micros(lease))
            .bind(now.micros())
            .fetch_optional(&self.pool)
            .await
            .map_err(|cause| storage("claim a job in the ledger", &cause))?;
        let claimed = |row: &sqlx::any::AnyRow| {
            let request: Option<String> = row.try_get("request").map_err(|cause| reading(&cause))?;
            Ok(Claimed {
                job: job(row)?,
                request: request.unwrap_or_default(),
            })
        };
        row.as_ref().map(claimed).transpose()
    }

    /// Renews the lease on `job`, and writes its progress down. Whether somebody asked it to stop; none when the job is
    /// no longer this attempt's.
    pub(crate) async fn renew(&self, job: &Job, lease: Duration) -> Result<Option<bool>, JobError> {
        let query = AssertSqlSafe(format!(
            "UPDATE pipelines_jobs SET lease_until = {} + $3, revision = $4, stage = $5, rows_done = $6, rows_total = $7,
             rows_per_second = $8, eta_seconds = $9
             WHERE id = $1 AND attempt = $2 AND state = 'running' RETURNING cancel_requested",
            self.now
        ));
        let row = sqlx::query(query)
            .bind(job.id.clone())
            .bind(i64::from(job.attempt))
            .bind(micros(lease))
            .bind(number(job.revision))
            .bind(job.stage.clone())
            .bind(number(job.rows_done))
            .bind(job.rows_total.map(number))
            .bind(job.rows_per_second.map(number))
            .bind(job.eta_seconds.map(number))
            .fetch_optional(&self.pool)
            .await;
        row.and_then(|row| row.map(|row| row.try_get::<i64, _>("cancel_requested")).transpose())
            .map(|asked| asked.map(|asked| asked != 0))
            .map_err(|cause| storage("renew the lease on a job", &cause))
    }

    /// Writes a job's end. `false` when it is no longer this attempt's, and nothing was written.
    pub(crate) async fn end(&self, job: &Job) -> Result<bool, JobError> {
        let text = |document: Result<String, serde_json::Error>| document.map_err(JobError::internal);
        let manifest = job.manifest.as_ref().map(serde_json::to_string);
        let outcome = job.outcome.as_ref().map(serde_json::to_string);
        let update = sqlx::query(
            "UPDATE pipelines_jobs SET state = $3, revision = $4, stage = $5, rows_done = $6, rows_total = $7,
             ended_at = $8, error = $9, manifest = $10, outcome = $11, owner = NULL, lease_until = NULL,
             rows_per_second = NULL, eta_seconds = NULL
             WHERE id = $1 AND attempt = $2 AND state = 'running'",
        );
        let update = update
            .bind(job.id.clone())
            .bind(i64::from(job.attempt))
            .bind(job.state.name())
            .bind(number(job.revision))
            .bind(job.stage.clone())
            .bind(number(job.rows_done))
            .bind(job.rows_total.map(number))
            .bind(job.ended_at.map(EventTime::micros))
            .bind(job.error.clone())
            .bind(manifest.map(text).transpose()?)
            .bind(outcome.map(text).transpose()?);
        let written = self.run(update, "write a job's end to the ledger").await?;
        Ok(written > 0)
    }

    /// Puts a job back into the queue, for whoever comes next.
    pub(crate) async fn release(&self, job: &Job) -> Result<(), JobError> {
        let update = sqlx::query(
            "UPDATE pipelines_jobs SET state = 'queued', owner = NULL, lease_until = NULL, revision = $3,
             stage = 'waiting for its turn', rows_done = 0, rows_total = NULL, rows_per_second = NULL, eta_seconds = NULL
             WHERE id = $1 AND attempt = $2 AND state = 'running'",
        );
        let update = update
            .bind(job.id.clone())
            .bind(i64::from(job.attempt))
            .bind(number(job.revision.saturating_add(1)));
        self.run(update, "put a job back into the queue").await.map(drop)
    }

    /// Ends a job that waits; asks one at work to stop.
    pub(crate) async fn cancel(&self, id: &str, now: EventTime) -> Result<(), JobError> {
        let waits = sqlx::query(
            "UPDATE pipelines_jobs SET state = 'cancelled', ended_at = $2, revision = revision + 1
             WHERE id = $1 AND state = 'queued'",
        );
        let ended = self
            .run(
                waits.bind(id.to_owned()).bind(now.micros()),
                "cancel a job in the ledger",
            )
            .await?;
        if ended > 0 {
            return Ok(());
        }
        let works = sqlx::query("UPDATE pipelines_jobs SET cancel_requested = 1 WHERE id = $1 AND state = $2");
        let works = works.bind(id.to_owned()).bind(JobState::Running.name());
        self.run(works, "cancel a job in the ledger").await.map(drop)
    }
}
