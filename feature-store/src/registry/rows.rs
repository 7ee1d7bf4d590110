//! The rows of view versions: how far they are built, which are built anew, and which nobody reads any more.
//!
//! Rows are named by a view id. A version has the id it was applied with until a rebuild takes its place: new rows
//! under a new id, built like those of a new version, which stand in the snapshot beside the ones that serve, as
//! `provisioning`. Activating them gives the version its new id, in one transaction, and discards the old rows.

use super::catalog::{Catalog, Noun, OpenRebuild};
use super::database::{Change, failed, optional, text, unsigned};
use super::{Registry, unknown};
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::{Rebuild, RebuildState};
use ondol_vocabulary::{EventTime, ViewState};
use sqlx::Row;
use sqlx::any::AnyRow;

/// How far a view version's rows are built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowsProgress {
    /// Events read.
    pub done: u64,
    /// Events to read, where known.
    pub total: Option<u64>,
}

impl Registry {
    /// Begins to build new rows for the views that `names` name, by themselves or by their source; all views when it is
    /// empty. A view whose rows are being built anew already is left at that. Answers the rebuilds of those views.
    pub async fn rebuild(&self, names: &[String]) -> Result<Vec<Rebuild>, FeatureStoreError> {
        let mut change = self.shared.database.change().await?;
        let mut catalog = change.catalog().await?;
        let chosen = chosen(&catalog, names)?;
        let mut begun = false;
        for (name, version, source) in &chosen {
            let open = |rebuild: &OpenRebuild| rebuild.name == *name && rebuild.version == *version;
            if catalog.rebuilds.iter().any(open) {
                continue;
            }
            change
                .begin_rebuild(catalog.next_view_id, name, *version, source)
                .await?;
            catalog.next_view_id += 1;
            begun = true;
        }
        if begun {
            change.next_version().await?;
        }
        let snapshot = change.catalog().await?.snapshot();
        change.commit().await?;
        self.publish(&snapshot);
        let mut rebuilds = self.rebuilds().await?;
        rebuilds.retain(|rebuild| chosen.iter().any(|(name, ..)| *name == rebuild.view));
        Ok(rebuilds)
    }

    /// The newest rebuild of each view that serves, and the views that need one.
    pub async fn rebuilds(&self) -> Result<Vec<Rebuild>, FeatureStoreError> {
        let rows = sqlx::query(
            "SELECT d.name, d.version, d.definition, d.view_id AS serving, w.losses AS whole_since, l.losses,
                r.state, r.started_at, r.finished_at, p.rows_done, p.rows_total, p.error
             FROM definition_versions d CROSS JOIN online_lives l
             LEFT JOIN view_rows w ON w.view_id = d.view_id
             LEFT JOIN rebuilds r ON r.view_id = (SELECT MAX(view_id) FROM rebuilds
                WHERE rebuilds.name = d.name AND rebuilds.version = d.version)
             LEFT JOIN view_rows p ON p.view_id = r.view_id
             WHERE d.noun = 'view' AND d.state = 'active' ORDER BY d.name",
        )
        .fetch_all(&self.shared.database.pool)
        .await
        .map_err(|error| failed("reading", &error))?;
        let found = rows.iter().map(rebuild).collect::<Result<Vec<_>, _>>()?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Notes that the rows of a view version are built from the beginning, in `life` of the online store. What an
    /// earlier attempt noted in another life no longer counts.
    pub async fn begin_rows(&self, view_id: u32, life: &str) -> Result<(), FeatureStoreError> {
        let mut change = self.shared.database.change().await?;
        let before = sqlx::query("SELECT life FROM view_rows WHERE view_id = $1")
            .bind(i64::from(view_id))
            .fetch_optional(&mut *change.transaction)
            .await
            .map_err(|error| failed("reading", &error))?;
        let same = match &before {
            Some(row) => text(row, "life")? == life,
            None => false,
        };
        if !same {
            sqlx::query("DELETE FROM provisioned_generations WHERE view_id = $1")
                .bind(i64::from(view_id))
                .execute(&mut *change.transaction)
                .await
                .map_err(|error| failed("writing", &error))?;
        }
        change.begin_rows(view_id).await?;
        sqlx::query("UPDATE view_rows SET life = $2 WHERE view_id = $1")
            .bind(i64::from(view_id))
            .bind(life)
            .execute(&mut *change.transaction)
            .await
            .map_err(|error| failed("writing", &error))?;
        change.commit().await
    }

    /// Notes how far the rows of a view version are built, or why they can't be.
    pub async fn set_progress(
        &self,
        view_id: u32,
        progress: RowsProgress,
        error: Option<&str>,
    ) -> Result<(), FeatureStoreError> {
        sqlx::query("UPDATE view_rows SET rows_done = $2, rows_total = $3, error = $4 WHERE view_id = $1")
            .bind(i64::from(view_id))
            .bind(i64::try_from(progress.done).unwrap_or(i64::MAX))
            .bind(progress.total.map(|total| i64::try_from(total).unwrap_or(i64::MAX)))
            .bind(error.map(str::to_owned))
            .execute(&self.shared.database.pool)
            .await
            .map(drop)
            .map_err(|error| failed("writing", &error))
    }

    /// Whether a view version's rows, if any are built, were begun in `life` of the online store.
    pub async fn rows_began_in(&self, view_id: u32, life: &str) -> Result<bool, FeatureStoreError> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS others FROM view_rows WHERE view_id = $1 AND life <> '' AND life <> $2
             AND view_id NOT IN (SELECT view_id FROM definition_versions WHERE state = 'active' AND view_id IS NOT NULL)",
        )
        .bind(i64::from(view_id))
        .bind(life)
        .fetch_one(&self.shared.database.pool)
        .await
        .map_err(|error| failed("reading", &error))?;
        Ok(unsigned::<u64>(&row, "others")? == 0)
    }

    /// Ids of rows that nobody has read since `before`.
    pub async fn discarded_rows(&self, before: EventTime) -> Result<Vec<u32>, FeatureStoreError> {
        let rows = sqlx::query("SELECT view_id FROM discarded_rows WHERE since <= $1 ORDER BY view_id")
            .bind(before.micros())
            .fetch_all(&self.shared.database.pool)
            .await
            .map_err(|error| failed("reading", &error))?;
        rows.iter().map(|row| unsigned(row, "view_id")).collect()
    }

    /// Notes that discarded rows are gone from the online store.
    pub async fn forget_discarded(&self, view_id: u32) -> Result<(), FeatureStoreError> {
        sqlx::query("DELETE FROM discarded_rows WHERE view_id = $1")
            .bind(i64::from(view_id))
            .execute(&self.shared.database.pool)
            .await
            .map(drop)
            .map_err(|error| failed("writing", &error))
    }
}

