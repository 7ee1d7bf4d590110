//! The ledger's tables, and how those of earlier versions become them.
//!
//! Each step is applied once, in order, in a transaction under the lock of the schema's row. Steps that were released
//! are never changed: a new form is a new step.

use super::{Ledger, storage};
use crate::error::JobError;
use sqlx::Row;

/// Two instances that start at once must not create the first table at once: PostgreSQL's IF NOT EXISTS is no lock.
const POSTGRES_LOCK: &str =
    "DO $$ BEGIN PERFORM pg_advisory_xact_lock(hashtextextended('ondol pipelines ' || current_schema(), 0)); END $$";

const STEPS: [&[&str]; 2] = [
    // As first released, when jobs that a restart interrupted were failed.
    &["CREATE TABLE IF NOT EXISTS pipelines_jobs (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL, revision BIGINT NOT NULL,
        stage TEXT NOT NULL, rows_done BIGINT NOT NULL, rows_total BIGINT, created_at BIGINT NOT NULL, ended_at BIGINT,
        error TEXT, manifest TEXT)"],
    // Requests, leases, keys and schedules.
    &[
        "ALTER TABLE pipelines_jobs ADD COLUMN request TEXT",
        "ALTER TABLE pipelines_jobs ADD COLUMN memory_mib BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE pipelines_jobs ADD COLUMN attempt BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE pipelines_jobs ADD COLUMN crashes BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE pipelines_jobs ADD COLUMN owner TEXT",
        "ALTER TABLE pipelines_jobs ADD COLUMN lease_until BIGINT",
        "ALTER TABLE pipelines_jobs ADD COLUMN cancel_requested BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE pipelines_jobs ADD COLUMN started_at BIGINT",
        "ALTER TABLE pipelines_jobs ADD COLUMN rows_per_second BIGINT",
        "ALTER TABLE pipelines_jobs ADD COLUMN eta_seconds BIGINT",
        "ALTER TABLE pipelines_jobs ADD COLUMN retry_of TEXT",
        "ALTER TABLE pipelines_jobs ADD COLUMN schedule TEXT",
        "ALTER TABLE pipelines_jobs ADD COLUMN outcome TEXT",
        "CREATE INDEX pipelines_jobs_by_state ON pipelines_jobs (state, id)",
        "CREATE TABLE pipelines_keys (
            name TEXT PRIMARY KEY, digest TEXT NOT NULL, job TEXT NOT NULL, expires_at BIGINT NOT NULL)",
        "CREATE TABLE pipelines_schedules (
            name TEXT PRIMARY KEY, cron TEXT NOT NULL, zone TEXT NOT NULL, request TEXT NOT NULL,
            paused BIGINT NOT NULL, created_at BIGINT NOT NULL, next_at BIGINT NOT NULL, last_run_at BIGINT,
            last_job TEXT, last_error TEXT)",
        "UPDATE pipelines_jobs SET state = 'failed', revision = revision + 1, ended_at = created_at,
            error = 'interrupted by a restart of the pipelines, which kept no requests then: submit it again'
            WHERE state IN ('queued', 'running')",
    ],
];

impl Ledger {
    /// Applies the steps that this ledger lacks. An exclusive ledger's running jobs have lost their process: their leases
    /// end.
    pub(super) async fn upgrade(&self, embedded: bool) -> Result<(), JobError> {
        let failed = |cause: sqlx::Error| storage("upgrade the job ledger", &cause);
        let begin = if embedded { "BEGIN IMMEDIATE" } else { "BEGIN" };
        let mut change = self.pool.begin_with(begin).await.map_err(failed)?;
        if !embedded {
            sqlx::raw_sql(POSTGRES_LOCK)
                .execute(&mut *change)
                .await
                .map_err(failed)?;
        }
        for statement in [
            "CREATE TABLE IF NOT EXISTS pipelines_schema (id BIGINT PRIMARY KEY, version BIGINT NOT NULL)",
            "INSERT INTO pipelines_schema (id, version) VALUES (1, 0) ON CONFLICT (id) DO NOTHING",
        ] {
            sqlx::raw_sql(statement).execute(&mut *change).await.map_err(failed)?;
        }
        let row = sqlx::query("SELECT version FROM pipelines_schema WHERE id = 1")
            .fetch_one(&mut *change)
            .await;
        let version: i64 = row.and_then(|row| row.try_get("version")).map_err(failed)?;
        let known = STEPS.len() as i64;
        if version > known {
            let detail = format!("it is of version {version}, this program knows {known}: run the newer program");
            return Err(JobError::storage("can't open the job ledger", detail));
        }
        let done = usize::try_from(version).unwrap_or(0);
        for statement in STEPS.iter().skip(done).copied().flatten() {
            sqlx::raw_sql(*statement).execute(&mut *change).await.map_err(failed)?;
        }
        sqlx::query("UPDATE pipelines_schema SET version = $1 WHERE id = 1")
            .bind(known)
            .execute(&mut *change)
            .await
            .map_err(failed)?;
        if self.is_exclusive() {
            sqlx::raw_sql("UPDATE pipelines_jobs SET lease_until = 0 WHERE state = 'running'")
                .execute(&mut *change)
                .await
                .map_err(failed)?;
        }
        change.commit().await.map_err(failed)
    }
}
