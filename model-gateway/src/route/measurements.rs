//! What all replicas measured, added up.
//!
//! Each replica writes its own row per version and epoch (and per pair with a shadow) to the model database every few
//! seconds, and reads the others' when it is asked or has to decide: so a promotion looks at all traffic, whichever
//! replica it is asked of, and a restart loses seconds of it. Rows of epochs that are over are deleted by the next change
//! of the routing.

use crate::catalog::{Catalog, CatalogError};
use crate::route::epochs::Epochs;
use crate::route::table::ModelRoutes;
use crate::route::traffic::TrafficPart;
use crate::shadow::compare::Comparison;
use ondol_model_gateway_api::wire::RoutingReport;
use sqlx::Row as _;
use std::collections::{BTreeMap, HashMap};

/// Parts by replica.
pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS gateway_measurements (
    replica TEXT NOT NULL,
    model TEXT NOT NULL,
    served BIGINT NOT NULL,
    shadow BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (replica, model, served, shadow, epoch)
)";

/// What a row is about: the version that served, the shadow (0 for none), the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    served: u32,
    shadow: u32,
    epoch: u64,
}

/// What was measured of one model, by subject.
#[derive(Clone, Debug, Default)]
pub struct Measurements {
    live: BTreeMap<u32, TrafficPart>,
    shadows: BTreeMap<(u32, u32), Comparison>,
}

/// A replica's rows as they were last written, to write only what has changed.
#[derive(Debug, Default)]
pub struct Written(HashMap<(String, Subject), u64>);

impl Measurements {
    /// What this replica measured of `routes`' model, in the epochs of its routing.
    pub fn here(routes: &ModelRoutes) -> Self {
        let mut here = Self::default();
        let epochs = &routes.revision.epochs;
        for version in &routes.versions {
            let traffic = version.traffic();
            let number = version.record.registered.model.version;
            if traffic.epoch == epoch_of(epochs, number) {
                let part = traffic.part();
                if part.requests > 0 {
                    here.live.insert(number, part);
                }
            }
        }
        for track in &routes.shadows {
            for (served, comparison) in track.comparisons() {
                here.shadows.insert((served, track.number()), comparison);
            }
        }
        here
    }

    /// As if `live` had been measured of a version as it served, and `shadows` of pairs.
    #[cfg(test)]
    pub(crate) fn of(live: BTreeMap<u32, TrafficPart>, shadows: BTreeMap<(u32, u32), Comparison>) -> Self {
        Self { live, shadows }
    }

    /// What was measured of version `version` as it served.
    pub fn live(&self, version: u32) -> Option<&TrafficPart> {
        self.live.get(&version)
    }

    /// What was measured of `shadow` beside `served`.
    pub fn shadow(&self, served: u32, shadow: u32) -> Option<&Comparison> {
        self.shadows.get(&(served, shadow))
    }

    /// In the contract's words.
    pub fn report(&self, routes: &ModelRoutes) -> RoutingReport {
        let flip_at = |shadow: u32| {
            let track = routes.shadows.iter().find(|track| track.number() == shadow);
            track.and_then(|track| track.flip_at)
        };
        RoutingReport {
            model: routes.name.clone(),
            live: self.live.iter().map(|(version, part)| part.report(*version)).collect(),
            shadows: self
                .shadows
                .iter()
                .map(|((served, shadow), comparison)| comparison.report(*served, *shadow, flip_at(*shadow)))
                .collect(),
        }
    }

    /// Each row's subject, a number that rises with what was measured, and its body.
    fn rows(&self, epochs: &Epochs) -> Result<Vec<(Subject, u64, String)>, serde_json::Error> {
        let mut rows = Vec::with_capacity(self.live.len() + self.shadows.len());
        for (version, part) in &self.live {
            let subject = Subject {
                served: *version,
                shadow: 0,
                epoch: epoch_of(epochs, *version),
            };
            rows.push((subject, part.requests, serde_json::to_string(part)?));
        }
        for ((served, shadow), comparison) in &self.shadows {
            let subject = Subject {
                served: *served,
                shadow: *shadow,
                epoch: epochs.shadow.get(shadow).copied().unwrap_or_default(),
            };
            let Comparison {
                compared,
                errors,
                dropped,
                skipped,
                ..
            } = comparison;
            let rises = compared + errors + dropped + skipped;
            rows.push((subject, rises, serde_json::to_string(comparison)?));
        }
        // What no routing names is of no decision: it is not shared, and an unrouted model costs no writes.
        rows.retain(|(subject, ..)| subject.epoch > 0);
        Ok(rows)
    }
}