impl Change {
    pub(super) async fn open_rebuilds(&mut self) -> Result<Vec<OpenRebuild>, FeatureStoreError> {
        let rows = sqlx::query("SELECT view_id, name, version FROM rebuilds WHERE state = 'open' ORDER BY view_id")
            .fetch_all(&mut *self.transaction)
            .await
            .map_err(|error| failed("reading", &error))?;
        let open = |row: &AnyRow| {
            Ok(OpenRebuild {
                view_id: unsigned(row, "view_id")?,
                name: text(row, "name")?,
                version: unsigned(row, "version")?,
            })
        };
        rows.iter().map(open).collect()
    }

    /// The rows are whole as of the losses so far, and nothing of them is built.
    pub(super) async fn begin_rows(&mut self, view_id: u32) -> Result<(), FeatureStoreError> {
        sqlx::query(
            "INSERT INTO view_rows (view_id, losses, life, rows_done, rows_total, error)
             VALUES ($1, (SELECT losses FROM online_lives WHERE id = 1), '', 0, NULL, NULL)
             ON CONFLICT (view_id) DO UPDATE SET losses = excluded.losses, rows_done = 0, rows_total = NULL, error = NULL",
        )
        .bind(i64::from(view_id))
        .execute(&mut *self.transaction)
        .await
        .map(drop)
        .map_err(|error| failed("writing", &error))
    }

    async fn begin_rebuild(
        &mut self,
        view_id: u32,
        name: &str,
        version: u32,
        source: &str,
    ) -> Result<(), FeatureStoreError> {
        sqlx::query(
            "INSERT INTO rebuilds (view_id, name, version, source, state, started_at) VALUES ($1, $2, $3, $4, 'open', $5)",
        )
        .bind(i64::from(view_id))
        .bind(name)
        .bind(i64::from(version))
        .bind(source)
        .bind(EventTime::now().micros())
        .execute(&mut *self.transaction)
        .await
        .map_err(|error| failed("writing", &error))?;
        self.begin_rows(view_id).await
    }

    /// Lets the rows of `rebuild` serve in place of the present ones of its version.
    pub(super) async fn finish_rebuild(&mut self, rebuild: &OpenRebuild, before: u32) -> Result<(), FeatureStoreError> {
        self.discard(before).await?;
        sqlx::query("UPDATE definition_versions SET view_id = $1 WHERE noun = 'view' AND name = $2 AND version = $3")
            .bind(i64::from(rebuild.view_id))
            .bind(&rebuild.name)
            .bind(i64::from(rebuild.version))
            .execute(&mut *self.transaction)
            .await
            .map_err(|error| failed("writing", &error))?;
        self.close_rebuild(rebuild.view_id, "done").await
    }

