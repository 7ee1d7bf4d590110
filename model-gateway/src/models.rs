//! What is registered, ready to run: the catalog's rows in memory, each with its loaded model and its compiled plan.

mod loading;
mod members;
mod memory;
mod refresh;
mod residence;

use crate::artifact::Artifacts;
use crate::catalog::{Catalog, CatalogError, VersionRecord};
use crate::fault::{internal, nearest, of_trial, unavailable};
use crate::features::Plan;
use crate::layout::Layout;
use crate::open_inference::statistics::VersionStatistics;
use crate::route::history::Mark;
use crate::route::table::{Choice, ModelRoutes, Table};
use crate::route::traffic::Traffic;
use crate::runtime::loader::Loader;
use crate::runtime::{Runtime, WARM_UP_ROWS};
use crate::score::Score;
use crate::shadow::Runner;
use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use bytes::Bytes;
use loading::Shelf;
use memory::{Charge, Memory};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::ArtifactKind;
use ondol_runtime::Shutdown;
use ondol_vocabulary::{EventTime, ModelDefinition, Snapshot, VersionedName};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

pub use refresh::Room;
pub use residence::Hold;
use residence::Residence;

/// How long a trial run may take.
const TRIAL: Duration = Duration::from_secs(30);

/// Every registered version.
#[derive(Debug)]
pub struct Models {
    catalog: Catalog,
    shelf: Shelf,
    room: Room,
    /// What requests execute; replaced whole, so that none of them waits for a change.
    table: Arc<ArcSwap<Table>>,
    /// Where the database stood when the table was made; held while it is made anew.
    known: tokio::sync::Mutex<Option<Mark>>,
    /// Versions registered here a moment ago, already loaded, by `name@version`.
    fresh: Mutex<BTreeMap<String, Arc<Version>>>,
    runner: Arc<OnceLock<Runner>>,
}

/// One registered version.
#[derive(Debug)]
pub struct Version {
    /// What was registered.
    pub record: VersionRecord,
    /// What it has done since the gateway started.
    pub statistics: VersionStatistics,
    residence: Arc<Residence>,
    plan: ArcSwapOption<Plan>,
    traffic: ArcSwap<Traffic>,
}

/// A model that is loaded and knows how to take a vector and where its prediction is.
#[derive(Debug)]
pub struct Scorer {
    /// The loaded model.
    pub runtime: Arc<dyn Runtime>,
    /// How it takes a vector.
    pub layout: Layout,
    /// Where its prediction is.
    pub score: Score,
    width: usize,
    /// What it takes of the memory of models, until the last request has let go of it.
    charge: Option<Charge>,
}

impl Models {
    /// Reads the catalog. Loads no artifact: see [`Self::warm_up`]. Loads are tasks of `shutdown`.
    pub async fn open(
        catalog: Catalog,
        artifacts: Artifacts,
        loader: Loader,
        room: Room,
        shutdown: &Shutdown,
    ) -> Result<Self, CatalogError> {
        let table: Arc<ArcSwap<Table>> = Arc::default();
        let runner: Arc<OnceLock<Runner>> = Arc::default();
        let models = Self {
            catalog,
            shelf: Shelf {
                artifacts,
                loader,
                memory: Memory::new(room.memory_bytes),
                table: Arc::clone(&table),
                runner: Arc::clone(&runner),
                tasks: shutdown.clone(),
            },
            room,
            table,
            known: tokio::sync::Mutex::new(None),
            fresh: Mutex::default(),
            runner,
        };
        models.refresh(true).await?;
        Ok(models)
    }

    /// The model database.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Loads artifacts.
    pub fn loader(&self) -> &Loader {
        &self.shelf.loader
    }

    /// The versions of `name`, oldest first.
    pub fn versions(&self, name: &str) -> Vec<Arc<Version>> {
        self.routes(name)
            .map(|routes| routes.versions.clone())
            .unwrap_or_default()
    }

