//! Changes of routings: checked, kept, compiled; and those of other replicas, followed.
//!
//! A change is a new revision in the model database, whose number only one writer can take. Before it is written, what it
//! sends requests to is loaded, so that a request never waits for a load that the change caused. Other replicas see it
//! at their next look, every `catalog_refresh_ms`.

use crate::catalog::CatalogError;
use crate::definitions::Definitions;
use crate::fault::{invalid, nearest, unavailable};
use crate::models::{Models, chain};
use crate::route::document::{self, Ground};
use crate::route::history::StoredRevision;
use crate::route::measurements::{Measurements, Written};
use crate::route::promotion::{candidate, must_go, promoted, unmet, withdrawn};
use crate::route::table::{ModelRoutes, default_version};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::{
    PromoteRequest, Remark, RollbackRequest, Routing, RoutingAction, RoutingChange, RoutingReport, RoutingRevision,
};
use ondol_runtime::{Clock, Shutdown};
use ondol_vocabulary::EventTime;
use std::sync::Arc;
use std::time::Duration;

/// Attempts of a change that names no revision while others change the same routing.
const ATTEMPTS: usize = 5;
/// How many looks at the database pass between two writes of what was measured.
const LOOKS_A_WRITE: u32 = 3;

/// Carries out changes of routings.
#[derive(Clone)]
pub struct Control {
    /// What is registered.
    pub models: Arc<Models>,
    /// The definitions in force.
    pub definitions: Definitions,
    /// Says when something changed.
    pub clock: Arc<dyn Clock>,
    /// This replica's name among the measurements.
    pub replica: String,
}

/// A change that someone asks for.
enum Change {
    Set(Routing, Remark),
    Promote(PromoteRequest),
    Rollback(RollbackRequest),
    Withdraw(u32, Remark),
}

/// A revision to be written.
struct Draft {
    routing: Routing,
    action: RoutingAction,
    remark: Remark,
    forced_past: Vec<String>,
    /// The revision that it brings back.
    restores: Option<StoredRevision>,
}

impl Draft {
    fn new(routing: Routing, action: RoutingAction, remark: Remark) -> Self {
        Self {
            routing,
            action,
            remark,
            forced_past: Vec::new(),
            restores: None,
        }
    }
}

impl Control {
    /// The routing in force.
    pub async fn routing(&self, model: &str) -> Result<RoutingRevision, ModelGatewayError> {
        let routes = self.routes(model).await?;
        let mut revision = routes.revision.revision.clone();
        revision.effective = effective(
            &routes.revision,
            routes.default_version().record.registered.model.version,
        );
        Ok(revision)
    }

    /// Every revision, newest first.
    pub async fn history(&self, model: &str) -> Result<Vec<RoutingRevision>, ModelGatewayError> {
        self.routes(model).await?;
        let stored = self
            .models
            .catalog()
            .routing_history(model)
            .await
            .map_err(|error| failed(&error))?;
        Ok(stored.into_iter().map(|stored| stored.revision).collect())
    }

    /// Replaces the routing.
    pub async fn set(&self, model: &str, change: RoutingChange) -> Result<RoutingRevision, ModelGatewayError> {
        let RoutingChange {
            routing,
            expected_revision,
            remark,
        } = change;
        self.write(model, expected_revision, &Change::Set(routing, remark))
            .await
    }

    /// Makes a version the champion.
    pub async fn promote(&self, model: &str, request: PromoteRequest) -> Result<RoutingRevision, ModelGatewayError> {
        let expected = request.expected_revision;
        self.write(model, expected, &Change::Promote(request)).await
    }

    /// Brings an earlier revision back.
    pub async fn rollback(&self, model: &str, request: RollbackRequest) -> Result<RoutingRevision, ModelGatewayError> {
        self.write(model, None, &Change::Rollback(request)).await
    }

    /// What was measured.
    pub async fn report(&self, model: &str) -> Result<RoutingReport, ModelGatewayError> {
        let routes = self.routes(model).await?;
        Ok(self.measurements(&routes).await?.report(&routes))
    }

    async fn measurements(&self, routes: &ModelRoutes) -> Result<Measurements, ModelGatewayError> {
        let catalog = self.models.catalog();
        catalog
            .measurements(&self.replica, routes)
            .await
            .map_err(|error| failed(&error))
    }

    /// The model's routes as the database has them now.
    async fn routes(&self, model: &str) -> Result<Arc<ModelRoutes>, ModelGatewayError> {
        self.models.refresh(false).await.map_err(|error| failed(&error))?;
        if let Some(routes) = self.models.routes(model) {
            return Ok(routes);
        }
        let snapshot = self.definitions.current();
        if snapshot.model(model).is_some() {
            return Err(ModelGatewayError::NothingRegistered { name: model.to_owned() });
        }
        let known = snapshot.models.iter().map(|model| model.definition.name.as_str());
        Err(ModelGatewayError::UnknownModel {
            name: model.to_owned(),
            suggestion: nearest(model, known),
        })
    }

