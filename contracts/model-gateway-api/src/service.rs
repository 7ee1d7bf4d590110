//! What the model gateway promises.

use crate::error::ModelGatewayError;
use crate::wire::{
    BatchPredictRequest, BatchPrediction, ModelSummary, OutcomeReceipt, OutcomeRequest, PredictRequest, Prediction,
    PromoteRequest, RegisterRequest, RegisteredModel, RollbackRequest, RoutingChange, RoutingReport, RoutingRevision,
    ScoreRequest, VectorScores,
};
use async_trait::async_trait;

/// The model gateway: one API for all models.
#[async_trait]
pub trait ModelGateway: Send + Sync + 'static {
    /// Scores one request of `model`: `fraud` as its routing says, `fraud@3` for a pinned version, `fraud@canary` for the
    /// version of an alias.
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

    /// Scores vectors as they are, by `fraud@3` or by the version that serves `fraud`. Nothing is looked up or recorded.
    async fn score(&self, model: &str, request: ScoreRequest) -> Result<VectorScores, ModelGatewayError>;

    /// Records what became of a prediction. Durable when it returns; sent again, it is recorded again, and the latest
    /// counts.
    async fn outcome(&self, model: &str, request: OutcomeRequest) -> Result<OutcomeReceipt, ModelGatewayError>;

    /// Every model with its versions.
    async fn models(&self) -> Result<Vec<ModelSummary>, ModelGatewayError>;

    /// How the model's requests find their version now.
    async fn routing(&self, model: &str) -> Result<RoutingRevision, ModelGatewayError>;

    /// Every revision of the model's routing, newest first.
    async fn routing_history(&self, model: &str) -> Result<Vec<RoutingRevision>, ModelGatewayError>;

    /// Replaces the model's routing. Refused when it names what is not there, or when another revision has come
    /// between.
    async fn set_routing(&self, model: &str, change: RoutingChange) -> Result<RoutingRevision, ModelGatewayError>;

    /// Makes a version the champion, if it was measured to keep the routing's limits.
    async fn promote(&self, model: &str, request: PromoteRequest) -> Result<RoutingRevision, ModelGatewayError>;

    /// Brings an earlier routing back.
    async fn rollback(&self, model: &str, request: RollbackRequest) -> Result<RoutingRevision, ModelGatewayError>;

    /// What was measured of the model's versions and shadows.
    async fn routing_report(&self, model: &str) -> Result<RoutingReport, ModelGatewayError>;
}