    /// The routes of the model that `model` names, and the version it names after the `@`, if it does: a number or an
    /// alias.
    pub fn find(
        &self,
        model: &str,
        snapshot: &Snapshot,
    ) -> Result<(Arc<ModelRoutes>, Option<Choice>), ModelGatewayError> {
        let (name, reference) = match model.rsplit_once('@') {
            Some((name, reference)) => (name, Some(reference)),
            None => (model, None),
        };
        if snapshot.model(name).is_none() {
            let known = snapshot.models.iter().map(|model| model.definition.name.as_str());
            return Err(ModelGatewayError::UnknownModel {
                name: model.to_owned(),
                suggestion: nearest(name, known),
            });
        }
        let routes = self
            .routes(name)
            .ok_or_else(|| ModelGatewayError::NothingRegistered { name: name.to_owned() })?;
        let named = match reference {
            None => None,
            Some(reference) => Some(routes.named(reference).ok_or_else(|| ModelGatewayError::UnknownModel {
                name: model.to_owned(),
                suggestion: routes.nearest(reference),
            })?),
        };
        Ok((routes, named))
    }

    /// The version that `model` names, or the one that serves what nothing else routes.
    pub fn resolve(&self, model: &str, snapshot: &Snapshot) -> Result<Arc<Version>, ModelGatewayError> {
        let (routes, named) = self.find(model, snapshot)?;
        Ok(named.map_or_else(|| Arc::clone(routes.default_version()), |choice| choice.version))
    }

    /// Keeps `artifact` and adds `record` as its model's next version: the file is durable before the row that names
    /// it. An artifact that is the newest version already, checked against the same definition and views, is that version.
    pub async fn add(
        &self,
        artifact: Bytes,
        record: VersionRecord,
        scorer: Arc<Scorer>,
    ) -> Result<VersionRecord, ModelGatewayError> {
        // Also of a version that is there already: registering it again is how a damaged file is mended.
        let kept = self.shelf.artifacts.keep(artifact).await;
        kept.map_err(|error| unavailable(format!("the artifact can't be kept: {error}")))?;
        let name = record.registered.model.name.clone();
        if let Some(newest) = self.versions(&name).last()
            && newest.record.registered.sha256 == record.registered.sha256
            && newest.record.registered.definition_version == record.registered.definition_version
            && newest.record.registered.views == record.registered.views
        {
            return Ok(newest.record.clone());
        }
        let record = self
            .catalog
            .add(record)
            .await
            .map_err(|error| unavailable(chain(&error)))?;
        let version = Version {
            residence: Arc::new(Residence::of(scorer)),
            ..Version::new(record.clone())
        };
        let added = record.registered.model.to_string();
        self.lock_fresh().insert(added.clone(), Arc::new(version));
        let refreshed = self.refresh(true).await;
        self.lock_fresh().remove(&added);
        refreshed.map_err(|error| unavailable(chain(&error)))?;
        Ok(record)
    }

    fn take_fresh(&self, model: &str) -> Option<Arc<Version>> {
        self.lock_fresh().get(model).cloned()
    }

    fn lock_fresh(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Version>>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model of `version`, loaded on first use. A load that failed is tried again at the next request; a version
    /// that was unloaded stays so until [`Self::load`].
    pub async fn scorer(&self, version: &Version) -> Result<Arc<Scorer>, ModelGatewayError> {
        if version.residence.is_unloaded() {
            let model = &version.record.registered.model;
            return Err(unavailable(format!(
                "`{model}` was unloaded: load it with POST /v2/repository/models/{model}/load"
            )));
        }
        self.shelf.scorer(version).await
    }

    /// Room in memory for a model of that name whose artifact has `size_bytes`, or why there is none.
    pub(crate) async fn make_room(
        &self,
        name: &str,
        kind: ArtifactKind,
        size_bytes: usize,
    ) -> Result<Charge, ModelGatewayError> {
        self.shelf.make_room(name, kind, size_bytes).await
    }

    /// Keeps `version` from being evicted while it is held.
    pub(crate) fn hold(&self, version: &Version) -> Hold {
        version.residence.hold(&self.shelf.memory)
    }

    /// Loads `version`, also one that was unloaded.
    pub async fn load(&self, version: &Version) -> Result<Arc<Scorer>, ModelGatewayError> {
        version.residence.allow();
        self.scorer(version).await
    }

    /// Lets requests load `version` again, if it was unloaded.
    pub fn allow(&self, version: &Version) {
        version.residence.allow();
    }

    /// Gives `version`'s model up: requests under way end with it, further ones are refused, until [`Self::load`]. Of
    /// this replica only, and until it starts again.
    pub fn unload(&self, version: &Version) {
        version.residence.unload();
    }

    /// Loads every version that requests reach without naming one, so that first requests find it loaded.
    pub async fn warm_up(&self) {
        for routes in self.all_routes() {
            for version in refresh::routed(&routes.versions, &routes.revision.revision.routing) {
                if let Err(error) = self.scorer(version).await {
                    tracing::warn!(model = %version.record.registered.model, %error, "a registered model can't be loaded");
                }
            }
        }
    }

    /// Closes the database.
    pub async fn close(&self) {
        self.catalog.close().await;
    }
}

impl Version {
    fn new(record: VersionRecord) -> Self {
        Self {
            record,
            statistics: VersionStatistics::default(),
            residence: Arc::default(),
            plan: ArcSwapOption::empty(),
            traffic: ArcSwap::from_pointee(Traffic::new(0, EventTime::now())),
        }
    }

