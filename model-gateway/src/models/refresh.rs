//! The table that requests execute, made anew from the model database when it has changed: by this replica or another.

use super::{Models, Version};
use crate::catalog::CatalogError;
use crate::route::bulkhead::Bulkhead;
use crate::route::history::StoredRevision;
use crate::route::measurements::epoch_of;
use crate::route::table::{ModelRoutes, Table, default_version, find};
use crate::route::traffic::Traffic;
use crate::shadow::{Runner, Track};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::Routing;
use ondol_vocabulary::EventTime;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a replica that follows a change waits for what it routes to before it follows it all the same.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a model may have under way unless its routing says otherwise, and what all of them may take.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Requests under way.
    pub in_flight: usize,
    /// Requests waiting.
    pub queue: usize,
    /// What all loaded models may take together, if that is bounded.
    pub memory_bytes: Option<usize>,
}

impl Models {
    /// Every model that has a version.
    pub fn all_routes(&self) -> Vec<Arc<ModelRoutes>> {
        self.table.load().values().cloned().collect()
    }

    /// The routes of model `name`, if it has a version.
    pub fn routes(&self, name: &str) -> Option<Arc<ModelRoutes>> {
        self.table.load().get(name).cloned()
    }

    /// Starts shadows with `runner` from now on.
    pub async fn start_shadows(&self, runner: Runner) -> Result<(), CatalogError> {
        // Set once, at the start.
        let _ = self.runner.set(runner);
        self.refresh(true).await
    }

    /// Reads the database if it has changed, or if `anew`, and replaces what requests execute.
    pub async fn refresh(&self, anew: bool) -> Result<(), CatalogError> {
        // One at a time, so that an older read never replaces a newer one. Requests don't wait for it.
        let mut known = self.known.lock().await;
        let mark = self.catalog.mark().await?;
        if *known == Some(mark) && !anew {
            return Ok(());
        }
        let records = self.catalog.versions().await?;
        let mut routings = self.catalog.routings().await?;
        let before = self.table.load_full();
        let mut versions: BTreeMap<String, Vec<Arc<Version>>> = BTreeMap::new();
        for record in records {
            let model = &record.registered.model;
            let held = before
                .get(&model.name)
                .and_then(|routes| find(&routes.versions, model.version));
            let fresh = self.take_fresh(&model.to_string());
            let of_model = versions.entry(model.name.clone()).or_default();
            let version = held.cloned().or(fresh);
            of_model.push(version.unwrap_or_else(|| Arc::new(Version::new(record))));
        }
        let mut table = Table::with_capacity(versions.len());
        for (name, versions) in versions {
            let stored = routings.remove(&name).unwrap_or_else(|| StoredRevision::unset(&name));
            let held = before.get(&name);
            let routes = match held.filter(|held| self.is_same(held, &versions, &stored)) {
                Some(held) => Arc::clone(held),
                None => match self.compile(&name, versions, stored, held) {
                    Ok(routes) => Arc::new(routes),
                    Err(error) => {
                        // Written by a newer gateway, or by hand: what serves goes on.
                        metrics::counter!("ondol_gateway_routing_errors_total").increment(1);
                        tracing::error!(model = name, %error, "a stored routing can't be used: the one before serves on");
                        let Some(held) = held else { continue };
                        Arc::clone(held)
                    }
                },
            };
            if held.is_some_and(|held| !Arc::ptr_eq(held, &routes)) {
                self.load_followed(&routes).await;
            }
            table.insert(name, routes);
        }
        self.table.store(Arc::new(table));
        *known = Some(mark);
        Ok(())
    }

