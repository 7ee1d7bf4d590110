//! Versions that are being provisioned: how each stands, and which are held back.
//!
//! A hold is a change of the registry like any other: it outlives every process, and every replica is told of it. It
//! reaches the bootstrap between two chunks of events. From the moment a version is handed over to the stream it can't be
//! held: commits of its source wait for it then. Both moves are decided under the registry's lock.

use super::catalog::{Catalog, Definition, Noun};
use super::database::{Change, failed, text, unsigned};
use super::{Registry, unknown};
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::provisioning::{Provisioning, ProvisioningState};
use ondol_vocabulary::{EventTime, VersionedName, ViewDefinition, ViewState};
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};

/// Versions that do not serve yet, and rows that are to take the place of those of one that does.
const PROVISIONINGS: &str = "SELECT v.view_id, v.name, v.version, v.definition, v.rebuild,
        COALESCE(p.stage, 'waiting') AS stage, COALESCE(p.held, 0) AS held, p.started_at,
        COALESCE(r.rows_done, 0) AS rows_done, r.rows_total, r.error
    FROM (
        SELECT view_id, name, version, definition, CAST(0 AS BIGINT) AS rebuild
        FROM definition_versions WHERE noun = 'view' AND state = 'provisioning'
        UNION ALL
        SELECT b.view_id, b.name, b.version, d.definition, CAST(1 AS BIGINT) AS rebuild FROM rebuilds b
        JOIN definition_versions d ON d.noun = 'view' AND d.name = b.name AND d.version = b.version
        WHERE b.state = 'open' AND d.state = 'active'
    ) v
    LEFT JOIN provisionings p ON p.view_id = v.view_id LEFT JOIN view_rows r ON r.view_id = v.view_id";

/// Stages as the database holds them.
const BUILDING: &str = "building";
const HANDING_OVER: &str = "handing-over";

impl Registry {
    /// Every version that is being provisioned, and rows that are being built anew, by view and version.
    pub async fn provisionings(&self) -> Result<Vec<Provisioning>, FeatureStoreError> {
        let query = AssertSqlSafe(format!("{PROVISIONINGS} ORDER BY v.name, v.version"));
        let rows = sqlx::query(query)
            .fetch_all(&self.shared.database.pool)
            .await
            .map_err(|error| failed("reading", &error))?;
        rows.iter().map(|row| self.provisioning(row)).collect()
    }

    /// Holds the provisioning of a version over a stream back. Idempotent.
    pub async fn hold(&self, view_id: u32) -> Result<Provisioning, FeatureStoreError> {
        self.steer(view_id, true).await
    }

    /// Lets the provisioning of a version that is held go on. Idempotent.
    pub async fn release(&self, view_id: u32) -> Result<Provisioning, FeatureStoreError> {
        self.steer(view_id, false).await
    }

    /// Whether a version is held back, as far as the database knows.
    pub async fn is_held(&self, view_id: u32) -> Result<bool, FeatureStoreError> {
        let row = sqlx::query("SELECT COUNT(*) AS held FROM provisionings WHERE view_id = $1 AND held = 1")
            .bind(i64::from(view_id))
            .fetch_one(&self.shared.database.pool)
            .await;
        Ok(unsigned::<u64>(&row.map_err(|error| failed("reading", &error))?, "held")? > 0)
    }

    /// Notes that a version's rows are being built. One that was being handed over when its process died goes on being
    /// that: it has joined the log, perhaps.
    pub async fn begin_building(&self, view_id: u32) -> Result<(), FeatureStoreError> {
        sqlx::query(
            "INSERT INTO provisionings (view_id, stage, held, started_at) VALUES ($1, $2, 0, $3)
             ON CONFLICT (view_id) DO UPDATE SET started_at = COALESCE(provisionings.started_at, excluded.started_at),
                stage = CASE WHEN provisionings.stage = $4 THEN provisionings.stage ELSE excluded.stage END",
        )
        .bind(i64::from(view_id))
        .bind(BUILDING)
        .bind(EventTime::now().micros())
        .bind(HANDING_OVER)
        .execute(&self.shared.database.pool)
        .await
        .map(drop)
        .map_err(|error| failed("writing", &error))
    }

    /// Notes that a version is being handed over, unless it is held: then false. From here on it can't be held.
    pub async fn begin_hand_over(&self, view_id: u32) -> Result<bool, FeatureStoreError> {
        let mut change = self.shared.database.change().await?;
        let moved = sqlx::query("UPDATE provisionings SET stage = $2 WHERE view_id = $1 AND held = 0")
            .bind(i64::from(view_id))
            .bind(HANDING_OVER)
            .execute(&mut *change.transaction)
            .await
            .map_err(|error| failed("writing", &error))?
            .rows_affected();
        change.commit().await?;
        Ok(moved > 0)
    }