    /// What is measured of it as it serves.
    pub fn traffic(&self) -> Guard<Arc<Traffic>> {
        self.traffic.load()
    }

    /// Begins to measure it anew.
    pub(crate) fn measure_anew(&self, traffic: Traffic) {
        self.traffic.store(Arc::new(traffic));
    }

    /// Whether its model is in memory.
    pub fn is_loaded(&self) -> bool {
        self.residence.is_loaded()
    }

    /// Whether it was unloaded on purpose.
    pub fn is_unloaded(&self) -> bool {
        self.residence.is_unloaded()
    }

    /// The plan by which the version's vector is looked up under `snapshot`; compiled once a snapshot.
    pub fn plan(&self, snapshot: &Snapshot) -> Result<Arc<Plan>, ModelGatewayError> {
        let known = self.plan.load_full();
        if let Some(plan) = known.filter(|plan| plan.snapshot_version() == snapshot.version) {
            return Ok(plan);
        }
        let plan = Arc::new(Plan::compile(&self.record, snapshot)?);
        self.plan.store(Some(Arc::clone(&plan)));
        Ok(plan)
    }
}

impl Scorer {
    /// `runtime`, which takes the vector of `definition`, or how they differ.
    pub fn new(runtime: Arc<dyn Runtime>, definition: &ModelDefinition) -> Result<Self, ModelGatewayError> {
        let signature = runtime.signature();
        let layout = Layout::fit(definition, signature).map_err(|differences| ModelGatewayError::Mismatch {
            model: definition.name.clone(),
            differences,
        })?;
        let score = Score::choose(&signature.outputs).ok_or_else(|| internal("the artifact has no output"))?;
        Ok(Self {
            runtime,
            layout,
            score,
            width: definition.features.len(),
            charge: None,
        })
    }

    /// With what it takes of the memory of models.
    pub(crate) fn charged(mut self, mut charge: Charge) -> Self {
        charge.settle(self.runtime.memory_bytes());
        self.charge = Some(charge);
        self
    }

    /// What it takes of the memory of models, in bytes.
    pub(crate) fn charged_bytes(&self) -> usize {
        self.charge.as_ref().map_or(0, Charge::bytes)
    }

    /// Scores `rows` vectors that say nothing, as for entities that nobody has seen.
    pub async fn trial(&self, rows: usize) -> Result<Vec<serde_json::Value>, ModelGatewayError> {
        let blank = self.layout.blank(rows, self.width);
        let outputs = self.runtime.run(rows, blank, Instant::now() + TRIAL).await;
        let outputs = outputs.map_err(|error| of_trial(&error))?;
        self.score.predictions(&outputs, rows)
    }

    /// Has the model run at the sizes of typical requests, so that what is slow the first time (allocations, kernels,
    /// connections) is done before traffic. A model that fails here is told and serves: a server may be down for now.
    async fn warm_up(&self, model: &VersionedName) {
        for rows in WARM_UP_ROWS {
            if let Err(error) = self.trial(rows).await {
                tracing::warn!(%model, rows, %error, "a trial run of a registered model failed");
                return;
            }
        }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
