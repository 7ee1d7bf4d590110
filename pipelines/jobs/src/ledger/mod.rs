//! The job ledger: every job with its request, in SQLite or PostgreSQL, so that a restart forgets none and several
//! instances share the work.
//!
//! A job's row says where it stands; who moves it must be the one the row names. Starting a job raises its `attempt` and
//! gives it a lease (`lease_until`, in the database's own time, so that clocks of instances need not agree). The owner
//! renews the lease and writes the end under that attempt; once the lease has run out another instance may start the
//! next attempt, and what the former owner still writes finds no row: the attempt is the fence. Whatever a job publishes
//! carries its attempt too.
//!
//! Changes that must see each other (submissions and their keys, the queue's bound, schedules) take one row's lock.

mod keys;
mod kinds;
mod leases;
mod lock;
mod rows;
mod schedules;
mod schema;
mod submission;

use crate::error::JobError;
use lock::FileLock;
use sqlx::AnyPool;
use sqlx::any::{AnyArguments, AnyPoolOptions};
use sqlx::query::Query;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use keys::KeyDigest;
pub(crate) use kinds::Kinds;
pub(crate) use leases::Claimed;
pub(crate) use schedules::{Firing, ScheduleRow};
pub(crate) use submission::{Submission, Submitted};

/// PostgreSQL's present in microseconds.
const POSTGRES_NOW: &str = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)";
/// SQLite's present in microseconds (to about 50 of them: a day is counted in a double).
const SQLITE_NOW: &str = "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)";
/// Connections of an instance to a PostgreSQL ledger.
const CONNECTIONS: u32 = 6;

/// The job ledger. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Ledger {
    pool: AnyPool,
    /// The database's present, as an expression.
    now: &'static str,
    /// Held while a SQLite ledger is open: one process at a time may use it.
    lock: Option<Arc<FileLock>>,
}

impl Ledger {
    /// Opens the ledger at `url`, creates or upgrades its tables.
    pub(crate) async fn open(url: &str) -> Result<Self, JobError> {
        sqlx::any::install_default_drivers();
        let embedded = url.starts_with("sqlite:");
        if !embedded && !url.starts_with("postgres:") && !url.starts_with("postgresql:") {
            let scheme = url.split(':').next().unwrap_or(url);
            let remedy = format!("`{scheme}:` is not supported: use sqlite://path or postgres://host/database");
            return Err(JobError::storage("can't open the job ledger", remedy));
        }
        let lock = match embedded {
            true => FileLock::of_ledger(url).await?.map(Arc::new),
            false => None,
        };
        let options = AnyPoolOptions::new()
            // SQLite has one writer: a second connection would only wait on the first one's lock.
            .max_connections(if embedded { 1 } else { CONNECTIONS })
            .acquire_timeout(Duration::from_secs(10));
        let pool = if embedded {
            let separator = if url.contains('?') { "" } else { "?mode=rwc" };
            let options = options.after_connect(|connection, _| {
                Box::pin(async move {
                    for pragma in [
                        "PRAGMA busy_timeout = 10000",
                        "PRAGMA journal_mode = WAL",
                        "PRAGMA synchronous = FULL",
                    ] {
                        sqlx::raw_sql(pragma).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            });
            options.connect(&format!("{url}{separator}")).await
        } else {
            options.connect(url).await
        };
        let ledger = Self {
            pool: pool.map_err(|cause| storage("open the job ledger", &cause))?,
            now: if embedded { SQLITE_NOW } else { POSTGRES_NOW },
            lock,
        };
        ledger.upgrade(embedded).await?;
        Ok(ledger)
    }

    /// The ledger's database, for what else the pipelines note there.
    pub(crate) fn pool(&self) -> AnyPool {
        self.pool.clone()
    }

    /// Whether no other instance can use this ledger: what nobody here works on, nobody works on.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.lock.is_some()
    }

    /// Runs a statement; returns how many rows it changed.
    async fn run(&self, query: Query<'_, sqlx::Any, AnyArguments>, action: &str) -> Result<u64, JobError> {
        query
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected())
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

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
