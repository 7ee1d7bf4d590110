//! Online features of every entity, through the read API of every replica, at moments that lie after all events and
//! age the windows.

use super::{Findings, Truth};
use crate::estate::Estate;
use crate::oracle::{self, Reading};
use crate::views::View;
use anyhow::{Context as _, Result};
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::wire::{EntityColumn, ReadRequest};
use ondol_vocabulary::{EventTime, FeatureRef, Value};

const AREA: &str = "online features";
/// Entities of one request.
const BATCH: usize = 200;
const MINUTE: i64 = 60_000_000;
/// How long after the newest event of the entities asked for.
const AGES_US: [i64; 4] = [1, 17 * MINUTE, 185 * MINUTE, 25 * 60 * MINUTE];

/// An entity and its events.
type Entity<'a> = (Vec<&'a str>, Vec<&'a oracle::Event>);

/// Compares the features of `views` as replica `store` reads them.
pub(crate) async fn check(
    estate: &Estate,
    store: usize,
    views: &[View],
    truth: &Truth,
    findings: &mut Findings,
) -> Result<()> {
    let client = estate.store(store)?;
    for view in views {
        let mut entities: Vec<Entity<'_>> = oracle::entities(view, &truth.events).into_iter().collect();
        // Entities that were active at one time are read together: their moment is soon after all of them.
        entities.sort_by_key(|(_, events)| events.last().map(|event| event.time));
        // And one that never was.
        entities.push((view.key.iter().map(|_| "nobody").collect(), Vec::new()));
        for batch in entities.chunks(BATCH) {
            let newest = batch
                .iter()
                .flat_map(|(_, events)| events.last())
                .map(|event| event.time);
            let newest = newest.max().unwrap_or_default();
            for age_us in AGES_US {
                compare(&client, store, view, batch, newest + age_us, truth, findings).await?;
            }
        }
    }
    Ok(())
}

async fn compare(
    client: &impl FeatureStore,
    store: usize,
    view: &View,
    batch: &[Entity<'_>],
    moment: i64,
    truth: &Truth,
    findings: &mut Findings,
) -> Result<()> {
    let features: Vec<FeatureRef> = view
        .features
        .iter()
        .map(|feature| FeatureRef::new(view.name, feature.name))
        .collect();
    let entities = view.key.iter().enumerate().map(|(place, column)| EntityColumn {
        name: column.name().to_owned(),
        values: batch
            .iter()
            .map(|(key, _)| Value::String(key.get(place).copied().unwrap_or_default().to_owned()))
            .collect(),
    });
    let request = ReadRequest {
        features: features.into(),
        entities: entities.collect(),
        as_of: Some(EventTime::from_micros(moment)),
    };
    let answer = client
        .read(request)
        .await
        .with_context(|| format!("view `{}` can't be read from replica {}", view.name, store + 1))?
        .to_json();
    for (feature, found) in view.features.iter().zip(&answer.features) {
        for (row, (key, events)) in batch.iter().enumerate() {
            let wanted = oracle::read(view, feature, events, moment)?;
            let found = Reading {
                value: found.values.get(row).cloned().unwrap_or_default(),
                status: *found.status.get(row).context("an answer without a status")?,
                event_time: found.event_time.get(row).copied().flatten().map(EventTime::micros),
            };
            if !is_same(&found, &wanted) {
                let what = format!(
                    "replica {}: {}.{} of {key:?} ({} events) as of {moment} is {found:?}, must be {wanted:?}",
                    store + 1,
                    view.name,
                    feature.name,
                    events.len()
                );
                let last = events.last();
                let produced_ms = last.and_then(|event| truth.produced_ms(event.partition, event.offset));
                findings.differ(AREA, what, produced_ms);
            }
        }
    }
    findings.compared("online values", view.features.len() * batch.len());
    Ok(())
}

/// Equal to the bit.
fn is_same(found: &Reading, wanted: &Reading) -> bool {
    let values = match (&found.value, &wanted.value) {
        (Value::F64(found), Value::F64(wanted)) => found.to_bits() == wanted.to_bits(),
        (found, wanted) => found == wanted,
    };
    values && found.status == wanted.status && found.event_time == wanted.event_time
}
