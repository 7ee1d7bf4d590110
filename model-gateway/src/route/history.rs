//! Revisions of routings in the model database: added, never changed.

use crate::catalog::{Catalog, CatalogError};
use crate::route::epochs::Epochs;
use crate::route::slots::Layout;
use ondol_model_gateway_api::wire::RoutingRevision;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use std::collections::BTreeMap;

/// Revisions by model. The newest of a model is in force.
pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS gateway_routing (
    model TEXT NOT NULL,
    revision BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    description TEXT NOT NULL,
    PRIMARY KEY (model, revision)
)";

/// A revision as stored: what callers see, and what follows from it and its history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredRevision {
    /// What callers see.
    pub revision: RoutingRevision,
    /// Where the keys of the split are; none without a split.
    pub layout: Option<Layout>,
    /// Since when its versions are measured.
    pub epochs: Epochs,
}

impl StoredRevision {
    /// What stands before anything is set.
    pub fn unset(model: &str) -> Self {
        Self {
            revision: RoutingRevision::unset(model),
            layout: None,
            epochs: Epochs::default(),
        }
    }
}

/// What tells whether the database has changed since it was read last: rows are only ever added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    versions: i64,
    revisions: i64,
}

impl Catalog {
    /// Where the database stands.
    pub async fn mark(&self) -> Result<Mark, CatalogError> {
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM gateway_model_versions) AS versions,
                    (SELECT COUNT(*) FROM gateway_routing) AS revisions",
        )
        .fetch_one(self.pool())
        .await?;
        Ok(Mark {
            versions: row.try_get("versions")?,
            revisions: row.try_get("revisions")?,
        })
    }

    /// The revisions in force, by model.
    pub async fn routings(&self) -> Result<BTreeMap<String, StoredRevision>, CatalogError> {
        let rows = sqlx::query(
            "SELECT model, revision, description FROM gateway_routing AS routing
             WHERE revision = (SELECT MAX(revision) FROM gateway_routing AS newer WHERE newer.model = routing.model)",
        )
        .fetch_all(self.pool())
        .await?;
        let revisions = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(revisions
            .into_iter()
            .map(|stored| (stored.revision.model.clone(), stored))
            .collect())
    }

    /// Every revision of `model`, newest first.
    pub async fn routing_history(&self, model: &str) -> Result<Vec<StoredRevision>, CatalogError> {
        let rows = sqlx::query(
            "SELECT model, revision, description FROM gateway_routing WHERE model = $1 ORDER BY revision DESC",
        )
        .bind(model)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
    }

    /// Adds a revision; `false` when another of its number is there already. Durable when it returns.
    pub async fn add_routing(&self, stored: &StoredRevision) -> Result<bool, CatalogError> {
        let RoutingRevision { model, revision, .. } = &stored.revision;
        let description = serde_json::to_string(stored).map_err(|source| unreadable(model, *revision, source))?;
        let inserted = sqlx::query(
            "INSERT INTO gateway_routing (model, revision, changed_at, description) VALUES ($1, $2, $3, $4)",
        )
        .bind(model.as_str())
        .bind(i64::try_from(*revision).unwrap_or(i64::MAX))
        .bind(stored.revision.changed_at.map_or(0, |time| time.micros()))
        .bind(description)
        .execute(self.pool())
        .await;
        match inserted {
            Ok(_) => Ok(true),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn read(row: &sqlx::any::AnyRow) -> Result<StoredRevision, CatalogError> {
    let model: String = row.try_get("model")?;
    let revision: i64 = row.try_get("revision")?;
    let description: String = row.try_get("description")?;
    serde_json::from_str(&description)
        .map_err(|source| unreadable(&model, u64::try_from(revision).unwrap_or_default(), source))
}

fn unreadable(model: &str, revision: u64, source: serde_json::Error) -> CatalogError {
    CatalogError::Unreadable {
        model: format!("{model}, routing revision {revision}"),
        source,
    }
}
