//! Who may use the gateway: [`GatewayAccess`], its errors, routes and client. Kept apart from
//! [`ModelGateway`](crate::ModelGateway): who serves models need not keep keys.

pub mod client;
pub mod error;
pub mod server;

pub use client::GatewayAccessClient;
pub use error::AccessError;

use crate::wire::{AuditPage, AuditQuery, CreateKey, CreatedKey, KeySummary};
use async_trait::async_trait;

/// Keeps keys and the audit log.
#[async_trait]
pub trait GatewayAccess: Send + Sync + 'static {
    /// Makes a key, which is in no other answer. Every replica knows it within the configured refresh.
    async fn create_key(&self, request: CreateKey) -> Result<CreatedKey, AccessError>;

    /// Every key, revoked and expired ones too, newest first.
    async fn keys(&self) -> Result<Vec<KeySummary>, AccessError>;

    /// Ends a key. Every replica refuses it within the configured refresh. Repeating it changes nothing.
    async fn revoke_key(&self, id: &str) -> Result<KeySummary, AccessError>;

    /// What was asked to be changed, newest first.
    async fn audit(&self, query: AuditQuery) -> Result<AuditPage, AccessError>;
}
