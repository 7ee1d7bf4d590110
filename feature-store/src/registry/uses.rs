//! What live models read, and what of it a change would take away.
//!
//! A use names the view version that a registered version stands on. It breaks when the feature is removed, or is no
//! longer what it was in that version: its expression, type or default, or its view's source, key, condition or time to
//! live. A new version of the view that keeps the feature as it was breaks nothing. What was broken before (by force) is not
//! held against the next change.

use super::Registry;
use super::catalog::{Catalog, Definition, Noun, Record};
use super::database::{Change, failed, text};
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::uses::{BrokenUse, ConsumerUses, FeatureUse, ModelUse};
use ondol_transform::definition::Definitions;
use ondol_vocabulary::{EventTime, VersionedName, ViewDefinition};
use sqlx::Row;
use sqlx::any::AnyRow;

/// The longest name of a consumer.
const LONGEST_NAME: usize = 128;

impl Registry {
    /// Takes what the live models of `consumer` read, in the place of what it read before.
    pub async fn publish_uses(&self, consumer: &str, models: Vec<ModelUse>) -> Result<ConsumerUses, FeatureStoreError> {
        if consumer.is_empty() || consumer.len() > LONGEST_NAME {
            return Err(FeatureStoreError::InvalidRequest {
                detail: format!(
                    "a consumer's name has 1 to {LONGEST_NAME} bytes, this one {}",
                    consumer.len()
                ),
            });
        }
        // Under the registry's lock: an apply that has looked at the uses is over, or looks at these.
        let mut change = self.shared.database.change().await?;
        let known = change.uses().await?;
        let known = known.into_iter().find(|known| known.consumer == consumer);
        if let Some(known) = known.filter(|known| known.models == models) {
            return Ok(known);
        }
        let uses = ConsumerUses {
            consumer: consumer.to_owned(),
            published_at: EventTime::now(),
            models,
        };
        let json = serde_json::to_string(&uses.models).map_err(|error| FeatureStoreError::Internal {
            detail: format!("uses have no JSON form: {error}"),
        })?;
        sqlx::query(
            "INSERT INTO uses (consumer, published_at, models) VALUES ($1, $2, $3)
             ON CONFLICT (consumer) DO UPDATE SET published_at = excluded.published_at, models = excluded.models",
        )
        .bind(consumer)
        .bind(uses.published_at.micros())
        .bind(json)
        .execute(&mut *change.transaction)
        .await
        .map_err(|error| failed("writing", &error))?;
        change.commit().await?;
        tracing::info!(consumer, models = uses.models.len(), "uses published");
        Ok(uses)
    }

    /// What live models read, by consumer.
    pub async fn uses(&self) -> Result<Vec<ConsumerUses>, FeatureStoreError> {
        self.shared.database.change().await?.uses().await
    }
}

impl Change {
    /// What live models read, by consumer.
    pub(super) async fn uses(&mut self) -> Result<Vec<ConsumerUses>, FeatureStoreError> {
        let rows = sqlx::query("SELECT consumer, published_at, models FROM uses ORDER BY consumer")
            .fetch_all(&mut *self.transaction)
            .await
            .map_err(|error| failed("reading", &error))?;
        rows.iter().map(consumer_uses).collect()
    }

    /// Keeps that the registry's version was applied past `broken`.
    pub(super) async fn record_forced(&mut self, version: u64, broken: &[BrokenUse]) -> Result<(), FeatureStoreError> {
        let lines: Vec<String> = broken.iter().map(ToString::to_string).collect();
        sqlx::query("INSERT INTO forced_changes (registry_version, forced_at, broken) VALUES ($1, $2, $3)")
            .bind(i64::try_from(version).unwrap_or(i64::MAX))
            .bind(EventTime::now().micros())
            .bind(lines.join("\n"))
            .execute(&mut *self.transaction)
            .await
            .map(drop)
            .map_err(|error| failed("writing", &error))
    }
}

fn consumer_uses(row: &AnyRow) -> Result<ConsumerUses, FeatureStoreError> {
    let published_at: i64 = row.try_get("published_at").map_err(|error| failed("reading", &error))?;
    let consumer = text(row, "consumer")?;
    let models = serde_json::from_str(&text(row, "models")?).map_err(|error| FeatureStoreError::Internal {
        detail: format!("the uses of `{consumer}` can't be read: {error}"),
    })?;
    Ok(ConsumerUses {
        consumer,
        published_at: EventTime::from_micros(published_at),
        models,
    })
}

/// What `wanted` would take from those who read it.
pub(super) fn broken(catalog: &Catalog, wanted: &Definitions, uses: &[ConsumerUses]) -> Vec<BrokenUse> {
    let mut broken: Vec<BrokenUse> = Vec::new();
    let mut note = |change: String, model: &VersionedName| match broken.iter_mut().find(|known| known.change == change)
    {
        Some(known) if known.models.contains(model) => {}
        Some(known) => known.models.push(model.clone()),
        None => broken.push(BrokenUse {
            change,
            models: vec![model.clone()],
        }),
    };
    for model in uses.iter().flat_map(|consumer| &consumer.models) {
        let name = &model.model.name;
        let stays = wanted.models.iter().any(|wanted| wanted.name == *name);
        if !stays && catalog.current(Noun::Model, name).is_some() {
            note(format!("model {name} would be removed"), &model.model);
        }
        for used in &model.reads {
            let now = catalog.current(Noun::View, &used.feature.view).and_then(as_view);
            let next = wanted.views.iter().find(|view| view.name == used.feature.view);
            let line = breach(catalog, used, next);
            if let Some(line) = line.filter(|line| breach(catalog, used, now).as_ref() != Some(line)) {
                note(line, &model.model);
            }
        }
    }
    broken
}

/// How `view` fails the use; none when it serves it.
fn breach(catalog: &Catalog, used: &FeatureUse, view: Option<&ViewDefinition>) -> Option<String> {
    let name = &used.feature;
    let Some(view) = view else {
        return Some(format!("view {} would be removed", name.view));
    };
    let Some(is) = view.feature(&name.feature) else {
        return Some(format!("{name} would be removed"));
    };
    if is.data_type != used.data_type {
        return Some(format!("{name}: {} → {}", used.data_type, is.data_type));
    }
    let of_version = |record: &&Record| record.version == used.view_version;
    let before = catalog
        .versions(Noun::View, &name.view)
        .find(of_version)
        .and_then(as_view)?;
    let was = before.feature(&name.feature)?;
    let frame = [
        ("from", before.source == view.source),
        ("key", before.key == view.key),
        ("where", before.filter == view.filter),
        ("ttl", before.ttl_us == view.ttl_us),
    ];
    if let Some((what, _)) = frame.into_iter().find(|(_, same)| !same) {
        return Some(format!("view {} would have another `{what}`", name.view));
    }
    if was == is {
        None
    } else if was.expression == is.expression {
        Some(format!("{name} would have another default or window"))
    } else {
        Some(format!("{name}: {} → {}", was.expression, is.expression))
    }
}

fn as_view(record: &Record) -> Option<&ViewDefinition> {
    match &record.definition {
        Definition::View(view) => Some(view),
        Definition::Source(_) | Definition::Model(_) => None,
    }
}
