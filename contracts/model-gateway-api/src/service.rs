//! What the model gateway promises.

use crate::error::ModelGatewayError;
use crate::wire::{
    BatchPredictRequest, BatchPrediction, ModelSummary, PredictRequest, Prediction, RegisterRequest, RegisteredModel,
};
use async_trait::async_trait;

/// The model gateway: one API for all models.
#[async_trait]
pub trait ModelGateway: Send + Sync + 'static {
    /// Scores one request of `model` (`fraud` for the newest version, `fraud@3` for a pinned one).
    async fn predict(&self, model: &str, request: PredictRequest) -> Result<Prediction, ModelGatewayError>;

    /// Scores many requests with one feature lookup and one run of the model.
    async fn batch_predict(
        &self,
        model: &str,
        request: BatchPredictRequest,
    ) -> Result<BatchPrediction, ModelGatewayError>;

    /// Registers a new version of `model`. Refused with a diff when the artifact's inputs do not match the feature
    /// vector of the model's definition.
    async fn register(&self, model: &str, request: RegisterRequest) -> Result<RegisteredModel, ModelGatewayError>;

    /// Every model with its versions.
    async fn models(&self) -> Result<Vec<ModelSummary>, ModelGatewayError>;
}
