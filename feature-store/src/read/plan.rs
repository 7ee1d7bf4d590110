//! What a list of features needs: the views, their keys and the features to finish. Compiled once per snapshot.
//!
//! A caller in this process mostly asks for a list that it keeps, as a gateway does for each model: that is known by where
//! it stands in memory, without a look at its names.

use super::nearest;
use crate::views::{CompiledView, CompiledViews};
// Keyed by every feature of a request, so a cheaper hash than the standard library's.
use hashbrown::HashMap;
use ondol_feature_store_api::FeatureStoreError;
use ondol_vocabulary::{FeatureRef, Field, Snapshot};
use std::sync::{Arc, PoisonError, RwLock};

/// Plans kept for one snapshot. Clients ask for a few lists over and over; past this many, all are compiled again.
const KEPT: usize = 1_024;

/// How to answer one list of features.
pub(super) struct ReadPlan {
    /// The distinct join keys, by name and type.
    pub(super) keys: Vec<Field>,
    /// The views to read, each once.
    pub(super) views: Vec<PlannedView>,
    /// For each feature asked for: its view, whose features stand in the order asked for.
    pub(super) outputs: Vec<usize>,
}

/// One view's part of a plan.
pub(super) struct PlannedView {
    /// The version that serves.
    pub(super) compiled: Arc<CompiledView>,
    /// Its key columns, as indexes into [`ReadPlan::keys`].
    pub(super) key: Vec<usize>,
    /// The features to finish, as indexes into the view's; one asked for twice is finished twice.
    pub(super) features: Vec<usize>,
}

/// The plans of the snapshot in force.
pub(super) struct Plans {
    views: Arc<CompiledViews>,
    kept: RwLock<Kept>,
}

#[derive(Default)]
struct Kept {
    version: u64,
    plans: HashMap<Arc<[FeatureRef]>, Arc<ReadPlan>>,
    /// The plans of lists that callers keep, by where these stand. What is held here can't be elsewhere meanwhile.
    kept_by_callers: HashMap<usize, (Arc<[FeatureRef]>, Arc<ReadPlan>)>,
}

/// Where a list stands.
fn address(features: &Arc<[FeatureRef]>) -> usize {
    Arc::as_ptr(features).addr()
}

impl Kept {
    /// The plan for `features`, by where they stand.
    fn known(&self, features: &Arc<[FeatureRef]>) -> Option<&Arc<ReadPlan>> {
        let (held, plan) = self.kept_by_callers.get(&address(features))?;
        // Slices of different lengths, or one of no features, may begin at the same place.
        Arc::ptr_eq(held, features).then_some(plan)
    }

    fn keep(&mut self, features: &Arc<[FeatureRef]>, plan: &Arc<ReadPlan>) {
        // Who asks over the network has a new list each time, that nobody else holds.
        if Arc::strong_count(features) > 1 && self.kept_by_callers.len() < KEPT {
            let kept = (Arc::clone(features), Arc::clone(plan));
            self.kept_by_callers.insert(address(features), kept);
        }
    }
}

impl Plans {
    pub(super) fn new(views: Arc<CompiledViews>) -> Self {
        Self {
            views,
            kept: RwLock::default(),
        }
    }

    /// The plan for `features` under `snapshot`.
    pub(super) fn get(
        &self,
        snapshot: &Snapshot,
        features: &Arc<[FeatureRef]>,
    ) -> Result<Arc<ReadPlan>, FeatureStoreError> {
        let found = {
            // A panic can't leave the plans half-changed, so a poisoned lock is as good as any.
            let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
            let is_in_force = kept.version == snapshot.version;
            if let Some(plan) = kept.known(features).filter(|_| is_in_force) {
                return Ok(Arc::clone(plan));
            }
            kept.plans.get(features).filter(|_| is_in_force).map(Arc::clone)
        };
        let plan = match found {
            // Only one that is kept by a caller is worth the lock.
            Some(plan) if Arc::strong_count(features) == 1 => return Ok(plan),
            Some(plan) => plan,
            None => Arc::new(ReadPlan::compile(snapshot, &self.views, features)?),
        };
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.version != snapshot.version || kept.plans.len() >= KEPT {
            *kept = Kept {
                version: snapshot.version,
                ..Kept::default()
            };
        }
        kept.keep(features, &plan);
        kept.plans.insert(Arc::clone(features), Arc::clone(&plan));
        Ok(plan)
    }
}

impl ReadPlan {
    fn compile(snapshot: &Snapshot, views: &CompiledViews, features: &[FeatureRef]) -> Result<Self, FeatureStoreError> {
        let mut plan = Self {
            keys: Vec::new(),
            views: Vec::new(),
            outputs: Vec::with_capacity(features.len()),
        };
        for feature in features {
            let (version, index) = snapshot.resolve(feature).ok_or_else(|| unresolved(snapshot, feature))?;
            let view = match plan.views.iter().position(|view| view.compiled.id == version.id) {
                Some(view) => view,
                None => {
                    let key = version.definition.key.iter().map(|field| plan.key(field)).collect();
                    let compiled = views.get(snapshot, version)?;
                    plan.views.push(PlannedView {
                        compiled,
                        key,
                        features: Vec::new(),
                    });
                    plan.views.len() - 1
                }
            };
            let Some(planned) = plan.views.get_mut(view) else {
                continue;
            };
            planned.features.push(index);
            plan.outputs.push(view);
        }
        Ok(plan)
    }

    fn key(&mut self, field: &Field) -> usize {
        let known = self.keys.iter().position(|known| known == field);
        known.unwrap_or_else(|| {
            self.keys.push(field.clone());
            self.keys.len() - 1
        })
    }
}

impl PlannedView {
    /// The view's name.
    pub(super) fn name(&self) -> &str {
        &self.compiled.engine.definition().name
    }
}

/// Why a feature can't be served: no such view, no such feature, or not yet.
fn unresolved(snapshot: &Snapshot, feature: &FeatureRef) -> FeatureStoreError {
    let Some(newest) = snapshot.newest_view(&feature.view) else {
        let names = snapshot.views.iter().map(|view| view.definition.name.as_str());
        return FeatureStoreError::Unknown {
            kind: "view".to_owned(),
            name: feature.view.clone(),
            suggestion: nearest(&feature.view, names),
        };
    };
    let served = snapshot.active_view(&feature.view);
    if served.is_none() && newest.definition.feature(&feature.feature).is_some() {
        return FeatureStoreError::NotActive {
            view: feature.view.clone(),
        };
    }
    let definition = &served.unwrap_or(newest).definition;
    // The feature came with the version that is still being built.
    if newest.definition.feature(&feature.feature).is_some() {
        return FeatureStoreError::NotActive {
            view: feature.view.clone(),
        };
    }
    let names = definition.features.iter().map(|feature| feature.name.as_str());
    FeatureStoreError::Unknown {
        kind: "feature".to_owned(),
        name: feature.to_string(),
        suggestion: nearest(&feature.feature, names).map(|name| format!("{}.{name}", feature.view)),
    }
}
