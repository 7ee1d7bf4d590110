//! How far each view version has been given a batch source's rows: in the ledger's database, so that the next run, also
//! after a crash, brings what is new and nothing else.
//!
//! A reach is noted twice: *begun* before the first row is delivered, *reached* once the store has made all of them
//! durable. In between, a view may have any of the rows; a later run delivers them again, which changes nothing, and
//! knows which of them may have to be taken away.

use crate::error::JobError;
use crate::table::Table;
use ondol_vocabulary::SourceDefinition;
use serde::{Deserialize, Serialize};
use sqlx::{AnyPool, Row};
use std::collections::{BTreeMap, HashMap};

const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS pipelines_materialized (view_id BIGINT PRIMARY KEY, reach TEXT NOT NULL)";

/// A state of a table, as far as later ones must be told from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Extent {
    /// A Delta table's version.
    Version(i64),
    /// Files without a log, each with what changes when it is written again.
    Files(BTreeMap<String, String>),
}

/// How far one view version has been given the rows of its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reach {
    /// Which table it was.
    pub table: Identity,
    /// What it has been given all rows of, durably.
    pub reached: Option<Extent>,
    /// What it may have been given some rows of.
    pub begun: Option<Extent>,
    /// Time of the newest row it has been given.
    pub newest: Option<i64>,
}

/// What makes a table the same one that a view was given rows of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    location: String,
    lineage: Option<String>,
    time: String,
}

impl Reach {
    /// As if the view had been given everything that a run had begun to give it.
    pub(super) fn as_if_ended(&self) -> Option<Self> {
        let begun = self.begun.clone().or_else(|| self.reached.clone())?;
        Some(Self {
            reached: Some(begun),
            begun: None,
            ..self.clone()
        })
    }
}

impl Identity {
    pub(super) fn of(table: &Table, source: &SourceDefinition) -> Self {
        Self {
            location: table.location.clone(),
            lineage: table.lineage.clone(),
            time: source.time.clone(),
        }
    }
}

impl Extent {
    pub(super) fn of(table: &Table) -> Self {
        match table.version() {
            Some(version) => Self::Version(version),
            None => Self::Files(
                table
                    .files
                    .iter()
                    .map(|file| (file.path().to_owned(), file.fingerprint()))
                    .collect(),
            ),
        }
    }
}

/// The reaches of all view versions. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Reaches {
    pool: AnyPool,
}

impl Reaches {
    /// In the database of `pool`.
    pub(crate) async fn open(pool: AnyPool) -> Result<Self, JobError> {
        // Two instances that start at once may both find that there is none; the second attempt finds one.
        if sqlx::query(CREATE).execute(&pool).await.is_err() {
            sqlx::query(CREATE)
                .execute(&pool)
                .await
                .map_err(|cause| storage("can't note how far sources are materialized", &cause))?;
        }
        Ok(Self { pool })
    }

    /// Those of `views`; a view that nothing is known of has none.
    pub(super) async fn of(&self, views: impl Iterator<Item = u32>) -> Result<HashMap<u32, Reach>, JobError> {
        let mut reaches = HashMap::new();
        for view in views {
            let row = sqlx::query("SELECT reach FROM pipelines_materialized WHERE view_id = $1")
                .bind(i64::from(view))
                .fetch_optional(&self.pool)
                .await
                .map_err(|cause| storage("can't read how far a source is materialized", &cause))?;
            let Some(row) = row else { continue };
            let text: String = row
                .try_get("reach")
                .map_err(|cause| storage("can't read how far a source is materialized", &cause))?;
            match serde_json::from_str(&text) {
                Ok(reach) => drop(reaches.insert(view, reach)),
                // Of a later version of this program: then everything is delivered again.
                Err(error) => tracing::warn!(view, %error, "how far a view is materialized is unreadable"),
            }
        }
        Ok(reaches)
    }

    /// Notes the reach of `views`. When this returns it survives a crash.
    pub(super) async fn note(&self, views: &[u32], reach: &Reach) -> Result<(), JobError> {
        let text = serde_json::to_string(reach).map_err(JobError::internal)?;
        for view in views {
            sqlx::query(
                "INSERT INTO pipelines_materialized (view_id, reach) VALUES ($1, $2)
                 ON CONFLICT (view_id) DO UPDATE SET reach = excluded.reach",
            )
            .bind(i64::from(*view))
            .bind(text.clone())
            .execute(&self.pool)
            .await
            .map_err(|cause| storage("can't note how far a source is materialized", &cause))?;
        }
        Ok(())
    }
}

fn storage(action: &str, cause: &sqlx::Error) -> JobError {
    JobError::storage(action, cause)
}
