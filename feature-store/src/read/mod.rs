//! The read path: features of a batch of entities, from the online rows alone.
//!
//! A request executes a plan that was compiled for its list of features and the snapshot in force ([`plan`]): encode
//! the entity keys ([`keys`]), get all rows of all views in one round trip, decode them, finish the features column by
//! column. The registry is a value in memory here; nothing waits for it.
//!
//! The moment: a read "now" is as of the clock or, where that lies behind, just after the newest event that any row of
//! the entity has absorbed, so that what was written is what is read. A moment the caller names must lie after that
//! event, because a row cannot forget.

mod keys;
mod plan;

use crate::online::{Continuity, OnlineStore, RowKey, blocking};
use crate::registry::Registry;
use crate::views::CompiledViews;
use bytes::Bytes;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::{FeatureBatch, FeatureColumn, ReadRequest};
use ondol_runtime::Clock;
use ondol_transform::Row;
use ondol_transform::view::FinishedFeature;
use ondol_vocabulary::{EventTime, FeatureRef};
use plan::{PlannedView, Plans, ReadPlan};
use std::sync::Arc;
use std::time::Instant;

/// Rows decoded and finished on the caller's thread: more take longer than a hop to the blocking pool.
const INLINE_ROWS: usize = 256;

/// Answers reads.
pub struct Reader {
    registry: Registry,
    plans: Plans,
    online: Arc<dyn OnlineStore>,
    continuity: Arc<Continuity>,
    clock: Arc<dyn Clock>,
    max_rows: usize,
    serve_lost: bool,
}

/// Where each entity's row of one view stands in the keys of a request; none where a part of its key is null.
type Places = Vec<Option<usize>>;

impl Reader {
    /// Over the parts it reads; a request of more than `max_rows` entities is refused, and, unless `serve_lost` says
    /// otherwise, one of a view that lacks rows which the online store has lost.
    pub fn new(
        registry: Registry,
        views: Arc<CompiledViews>,
        online: Arc<dyn OnlineStore>,
        continuity: Arc<Continuity>,
        clock: Arc<dyn Clock>,
        max_rows: usize,
        serve_lost: bool,
    ) -> Self {
        Self {
            registry,
            plans: Plans::new(views),
            online,
            continuity,
            clock,
            max_rows,
            serve_lost,
        }
    }

    /// Reads: see [`ondol_feature_store_api::FeatureStore::read`].
    pub async fn read(&self, request: ReadRequest) -> Result<FeatureBatch, FeatureStoreError> {
        let started = Instant::now();
        let rows = keys::rows(&request.entities)?;
        if rows > self.max_rows {
            let detail = format!(
                "a read of {rows} entities is too large: read at most {} at once",
                self.max_rows
            );
            return Err(FeatureStoreError::InvalidRequest { detail });
        }
        let plan = self.plans.get(&self.registry.snapshot(), &request.features)?;
        let (keys, places) = encode(&plan, &request)?;
        let stored = if keys.is_empty() {
            Vec::new()
        } else {
            self.online.get(&keys).await?
        };
        self.check_whole(&plan).await?;
        let now = EventTime::from_micros(self.clock.now_micros());
        let execution = Execution {
            plan,
            places,
            stored,
            rows,
            now,
            as_of: request.as_of,
            features: request.features,
        };
        let batch = if keys.len() <= INLINE_ROWS {
            execution.finish()
        } else {
            blocking(move || execution.finish()).await
        }?;
        metrics::histogram!("ondol_feature_store_read_seconds").record(started.elapsed());
        metrics::counter!("ondol_feature_store_read_entities_total").increment(rows as u64);
        Ok(batch)
    }
}

impl Reader {
    /// Refuses what was read of views that lack rows: it says `missing` of entities that were there, and counts others from
    /// when the rows were lost.
    async fn check_whole(&self, plan: &ReadPlan) -> Result<(), FeatureStoreError> {
        if self.serve_lost {
            return Ok(());
        }
        let ids = plan.views.iter().map(|view| view.compiled.id);
        let Some(lost) = self.continuity.lost_among(ids).await? else {
            return Ok(());
        };
        let view = plan.views.iter().find(|view| view.compiled.id == lost);
        Err(FeatureStoreError::Unavailable {
            detail: format!(
                "the online store has lost rows of view `{}`: it serves again when they are built anew from the log \
                 (`ondol rebuild --status`)",
                view.map_or("", |view| view.name())
            ),
        })
    }
}