    /// Writes what `change` makes of the routing in force as the next revision.
    async fn write(
        &self,
        model: &str,
        expected: Option<u64>,
        change: &Change,
    ) -> Result<RoutingRevision, ModelGatewayError> {
        let mut current = 0;
        for _ in 0..ATTEMPTS {
            let routes = self.routes(model).await?;
            current = routes.revision.revision.revision;
            if let Some(expected) = expected.filter(|expected| *expected != current) {
                return Err(conflict(model, expected, current));
            }
            let stored = self.stored(&routes, self.draft(&routes, change).await?)?;
            self.models
                .load_routed(&routes.versions, &stored.revision.routing)
                .await?;
            let catalog = self.models.catalog();
            if catalog.add_routing(&stored).await.map_err(|error| failed(&error))? {
                catalog
                    .forget_measurements(model, &stored.epochs)
                    .await
                    .map_err(|error| failed(&error))?;
                self.models.refresh(true).await.map_err(|error| failed(&error))?;
                let RoutingRevision {
                    revision,
                    action,
                    remark,
                    ..
                } = &stored.revision;
                let by = remark.by.as_deref().unwrap_or_default();
                tracing::info!(model, revision, %action, by, "routing changed");
                metrics::counter!("ondol_gateway_routing_changes_total", "action" => action.to_string()).increment(1);
                return Ok(stored.revision);
            }
        }
        Err(conflict(model, current, current + 1))
    }

    async fn draft(&self, routes: &ModelRoutes, change: &Change) -> Result<Draft, ModelGatewayError> {
        match change {
            Change::Set(routing, remark) => Ok(Draft::new(routing.clone(), RoutingAction::Set, remark.clone())),
            Change::Promote(request) => self.promotion(routes, request).await,
            Change::Rollback(request) => self.way_back(routes, request).await,
            Change::Withdraw(version, remark) => {
                let routing = withdrawn(&routes.revision.revision.routing, *version);
                Ok(Draft::new(routing, RoutingAction::Withdraw, remark.clone()))
            }
        }
    }

    async fn promotion(&self, routes: &ModelRoutes, request: &PromoteRequest) -> Result<Draft, ModelGatewayError> {
        let (model, routing) = (&routes.name, &routes.revision.revision.routing);
        let champion = routes.default_version().record.registered.model.version;
        let version = match &request.version {
            Some(target) => routing.resolve(target).ok_or_else(|| {
                invalid(format!("`version` is `{target}`, which is not among the aliases of `{model}`"))
            })?,
            None => candidate(routing, champion).ok_or_else(|| {
                invalid(format!(
                    "`version` is absent, and the routing of `{model}` has neither an alias `canary` nor exactly one version \
                     beside the champion: name one"
                ))
            })?,
        };
        if version == champion {
            return Err(invalid(format!("`{model}@{version}` is the champion already")));
        }
        let measured = self.measurements(routes).await?;
        let unmet = unmet(&routing.limits, &measured, champion, version);
        if !(unmet.is_empty() || request.force) {
            return Err(ModelGatewayError::LimitsNotMet {
                version: format!("{model}@{version}"),
                unmet,
            });
        }
        let remark = Remark {
            by: request.by.clone(),
            note: request.note.clone(),
        };
        Ok(Draft {
            forced_past: unmet,
            ..Draft::new(promoted(routing, version), RoutingAction::Promote, remark)
        })
    }

    async fn way_back(&self, routes: &ModelRoutes, request: &RollbackRequest) -> Result<Draft, ModelGatewayError> {
        let (model, now) = (&routes.name, &routes.revision.revision);
        let wanted = match request.to_revision {
            Some(revision) => revision,
            // What a rollback brought back is left for what stood before that.
            None => now
                .restores
                .unwrap_or(now.revision)
                .checked_sub(1)
                .ok_or_else(|| invalid(format!("the routing of `{model}` has no revision before this one")))?,
        };
        let history = self
            .models
            .catalog()
            .routing_history(model)
            .await
            .map_err(|error| failed(&error))?;
        let found = history.into_iter().find(|stored| stored.revision.revision == wanted);
        let stored = match wanted {
            0 => StoredRevision::unset(model),
            _ => found.ok_or_else(|| {
                let newest = now.revision;
                invalid(format!(
                    "`to_revision` is {wanted}, and `{model}` is at revision {newest}"
                ))
            })?,
        };
        let remark = Remark {
            by: request.by.clone(),
            note: request.note.clone(),
        };
        Ok(Draft {
            restores: Some(stored.clone()),
            ..Draft::new(stored.revision.routing, RoutingAction::Rollback, remark)
        })
    }