    fn compile(
        &self,
        name: &str,
        versions: Vec<Arc<Version>>,
        stored: StoredRevision,
        held: Option<&Arc<ModelRoutes>>,
    ) -> Result<ModelRoutes, ModelGatewayError> {
        let routing = &stored.revision.routing;
        let size = routing.max_in_flight.map_or(self.room.in_flight, |size| size as usize);
        // Requests under way keep their place in the bulkhead that let them in.
        let bulkhead = held
            .map(|held| Arc::clone(&held.bulkhead))
            .filter(|bulkhead| bulkhead.size() == size.max(1))
            .unwrap_or_else(|| Bulkhead::new(name, size, self.room.queue));
        let shadows = self.tracks(&stored, &versions, held);
        let stored = Arc::new(stored);
        let routes = ModelRoutes::compile(name, versions, Arc::clone(&stored), bulkhead, shadows)?;
        for version in &routes.versions {
            let epoch = epoch_of(&stored.epochs, version.record.registered.model.version);
            if version.traffic().epoch != epoch {
                version.measure_anew(Traffic::new(epoch, self.now()));
            }
        }
        Ok(routes)
    }

    fn tracks(
        &self,
        stored: &StoredRevision,
        versions: &[Arc<Version>],
        held: Option<&Arc<ModelRoutes>>,
    ) -> Vec<Arc<Track>> {
        let Some(runner) = self.runner.get() else {
            return Vec::new();
        };
        let routing = &stored.revision.routing;
        let held = held.map(|held| held.shadows.as_slice()).unwrap_or_default();
        let shadows = routing.shadow.iter().filter_map(|shadow| {
            let version = find(versions, routing.resolve(&shadow.version)?)?;
            let number = version.record.registered.model.version;
            let epoch = stored.epochs.shadow.get(&number).copied().unwrap_or_default();
            let (flip_at, sample) = (shadow.flip_at, shadow.sample_percent);
            let same = held.iter().find(|track| track.is(number, epoch, flip_at, sample));
            let start = || runner.start(Arc::clone(version), epoch, flip_at, sample);
            Some(same.cloned().unwrap_or_else(start))
        });
        shadows.collect()
    }

    /// Loads every version that `routing` sends requests to, so that none waits for a load that a change caused. One
    /// that can't be loaded is named: nothing may be routed to it.
    pub async fn load_routed(&self, versions: &[Arc<Version>], routing: &Routing) -> Result<(), ModelGatewayError> {
        // None of them is evicted for another.
        let routed = routed(versions, routing);
        let _holds: Vec<_> = routed.iter().map(|version| self.hold(version)).collect();
        for version in routed {
            self.scorer(version).await?;
        }
        Ok(())
    }

    /// The same for what another replica decided: it is followed whatever can be loaded here.
    async fn load_followed(&self, routes: &ModelRoutes) {
        let routed = routed(&routes.versions, &routes.revision.revision.routing);
        let _holds: Vec<_> = routed.iter().map(|version| self.hold(version)).collect();
        for version in routed {
            let model = &version.record.registered.model;
            match tokio::time::timeout(PATIENCE, self.scorer(version)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%model, %error, "a routed version can't be loaded"),
                Err(_) => tracing::warn!(%model, "a routed version takes long to load"),
            }
        }
    }

    fn is_same(&self, held: &ModelRoutes, versions: &[Arc<Version>], stored: &StoredRevision) -> bool {
        let shadows = if self.runner.get().is_some() {
            stored.revision.routing.shadow.len()
        } else {
            0
        };
        held.versions.len() == versions.len() && *held.revision == *stored && held.shadows.len() == shadows
    }

    fn now(&self) -> EventTime {
        let clock = self.runner.get().map(|runner| runner.clock.now_micros());
        clock.map_or_else(EventTime::now, EventTime::from_micros)
    }
}

/// The versions that requests reach without naming one, and the shadows; each once.
pub(super) fn routed<'v>(versions: &'v [Arc<Version>], routing: &Routing) -> Vec<&'v Arc<Version>> {
    let targets = routing.rules.iter().map(|rule| &rule.to);
    let targets = targets.chain(routing.split.iter().map(|share| &share.to));
    let targets = targets.chain(routing.shadow.iter().map(|shadow| &shadow.version));
    let mut numbers: Vec<u32> = targets.filter_map(|target| routing.resolve(target)).collect();
    numbers.extend(default_version(routing, versions).map(|version| version.record.registered.model.version));
    numbers.sort_unstable();
    numbers.dedup();
    numbers
        .into_iter()
        .filter_map(|number| find(versions, number))
        .collect()
}
