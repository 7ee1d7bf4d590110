//! Jobs as rows: reading, listing, forgetting.

use super::{Kinds, Ledger, count, storage};
use crate::error::JobError;
use ondol_pipelines_api::wire::{Job, JobPage, JobQuery, JobState};
use ondol_vocabulary::EventTime;
use serde::de::DeserializeOwned;
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};

pub(super) const COLUMNS: &str = "id, kind, subject, state, revision, attempt, stage, rows_done, rows_total, \
    rows_per_second, eta_seconds, created_at, started_at, ended_at, error, retry_of, schedule, outcome, manifest";

impl Ledger {
    /// One job.
    pub(crate) async fn job(&self, id: &str) -> Result<Option<Job>, JobError> {
        let query = AssertSqlSafe(format!("SELECT {COLUMNS} FROM pipelines_jobs WHERE id = $1"));
        let row = sqlx::query(query).bind(id.to_owned()).fetch_optional(&self.pool).await;
        row.map_err(|cause| reading(&cause))?.map(|row| job(&row)).transpose()
    }

    /// The request of a job as it was stored; none of jobs from before requests were.
    pub(crate) async fn request(&self, id: &str) -> Result<Option<String>, JobError> {
        let row = sqlx::query("SELECT request FROM pipelines_jobs WHERE id = $1")
            .bind(id.to_owned())
            .fetch_optional(&self.pool)
            .await
            .map_err(|cause| reading(&cause))?;
        let request = row.map(|row| row.try_get::<Option<String>, _>("request"));
        request
            .transpose()
            .map(Option::flatten)
            .map_err(|cause| reading(&cause))
    }

    /// Memory that a job takes.
    pub(crate) async fn memory_mib(&self, id: &str) -> Result<Option<u64>, JobError> {
        let row = sqlx::query("SELECT memory_mib FROM pipelines_jobs WHERE id = $1")
            .bind(id.to_owned())
            .fetch_optional(&self.pool)
            .await;
        row.and_then(|row| row.map(|row| row.try_get("memory_mib")).transpose())
            .map(|mib| mib.map(count))
            .map_err(|cause| reading(&cause))
    }

    /// A page of jobs, newest first.
    pub(crate) async fn jobs(&self, asked: &JobQuery) -> Result<JobPage, JobError> {
        let limit = i64::from(asked.limit.clamp(1, JobQuery::MAX_LIMIT));
        let conditions = [
            ("id < ", asked.after.clone()),
            ("kind = ", asked.kind.clone()),
            ("state = ", asked.state.map(|state| state.name().to_owned())),
            ("subject = ", asked.subject.clone()),
            ("schedule = ", asked.schedule.clone()),
        ];
        let given: Vec<(&str, String)> = conditions
            .into_iter()
            .filter_map(|(condition, value)| Some((condition, value?)))
            .collect();
        let mut sql = format!("SELECT {COLUMNS} FROM pipelines_jobs");
        for (number, (condition, _)) in given.iter().enumerate() {
            let joint = if number == 0 { "WHERE" } else { "AND" };
            sql.push_str(&format!(" {joint} {condition}${}", number + 1));
        }
        sql.push_str(&format!(" ORDER BY id DESC LIMIT ${}", given.len() + 1));
        let query = given
            .into_iter()
            .fold(sqlx::query(AssertSqlSafe(sql)), |query, (_, value)| query.bind(value));
        // One more than asked for tells whether there is a further page.
        let rows = query.bind(limit + 1).fetch_all(&self.pool).await;
        let rows = rows.map_err(|cause| reading(&cause))?;
        let mut jobs: Vec<Job> = rows.iter().map(job).collect::<Result<_, _>>()?;
        let more = jobs.len() as i64 > limit;
        jobs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next = jobs.last().filter(|_| more).map(|job| job.id.clone());
        Ok(JobPage { jobs, next })
    }

    /// Whether a job of this kind that has not ended works on `subject`.
    pub(crate) async fn works_on(&self, kind: &str, subject: &str) -> Result<bool, JobError> {
        let jobs = "SELECT COUNT(*) AS jobs FROM pipelines_jobs
                    WHERE kind = $1 AND subject = $2 AND state IN ('queued', 'running')";
        self.any(jobs, kind, subject).await
    }

