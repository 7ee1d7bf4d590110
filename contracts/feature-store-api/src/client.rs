//! The [`FeatureStore`] that calls a [`router`](crate::server::router).

use crate::error::FeatureStoreError;
use crate::feature_batch::packed;
use crate::maintenance::{Compaction, Vacuum, VacuumOptions};
use crate::provisioning::Provisioning;
use crate::server::MAX_WAIT;
use crate::service::FeatureStore;
use crate::uses::{ConsumerUses, ModelUse};
use crate::wire::{
    Applied, DefinitionFiles, DefinitionHistory, Delivery, FeatureBatch, OfflineTable, PartitionPosition, Plan,
    ReadRequest, Rebuild, RebuildRequest, WriteReceipt,
};
use arrow::error::ArrowError;
use async_trait::async_trait;
use http::{Method, header};
use ondol_vocabulary::{Snapshot, batch};
use ondol_wire::path::encode_segment;
use ondol_wire::{Caller, ContractError, Credentials};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How much longer than the wait a long poll may take: the way there and back, and a busy server.
const POLL_MARGIN: Duration = Duration::from_secs(15);

/// How long an apply, a delivery or a flush may take: each can wait for a commit to a slow object store.
const WRITE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a compaction or a vacuum may take: it reads and writes a table.
const UPKEEP_TIMEOUT: Duration = Duration::from_secs(6 * 3600);

/// How an online read may be answered: packed, or as a store of an earlier release does.
const READ_MEDIA: &str = "application/vnd.ondol.features, application/vnd.apache.arrow.stream;q=0.5";

/// A feature store somewhere else. Cheap to clone; connections are pooled.
#[derive(Clone, Debug)]
pub struct FeatureStoreClient {
    caller: Caller,
}

impl FeatureStoreClient {
    /// For the feature store at `base`, for example `http://localhost:8081`. Connects when first used.
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
}

#[async_trait]
impl FeatureStore for FeatureStoreClient {
    async fn plan(&self, files: DefinitionFiles) -> Result<Plan, FeatureStoreError> {
        self.caller.post("/v1/definitions:plan", &files).await
    }

    async fn apply(&self, files: DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        let request = self
            .caller
            .request(Method::POST, "/v1/definitions:apply")
            .timeout(WRITE_TIMEOUT)
            .json(&files);
        self.caller.json(request).await
    }

    async fn snapshot(&self) -> Result<Arc<Snapshot>, FeatureStoreError> {
        self.caller.get("/v1/snapshot").await
    }

    async fn next_snapshot(&self, after: u64, wait: Duration) -> Result<Arc<Snapshot>, FeatureStoreError> {
        let wait = wait.min(MAX_WAIT);
        let path = format!("/v1/snapshot?after={after}&wait_ms={}", wait.as_millis());
        self.caller
            .json(
                self.caller
                    .request(Method::GET, &path)
                    .timeout(wait.saturating_add(POLL_MARGIN)),
            )
            .await
    }

    async fn history(&self, name: &str) -> Result<DefinitionHistory, FeatureStoreError> {
        self.caller
            .get(&format!("/v1/definitions/{}/history", encode_segment(name)))
            .await
    }

    async fn activate(&self, view_id: u32) -> Result<(), FeatureStoreError> {
        self.caller
            .json(
                self.caller
                    .request(Method::POST, &format!("/v1/views/{view_id}:activate")),
            )
            .await
    }

    async fn resume(&self, source: &str, generation: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        let path = format!("/v1/sources/{}/positions", encode_segment(source));
        self.caller
            .json(
                self.caller
                    .request(Method::GET, &path)
                    .query(&[("generation", generation)]),
            )
            .await
    }

