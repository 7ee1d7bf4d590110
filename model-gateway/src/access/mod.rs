//! Who may use the gateway. A layer stands in front of every route, whatever its protocol: it finds out who calls, asks
//! whether the caller's scopes allow what the route does, and takes a token from the bucket of its tenant. What nothing
//! allows is denied.
//!
//! In the order of a request's way: [`routes`] says what it asks for; who calls is known by an API key ([`keys`]), by a
//! JWT ([`jose`] checks its signature, [`claims`] what it says, [`issuer`] keeps its issuer's keys) or by a client
//! certificate; [`scopes`] say what that [`identity`] may do; [`limits`] how often; [`layer`] puts it together and
//! [`refusal`] says no in the words of the protocol. [`store`] holds keys and the audit log, [`service`] is both behind
//! the contract.
//!
//! No request waits for the database: keys are in memory, read anew every `refresh_ms`. A change does wait: it is written
//! to the audit log before it is made.

pub mod claims;
pub mod config;
pub mod identity;
pub mod issuer;
pub mod jose;
pub mod keys;
pub mod layer;
pub mod limits;
pub mod refusal;
pub mod routes;
pub mod scopes;
pub mod service;
pub mod store;

mod authentication;

pub use config::{AccessConfig, AccessSetting};
pub use layer::Admission;
pub use scopes::{Action, Scopes};
pub use service::bootstrap;

use authentication::Authentication;
use identity::Identity;
use keys::KeyRing;
use limits::Limits;
use ondol_model_gateway_api::GatewayAccess;
use ondol_model_gateway_api::wire::AccessMode;
use ondol_runtime::{Clock, Health, Shutdown};
use ondol_vocabulary::EventTime;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::AccessStore;
use tokio::sync::Notify;

/// How long at least between two readings of the keys that callers cause.
const HASTE: Duration = Duration::from_millis(500);
/// How often old entries of the audit log are looked for.
const TIDYING: Duration = Duration::from_secs(3_600);
const DAY_US: i64 = 24 * 3_600 * 1_000_000;

