//! How a version comes into memory: room is made for it, its artifact read, loaded and tried.
//!
//! A load is a task of its own: a request that gives up leaves it to those that come after, so that a model that takes
//! longer to load than a request may wait is loaded all the same.

use super::memory::{Charge, Memory, Resident};
use super::residence::{Loading, Residence};
use super::{Scorer, Version};
use crate::artifact::{ArtifactError, Artifacts};
use crate::catalog::VersionRecord;
use crate::fault::{internal, of_trial, unavailable};
use crate::route::table::{Table, find};
use crate::runtime::loader::Loader;
use crate::shadow::Runner;
use arc_swap::ArcSwap;
use futures::FutureExt;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::ArtifactKind;
use ondol_runtime::Shutdown;
use ondol_vocabulary::VersionedName;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use tokio::sync::oneshot;

/// What loading takes. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    pub(super) artifacts: Artifacts,
    pub(super) loader: Loader,
    pub(super) memory: Arc<Memory>,
    /// What requests execute: who is in it, and who of them stays.
    pub(super) table: Arc<ArcSwap<Table>>,
    pub(super) runner: Arc<OnceLock<Runner>>,
    pub(super) tasks: Shutdown,
}

impl Shelf {
    /// The model of `version`, loaded on first use.
    pub(super) async fn scorer(&self, version: &Version) -> Result<Arc<Scorer>, ModelGatewayError> {
        let start = || self.start(version.record.clone(), Arc::clone(&version.residence));
        version.residence.get_or_load(start).await
    }

    fn start(&self, record: VersionRecord, residence: Arc<Residence>) -> Loading {
        let (tell, told) = oneshot::channel();
        let (shelf, home, token) = (self.clone(), Arc::clone(&residence), self.tasks.token());
        self.tasks.spawn("gateway-model-load", async move {
            let loaded = token.run_until_cancelled(shelf.load(&record)).await;
            let result = loaded.unwrap_or_else(|| Err(unavailable("the gateway is stopping")));
            let outcome = if result.is_ok() { "ok" } else { "error" };
            metrics::counter!("ondol_gateway_model_loads_total", "outcome" => outcome).increment(1);
            home.arrived(&result);
            shelf.memory.changed();
            // Nobody may wait for it any more.
            let _ = tell.send(result);
        });
        async move {
            told.await.unwrap_or_else(|_| {
                let abandoned = Err(internal("the load of the model broke off: see the log"));
                residence.arrived(&abandoned);
                abandoned
            })
        }
        .boxed()
        .shared()
    }

    async fn load(&self, record: &VersionRecord) -> Result<Arc<Scorer>, ModelGatewayError> {
        let registered = &record.registered;
        let gone = |error: ArtifactError| unavailable(format!("the artifact is gone: {error}"));
        let size = self.artifacts.size_bytes(&registered.sha256).await.map_err(gone)?;
        let charge = self
            .make_room(&registered.model.to_string(), registered.kind, size)
            .await?;
        let artifact = self.artifacts.read(&registered.sha256).await.map_err(gone)?;
        let runtime = self
            .loader
            .load(registered.kind, artifact, &record.definition, Some(registered))
            .await;
        let runtime = runtime.map_err(|error| of_trial(&error))?;
        let scorer = Scorer::new(runtime, &record.definition)?.charged(charge);
        scorer.warm_up(&registered.model).await;
        Ok(Arc::new(scorer))
    }

    /// Room for a model whose artifact has `size_bytes`, or why there is none.
    pub(super) async fn make_room(
        &self,
        model: &str,
        kind: ArtifactKind,
        size_bytes: usize,
    ) -> Result<Charge, ModelGatewayError> {
        let bytes = self.loader.memory_bytes(kind, size_bytes);
        // Freeing sessions takes milliseconds: aside from async threads, where nobody else has them.
        let evict = |version: &Arc<Version>| {
            let scorer = version.residence.evict();
            scorer
                .map(|scorer| tokio::task::spawn_blocking(move || drop(scorer)))
                .is_some()
        };
        self.memory.reserve(model, bytes, || self.residents(), evict).await
    }

    /// Every version in memory.
    fn residents(&self) -> Vec<Resident<Arc<Version>>> {
        let table = self.table.load();
        let snapshot = self.runner.get().map(|runner| runner.definitions.current());
        let mut stay: BTreeSet<VersionedName> = BTreeSet::new();
        for routes in table.values() {
            let model = snapshot.as_ref().and_then(|snapshot| snapshot.model(&routes.name));
            let policy = model.map(|model| &model.definition.policy);
            stay.extend(
                routes
                    .live(policy)
                    .into_iter()
                    .map(|number| VersionedName::new(&routes.name, number)),
            );
        }
        // What a graph runs stays with it, and graphs may run graphs.
        let mut graphs: Vec<VersionedName> = stay.iter().cloned().collect();
        while let Some(graph) = graphs.pop() {
            let version = table
                .get(&graph.name)
                .and_then(|routes| find(&routes.versions, graph.version));
            let scorer = version.and_then(|version| version.residence.loaded());
            let members = scorer.map(|scorer| scorer.runtime.members()).unwrap_or_default();
            graphs.extend(members.into_iter().filter(|member| stay.insert(member.clone())));
        }
        let resident = |version: &Arc<Version>| {
            let model = &version.record.registered.model;
            Some(Resident {
                bytes: version.residence.loaded()?.charged_bytes(),
                version: Arc::clone(version),
                model: model.clone(),
                stays: stay.contains(model),
                held: version.residence.is_held(),
                used_ms: version
                    .statistics
                    .last_inference_ms()
                    .max(version.residence.loaded_ms()),
            })
        };
        let versions = table.values().flat_map(|routes| &routes.versions);
        versions.filter_map(resident).collect()
    }
}