    /// Discards the rows of a view version that no longer counts, and those that were to take their place.
    pub(super) async fn discard_rows_of(&mut self, name: &str, version: u32) -> Result<(), FeatureStoreError> {
        let row =
            sqlx::query("SELECT view_id FROM definition_versions WHERE noun = 'view' AND name = $1 AND version = $2")
                .bind(name)
                .bind(i64::from(version))
                .fetch_optional(&mut *self.transaction)
                .await
                .map_err(|error| failed("reading", &error))?;
        if let Some(view_id) = row.as_ref().map(|row| optional(row, "view_id")).transpose()?.flatten() {
            self.discard(view_id).await?;
            self.forget_provisioning(view_id).await?;
        }
        for rebuild in self.open_rebuilds().await? {
            if rebuild.name == name && rebuild.version == version {
                self.discard(rebuild.view_id).await?;
                self.close_rebuild(rebuild.view_id, "dropped").await?;
            }
        }
        Ok(())
    }

    async fn close_rebuild(&mut self, view_id: u32, state: &str) -> Result<(), FeatureStoreError> {
        self.forget_provisioning(view_id).await?;
        sqlx::query("UPDATE rebuilds SET state = $2, finished_at = $3 WHERE view_id = $1")
            .bind(i64::from(view_id))
            .bind(state)
            .bind(EventTime::now().micros())
            .execute(&mut *self.transaction)
            .await
            .map(drop)
            .map_err(|error| failed("writing", &error))
    }

    async fn discard(&mut self, view_id: u32) -> Result<(), FeatureStoreError> {
        sqlx::query("INSERT INTO discarded_rows (view_id, since) VALUES ($1, $2) ON CONFLICT (view_id) DO NOTHING")
            .bind(i64::from(view_id))
            .bind(EventTime::now().micros())
            .execute(&mut *self.transaction)
            .await
            .map(drop)
            .map_err(|error| failed("writing", &error))
    }
}

/// The views that serve and that `names` name, as (name, version, source).
fn chosen(catalog: &Catalog, names: &[String]) -> Result<Vec<(String, u32, String)>, FeatureStoreError> {
    let snapshot = catalog.snapshot();
    let serving = || snapshot.views.iter().filter(|view| view.state == ViewState::Active);
    for name in names {
        if serving().any(|view| view.definition.name == *name || view.definition.source == *name) {
            continue;
        }
        if catalog.current(Noun::View, name).is_some() {
            return Err(FeatureStoreError::NotActive { view: name.clone() });
        }
        let known = serving().flat_map(|view| [view.definition.name.as_str(), view.definition.source.as_str()]);
        return Err(unknown("view or source", name, crate::read::nearest(name, known)));
    }
    let wanted = serving().filter(|view| {
        let named = |name: &String| view.definition.name == *name || view.definition.source == *name;
        names.is_empty() || names.iter().any(named)
    });
    Ok(wanted
        .map(|view| {
            (
                view.definition.name.clone(),
                view.version,
                view.definition.source.clone(),
            )
        })
        .collect())
}

/// None where there is neither a rebuild nor a need for one.
fn rebuild(row: &AnyRow) -> Result<Option<Rebuild>, FeatureStoreError> {
    let whole_since: Option<u32> = optional(row, "whole_since")?;
    let advised =
        whole_since.is_some_and(|since| u64::from(since) < unsigned::<u64>(row, "losses").unwrap_or_default());
    let nullable = |column: &str| -> Result<Option<i64>, FeatureStoreError> {
        row.try_get(column).map_err(|error| failed("reading", &error))
    };
    let nullable_text = |column: &str| -> Result<Option<String>, FeatureStoreError> {
        row.try_get(column).map_err(|error| failed("reading", &error))
    };
    let stored = nullable_text("state")?;
    let state = match stored.as_deref() {
        Some("open") => RebuildState::Running,
        Some("done") if !advised => RebuildState::Done,
        _ if advised => RebuildState::Advised,
        _ => return Ok(None),
    };
    let under_way = state != RebuildState::Advised;
    let count =
        |column: &str| Ok::<_, FeatureStoreError>(nullable(column)?.and_then(|count| u64::try_from(count).ok()));
    let moment = |column: &str| Ok::<_, FeatureStoreError>(nullable(column)?.map(EventTime::from_micros));
    let definition: serde_json::Value = serde_json::from_str(&text(row, "definition")?).unwrap_or_default();
    Ok(Some(Rebuild {
        view: text(row, "name")?,
        version: unsigned(row, "version")?,
        source: definition["source"].as_str().unwrap_or_default().to_owned(),
        state,
        rows_done: count("rows_done")?.filter(|_| under_way).unwrap_or(0),
        rows_total: count("rows_total")?.filter(|_| under_way),
        started_at: moment("started_at")?.filter(|_| under_way),
        finished_at: moment("finished_at")?.filter(|_| under_way),
        error: nullable_text("error")?.filter(|_| state == RebuildState::Running),
    }))
}