/// The keys of every row the plan needs, and for each view where its entities' rows stand among them.
fn encode(plan: &ReadPlan, request: &ReadRequest) -> Result<(Vec<RowKey>, Vec<Places>), FeatureStoreError> {
    let columns = keys::typed(&plan.keys, &request.entities)?;
    let mut all = Vec::new();
    let mut places = Vec::with_capacity(plan.views.len());
    for view in &plan.views {
        let rows = keys::encode(&columns, &view.key)?;
        let place = |entity: Option<_>| {
            entity.map(|entity| {
                all.push(RowKey::new(view.compiled.id, entity));
                all.len() - 1
            })
        };
        places.push(rows.into_iter().map(place).collect());
    }
    Ok((all, places))
}

/// A request with its rows, ready to be computed.
struct Execution {
    plan: Arc<ReadPlan>,
    features: Arc<[FeatureRef]>,
    places: Vec<Places>,
    stored: Vec<Option<Bytes>>,
    rows: usize,
    now: EventTime,
    as_of: Option<EventTime>,
}

impl Execution {
    fn finish(self) -> Result<FeatureBatch, FeatureStoreError> {
        let views = self.plan.views.iter().zip(&self.places);
        let decoded = views
            .map(|(view, places)| self.decode(view, places))
            .collect::<Result<Vec<_>, _>>()?;
        let moments = self.moments(&decoded)?;
        let views = self.plan.views.iter().zip(&decoded);
        let mut finished: Vec<std::vec::IntoIter<FinishedFeature>> = views
            .map(|(view, rows)| {
                let rows: Vec<Option<&Row>> = rows.iter().map(Option::as_ref).collect();
                let finished = view.compiled.engine.finish(&rows, &moments, &view.features);
                finished.into_iter()
            })
            .collect();
        let mut columns = Vec::with_capacity(self.plan.outputs.len());
        columns.extend(self.plan.outputs.iter().filter_map(|&view| {
            let planned = self.plan.views.get(view)?;
            let finished = finished.get_mut(view)?.next()?;
            Some(FeatureColumn {
                view_version: planned.compiled.version,
                values: finished.values,
                status: finished.status,
                event_time: finished.event_time,
            })
        }));
        if columns.len() != self.features.len() {
            return Err(FeatureStoreError::Internal {
                detail: "the engine finished fewer features than the plan names".to_owned(),
            });
        }
        let as_of = self.as_of.or_else(|| moments.iter().max().copied()).unwrap_or(self.now);
        Ok(FeatureBatch {
            as_of,
            rows: self.rows,
            features: self.features,
            columns,
        })
    }

    fn decode(&self, view: &PlannedView, places: &Places) -> Result<Vec<Option<Row>>, FeatureStoreError> {
        let decode = |place: &Option<usize>| {
            let Some(bytes) = place.and_then(|place| self.stored.get(place)?.as_ref()) else {
                return Ok(None);
            };
            view.compiled
                .engine
                .decode(bytes)
                .map(Some)
                .map_err(|error| FeatureStoreError::Internal {
                    detail: format!("a stored row of `{}@{}`: {error}", view.name(), view.compiled.version),
                })
        };
        places.iter().map(decode).collect()
    }

    /// The moment each entity is read as of.
    fn moments(&self, decoded: &[Vec<Option<Row>>]) -> Result<Vec<EventTime>, FeatureStoreError> {
        let mut moments = vec![self.as_of.unwrap_or(self.now); self.rows];
        for (view, rows) in self.plan.views.iter().zip(decoded) {
            for (index, (row, moment)) in rows.iter().zip(&mut moments).enumerate() {
                let Some(newest) = row.as_ref().and_then(Row::newest) else {
                    continue;
                };
                if newest < *moment {
                    continue;
                }
                if let Some(as_of) = self.as_of {
                    return Err(FeatureStoreError::AsOfInThePast {
                        as_of: as_of.to_string(),
                        entity: format!("row {index} of view `{}`", view.name()),
                        newest: newest.to_string(),
                    });
                }
                *moment = newest.plus_micros(1);
            }
        }
        Ok(moments)
    }
}

/// The candidate nearest to `name`, if one is near enough to be meant.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + name.len().max(candidate.len()) / 3)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests;