/// The epoch of a version as it serves; one that the routing does not name is measured since the start.
pub fn epoch_of(epochs: &Epochs, version: u32) -> u64 {
    epochs.live.get(&version).copied().unwrap_or_default()
}

impl Catalog {
    /// Writes what `replica` measured and has not `written` yet.
    pub async fn write_measurements(
        &self,
        replica: &str,
        routes: &ModelRoutes,
        written: &mut Written,
    ) -> Result<(), CatalogError> {
        let unreadable = |source| CatalogError::Unreadable {
            model: format!("measurements of {}", routes.name),
            source,
        };
        let rows = Measurements::here(routes)
            .rows(&routes.revision.epochs)
            .map_err(unreadable)?;
        for (subject, rises, body) in rows {
            let key = (routes.name.clone(), subject);
            if written.0.get(&key) == Some(&rises) {
                continue;
            }
            sqlx::query(
                "INSERT INTO gateway_measurements (replica, model, served, shadow, epoch, body)
                 VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (replica, model, served, shadow, epoch) DO UPDATE SET body = excluded.body",
            )
            .bind(replica)
            .bind(routes.name.as_str())
            .bind(i64::from(subject.served))
            .bind(i64::from(subject.shadow))
            .bind(i64::try_from(subject.epoch).unwrap_or(i64::MAX))
            .bind(body)
            .execute(self.pool())
            .await?;
            written.0.insert(key, rises);
        }
        Ok(())
    }

    /// What `replica` measured of `routes`' model until now, and the others until they last wrote.
    pub async fn measurements(&self, replica: &str, routes: &ModelRoutes) -> Result<Measurements, CatalogError> {
        let rows = sqlx::query(
            "SELECT served, shadow, epoch, body FROM gateway_measurements WHERE model = $1 AND replica <> $2",
        )
        .bind(routes.name.as_str())
        .bind(replica)
        .fetch_all(self.pool())
        .await?;
        let mut all = Measurements::here(routes);
        let epochs = &routes.revision.epochs;
        for row in rows {
            let number = |name| row.try_get::<i64, _>(name);
            let (served, shadow, epoch) = (number("served")?, number("shadow")?, number("epoch")?);
            let served = u32::try_from(served).unwrap_or_default();
            let shadow = u32::try_from(shadow).unwrap_or_default();
            let epoch = u64::try_from(epoch).unwrap_or_default();
            let body: String = row.try_get("body")?;
            let unreadable = |source| CatalogError::Unreadable {
                model: format!("measurements of {}", routes.name),
                source,
            };
            if shadow == 0 && epoch == epoch_of(epochs, served) {
                let part: TrafficPart = serde_json::from_str(&body).map_err(unreadable)?;
                all.live.entry(served).or_default().merge(&part);
            } else if shadow != 0 && epochs.shadow.get(&shadow) == Some(&epoch) {
                let part: Comparison = serde_json::from_str(&body).map_err(unreadable)?;
                all.shadows.entry((served, shadow)).or_default().merge(&part);
            }
        }
        Ok(all)
    }

    /// Deletes what was measured of `model` in epochs that are over.
    pub async fn forget_measurements(&self, model: &str, epochs: &Epochs) -> Result<(), CatalogError> {
        let oldest = epochs
            .live
            .values()
            .chain(epochs.shadow.values())
            .min()
            .copied()
            .unwrap_or_default();
        sqlx::query("DELETE FROM gateway_measurements WHERE model = $1 AND epoch < $2")
            .bind(model)
            .bind(i64::try_from(oldest).unwrap_or(i64::MAX))
            .execute(self.pool())
            .await?;
        Ok(())
    }
}
