//! What live models read, so that nothing they stand on is taken away or changed under them.
//!
//! Whoever serves models publishes what they read; an apply that would remove or change that is refused, with what would
//! change and for whom, unless it is forced. A use is of a view's version as the model was registered with: a later
//! version that keeps the feature as it was keeps the use.

use crate::error::FeatureStoreError;
use crate::service::FeatureStore;
use axum::extract::State;
use axum::response::Response;
use ondol_vocabulary::{DataType, EventTime, FeatureRef, VersionedName};
use ondol_wire::responses::{BadRequest, Internal, Unavailable};
use ondol_wire::{JsonBody, Segment, answer};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use utoipa::ToSchema;

/// What a registered version that serves reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelUse {
    /// The registered version: `fraud@3`.
    pub model: VersionedName,
    /// The features it reads.
    pub reads: Vec<FeatureUse>,
}

/// A feature that a model reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureUse {
    /// Which one.
    pub feature: FeatureRef,
    /// The version of its view that the model was registered with.
    pub view_version: u32,
    /// The type it takes it as.
    pub data_type: DataType,
}

/// What one consumer has published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsumerUses {
    /// Who reads.
    pub consumer: String,
    /// When it last said something else than before.
    pub published_at: EventTime,
    /// What it reads.
    pub models: Vec<ModelUse>,
}

/// Something that a model stands on and that a change would take away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BrokenUse {
    /// What would change, a line: `card.spend_24h: sum(amount) over 24h → sum(amount) over 12h`.
    pub change: String,
    /// The registered versions that read it.
    pub models: Vec<VersionedName>,
}

impl fmt::Display for BrokenUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let models: Vec<String> = self.models.iter().map(ToString::to_string).collect();
        write!(f, "{} (used by {})", self.change, models.join(", "))
    }
}

type Store = State<Arc<dyn FeatureStore>>;

/// What live models read
#[utoipa::path(
    get, path = "/v1/uses", tag = "definitions", operation_id = "uses",
    responses(
        (status = 200, description = "By consumer.", body = Vec<ConsumerUses>),
        Internal, Unavailable
    )
)]
pub(crate) async fn uses(State(store): Store) -> Response {
    answer(store.uses().await)
}

/// Publish what a consumer's live models read
///
/// Takes the place of what the consumer published before. Durable when it is answered. An apply that would remove or
/// change what is read is refused from then on.
#[utoipa::path(
    put, path = "/v1/uses/{consumer}", tag = "definitions", operation_id = "publishUses",
    params(("consumer" = String, Path, description = "Who reads: one name for all replicas of a gateway.", example = "model-gateway")),
    request_body(content = Vec<ModelUse>, example = json!([{"model": "fraud@3", "reads": [{"feature": "card.n_1h", "view_version": 1, "data_type": "i64"}]}])),
    responses(
        (status = 200, description = "What is known of the consumer now.", body = ConsumerUses),
        BadRequest, Internal, Unavailable
    )
)]
pub(crate) async fn publish(
    State(store): Store,
    Segment(consumer, _): Segment<FeatureStoreError>,
    JsonBody(models, _): JsonBody<Vec<ModelUse>, FeatureStoreError>,
) -> Response {
    answer(store.publish_uses(&consumer, models).await)
}