    /// Whether there is a job of this kind, ended or not, that worked on `subject`.
    pub(crate) async fn worked_on(&self, kind: &str, subject: &str) -> Result<bool, JobError> {
        let jobs = "SELECT COUNT(*) AS jobs FROM pipelines_jobs WHERE kind = $1 AND subject = $2";
        self.any(jobs, kind, subject).await
    }

    async fn any(&self, jobs: &'static str, kind: &str, subject: &str) -> Result<bool, JobError> {
        let row = sqlx::query(jobs)
            .bind(kind.to_owned())
            .bind(subject.to_owned())
            .fetch_one(&self.pool)
            .await;
        let jobs: i64 = row
            .and_then(|row| row.try_get("jobs"))
            .map_err(|cause| reading(&cause))?;
        Ok(jobs > 0)
    }

    /// How many jobs of these kinds wait.
    pub(crate) async fn queued(&self, kinds: Kinds) -> Result<u64, JobError> {
        let count_them = AssertSqlSafe(format!(
            "SELECT COUNT(*) AS jobs FROM pipelines_jobs WHERE state = 'queued' AND {}",
            kinds.condition()
        ));
        let row = sqlx::query(count_them).fetch_one(&self.pool).await;
        let jobs: i64 = row
            .and_then(|row| row.try_get("jobs"))
            .map_err(|cause| reading(&cause))?;
        Ok(count(jobs))
    }

    /// Removes jobs that ended before `moment`, and keys that have run out `now`.
    pub(crate) async fn forget(&self, moment: EventTime, now: EventTime) -> Result<(), JobError> {
        let jobs = sqlx::query("DELETE FROM pipelines_jobs WHERE ended_at < $1").bind(moment.micros());
        self.run(jobs, "remove old jobs from the ledger").await?;
        let keys = sqlx::query("DELETE FROM pipelines_keys WHERE expires_at < $1").bind(now.micros());
        self.run(keys, "remove old keys from the ledger").await?;
        Ok(())
    }
}

pub(super) fn reading(cause: &sqlx::Error) -> JobError {
    storage("read the job ledger", cause)
}

pub(super) fn job(row: &AnyRow) -> Result<Job, JobError> {
    let read = || -> Result<Job, sqlx::Error> {
        let state: String = row.try_get("state")?;
        let state: JobState = state
            .parse()
            .map_err(|cause: String| sqlx::Error::Decode(cause.into()))?;
        let moment = |column: &str| {
            row.try_get::<Option<i64>, _>(column)
                .map(|at| at.map(EventTime::from_micros))
        };
        let counted = |column: &str| row.try_get::<Option<i64>, _>(column).map(|value| value.map(count));
        Ok(Job {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            subject: row.try_get("subject")?,
            state,
            revision: count(row.try_get("revision")?),
            attempt: u32::try_from(row.try_get::<i64, _>("attempt")?).unwrap_or(u32::MAX),
            stage: row.try_get("stage")?,
            rows_done: count(row.try_get("rows_done")?),
            rows_total: counted("rows_total")?,
            rows_per_second: counted("rows_per_second")?,
            eta_seconds: counted("eta_seconds")?,
            created_at: EventTime::from_micros(row.try_get("created_at")?),
            started_at: moment("started_at")?,
            ended_at: moment("ended_at")?,
            error: row.try_get("error")?,
            retry_of: row.try_get("retry_of")?,
            schedule: row.try_get("schedule")?,
            outcome: document(row, "outcome")?,
            manifest: document(row, "manifest")?,
        })
    };
    read().map_err(|cause| reading(&cause))
}

/// JSON in a column that may be null.
fn document<T: DeserializeOwned>(row: &AnyRow, column: &str) -> Result<Option<T>, sqlx::Error> {
    let text: Option<String> = row.try_get(column)?;
    let document = text.map(|json| serde_json::from_str(&json)).transpose();
    document.map_err(|cause| sqlx::Error::Decode(cause.into()))
}
