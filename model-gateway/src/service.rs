//! The model gateway behind its contract.

use crate::artifact::ArtifactFolder;
use crate::catalog::{Catalog, CatalogError};
use crate::config::ModelGatewayConfig;
use crate::decision_log::DecisionLog;
use crate::definitions::Definitions;
use crate::fault::invalid;
use crate::models::Models;
use crate::open_inference;
use crate::predict::{Batch, Bounds, Predictor};
use crate::register::register;
use crate::runtime::loader::Loader;
use async_trait::async_trait;
use ondol_feature_store_api::FeatureStore;
use ondol_ingest_api::Ingest;
use ondol_model_gateway_api::wire::{
    BatchPredictRequest, BatchPrediction, ModelSummary, PredictRequest, Prediction, RegisterRequest, RegisteredModel,
};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
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
    /// Its database can't be used.
    #[error("the model gateway can't open its database (`database`)")]
    Catalog(#[from] CatalogError),
}

/// The model gateway.
pub struct ModelGatewayService {
    predictor: Predictor,
    models: Arc<Models>,
    definitions: Definitions,
    clock: Arc<dyn Clock>,
    max_artifact_bytes: usize,
    max_request_bytes: usize,
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
        let artifacts = ArtifactFolder::open(config.data_dir.join("artifacts")).map_err(folder)?;
        let catalog = Catalog::open(&config.database_url()).await?;
        let models = Arc::new(Models::open(catalog, artifacts, Loader::new(config.onnx_options())).await?);

        let file = config.data_dir.join("snapshot.json");
        let ready = health.register("gateway-definitions");
        let definitions = Definitions::open(Arc::clone(&feature_store), file, ready).await;
        definitions.follow(shutdown);

        let max_in_flight = config.max_in_flight.clamp(1, Semaphore::MAX_PERMITS);
        let bounds = Bounds {
            deadline: Duration::from_millis(config.deadline_ms),
            in_flight: Arc::new(Semaphore::new(max_in_flight)),
            max_in_flight,
            max_batch_rows: config.max_batch_rows,
        };
        let log = DecisionLog::start(&config.decision_log, ingest, bounds.clone(), shutdown);
        let predictor = Predictor {
            store: feature_store,
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
            clock,
            max_artifact_bytes,
            max_request_bytes,
        }))
    }

    /// The routes of the contract and of the Open Inference Protocol V2.
    pub fn router(self: &Arc<Self>) -> axum::Router {
        let contract: Arc<dyn ModelGateway> = Arc::clone(self) as _;
        ondol_model_gateway_api::server::router(contract).merge(self.open_inference())
    }

    /// The routes of the Open Inference Protocol V2 alone.
    pub fn open_inference(&self) -> axum::Router {
        open_inference::rest::router(self.predictor.clone(), self.max_request_bytes)
    }

    /// Closes the database, once nothing uses the gateway any more.
    pub async fn close(&self) {
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
        } = request;
        let scored = self
            .predictor
            .score(
                model,
                Batch {
                    instances: vec![inputs],
                    as_of,
                    deadline_ms,
                },
            )
            .await?;
        Ok(scored.answer(0))
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
        } = request;
        if instances.is_empty() {
            return Err(invalid("`instances` is empty: send at least one"));
        }
        let scored = self
            .predictor
            .score(
                model,
                Batch {
                    instances,
                    as_of,
                    deadline_ms,
                },
            )
            .await?;
        Ok(BatchPrediction {
            predictions: (0..scored.rows()).map(|row| scored.answer(row)).collect(),
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
        register(&self.models, &self.definitions, model, request, now).await
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
}
