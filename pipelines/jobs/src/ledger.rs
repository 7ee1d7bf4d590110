//! The job ledger: every job's state in SQLite or PostgreSQL, so that a restart forgets none.
//!
//! A row is written when a job is submitted, starts and ends. Progress in between lives in memory: losing it in a crash
//! loses nothing that could be continued.

use crate::error::JobError;
use ondol_pipelines_api::wire::{Job, JobState};
use ondol_vocabulary::EventTime;
use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::{AnyPool, Row};
use std::time::Duration;

/// Why a job that a crash ended is failed.
pub(crate) const INTERRUPTED: &str = "interrupted by a restart of the pipelines: start it again";

/// Jobs that a list shows at most.
const LISTED: i64 = 200;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS pipelines_jobs (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    state TEXT NOT NULL,
    revision BIGINT NOT NULL,
    stage TEXT NOT NULL,
    rows_done BIGINT NOT NULL,
    rows_total BIGINT,
    created_at BIGINT NOT NULL,
    ended_at BIGINT,
    error TEXT,
    manifest TEXT
)";

const COLUMNS: &str =
    "id, kind, subject, state, revision, stage, rows_done, rows_total, created_at, ended_at, error, manifest";

/// The job ledger. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Ledger {
    pool: AnyPool,
}

impl Ledger {
    /// Opens the ledger at `url`, creates its table, and fails the jobs that a crash interrupted.
    pub(crate) async fn open(url: &str, now: EventTime) -> Result<Self, JobError> {
        sqlx::any::install_default_drivers();
        let embedded = url.starts_with("sqlite:");
        let url = if embedded && !url.contains('?') {
            format!("{url}?mode=rwc")
        } else {
            url.to_owned()
        };
        let pool = AnyPoolOptions::new()
            // SQLite has one writer: a second connection would only wait on the first one's lock.
            .max_connections(if embedded { 1 } else { 4 })
            .acquire_timeout(Duration::from_secs(10))
            .connect(&url)
            .await
            .map_err(|cause| storage("open the job ledger", &cause))?;
        let ledger = Self { pool };
        if embedded {
            ledger
                .run(sqlx::query("PRAGMA journal_mode = WAL"), "open the job ledger")
                .await?;
        }
        ledger.run(sqlx::query(CREATE), "create the job ledger").await?;
        let interrupted = sqlx::query(
            "UPDATE pipelines_jobs SET state = 'failed', error = $1, ended_at = $2, revision = revision + 1
             WHERE state IN ('queued', 'running')",
        );
        ledger
            .run(
                interrupted.bind(INTERRUPTED).bind(now.micros()),
                "fail interrupted jobs",
            )
            .await?;
        Ok(ledger)
    }

    /// Adds a job that was just submitted.
    pub(crate) async fn insert(&self, job: &Job) -> Result<(), JobError> {
        let insert = sqlx::query(
            "INSERT INTO pipelines_jobs (id, kind, subject, state, revision, stage, rows_done, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        );
        let insert = insert
            .bind(job.id.clone())
            .bind(job.kind.clone())
            .bind(job.subject.clone())
            .bind(state_name(job.state))
            .bind(number(job.revision))
            .bind(job.stage.clone())
            .bind(number(job.rows_done))
            .bind(job.created_at.micros());
        self.run(insert, "write a job to the ledger").await
    }

    /// Replaces what changes in a job's life.
    pub(crate) async fn update(&self, job: &Job) -> Result<(), JobError> {
        let manifest = job
            .manifest
            .as_ref()
            .map(serde_json::to_string)
            .transpose()
            .map_err(JobError::internal)?;
        let update = sqlx::query(
            "UPDATE pipelines_jobs SET state = $2, revision = $3, stage = $4, rows_done = $5, rows_total = $6,
             ended_at = $7, error = $8, manifest = $9 WHERE id = $1",
        );
        let update = update
            .bind(job.id.clone())
            .bind(state_name(job.state))
            .bind(number(job.revision))
            .bind(job.stage.clone())
            .bind(number(job.rows_done))
            .bind(job.rows_total.map(number))
            .bind(job.ended_at.map(EventTime::micros))
            .bind(job.error.clone())
            .bind(manifest);
        self.run(update, "write a job to the ledger").await
    }

    /// One job.
    pub(crate) async fn job(&self, id: &str) -> Result<Option<Job>, JobError> {
        let query = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM pipelines_jobs WHERE id = $1"));
        let row = sqlx::query(query).bind(id.to_owned()).fetch_optional(&self.pool).await;
        row.map_err(|cause| storage("read the job ledger", &cause))?
            .map(|row| job(&row))
            .transpose()
    }

    /// Jobs, newest first.
    pub(crate) async fn jobs(&self) -> Result<Vec<Job>, JobError> {
        let query = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM pipelines_jobs ORDER BY id DESC LIMIT $1"
        ));
        let rows = sqlx::query(query).bind(LISTED).fetch_all(&self.pool).await;
        rows.map_err(|cause| storage("read the job ledger", &cause))?
            .iter()
            .map(job)
            .collect()
    }

    /// Removes jobs that ended before `moment`.
    pub(crate) async fn forget_ended_before(&self, moment: EventTime) -> Result<(), JobError> {
        let delete = sqlx::query("DELETE FROM pipelines_jobs WHERE ended_at < $1").bind(moment.micros());
        self.run(delete, "remove old jobs from the ledger").await
    }

    async fn run(
        &self,
        query: sqlx::query::Query<'_, sqlx::Any, sqlx::any::AnyArguments>,
        action: &str,
    ) -> Result<(), JobError> {
        query
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(|cause| storage(action, &cause))
    }
}

fn storage(action: &str, cause: &sqlx::Error) -> JobError {
    JobError::storage(format!("can't {action}"), cause)
}

/// Counters travel as the databases' signed integers.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

const STATES: [(JobState, &str); 5] = [
    (JobState::Queued, "queued"),
    (JobState::Running, "running"),
    (JobState::Succeeded, "succeeded"),
    (JobState::Failed, "failed"),
    (JobState::Cancelled, "cancelled"),
];

/// The name of a state, in the ledger and in messages.
pub(crate) fn state_name(state: JobState) -> &'static str {
    STATES
        .iter()
        .find(|(candidate, _)| *candidate == state)
        .map_or("unknown", |(_, name)| name)
}

fn job(row: &AnyRow) -> Result<Job, JobError> {
    let read = || -> Result<Job, sqlx::Error> {
        let state: String = row.try_get("state")?;
        let state = STATES.iter().find(|(_, name)| *name == state);
        let (state, _) = state.ok_or_else(|| sqlx::Error::Decode("an unknown state of a job".into()))?;
        let manifest: Option<String> = row.try_get("manifest")?;
        let manifest = manifest.map(|json| serde_json::from_str(&json)).transpose();
        Ok(Job {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            subject: row.try_get("subject")?,
            state: *state,
            revision: count(row.try_get("revision")?),
            stage: row.try_get("stage")?,
            rows_done: count(row.try_get("rows_done")?),
            rows_total: row.try_get::<Option<i64>, _>("rows_total")?.map(count),
            created_at: EventTime::from_micros(row.try_get("created_at")?),
            ended_at: row.try_get::<Option<i64>, _>("ended_at")?.map(EventTime::from_micros),
            error: row.try_get("error")?,
            manifest: manifest.map_err(|cause| sqlx::Error::Decode(cause.into()))?,
        })
    };
    read().map_err(|cause| storage("read the job ledger", &cause))
}

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
