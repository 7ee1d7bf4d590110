//! The model database: one row per registered version, never changed; beside them the routings
//! ([`crate::route::history`]) and what was measured ([`crate::route::measurements`]). SQLite or PostgreSQL, by URL.

use crate::route::{history, measurements};
use ondol_model_gateway_api::wire::RegisteredModel;
use ondol_vocabulary::{ModelDefinition, VersionedName, ViewDefinition};
use serde::{Deserialize, Serialize};
use sqlx::AnyPool;
use sqlx::Row as _;
use sqlx::any::AnyPoolOptions;
use std::sync::Once;
use std::time::Duration;

/// Attempts to take the next version number when several registrations race for it.
const ATTEMPTS: usize = 10;

/// Versions. Its rows are added and never changed.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS gateway_model_versions (
    model TEXT NOT NULL,
    version BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    registered_at BIGINT NOT NULL,
    definition_version BIGINT NOT NULL,
    description TEXT NOT NULL,
    PRIMARY KEY (model, version)
)";

/// Why the catalog can't answer.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The database failed.
    #[error("the model database failed")]
    Database(#[from] sqlx::Error),
    /// A stored row is not of this gateway's form.
    #[error("the model database holds an unreadable description of {model}")]
    Unreadable {
        /// The version.
        model: String,
        /// Why.
        source: serde_json::Error,
    },
    /// Every attempt lost the race for a version number.
    #[error("version numbers of `{model}` are contended: try again")]
    Contended {
        /// The model.
        model: String,
    },
}

/// A registered version: what callers see, and the definition it was checked against and is scored by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// What callers see.
    pub registered: RegisteredModel,
    /// The model definition at registration. A later definition does not change how this version is scored.
    pub definition: ModelDefinition,
    /// The views of its vector as they were at registration. Empty in records of older gateways.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<ViewDefinition>,
}

/// The model database.
#[derive(Clone, Debug)]
pub struct Catalog {
    pool: AnyPool,
}

impl Catalog {
    /// Connects, and makes the tables if they are not there.
    pub async fn open(url: &str) -> Result<Self, CatalogError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        // One connection suffices for what is read at start and written at registration, and keeps SQLite free of
        // writers that wait for each other.
        let pool = AnyPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(10))
            .connect(url)
            .await?;
        // PostgreSQL may refuse one of two gateways that make the table at the same moment: by then it is there.
        for table in [TABLE, history::TABLE, measurements::TABLE] {
            if sqlx::query(table).execute(&pool).await.is_err() {
                sqlx::query(table).execute(&pool).await?;
            }
        }
        Ok(Self { pool })
    }

    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Every version, by model and then oldest first.
    pub async fn versions(&self) -> Result<Vec<VersionRecord>, CatalogError> {
        let rows =
            sqlx::query("SELECT model, version, description FROM gateway_model_versions ORDER BY model, version")
                .fetch_all(&self.pool)
                .await?;
        rows.iter()
            .map(|row| {
                let model: String = row.try_get("model")?;
                let version: i64 = row.try_get("version")?;
                let description: String = row.try_get("description")?;
                serde_json::from_str(&description).map_err(|source| CatalogError::Unreadable {
                    model: format!("{model}@{version}"),
                    source,
                })
            })
            .collect()
    }

    /// Adds `record` as its model's next version, whose number it returns. Durable when it returns.
    pub async fn add(&self, mut record: VersionRecord) -> Result<VersionRecord, CatalogError> {
        let model = record.registered.model.name.clone();
        for _ in 0..ATTEMPTS {
            let next = self.next_version(&model).await?;
            record.registered.model = VersionedName::new(&model, next);
            match self.insert(&record).await {
                Ok(()) => return Ok(record),
                Err(CatalogError::Database(sqlx::Error::Database(error))) if error.is_unique_violation() => {}
                Err(error) => return Err(error),
            }
        }
        Err(CatalogError::Contended { model })
    }

    async fn next_version(&self, model: &str) -> Result<u32, CatalogError> {
        let row =
            sqlx::query("SELECT COALESCE(MAX(version), 0) AS newest FROM gateway_model_versions WHERE model = $1")
                .bind(model)
                .fetch_one(&self.pool)
                .await?;
        let newest: i64 = row.try_get("newest")?;
        Ok(u32::try_from(newest).unwrap_or(u32::MAX - 1) + 1)
    }

    async fn insert(&self, record: &VersionRecord) -> Result<(), CatalogError> {
        let registered = &record.registered;
        let model = registered.model.to_string();
        let description = serde_json::to_string(record).map_err(|source| CatalogError::Unreadable { model, source })?;
        sqlx::query(
            "INSERT INTO gateway_model_versions (model, version, sha256, registered_at, definition_version, description)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(registered.model.name.as_str())
        .bind(i64::from(registered.model.version))
        .bind(registered.sha256.as_str())
        .bind(registered.registered_at.micros())
        .bind(i64::from(registered.definition_version))
        .bind(description)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