    async fn write(&self, delivery: Delivery) -> Result<WriteReceipt, FeatureStoreError> {
        let events = delivery.to_arrow().map_err(invalid)?;
        let body = batch::encode(&events.schema(), &[events]).map_err(invalid)?;
        let request = self
            .caller
            .request(Method::POST, "/v1/deliveries")
            .timeout(WRITE_TIMEOUT)
            .header(header::CONTENT_TYPE, batch::MEDIA_TYPE)
            .body(body);
        self.caller.json(request).await
    }

    async fn flush(&self, source: &str) -> Result<WriteReceipt, FeatureStoreError> {
        let path = format!("/v1/sources/{}:flush", encode_segment(source));
        self.caller
            .json(self.caller.request(Method::POST, &path).timeout(WRITE_TIMEOUT))
            .await
    }

    async fn read(&self, request: ReadRequest) -> Result<FeatureBatch, FeatureStoreError> {
        let call = self
            .caller
            .request(Method::POST, "/v1/features:read")
            .header(header::ACCEPT, READ_MEDIA)
            .json(&request);
        let response = self.caller.response(call).await?;
        let is_packed = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|media| media == packed::MEDIA_TYPE);
        let bytes = self.caller.body(response).await?;
        let batch = if is_packed {
            FeatureBatch::from_packed(&bytes, request.features)
        } else {
            batch::decode_one(&bytes).and_then(|batch| FeatureBatch::from_arrow(&batch))
        };
        batch.map_err(|error| {
            FeatureStoreError::unavailable(format!("{} answered outside its contract: {error}", self.caller.base()))
        })
    }

    async fn tables(&self) -> Result<Vec<OfflineTable>, FeatureStoreError> {
        self.caller.get("/v1/tables").await
    }

    async fn rebuild(&self, request: RebuildRequest) -> Result<Vec<Rebuild>, FeatureStoreError> {
        self.caller.post("/v1/rebuilds", &request).await
    }

    async fn rebuilds(&self) -> Result<Vec<Rebuild>, FeatureStoreError> {
        self.caller.get("/v1/rebuilds").await
    }

    async fn apply_forced(&self, files: DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        let request = self.caller.request(Method::POST, "/v1/definitions:apply");
        self.caller.json(request.query(&[("force", true)]).json(&files)).await
    }

    async fn publish_uses(&self, consumer: &str, models: Vec<ModelUse>) -> Result<ConsumerUses, FeatureStoreError> {
        let path = format!("/v1/uses/{}", encode_segment(consumer));
        self.caller
            .json(self.caller.request(Method::PUT, &path).json(&models))
            .await
    }

    async fn uses(&self) -> Result<Vec<ConsumerUses>, FeatureStoreError> {
        self.caller.get("/v1/uses").await
    }

    async fn provisionings(&self) -> Result<Vec<Provisioning>, FeatureStoreError> {
        self.caller.get("/v1/provisionings").await
    }

    async fn hold(&self, view_id: u32) -> Result<Provisioning, FeatureStoreError> {
        let request = self.caller.request(Method::POST, &format!("/v1/views/{view_id}:hold"));
        self.caller.json(request).await
    }

    async fn release(&self, view_id: u32) -> Result<Provisioning, FeatureStoreError> {
        let request = self
            .caller
            .request(Method::POST, &format!("/v1/views/{view_id}:release"));
        self.caller.json(request).await
    }

    async fn compact(&self, source: &str) -> Result<Compaction, FeatureStoreError> {
        let path = format!("/v1/offline/{}:compact", encode_segment(source));
        self.caller
            .json(self.caller.request(Method::POST, &path).timeout(UPKEEP_TIMEOUT))
            .await
    }

    async fn vacuum(&self, source: &str, options: VacuumOptions) -> Result<Vacuum, FeatureStoreError> {
        let path = format!("/v1/offline/{}:vacuum", encode_segment(source));
        let request = self.caller.request(Method::POST, &path).timeout(UPKEEP_TIMEOUT);
        self.caller.json(request.json(&options)).await
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn invalid(error: ArrowError) -> FeatureStoreError {
    FeatureStoreError::invalid(error.to_string())
}
