//! Submissions: a job enters the queue with its request and its key, or not at all.

use super::keys::KeyDigest;
use super::rows::{COLUMNS, job, reading};
use super::schedules::Firing;
use super::{Kinds, Ledger, number, storage};
use crate::error::JobError;
use ondol_pipelines_api::wire::{IdempotencyKey, Job};
use ondol_vocabulary::EventTime;
use sqlx::{Any, AssertSqlSafe, Row, Transaction};

/// Changes that must see each other take this row's lock first.
const LOCK: &str = "UPDATE pipelines_schema SET version = version WHERE id = 1";

/// A job that asks to be let in.
pub(crate) struct Submission<'a> {
    /// The job, queued.
    pub job: &'a Job,
    /// Its request, as it is stored.
    pub request: &'a str,
    /// Memory that it will take.
    pub memory_mib: u64,
    /// Its key, and when that runs out.
    pub key: Option<(&'a KeyDigest, EventTime)>,
    /// Whether a job of the same kind on the same subject that has not ended will do as well.
    pub alone: bool,
    /// The schedule that is due, and when it is next.
    pub firing: Option<&'a Firing>,
    /// Jobs of these kinds that may wait.
    pub bound: (Kinds, u64),
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Submitted {
    /// It is a job now.
    New,
    /// It is one already.
    Same(Box<Job>),
    /// Its key belongs to another request: that of this job.
    KeyReused(String),
    /// As many jobs wait as may.
    Full,
    /// The schedule is no longer due: another instance submitted its job, or it was changed meanwhile.
    NotDue,
}

impl Ledger {
    /// Lets a job in, or says why not. All or nothing.
    pub(crate) async fn submit(&self, submission: &Submission<'_>) -> Result<Submitted, JobError> {
        let failed = |cause: sqlx::Error| storage("write a job to the ledger", &cause);
        let mut change = self.pool.begin().await.map_err(failed)?;
        sqlx::raw_sql(LOCK).execute(&mut *change).await.map_err(failed)?;
        if let Some((key, _)) = submission.key
            && let Some(known) = known_key(&mut change, key, submission.job.created_at).await?
        {
            return Ok(known);
        }
        if submission.alone
            && let Some(job) = active(&mut change, submission.job).await?
        {
            return Ok(Submitted::Same(Box::new(job)));
        }
        let (kinds, bound) = submission.bound;
        if queued(&mut change, kinds).await? >= number(bound) {
            return Ok(Submitted::Full);
        }
        if let Some(firing) = submission.firing
            && !firing.take(&mut change, submission.job).await?
        {
            return Ok(Submitted::NotDue);
        }
        insert(&mut change, submission).await?;
        if let Some((key, expires_at)) = submission.key {
            keep_key(&mut change, key, &submission.job.id, expires_at).await?;
        }
        change.commit().await.map_err(failed)?;
        Ok(Submitted::New)
    }

    /// Whether a key names a job.
    pub(crate) async fn knows(&self, key: &IdempotencyKey, now: EventTime) -> Result<bool, JobError> {
        let row = sqlx::query("SELECT job FROM pipelines_keys WHERE name = $1 AND expires_at >= $2")
            .bind(key.as_str().to_owned())
            .bind(now.micros())
            .fetch_optional(&self.pool)
            .await;
        row.map(|row| row.is_some()).map_err(|cause| reading(&cause))
    }
}

type Change<'a> = Transaction<'a, Any>;

async fn known_key(change: &mut Change<'_>, key: &KeyDigest, now: EventTime) -> Result<Option<Submitted>, JobError> {
    let row = sqlx::query("SELECT digest, job FROM pipelines_keys WHERE name = $1 AND expires_at >= $2")
        .bind(key.key.as_str().to_owned())
        .bind(now.micros())
        .fetch_optional(&mut **change)
        .await
        .map_err(|cause| reading(&cause))?;
    let Some(row) = row else { return Ok(None) };
    let digest: String = row.try_get("digest").map_err(|cause| reading(&cause))?;
    let id: String = row.try_get("job").map_err(|cause| reading(&cause))?;
    if digest != key.digest {
        return Ok(Some(Submitted::KeyReused(id)));
    }
    let query = AssertSqlSafe(format!("SELECT {COLUMNS} FROM pipelines_jobs WHERE id = $1"));
    let row = sqlx::query(query).bind(id).fetch_optional(&mut **change).await;
    let known = row.map_err(|cause| reading(&cause))?.map(|row| job(&row)).transpose()?;
    // A job that the ledger has forgotten takes its key along.
    Ok(known.map(|job| Submitted::Same(Box::new(job))))
}

async fn active(change: &mut Change<'_>, asked: &Job) -> Result<Option<Job>, JobError> {
    let query = AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM pipelines_jobs
         WHERE kind = $1 AND subject = $2 AND state IN ('queued', 'running') ORDER BY id LIMIT 1"
    ));
    let row = sqlx::query(query)
        .bind(asked.kind.clone())
        .bind(asked.subject.clone())
        .fetch_optional(&mut **change)
        .await;
    row.map_err(|cause| reading(&cause))?.map(|row| job(&row)).transpose()
}

async fn queued(change: &mut Change<'_>, kinds: Kinds) -> Result<i64, JobError> {
    let count_them = AssertSqlSafe(format!(
        "SELECT COUNT(*) AS jobs FROM pipelines_jobs WHERE state = 'queued' AND {}",
        kinds.condition()
    ));
    let row = sqlx::query(count_them).fetch_one(&mut **change).await;
    row.and_then(|row| row.try_get("jobs")).map_err(|cause| reading(&cause))
}

async fn insert(change: &mut Change<'_>, submission: &Submission<'_>) -> Result<(), JobError> {
    let job = submission.job;
    let insert = sqlx::query(
        "INSERT INTO pipelines_jobs (id, kind, subject, state, revision, stage, rows_done, created_at, retry_of,
         schedule, request, memory_mib) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    );
    insert
        .bind(job.id.clone())
        .bind(job.kind.clone())
        .bind(job.subject.clone())
        .bind(job.state.name())
        .bind(number(job.revision))
        .bind(job.stage.clone())
        .bind(number(job.rows_done))
        .bind(job.created_at.micros())
        .bind(job.retry_of.clone())
        .bind(job.schedule.clone())
        .bind(submission.request.to_owned())
        .bind(number(submission.memory_mib))
        .execute(&mut **change)
        .await
        .map(drop)
        .map_err(|cause| storage("write a job to the ledger", &cause))
}

async fn keep_key(change: &mut Change<'_>, key: &KeyDigest, job: &str, expires_at: EventTime) -> Result<(), JobError> {
    // One that has run out, or whose job is forgotten, is taken over.
    let insert = sqlx::query(
        "INSERT INTO pipelines_keys (name, digest, job, expires_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (name) DO UPDATE SET digest = $2, job = $3, expires_at = $4",
    );
    insert
        .bind(key.key.as_str().to_owned())
        .bind(key.digest.clone())
        .bind(job.to_owned())
        .bind(expires_at.micros())
        .execute(&mut **change)
        .await
        .map(drop)
        .map_err(|cause| storage("write a key to the ledger", &cause))
}
