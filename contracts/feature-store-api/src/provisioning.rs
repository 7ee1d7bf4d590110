//! View versions that are being provisioned: how far the rows of each are built, and holding that back.
//!
//! The store provisions versions over streams by itself, one after the other: it builds their rows from the log and hands
//! them over to the stream. What is here shows that and steers it; nothing needs it.

use crate::error::FeatureStoreError;
use crate::service::FeatureStore;
use axum::extract::State;
use axum::response::Response;
use ondol_vocabulary::{EventTime, VersionedName};
use ondol_wire::responses::{BadRequest, Internal, NotFound, Unavailable};
use ondol_wire::{ContractError as _, answer, problem};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// How the rows of a view version that does not serve yet stand, or those built anew for one that does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Provisioning {
    /// Names the rows, and with them this attempt at the version: what is held and released.
    pub view_id: u32,
    /// The view.
    pub view: String,
    /// Its version.
    pub version: u32,
    /// The source whose log or table the rows are built from.
    pub source: String,
    /// Whether the version serves already, and these rows will take the place of its present ones.
    pub rebuild: bool,
    /// Where it stands.
    pub state: ProvisioningState,
    /// Events read so far, since it was last begun.
    pub rows_done: u64,
    /// Events of the log to read, where known.
    pub rows_total: Option<u64>,
    /// When it was first begun.
    pub started_at: Option<EventTime>,
    /// Why the last attempt failed; it is tried again.
    pub error: Option<String>,
}

impl Provisioning {
    /// The version, as `view@version`.
    pub fn name(&self) -> VersionedName {
        VersionedName::new(&self.view, self.version)
    }
}

/// Where provisioning stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProvisioningState {
    /// Not begun: versions are built one after the other, and rows of a table are delivered by a materialization.
    Waiting,
    /// Events of the log are absorbed into rows.
    Building,
    /// The rows are complete but for the newest events: the version joins the stream, and serves in a moment. It can't be
    /// held any more.
    HandingOver,
    /// Somebody holds it back. It goes on once it is released.
    Held,
    /// The last attempt failed; it is tried again.
    Failed,
}

impl ProvisioningState {
    /// Its name on the wire and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Building => "building",
            Self::HandingOver => "handing-over",
            Self::Held => "held",
            Self::Failed => "failed",
        }
    }
}

type Store = State<Arc<dyn FeatureStore>>;

/// Versions being provisioned
///
/// Every view version that does not serve yet, and rows that are built anew for one that does: how many events of the
/// log are read, of how many.
#[utoipa::path(
    get, path = "/v1/provisionings", tag = "definitions", operation_id = "provisionings",
    responses(
        (status = 200, description = "By view and version.", body = Vec<Provisioning>, example = json!([{"view_id": 7, "view": "card", "version": 2, "source": "transactions", "rebuild": false, "state": "building", "rows_done": 163840, "rows_total": 336776, "started_at": "2026-11-21T09:00:00Z", "error": null}])),
        Internal, Unavailable
    )
)]
pub(crate) async fn provisionings(State(store): Store) -> Response {
    answer(store.provisionings().await)
}

/// Hold a version back
///
/// Its rows are built no further until it is released, whatever restarts; those of the version that serves go on. Only of
/// a view over a stream, and only until it is handed over. Idempotent.
#[utoipa::path(
    post, path = "/v1/views/{id}:hold", tag = "definitions", operation_id = "holdView",
    params(("id" = u32, Path, description = "The view version's id, as in `/v1/provisionings`.", example = 7)),
    responses((status = 200, description = "How it stands.", body = Provisioning), BadRequest, NotFound, Internal, Unavailable)
)]
pub(crate) async fn hold(State(store): Store, id: &str) -> Response {
    match view_id(id) {
        Ok(id) => answer(store.hold(id).await),
        Err(refused) => problem::respond(&refused),
    }
}

/// Let a version that is held go on
///
/// Idempotent.
#[utoipa::path(
    post, path = "/v1/views/{id}:release", tag = "definitions", operation_id = "releaseView",
    params(("id" = u32, Path, description = "The view version's id, as in `/v1/provisionings`.", example = 7)),
    responses((status = 200, description = "How it stands.", body = Provisioning), BadRequest, NotFound, Internal, Unavailable)
)]
pub(crate) async fn release(State(store): Store, id: &str) -> Response {
    match view_id(id) {
        Ok(id) => answer(store.release(id).await),
        Err(refused) => problem::respond(&refused),
    }
}

/// The id of a view version in a path.
pub(crate) fn view_id(text: &str) -> Result<u32, FeatureStoreError> {
    let refused = |_| {
        FeatureStoreError::invalid(format!(
            "view id `{text}` is not a number: take it from `views[].id` of /v1/snapshot"
        ))
    };
    text.parse().map_err(refused)
}