    /// The revision that `draft` is after the one in force.
    fn stored(&self, routes: &ModelRoutes, draft: Draft) -> Result<StoredRevision, ModelGatewayError> {
        let before = &routes.revision;
        let Draft {
            routing,
            action,
            remark,
            forced_past,
            restores,
        } = draft;
        let ground = Ground {
            model: &routes.name,
            versions: &routes.versions,
            snapshot: &self.definitions.current(),
        };
        // What is brought back was complete, and must stand whatever has changed since.
        let routing = if restores.is_some() {
            routing
        } else {
            ground.complete(routing)?
        };
        let revision = before.revision.revision + 1;
        let layout = match &restores {
            Some(restored) => restored.layout.clone(),
            None => {
                let default = routes.default_version().record.registered.model.version;
                document::layout(&routing, before.layout.as_ref(), default)
            }
        };
        let mut stored = StoredRevision {
            epochs: before.epochs.next(&routing, revision),
            layout,
            revision: RoutingRevision {
                revision,
                action,
                changed_at: Some(EventTime::from_micros(self.clock.now_micros())),
                remark,
                forced_past,
                restores: restores.map(|restored| restored.revision.revision),
                routing,
                ..RoutingRevision::unset(&routes.name)
            },
        };
        let default = default_version(&stored.revision.routing, &routes.versions);
        let default = default.map_or(0, |version| version.record.registered.model.version);
        stored.revision.effective = effective(&stored, default);
        Ok(stored)
    }

    /// Spawns the task that follows the database, shares what was measured and withdraws canaries, until the shutdown.
    pub fn follow(&self, every: Duration, shutdown: &Shutdown) {
        let (control, token) = (self.clone(), shutdown.token());
        shutdown.spawn("gateway-routing", async move {
            let mut written = Written::default();
            let mut looks: u32 = 0;
            while token.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                looks = looks.wrapping_add(1);
                control.look(looks.is_multiple_of(LOOKS_A_WRITE), &mut written).await;
            }
            // What was measured last is not lost with the process.
            control.share(&mut written).await;
        });
    }

    async fn look(&self, share: bool, written: &mut Written) {
        if let Err(error) = self.models.refresh(false).await {
            metrics::counter!("ondol_gateway_catalog_errors_total").increment(1);
            tracing::warn!(
                error = chain(&error),
                "the model database can't be read: going on with what is known"
            );
            return;
        }
        if share {
            self.share(written).await;
        }
        for routes in self.models.all_routes() {
            if routes.revision.revision.routing.limits.withdraw_canary {
                self.withdraw(&routes).await;
            }
        }
    }

    async fn share(&self, written: &mut Written) {
        for routes in self.models.all_routes() {
            let shared = self
                .models
                .catalog()
                .write_measurements(&self.replica, &routes, written)
                .await;
            if let Err(error) = shared {
                tracing::warn!(
                    model = routes.name,
                    error = chain(&error),
                    "measurements can't be shared"
                );
                return;
            }
        }
    }

    /// Takes a canary that breaks its limits out of the split.
    async fn withdraw(&self, routes: &ModelRoutes) {
        let routing = &routes.revision.revision.routing;
        let champion = routes.default_version().record.registered.model.version;
        let canaries = routing.split.iter().filter_map(|share| routing.resolve(&share.to));
        let canaries: Vec<u32> = canaries.filter(|version| *version != champion).collect();
        let Ok(measured) = self.measurements(routes).await else {
            return;
        };
        for version in canaries {
            let Some(reason) = must_go(&routing.limits, &measured, version) else {
                continue;
            };
            let remark = Remark {
                by: Some("gateway".to_owned()),
                note: Some(reason.clone()),
            };
            let expected = routes.revision.revision.revision;
            let written = self
                .write(&routes.name, Some(expected), &Change::Withdraw(version, remark))
                .await;
            match written {
                Ok(_) => tracing::error!(model = routes.name, version, reason, "a canary was withdrawn"),
                // Another replica was faster.
                Err(ModelGatewayError::RevisionConflict { .. }) => {}
                Err(error) => tracing::error!(model = routes.name, version, %error, "a canary can't be withdrawn"),
            }
            // The routing is another one now: what is left is looked at next time.
            return;
        }
    }
}

/// Where requests that no rule takes go, in percent.
fn effective(stored: &StoredRevision, default: u32) -> std::collections::BTreeMap<u32, f64> {
    match &stored.layout {
        Some(layout) => {
            let shares = layout.shares().into_iter();
            shares
                .map(|(version, slots)| (version, f64::from(slots) / 100.0))
                .collect()
        }
        None => [(default, 100.0)].into(),
    }
}

fn conflict(model: &str, expected: u64, current: u64) -> ModelGatewayError {
    ModelGatewayError::RevisionConflict {
        model: model.to_owned(),
        expected,
        current,
    }
}

fn failed(error: &CatalogError) -> ModelGatewayError {
    unavailable(chain(error))
}
