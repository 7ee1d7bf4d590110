//! Work that one replica does at a time: locks in a shared PostgreSQL registry, held by a connection of their own.
//!
//! A lock saves work, and nothing relies on it: a replica that was paused may believe that it still holds one. When a
//! replica dies its connection ends, and another takes the lock.

use super::Registry;
use super::database::failed;
use ondol_feature_store_api::FeatureStoreError;
use sqlx::postgres::{PgConnection, PgListener};
use sqlx::{Connection, Row};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// The right to do some work. Dropping it lets another replica have it.
pub struct WorkLock {
    _connection: Option<PgConnection>,
}

/// The longest pause before notifications are asked for again.
const RECONNECT: Duration = Duration::from_secs(1);

/// A host that is gone is noticed within half a minute.
const KEEP_ALIVE: &str = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3";

impl Registry {
    /// The right to do `work`, unless another replica has it. A SQLite registry has one replica, which always has it.
    pub async fn lock(&self, work: &str) -> Result<Option<WorkLock>, FeatureStoreError> {
        let Some(url) = &self.shared.database.postgres else {
            return Ok(Some(WorkLock { _connection: None }));
        };
        let mut connection = PgConnection::connect(url)
            .await
            .map_err(|error| failed("connecting to", &error))?;
        sqlx::raw_sql(KEEP_ALIVE)
            .execute(&mut connection)
            .await
            .map_err(|error| failed("setting up", &error))?;
        // Names of the work of other registries in the same database must not meet ours.
        let schema: Option<String> = sqlx::query("SELECT current_schema()::text AS name")
            .fetch_one(&mut connection)
            .await
            .and_then(|row| row.try_get("name"))
            .map_err(|error| failed("reading", &error))?;
        let key = xxh3_64(format!("{}/{work}", schema.unwrap_or_default()).as_bytes()).cast_signed();
        let taken: bool = sqlx::query("SELECT pg_try_advisory_lock($1) AS taken")
            .bind(key)
            .fetch_one(&mut connection)
            .await
            .and_then(|row| row.try_get("taken"))
            .map_err(|error| failed("locking", &error))?;
        Ok(taken.then_some(WorkLock {
            _connection: Some(connection),
        }))
    }

    /// Refreshes the snapshot as soon as another process says that it changed the registry, and every `every` whatever
    /// is said, for ever: the service drops the future to stop it. A failure is logged and counted; the snapshot in
    /// memory goes on serving.
    pub async fn follow(&self, every: Duration) {
        let mut listener = None;
        loop {
            if listener.is_none() {
                listener = self.listen().await;
            }
            // After listening has begun: what was changed before is not told of.
            if let Err(error) = self.refresh().await {
                metrics::counter!("ondol_registry_refresh_failures_total").increment(1);
                tracing::warn!(%error, "the registry can't be read: the last snapshot stays in force");
                tokio::time::sleep(every).await;
                continue;
            }
            match &mut listener {
                Some(changes) => {
                    if let Ok(Err(error)) = tokio::time::timeout(every, changes.recv()).await {
                        tracing::debug!(%error, "the registry's notifications ended: polling until they are back");
                        listener = None;
                        tokio::time::sleep(every.min(RECONNECT)).await;
                    }
                }
                None => tokio::time::sleep(every).await,
            }
        }
    }

    async fn listen(&self) -> Option<PgListener> {
        let url = self.shared.database.postgres.as_ref()?;
        let mut listener = PgListener::connect(url).await.ok()?;
        listener.listen("ondol_registry").await.ok()?;
        Some(listener)
    }
}