/// Why access can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum AccessOpenError {
    /// The configuration would not do.
    #[error("{0}")]
    Config(String),
    /// The database can't be used.
    #[error("keys and the audit log can't be opened (`database`)")]
    Database(#[from] sqlx::Error),
    /// An issuer can't be set up.
    #[error(transparent)]
    Issuer(#[from] issuer::IssuerError),
}

/// The gateway's door.
pub struct Access {
    mode: AccessMode,
    config: AccessConfig,
    authentication: Authentication,
    ring: Arc<KeyRing>,
    limits: Limits,
    store: AccessStore,
    clock: Arc<dyn Clock>,
    hurry: Arc<Notify>,
    entry_ids: Mutex<ulid::Generator>,
    /// The caller where access is off.
    anyone: Arc<Identity>,
}

impl Access {
    /// Opens the door as `config` says; its keys and its log are in the database at `url`. `auto` is taken for `off`: who
    /// serves on an address has asked [`AccessConfig::resolve`] before. Tasks end with `shutdown`.
    ///
    /// # Errors
    /// When the configuration would not do, or the database can't be used.
    pub async fn open(
        config: &AccessConfig,
        url: &str,
        clock: Arc<dyn Clock>,
        shutdown: &Shutdown,
        health: &Health,
    ) -> Result<Arc<Self>, AccessOpenError> {
        config.check().map_err(AccessOpenError::Config)?;
        let mode = match config.mode {
            AccessSetting::Required => AccessMode::Required,
            AccessSetting::Auto | AccessSetting::Off => AccessMode::Off,
        };
        let store = AccessStore::open(url).await?;
        let ring = Arc::new(KeyRing::default());
        let hurry = Arc::new(Notify::new());
        let authentication = Authentication::new(config, Arc::clone(&ring), Arc::clone(&clock), Arc::clone(&hurry))?;
        let access = Arc::new(Self {
            mode,
            config: config.clone(),
            authentication,
            ring,
            limits: Limits::new(config),
            store,
            clock,
            hurry,
            entry_ids: Mutex::new(ulid::Generator::new()),
            anyone: Arc::new(Identity::anyone()),
        });
        let ready = health.register("access");
        if mode == AccessMode::Off {
            tracing::warn!("access is off: anyone who reaches this address may do anything");
            ready.ready_with("off: anyone who reaches this address may do anything");
            return Ok(access);
        }
        access.refresh().await?;
        ready.ready_with("required");
        let (follower, token) = (Arc::clone(&access), shutdown.token());
        shutdown.spawn("gateway-keys", async move {
            token.run_until_cancelled(follower.follow_keys()).await;
        });
        if config.audit_days > 0 {
            let (tidier, token) = (Arc::clone(&access), shutdown.token());
            shutdown.spawn("gateway-audit", async move {
                token.run_until_cancelled(tidier.tidy()).await;
            });
        }
        for issuer in access.authentication.issuers() {
            let (issuer, token) = (Arc::clone(issuer), shutdown.token());
            shutdown.spawn("gateway-issuer", async move {
                token.run_until_cancelled(issuer.follow()).await;
            });
        }
        Ok(access)
    }

    /// Whether callers are asked who they are.
    pub fn mode(&self) -> AccessMode {
        self.mode
    }

    /// `router` and the routes of keys and the audit log, behind the door.
    pub fn protect(self: &Arc<Self>, router: axum::Router) -> axum::Router {
        let own = ondol_model_gateway_api::access::server::router(Arc::clone(self) as Arc<dyn GatewayAccess>);
        self.guard(router.merge(own))
    }

    /// `router` behind the door.
    pub fn guard(self: &Arc<Self>, router: axum::Router) -> axum::Router {
        router.layer(layer::Guard::of(self))
    }

    /// Closes the database, once nothing uses the gateway any more.
    pub async fn close(&self) {
        self.store.close().await;
    }

    /// Reads the keys, and notes which were used.
    pub(crate) async fn refresh(&self) -> Result<(), sqlx::Error> {
        let now = self.clock.now_micros();
        for (id, used_at) in self.ring.unnoted_uses() {
            self.store.note_use(&id, used_at).await?;
        }
        let keys = self.store.keys().await?;
        if i64::try_from(keys.len()).is_ok_and(|count| count >= store::KEYS) {
            tracing::error!(
                limit = store::KEYS,
                "there are more keys than are read: delete revoked ones"
            );
        }
        self.ring.replace(keys, now);
        metrics::gauge!("ondol_gateway_keys").set(self.ring.len() as f64);
        Ok(())
    }

    /// Removes what is too old from the audit log, now and then.
    async fn tidy(&self) {
        let kept_us = i64::from(self.config.audit_days).saturating_mul(DAY_US);
        loop {
            let oldest = EventTime::from_micros(self.clock.now_micros().saturating_sub(kept_us));
            match self.store.forget_before(oldest).await {
                Ok(0) => {}
                Ok(entries) => tracing::info!(entries, %oldest, "old entries of the audit log are removed"),
                Err(error) => tracing::warn!(%error, "old entries of the audit log can't be removed yet"),
            }
            tokio::time::sleep(TIDYING).await;
        }
    }

    async fn follow_keys(&self) {
        let pause = Duration::from_millis(self.config.refresh_ms.max(50));
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // A key that is not known may be new: it is looked for soon, but callers can't make it often.
                () = self.hurry.notified() => tokio::time::sleep(HASTE.min(pause)).await,
            }
            if let Err(error) = self.refresh().await {
                metrics::counter!("ondol_gateway_key_refresh_errors_total").increment(1);
                tracing::warn!(%error, "keys can't be read: those that are known go on");
            }
        }
    }
}
