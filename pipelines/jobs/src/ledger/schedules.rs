//! Schedules as rows.

use super::rows::reading;
use super::{Ledger, storage};
use crate::error::JobError;
use ondol_pipelines_api::wire::Job;
use ondol_vocabulary::EventTime;
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Row, Transaction};

const COLUMNS: &str = "name, cron, zone, request, paused, created_at, next_at, last_run_at, last_job, last_error";

/// A schedule as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScheduleRow {
    /// Its name.
    pub name: String,
    /// The cron expression.
    pub cron: String,
    /// The time zone.
    pub zone: String,
    /// What is submitted, as JSON.
    pub request: String,
    /// Whether it rests.
    pub paused: bool,
    /// When it was made.
    pub created_at: EventTime,
    /// When it is due next.
    pub next_at: EventTime,
    /// When it last submitted a job.
    pub last_run_at: Option<EventTime>,
    /// That job.
    pub last_job: Option<String>,
    /// Why the last run could not be submitted.
    pub last_error: Option<String>,
}

/// A schedule that was found due, and when it will be due again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Firing {
    /// The schedule.
    pub name: String,
    /// When it was due.
    pub due_at: EventTime,
    /// When it is due next.
    pub next_at: EventTime,
}

impl Firing {
    /// Notes that `job` is this run's. `false` when the run was taken by another instance, or the schedule was changed.
    pub(super) async fn take(&self, change: &mut Transaction<'_, Any>, job: &Job) -> Result<bool, JobError> {
        let update = sqlx::query(
            "UPDATE pipelines_schedules SET next_at = $3, last_run_at = $4, last_job = $5, last_error = NULL
             WHERE name = $1 AND next_at = $2 AND paused = 0",
        );
        let taken = update
            .bind(self.name.clone())
            .bind(self.due_at.micros())
            .bind(self.next_at.micros())
            .bind(job.created_at.micros())
            .bind(job.id.clone())
            .execute(&mut **change)
            .await;
        let taken = taken.map_err(|cause| storage("write a schedule's run to the ledger", &cause))?;
        Ok(taken.rows_affected() > 0)
    }
}

impl Ledger {
    /// Adds a schedule. `false` when its name is taken.
    pub(crate) async fn add_schedule(&self, row: &ScheduleRow) -> Result<bool, JobError> {
        let insert = sqlx::query(
            "INSERT INTO pipelines_schedules (name, cron, zone, request, paused, created_at, next_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) DO NOTHING",
        );
        let insert = insert
            .bind(row.name.clone())
            .bind(row.cron.clone())
            .bind(row.zone.clone())
            .bind(row.request.clone())
            .bind(i64::from(row.paused))
            .bind(row.created_at.micros())
            .bind(row.next_at.micros());
        Ok(self.run(insert, "write a schedule to the ledger").await? > 0)
    }

    /// Every schedule, by name.
    pub(crate) async fn schedules(&self) -> Result<Vec<ScheduleRow>, JobError> {
        let query = AssertSqlSafe(format!("SELECT {COLUMNS} FROM pipelines_schedules ORDER BY name"));
        let rows = sqlx::query(query).fetch_all(&self.pool).await;
        let rows = rows.map_err(|cause| reading(&cause))?;
        rows.iter().map(schedule).collect()
    }

    /// One schedule.
    pub(crate) async fn schedule(&self, name: &str) -> Result<Option<ScheduleRow>, JobError> {
        let query = AssertSqlSafe(format!("SELECT {COLUMNS} FROM pipelines_schedules WHERE name = $1"));
        let row = sqlx::query(query)
            .bind(name.to_owned())
            .fetch_optional(&self.pool)
            .await;
        row.map_err(|cause| reading(&cause))?.as_ref().map(schedule).transpose()
    }

    /// Schedules that are due by `now`, and whose last job has ended.
    pub(crate) async fn due_schedules(&self, now: EventTime) -> Result<Vec<ScheduleRow>, JobError> {
        let query = AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM pipelines_schedules
             WHERE paused = 0 AND next_at <= $1 AND NOT EXISTS (
                 SELECT 1 FROM pipelines_jobs
                 WHERE pipelines_jobs.id = pipelines_schedules.last_job
                 AND pipelines_jobs.state IN ('queued', 'running'))
             ORDER BY next_at"
        ));
        let rows = sqlx::query(query).bind(now.micros()).fetch_all(&self.pool).await;
        let rows = rows.map_err(|cause| reading(&cause))?;
        rows.iter().map(schedule).collect()
    }

    /// Lets a schedule rest, or go on with `next_at`.
    pub(crate) async fn pause_schedule(&self, name: &str, paused: bool, next_at: EventTime) -> Result<(), JobError> {
        let update = sqlx::query("UPDATE pipelines_schedules SET paused = $2, next_at = $3 WHERE name = $1");
        let update = update
            .bind(name.to_owned())
            .bind(i64::from(paused))
            .bind(next_at.micros());
        self.run(update, "write a schedule to the ledger").await.map(drop)
    }

    /// Notes that a run could not be submitted. The schedule waits for its next one.
    pub(crate) async fn skip_run(&self, firing: &Firing, error: &str) -> Result<(), JobError> {
        let update = sqlx::query(
            "UPDATE pipelines_schedules SET next_at = $3, last_error = $4 WHERE name = $1 AND next_at = $2",
        );
        let update = update
            .bind(firing.name.clone())
            .bind(firing.due_at.micros())
            .bind(firing.next_at.micros())
            .bind(error.to_owned());
        self.run(update, "write a schedule's run to the ledger").await.map(drop)
    }

    /// Removes a schedule.
    pub(crate) async fn remove_schedule(&self, name: &str) -> Result<(), JobError> {
        let delete = sqlx::query("DELETE FROM pipelines_schedules WHERE name = $1").bind(name.to_owned());
        self.run(delete, "remove a schedule from the ledger").await.map(drop)
    }
}

fn schedule(row: &AnyRow) -> Result<ScheduleRow, JobError> {
    let read = || -> Result<ScheduleRow, sqlx::Error> {
        let moment = |column: &str| row.try_get::<i64, _>(column).map(EventTime::from_micros);
        Ok(ScheduleRow {
            name: row.try_get("name")?,
            cron: row.try_get("cron")?,
            zone: row.try_get("zone")?,
            request: row.try_get("request")?,
            paused: row.try_get::<i64, _>("paused")? != 0,
            created_at: moment("created_at")?,
            next_at: moment("next_at")?,
            last_run_at: row
                .try_get::<Option<i64>, _>("last_run_at")?
                .map(EventTime::from_micros),
            last_job: row.try_get("last_job")?,
            last_error: row.try_get("last_error")?,
        })
    };
    read().map_err(|cause| reading(&cause))
}