    async fn steer(&self, view_id: u32, held: bool) -> Result<Provisioning, FeatureStoreError> {
        let mut change = self.shared.database.change().await?;
        let catalog = change.catalog().await?;
        let name = steerable(&catalog, view_id)?;
        if held && change.stage(view_id).await?.as_deref() == Some(HANDING_OVER) {
            let detail = format!(
                "view `{name}` is being handed over to the stream and serves in a moment: it can't be held any more"
            );
            return Err(FeatureStoreError::InvalidRequest { detail });
        }
        if change.set_held(view_id, held).await? {
            change.next_version().await?;
            let snapshot = change.catalog().await?.snapshot();
            change.commit().await?;
            self.publish(&snapshot);
            tracing::info!(
                feature_view = name.name,
                version = name.version,
                held,
                "provisioning steered"
            );
        } else {
            drop(change);
        }
        let query = AssertSqlSafe(format!("{PROVISIONINGS} WHERE v.view_id = $1"));
        let row = sqlx::query(query)
            .bind(i64::from(view_id))
            .fetch_optional(&self.shared.database.pool)
            .await
            .map_err(|error| failed("reading", &error))?;
        match row {
            Some(row) => self.provisioning(&row),
            None => Err(not_provisioned(view_id)),
        }
    }

    fn provisioning(&self, row: &AnyRow) -> Result<Provisioning, FeatureStoreError> {
        let nullable = |column: &str| -> Result<Option<i64>, FeatureStoreError> {
            row.try_get(column).map_err(|error| failed("reading", &error))
        };
        let error: Option<String> = row.try_get("error").map_err(|error| failed("reading", &error))?;
        let definition: serde_json::Value = serde_json::from_str(&text(row, "definition")?).unwrap_or_default();
        let source = definition["source"].as_str().unwrap_or_default().to_owned();
        let counted = nullable("rows_total")?.and_then(|total| u64::try_from(total).ok());
        let of_the_log = || self.shared.rows.get().and_then(|rows| rows(&source));
        Ok(Provisioning {
            view_id: unsigned(row, "view_id")?,
            view: text(row, "name")?,
            version: unsigned(row, "version")?,
            rebuild: unsigned::<u8>(row, "rebuild")? == 1,
            state: match text(row, "stage")?.as_str() {
                HANDING_OVER if error.is_none() => ProvisioningState::HandingOver,
                _ if unsigned::<u8>(row, "held")? == 1 => ProvisioningState::Held,
                _ if error.is_some() => ProvisioningState::Failed,
                BUILDING => ProvisioningState::Building,
                _ => ProvisioningState::Waiting,
            },
            rows_done: unsigned(row, "rows_done")?,
            rows_total: counted.or_else(of_the_log),
            started_at: nullable("started_at")?.map(EventTime::from_micros),
            error,
            source,
        })
    }
}

impl Change {
    async fn stage(&mut self, view_id: u32) -> Result<Option<String>, FeatureStoreError> {
        let row = sqlx::query("SELECT stage FROM provisionings WHERE view_id = $1")
            .bind(i64::from(view_id))
            .fetch_optional(&mut *self.transaction)
            .await
            .map_err(|error| failed("reading", &error))?;
        row.map(|row| text(&row, "stage")).transpose()
    }

    /// Whether that changes anything.
    async fn set_held(&mut self, view_id: u32, held: bool) -> Result<bool, FeatureStoreError> {
        let statement = match held {
            true => {
                "INSERT INTO provisionings (view_id, stage, held) VALUES ($1, 'waiting', 1)
                 ON CONFLICT (view_id) DO UPDATE SET held = 1 WHERE provisionings.held = 0"
            }
            false => "UPDATE provisionings SET held = 0 WHERE view_id = $1 AND held = 1",
        };
        let done = sqlx::query(statement)
            .bind(i64::from(view_id))
            .execute(&mut *self.transaction)
            .await
            .map_err(|error| failed("writing", &error))?;
        Ok(done.rows_affected() > 0)
    }

    /// Forgets how the provisioning of a version went that serves now, or is no longer wanted.
    pub(super) async fn forget_provisioning(&mut self, view_id: u32) -> Result<(), FeatureStoreError> {
        sqlx::query("DELETE FROM provisionings WHERE view_id = $1")
            .bind(i64::from(view_id))
            .execute(&mut *self.transaction)
            .await
            .map(drop)
            .map_err(|error| failed("writing", &error))
    }
}

/// The version that `view_id` names, if it is being provisioned from a stream.
fn steerable(catalog: &Catalog, view_id: u32) -> Result<VersionedName, FeatureStoreError> {
    let (view, version) = provisioned(catalog, view_id).ok_or_else(|| not_provisioned(view_id))?;
    let name = VersionedName::new(&view.name, version);
    match catalog
        .current(Noun::Source, &view.source)
        .map(|found| &found.definition)
    {
        Some(Definition::Source(source)) if !source.is_stream() => Err(FeatureStoreError::InvalidRequest {
            detail: format!(
                "view `{name}` reads the table `{}`: its rows are delivered by a materialization, which is a job of its \
                 own: cancel that",
                view.source
            ),
        }),
        _ => Ok(name),
    }
}

fn provisioned(catalog: &Catalog, view_id: u32) -> Option<(&ViewDefinition, u32)> {
    let rebuild = catalog.rebuilds.iter().find(|rebuild| rebuild.view_id == view_id);
    let record = match rebuild {
        Some(rebuild) => catalog
            .active(Noun::View, &rebuild.name)
            .filter(|record| record.version == rebuild.version),
        None => catalog
            .records
            .iter()
            .find(|record| record.view_id == Some(view_id) && record.state == ViewState::Provisioning),
    };
    match record {
        Some(record) => match &record.definition {
            Definition::View(view) => Some((view, record.version)),
            Definition::Source(_) | Definition::Model(_) => None,
        },
        None => None,
    }
}

fn not_provisioned(view_id: u32) -> FeatureStoreError {
    unknown("view version that is being provisioned", &view_id.to_string(), None)
}
