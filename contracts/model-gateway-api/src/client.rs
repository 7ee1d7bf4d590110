//! The [`ModelGateway`] that calls a [`router`](crate::server::router).

use crate::artifact::ArtifactEnvelope;
use crate::error::ModelGatewayError;
use crate::service::ModelGateway;
use crate::wire::{
    BatchPredictRequest, BatchPrediction, ModelSummary, OutcomeReceipt, OutcomeRequest, PredictRequest, Prediction,
    PromoteRequest, RegisterRequest, RegisteredModel, RollbackRequest, RoutingChange, RoutingReport, RoutingRevision,
    ScoreRequest, VectorScores,
};
use async_trait::async_trait;
use http::Method;
use ondol_wire::path::encode_segment;
use ondol_wire::{Caller, Credentials};
use std::time::Duration;
use url::Url;

/// How much longer than its deadline a prediction may take: the way there and back.
const DEADLINE_MARGIN: Duration = Duration::from_secs(15);

/// How long registering may take: a large artifact travels, is loaded and tried.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(600);

/// A model gateway somewhere else. Cheap to clone; connections are pooled.
#[derive(Clone, Debug)]
pub struct ModelGatewayClient {
    caller: Caller,
}

impl ModelGatewayClient {
    /// For the gateway at `base`, for example `http://localhost:8080`. Connects when first used.
    ///
    /// # Errors
    /// When the HTTP client can't be built.
    pub fn new(base: Url) -> Result<Self, reqwest::Error> {
        Self::with(base, &Credentials::default())
    }

    /// As [`Self::new`], for a service that is shown `credentials`.
    ///
    /// # Errors
    /// When the HTTP client can't be built.
    pub fn with(base: Url, credentials: &Credentials) -> Result<Self, reqwest::Error> {
        Ok(Self {
            caller: Caller::with(base, credentials)?,
        })
    }

    fn model_request(&self, model: &str, suffix: &str) -> reqwest::RequestBuilder {
        self.caller
            .request(Method::POST, &format!("/v1/models/{}{suffix}", encode_segment(model)))
    }
}

#[async_trait]
impl ModelGateway for ModelGatewayClient {
    async fn predict(&self, model: &str, request: PredictRequest) -> Result<Prediction, ModelGatewayError> {
        let call = self
            .model_request(model, ":predict")
            .headers(request.headers.clone())
            .timeout(call_timeout(request.deadline_ms));
        self.caller.json(call.json(&request)).await
    }

    async fn batch_predict(
        &self,
        model: &str,
        request: BatchPredictRequest,
    ) -> Result<BatchPrediction, ModelGatewayError> {
        let call = self
            .model_request(model, ":batchPredict")
            .headers(request.headers.clone())
            .timeout(call_timeout(request.deadline_ms));
        self.caller.json(call.json(&request)).await
    }

    async fn register(&self, model: &str, request: RegisterRequest) -> Result<RegisteredModel, ModelGatewayError> {
        let call = self.model_request(model, "/versions").timeout(REGISTER_TIMEOUT);
        self.caller.json(call.json(&ArtifactEnvelope::from(request))).await
    }

    async fn score(&self, model: &str, request: ScoreRequest) -> Result<VectorScores, ModelGatewayError> {
        let call = self
            .model_request(model, ":score")
            .timeout(call_timeout(request.deadline_ms));
        self.caller.json(call.json(&request)).await
    }

    async fn outcome(&self, model: &str, request: OutcomeRequest) -> Result<OutcomeReceipt, ModelGatewayError> {
        let call = self.model_request(model, ":outcome");
        self.caller.json(call.json(&request)).await
    }

    async fn models(&self) -> Result<Vec<ModelSummary>, ModelGatewayError> {
        self.caller.get("/v1/models").await
    }

    async fn routing(&self, model: &str) -> Result<RoutingRevision, ModelGatewayError> {
        self.caller.get(&routing_path(model, "routing")).await
    }

    async fn routing_history(&self, model: &str) -> Result<Vec<RoutingRevision>, ModelGatewayError> {
        self.caller.get(&routing_path(model, "routing/history")).await
    }

    async fn set_routing(&self, model: &str, change: RoutingChange) -> Result<RoutingRevision, ModelGatewayError> {
        let mut call = self
            .caller
            .request(Method::PUT, &routing_path(model, "routing"))
            .query(&change.remark);
        if let Some(revision) = change.expected_revision {
            call = call.header(http::header::IF_MATCH, format!("\"{revision}\""));
        }
        self.caller.json(call.json(&change.routing)).await
    }

    async fn promote(&self, model: &str, request: PromoteRequest) -> Result<RoutingRevision, ModelGatewayError> {
        let call = self.model_request(model, ":promote");
        self.caller.json(call.json(&request)).await
    }

    async fn rollback(&self, model: &str, request: RollbackRequest) -> Result<RoutingRevision, ModelGatewayError> {
        let call = self.model_request(model, ":rollback");
        self.caller.json(call.json(&request)).await
    }

    async fn routing_report(&self, model: &str) -> Result<RoutingReport, ModelGatewayError> {
        self.caller.get(&routing_path(model, "shadow")).await
    }
}

fn routing_path(model: &str, part: &str) -> String {
    format!("/v1/models/{}/{part}", encode_segment(model))
}

/// The gateway keeps the deadline; the client's own limit must not cut a longer one short.
fn call_timeout(deadline_ms: Option<u64>) -> Duration {
    let deadline = deadline_ms.map_or(Duration::ZERO, Duration::from_millis);
    Caller::DEFAULT_TIMEOUT.max(deadline.saturating_add(DEADLINE_MARGIN))
}
