//! The model gateway behind its contract.

use crate::access::{Access, AccessOpenError};
use crate::artifact::{ArtifactError, Artifacts};
use crate::catalog::{Catalog, CatalogError};
use crate::config::ModelGatewayConfig;
use crate::decision_log::DecisionLog;
use crate::definitions::Definitions;
use crate::fault::{internal, invalid};
use crate::features::Lookups;
use crate::models::Models;
use crate::open_inference;
use crate::outcomes::Outcomes;
use crate::predict::{Batch, Bounds, Predictor};
use crate::register::register;
use crate::route::control::Control;
use crate::runtime::loader::Loader;
use crate::shadow::Runner;
use crate::uses::Uses;
use async_trait::async_trait;
use ondol_feature_store_api::FeatureStore;
use ondol_ingest_api::Ingest;
use ondol_model_gateway_api::wire::{
    BatchPredictRequest, BatchPrediction, ModelSummary, OutcomeReceipt, OutcomeRequest, PredictRequest, Prediction,
    PromoteRequest, RegisterRequest, RegisteredModel, RollbackRequest, RoutingChange, RoutingReport, RoutingRevision,
    ScoreRequest, VectorScores,
};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use ondol_runtime::objects::ObjectStores;
use ondol_runtime::{Clock, Health, Shutdown};
use ondol_vocabulary::EventTime;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Why the gateway can't start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its folder can't be used.
    #[error("the model gateway can't use `{}`", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its artifacts have no place.
    #[error("the model gateway can't keep artifacts (`artifacts`)")]
    Artifacts(#[from] ArtifactError),
    /// Its database can't be used.
    #[error("the model gateway can't open its database (`database`)")]
    Catalog(#[from] CatalogError),
    /// Who may use it can't be told.
    #[error("the model gateway can't tell who may use it")]
    Access(#[from] AccessOpenError),
}

/// The model gateway.
pub struct ModelGatewayService {
    predictor: Predictor,
    models: Arc<Models>,
    definitions: Definitions,
    control: Control,
    outcomes: Outcomes,
    uses: Uses,
    clock: Arc<dyn Clock>,
    max_artifact_bytes: usize,
    max_request_bytes: usize,
    access: Arc<Access>,
}

impl ModelGatewayService {
    /// Opens the gateway: reads what is registered, and starts its tasks, which end with `shutdown`. A feature store or
    /// an ingest that does not answer, and a missing ONNX Runtime, do not keep it from starting.
    pub async fn open(
        config: ModelGatewayConfig,
        feature_store: Arc<dyn FeatureStore>,
        ingest: Arc<dyn Ingest>,
        clock: Arc<dyn Clock>,
        shutdown: &Shutdown,
        health: &Health,
    ) -> Result<Arc<Self>, OpenError> {
        let folder = |source| OpenError::Folder {
            path: config.data_dir.clone(),
            source,
        };
        std::fs::create_dir_all(&config.data_dir).map_err(folder)?;
        let objects = ObjectStores::of_process();
        let artifacts = Artifacts::open(&objects, &config.artifacts_place(), config.artifacts_dir())?;
        let catalog = Catalog::open(&config.database_url()).await?;
        let loader = Loader::new(config.onnx_options(), config.batching.clone());
        let models = Arc::new(Models::open(catalog, artifacts, loader, config.room(), shutdown).await?);
        models.loader().find_members_in(Box::new(Arc::downgrade(&models)));

        let access = Access::open(
            &config.access,
            &config.database_url(),
            Arc::clone(&clock),
            shutdown,
            health,
        )
        .await?;

        let file = config.data_dir.join("snapshot.json");
        let ready = health.register("gateway-definitions");
        let definitions = Definitions::open(Arc::clone(&feature_store), file, ready).await;
        definitions.follow(shutdown);
        models
            .start_shadows(Runner {
                shutdown: shutdown.clone(),
                definitions: definitions.clone(),
                models: Arc::downgrade(&models),
                clock: Arc::clone(&clock),
                queue: config.shadow_queue,
                deadline: Duration::from_millis(config.deadline_ms),
            })
            .await?;
        let control = Control {
            models: Arc::clone(&models),
            definitions: definitions.clone(),
            clock: Arc::clone(&clock),
            replica: ulid::Ulid::new().to_string(),
        };
        control.follow(Duration::from_millis(config.catalog_refresh_ms.max(1)), shutdown);

        let max_in_flight = config.max_in_flight.clamp(1, Semaphore::MAX_PERMITS);
        let bounds = Bounds {
            deadline: Duration::from_millis(config.deadline_ms),
            in_flight: Arc::new(Semaphore::new(max_in_flight)),
            max_in_flight,
            max_batch_rows: config.max_batch_rows,
        };
        let outcomes = Outcomes::new(Arc::clone(&ingest));
        let log = DecisionLog::start(&config.decision_log, ingest, bounds.clone(), shutdown);
        let uses = Uses::new(
            Arc::clone(&feature_store),
            Arc::clone(&models),
            definitions.clone(),
            config.consumer.clone(),
        );
        uses.follow(shutdown);
        let predictor = Predictor {
            lookups: Lookups::new(feature_store, &config.store_breaker, health),
            definitions: definitions.clone(),
            models: Arc::clone(&models),
            log,
            clock: Arc::clone(&clock),
            bounds,
        };
        let (warm, token) = (Arc::clone(&models), shutdown.token());
        shutdown.spawn("gateway-warm-up", async move {
            token.run_until_cancelled(warm.warm_up()).await;
        });
        let (max_artifact_bytes, max_request_bytes) = (config.max_artifact_bytes, config.max_request_bytes);
        Ok(Arc::new(Self {
            predictor,
            models,
            definitions,
            control,
            outcomes,
            uses,
            clock,
            max_artifact_bytes,
            max_request_bytes,
            access,
        }))
    }

    /// The routes of the contract and of the Open Inference Protocol V2, behind the door of [`Access`].
    pub fn router(self: &Arc<Self>) -> axum::Router {
        let contract: Arc<dyn ModelGateway> = Arc::clone(self) as _;
        // Each part goes through the door once: twice would count a request twice.
        self.access
            .protect(ondol_model_gateway_api::server::router(contract))
            .merge(self.open_inference())
    }

    /// The routes of the Open Inference Protocol V2 alone, behind the door of [`Access`] too.
    pub fn open_inference(&self) -> axum::Router {
        self.access
            .guard(open_inference::router(self.predictor.clone(), self.max_request_bytes))
    }

    /// Decisions that were dropped since the start: with those recorded, as many as there were.
    pub fn dropped_decisions(&self) -> u64 {
        self.predictor.log.dropped()
    }

    /// The definitions it follows.
    pub const fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    /// Closes the database, once nothing uses the gateway any more.
    pub async fn close(&self) {
        self.access.close().await;
        self.models.close().await;
    }
}

#[async_trait]
impl ModelGateway for ModelGatewayService {
    async fn predict(&self, model: &str, request: PredictRequest) -> Result<Prediction, ModelGatewayError> {
        let PredictRequest {
            inputs,
            as_of,
            deadline_ms,
            explain,
            headers,
        } = request;
        let batch = Batch {
            instances: vec![inputs],
            as_of,
            deadline_ms,
            headers,
        };
        let routed = self.predictor.predict(model, batch).await?;
        let answer = routed.answers(explain.unwrap_or_default()).pop();
        answer.ok_or_else(|| internal("a request has no answer"))
    }

    async fn batch_predict(
        &self,
        model: &str,
        request: BatchPredictRequest,
    ) -> Result<BatchPrediction, ModelGatewayError> {
        let BatchPredictRequest {
            instances,
            as_of,
            deadline_ms,
            explain,
            headers,
        } = request;
        if instances.is_empty() {
            return Err(invalid("`instances` is empty: send at least one"));
        }
        let batch = Batch {
            instances,
            as_of,
            deadline_ms,
            headers,
        };
        let routed = self.predictor.predict(model, batch).await?;
        Ok(BatchPrediction {
            predictions: routed.answers(explain.unwrap_or_default()),
        })
    }

    async fn register(&self, model: &str, request: RegisterRequest) -> Result<RegisteredModel, ModelGatewayError> {
        if request.artifact.len() > self.max_artifact_bytes {
            return Err(invalid(format!(
                "the artifact has {} bytes, at most {} are taken (`max_artifact_bytes`)",
                request.artifact.len(),
                self.max_artifact_bytes
            )));
        }
        let now = EventTime::from_micros(self.clock.now_micros());
        let registered = register(&self.models, &self.definitions, model, request, now).await?;
        self.uses.publish().await;
        Ok(registered)
    }

    async fn score(&self, model: &str, request: ScoreRequest) -> Result<VectorScores, ModelGatewayError> {
        self.predictor.score_vectors(model, request).await
    }

    async fn outcome(&self, model: &str, request: OutcomeRequest) -> Result<OutcomeReceipt, ModelGatewayError> {
        let version = self.predictor.version(model).await?;
        let now = EventTime::from_micros(self.clock.now_micros());
        let name = &version.record.registered.model.name;
        self.outcomes.record(name, request, now).await
    }

    async fn models(&self) -> Result<Vec<ModelSummary>, ModelGatewayError> {
        let snapshot = self
            .definitions
            .refresh()
            .await
            .unwrap_or_else(|_| self.definitions.current());
        let summary = |model: &ondol_vocabulary::ModelVersion| {
            let definition = &model.definition;
            let mut versions = self.models.versions(&definition.name);
            versions.reverse();
            ModelSummary {
                name: definition.name.clone(),
                inputs: definition
                    .inputs
                    .iter()
                    .map(|input| (input.name.clone(), input.data_type))
                    .collect(),
                features: definition.features.iter().map(|feature| feature.name.clone()).collect(),
                versions: versions
                    .iter()
                    .map(|version| version.record.registered.clone())
                    .collect(),
            }
        };
        Ok(snapshot.models.iter().map(summary).collect())
    }

    async fn routing(&self, model: &str) -> Result<RoutingRevision, ModelGatewayError> {
        self.control.routing(model).await
    }

    async fn routing_history(&self, model: &str) -> Result<Vec<RoutingRevision>, ModelGatewayError> {
        self.control.history(model).await
    }

    async fn set_routing(&self, model: &str, change: RoutingChange) -> Result<RoutingRevision, ModelGatewayError> {
        self.control.set(model, change).await
    }

    async fn promote(&self, model: &str, request: PromoteRequest) -> Result<RoutingRevision, ModelGatewayError> {
        self.control.promote(model, request).await
    }

    async fn rollback(&self, model: &str, request: RollbackRequest) -> Result<RoutingRevision, ModelGatewayError> {
        self.control.rollback(model, request).await
    }

    async fn routing_report(&self, model: &str) -> Result<RoutingReport, ModelGatewayError> {
        self.control.report(model).await
    }
}
