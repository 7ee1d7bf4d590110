//! Serves any [`GatewayAccess`] over HTTP, and describes that in an OpenAPI document.

use super::{AccessError, GatewayAccess};
use crate::wire::{AccessMode, AuditPage, AuditQuery, CallerIdentity, CreateKey, CreatedKey, KeySummary};
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use http::{HeaderValue, StatusCode, header};
use ondol_wire::responses::{BadRequest, NotFound, Unavailable};
use ondol_wire::{JsonBody, Problem, Query, Segment, answer, problem};
use std::sync::Arc;
use utoipa::OpenApi;

type Service = Arc<dyn GatewayAccess>;

/// The routes of `access`.
pub fn router(access: Service) -> Router {
    Router::new()
        .route("/v1/keys", get(keys).post(create_key))
        .route("/v1/keys/{id}", delete(revoke_key))
        .route("/v1/audit", get(audit))
        .route("/v1/identity", get(identity))
        .with_state(access)
}

/// The OpenAPI 3.1 document of [`router`].
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[derive(OpenApi)]
#[openapi(
    tags((name = "access", description = "Keys, identities, the audit log.")),
    paths(create_key, keys, revoke_key, audit, identity),
    components(schemas(Problem))
)]
struct Document;

/// Make a key
///
/// 256 random bits, of which the gateway keeps a SHA-256 only: this answer is the only one that holds the key. Asks for
/// the scope `admin`.
#[utoipa::path(
    post, path = "/v1/keys", tag = "access", operation_id = "createKey",
    request_body(content = CreateKey, example = json!({"label": "checkout", "tenant": "payments", "scopes": ["predict:fraud"], "lifetime_s": 7776000})),
    responses(
        (status = 201, description = "The key, once.", body = CreatedKey),
        BadRequest, Unavailable
    )
)]
async fn create_key(State(access): State<Service>, JsonBody(request, _): JsonBody<CreateKey, AccessError>) -> Response {
    match access.create_key(request).await {
        // Nothing on the way may keep it.
        Ok(created) => (
            StatusCode::CREATED,
            [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))],
            Json(created),
        )
            .into_response(),
        Err(error) => problem::respond(&error),
    }
}

/// List keys
///
/// Revoked and expired ones too, newest first. Asks for the scope `admin`.
#[utoipa::path(
    get, path = "/v1/keys", tag = "access", operation_id = "listKeys",
    responses((status = 200, description = "The keys, without the keys themselves.", body = Vec<KeySummary>), Unavailable)
)]
async fn keys(State(access): State<Service>) -> Response {
    answer(access.keys().await)
}

/// Revoke a key
///
/// This replica refuses it at once, the others within `access.refresh_ms`. Asks for the scope `admin`.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", tag = "access", operation_id = "revokeKey",
    params(("id" = String, Path, description = "The key's id.", example = "3f9c2a71d0b4")),
    responses((status = 200, description = "The key as it stands.", body = KeySummary), BadRequest, NotFound, Unavailable)
)]
async fn revoke_key(State(access): State<Service>, id: Segment<AccessError>) -> Response {
    answer(access.revoke_key(&id.0).await)
}

/// Read the audit log
///
/// Every change that was asked for: by whom, when, to what, and what came of it; newest first. Asks for the scope
/// `admin`.
#[utoipa::path(
    get, path = "/v1/audit", tag = "access", operation_id = "readAudit",
    params(AuditQuery),
    responses((status = 200, description = "Entries, newest first.", body = AuditPage), BadRequest, Unavailable)
)]
async fn audit(State(access): State<Service>, Query(query, _): Query<AuditQuery, AccessError>) -> Response {
    answer(access.audit(query).await)
}

/// Ask who one is
///
/// What the gateway takes the caller for, and what the caller may do.
#[utoipa::path(
    get, path = "/v1/identity", tag = "access", operation_id = "identity",
    responses((status = 200, description = "The caller.", body = CallerIdentity))
)]
async fn identity(caller: Option<Extension<CallerIdentity>>) -> Json<CallerIdentity> {
    let anyone = || CallerIdentity {
        who: "anyone".to_owned(),
        tenant: "anyone".to_owned(),
        scopes: vec!["admin".to_owned()],
        access: AccessMode::Off,
    };
    Json(caller.map_or_else(anyone, |Extension(caller)| caller))
}
