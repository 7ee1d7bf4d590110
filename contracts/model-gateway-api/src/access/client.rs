//! The [`GatewayAccess`] that calls a [`router`](super::server::router).

use super::{AccessError, GatewayAccess};
use crate::wire::{AuditPage, AuditQuery, CallerIdentity, CreateKey, CreatedKey, KeySummary};
use async_trait::async_trait;
use http::Method;
use ondol_wire::path::encode_segment;
use ondol_wire::{Caller, Credentials};
use url::Url;

/// The access of a gateway somewhere else.
#[derive(Clone, Debug)]
pub struct GatewayAccessClient {
    caller: Caller,
}

impl GatewayAccessClient {
    /// For the gateway at `base`, which is shown `credentials`. Connects when first used.
    ///
    /// # Errors
    /// When the HTTP client can't be built.
    pub fn with(base: Url, credentials: &Credentials) -> Result<Self, reqwest::Error> {
        Ok(Self {
            caller: Caller::with(base, credentials)?,
        })
    }

    /// Who the gateway takes this client for.
    ///
    /// # Errors
    /// When it does not know the client, or does not answer.
    pub async fn identity(&self) -> Result<CallerIdentity, AccessError> {
        self.caller.get("/v1/identity").await
    }
}

#[async_trait]
impl GatewayAccess for GatewayAccessClient {
    async fn create_key(&self, request: CreateKey) -> Result<CreatedKey, AccessError> {
        self.caller.post("/v1/keys", &request).await
    }

    async fn keys(&self) -> Result<Vec<KeySummary>, AccessError> {
        self.caller.get("/v1/keys").await
    }

    async fn revoke_key(&self, id: &str) -> Result<KeySummary, AccessError> {
        let path = format!("/v1/keys/{}", encode_segment(id));
        self.caller.json(self.caller.request(Method::DELETE, &path)).await
    }

    async fn audit(&self, query: AuditQuery) -> Result<AuditPage, AccessError> {
        self.caller
            .json(self.caller.request(Method::GET, "/v1/audit").query(&query))
            .await
    }
}
