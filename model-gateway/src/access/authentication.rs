//! Who calls: by an API key, a JWT or a certificate, in this order. Nothing here waits, except for an issuer whose keys
//! are not known.

use super::config::AccessConfig;
use super::identity::Identity;
use super::issuer::{Issuer, IssuerError};
use super::jose::{TOKEN_BYTES, Unverified};
use super::keys::{Digest, KeyRing, PREFIX, digest, id_of, same};
use super::scopes::Scopes;
use axum::http::{HeaderMap, header};
use ondol_model_gateway_api::AccessError;
use ondol_runtime::Clock;
use ondol_runtime::tls::PeerCertificate;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Verified tokens that are remembered: a signature costs tens of microseconds, and callers send the same token again.
const REMEMBERED: usize = 10_000;
/// The header that holds an API key alone.
const API_KEY: &str = "x-api-key";

/// Everything that callers are known by.
pub(crate) struct Authentication {
    ring: Arc<KeyRing>,
    admin: Option<(Digest, Arc<Identity>)>,
    issuers: Vec<Arc<Issuer>>,
    certificates: Vec<(String, Arc<Identity>)>,
    remembered: Mutex<HashMap<Digest, Remembered>>,
    max_stale_micros: i64,
    clock: Arc<dyn Clock>,
    hurry: Arc<Notify>,
}

#[derive(Clone)]
struct Remembered {
    identity: Arc<Identity>,
    ends: i64,
    issuer: Arc<Issuer>,
    generation: u64,
}

impl Authentication {
    pub(crate) fn new(
        config: &AccessConfig,
        ring: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        hurry: Arc<Notify>,
    ) -> Result<Self, IssuerError> {
        let issuer =
            |issuer: &super::config::IssuerConfig| Issuer::new(issuer.clone(), Arc::clone(&clock)).map(Arc::new);
        // Checked before: a key that can't be read, and scopes that are none, are refused there.
        let admin_key = config.admin_key.reveal().unwrap_or_default();
        let certificate = |known: &super::config::CertificateConfig| {
            let identity = Identity {
                who: format!("certificate:{}", known.name),
                tenant: known.tenant.clone(),
                scopes: Scopes::parse(&known.scopes).unwrap_or_default(),
            };
            (known.name.clone(), Arc::new(identity))
        };
        let admin = || Identity {
            who: "key:admin_key".to_owned(),
            tenant: "admin".to_owned(),
            scopes: Scopes::admin(),
        };
        Ok(Self {
            ring,
            admin: (!admin_key.is_empty()).then(|| (digest(&admin_key), Arc::new(admin()))),
            issuers: config.issuers.iter().map(issuer).collect::<Result<_, _>>()?,
            certificates: config.certificates.iter().map(certificate).collect(),
            remembered: Mutex::default(),
            max_stale_micros: i64::try_from(config.max_stale_ms)
                .unwrap_or(i64::MAX)
                .saturating_mul(1_000),
            clock,
            hurry,
        })
    }

    pub(crate) fn issuers(&self) -> &[Arc<Issuer>] {
        &self.issuers
    }

    /// Who sent `headers` over a connection whose other end showed `certificate`.
    pub(crate) async fn identify(
        &self,
        headers: &HeaderMap,
        certificate: Option<&PeerCertificate>,
    ) -> Result<Arc<Identity>, AccessError> {
        if let Some(token) = shown(headers)? {
            return self.of_token(token).await;
        }
        let Some(certificate) = certificate else {
            return Err(unauthenticated(
                "who calls? Send an API key (`Authorization: Bearer ondol_…` or `x-api-key`) or a JWT \
                 (`Authorization: Bearer …`)",
            ));
        };
        let known = self.certificates.iter().find(|(name, _)| certificate.has(name));
        known.map(|(_, identity)| Arc::clone(identity)).ok_or_else(|| {
            let names: Vec<&str> = certificate.names().collect();
            unauthenticated(&format!(
                "no name of the client's certificate ({}) is in `access.certificates`",
                names.join(", ")
            ))
        })
    }

    async fn of_token(&self, token: &str) -> Result<Arc<Identity>, AccessError> {
        if token.len() > TOKEN_BYTES {
            return Err(unauthenticated("the token is longer than any that is accepted"));
        }
        if token.starts_with(PREFIX) {
            return self.of_key(token);
        }
        let token_digest = digest(token);
        if let Some((admin, identity)) = &self.admin
            && same(admin, &token_digest)
        {
            return Ok(Arc::clone(identity));
        }
        if let Some(identity) = self.recall(&token_digest) {
            return Ok(identity);
        }
        self.of_jwt(token, token_digest).await
    }

    fn of_key(&self, key: &str) -> Result<Arc<Identity>, AccessError> {
        let now = self.clock.now_micros();
        if now.saturating_sub(self.ring.read_at()) > self.max_stale_micros {
            return Err(AccessError::Unavailable {
                detail: "keys could not be read for too long (`access.max_stale_ms`): try again later".to_owned(),
            });
        }
        self.ring.find(key, now).ok_or_else(|| {
            if id_of(key).is_some() {
                self.hurry.notify_one();
            }
            unauthenticated(
                "the API key is unknown, expired or revoked: an administrator sees which with `ondol key list`",
            )
        })
    }

    async fn of_jwt(&self, token: &str, token_digest: Digest) -> Result<Arc<Identity>, AccessError> {
        let unknown =
            || unauthenticated("the token is neither an API key nor a JWT of a known issuer (`access.issuers`)");
        if self.issuers.is_empty() {
            return Err(unknown());
        }
        let unverified =
            Unverified::parse(token).map_err(|error| unauthenticated(&format!("the token is refused: {error}")))?;
        let issuer = self
            .issuers
            .iter()
            .find(|issuer| unverified.claimed_issuer() == Some(issuer.name()))
            .ok_or_else(unknown)?;
        let verified = issuer.verify(unverified).await?;
        let remembered = Remembered {
            identity: Arc::clone(&verified.identity),
            ends: verified.ends,
            issuer: Arc::clone(issuer),
            generation: verified.generation,
        };
        let mut known = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(token_digest, remembered);
        Ok(verified.identity)
    }

    /// Who showed a token that was verified before with keys that are still the issuer's.
    fn recall(&self, token_digest: &Digest) -> Option<Arc<Identity>> {
        let mut known = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(token_digest)?;
        let good = self.clock.now_micros() < found.ends
            && found.generation == found.issuer.generation()
            && found.issuer.is_fresh();
        if !good {
            known.remove(token_digest);
            return None;
        }
        Some(Arc::clone(&found.identity))
    }
}

/// The token of a request, if it shows one.
fn shown(headers: &HeaderMap) -> Result<Option<&str>, AccessError> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let bearer = value
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        return bearer
            .map(Some)
            .ok_or_else(|| unauthenticated("`Authorization` must be `Bearer` and an API key or a JWT"));
    }
    match headers.get(API_KEY) {
        Some(value) => match value.to_str() {
            Ok(key) => Ok(Some(key.trim())),
            Err(_) => Err(unauthenticated("`x-api-key` holds no API key")),
        },
        None => Ok(None),
    }
}

fn unauthenticated(detail: &str) -> AccessError {
    AccessError::Unauthenticated {
        detail: detail.to_owned(),
    }
}
