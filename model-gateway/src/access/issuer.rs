//! An issuer of tokens and its keys, which are fetched over HTTPS, kept, and fetched again: every `refresh_s`, and when a
//! token names a key that is not known, but then at most every `min_refetch_s`, whatever callers send.

use super::claims;
use super::config::IssuerConfig;
use super::identity::Identity;
use super::jose::{KeySet, TokenError, Unverified};
use ondol_model_gateway_api::AccessError;
use ondol_runtime::Clock;
use serde::Deserialize;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How long one fetch may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest document of an issuer that is read, in bytes.
const DOCUMENT_BYTES: usize = 1 << 20;
/// Where a discovery document is (OpenID Connect Discovery 1.0, section 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// When nothing was fetched yet.
const NEVER: i64 = i64::MIN;

/// Why an issuer can't be set up.
#[derive(Debug, thiserror::Error)]
#[error("`access.issuers` `{issuer}`: {detail}")]
pub struct IssuerError {
    issuer: String,
    detail: String,
}

/// An issuer, and its keys as they were last seen.
pub struct Issuer {
    config: IssuerConfig,
    http: reqwest::Client,
    clock: Arc<dyn Clock>,
    keys: RwLock<Arc<KeySet>>,
    /// How often the keys have changed: what was verified with former ones is verified anew.
    generation: AtomicU64,
    tried_at: AtomicI64,
    fetched_at: AtomicI64,
    /// One fetch at a time.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// A token that was verified.
pub(crate) struct Verified {
    pub(crate) identity: Arc<Identity>,
    /// When it ends, in microseconds since the epoch.
    pub(crate) ends: i64,
    pub(crate) generation: u64,
}

impl Issuer {
    /// Without keys yet.
    ///
    /// # Errors
    /// When a file or the HTTP client can't be used.
    pub fn new(config: IssuerConfig, clock: Arc<dyn Clock>) -> Result<Self, IssuerError> {
        let wrong = |detail: String| IssuerError {
            issuer: config.issuer.clone(),
            detail,
        };
        // A redirect could lead to another host's keys.
        let mut http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none());
        if !config.authorities.as_os_str().is_empty() {
            let file = config.authorities.display();
            let pem = std::fs::read(&config.authorities)
                .map_err(|error| wrong(format!("`authorities` `{file}` can't be read: {error}")))?;
            let found = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| wrong(format!("`authorities` `{file}`: {error}")))?;
            for authority in found {
                http = http.add_root_certificate(authority);
            }
        }
        let http = http.build().map_err(|error| wrong(error.to_string()))?;
        let own = if config.jwks_url.is_empty() {
            &config.issuer
        } else {
            &config.jwks_url
        };
        safe(own).map_err(&wrong)?;
        Ok(Self {
            config,
            http,
            clock,
            keys: RwLock::default(),
            generation: AtomicU64::new(0),
            tried_at: AtomicI64::new(NEVER),
            fetched_at: AtomicI64::new(NEVER),
            fetching: tokio::sync::Mutex::new(()),
        })
    }

    /// What the claim `iss` of its tokens says.
    pub fn name(&self) -> &str {
        &self.config.issuer
    }

    /// How often its keys have changed.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether its keys are still believed.
    pub(crate) fn is_fresh(&self) -> bool {
        let age = self
            .clock
            .now_micros()
            .saturating_sub(self.fetched_at.load(Ordering::Acquire));
        self.fetched_at.load(Ordering::Acquire) != NEVER && age <= micros(self.config.max_stale_s)
    }

    /// Fetches the keys again and again, until it is dropped.
    pub(crate) async fn follow(&self) {
        // A caller may have been here first.
        self.fetch(Duration::from_secs(self.config.min_refetch_s)).await;
        loop {
            let pause = if self.is_fresh() {
                self.config.refresh_s
            } else {
                self.config.min_refetch_s
            };
            tokio::time::sleep(Duration::from_secs(pause.max(1))).await;
            self.fetch(Duration::ZERO).await;
        }
    }

    /// Whose token it is.
    pub(crate) async fn verify(&self, token: Unverified<'_>) -> Result<Verified, AccessError> {
        if !self.config.algorithms.contains(&token.algorithm) {
            return Err(refused(TokenError::Algorithm));
        }
        let id = token.key_id.clone();
        let mut generation = self.generation();
        let mut key = self.keys().find(id.as_deref()).cloned();
        if key.is_none() || !self.is_fresh() {
            self.fetch(Duration::from_secs(self.config.min_refetch_s)).await;
            generation = self.generation();
            key = self.keys().find(id.as_deref()).cloned();
        }
        if !self.is_fresh() {
            return Err(AccessError::Unavailable {
                detail: format!("the keys of `{}` can't be read: try again later", self.config.issuer),
            });
        }
        let key = key.ok_or_else(|| refused(TokenError::Signature))?;
        let claims = token.verified(&key).map_err(refused)?;
        let (identity, ends) = claims::identity(&claims, &self.config, self.clock.now_micros()).map_err(refused)?;
        Ok(Verified {
            identity: Arc::new(identity),
            ends,
            generation,
        })
    }

    fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Fetches the keys, unless that was tried within `pause`; who comes while it is under way waits for it.
    async fn fetch(&self, pause: Duration) {
        let _one = self.fetching.lock().await;
        let now = self.clock.now_micros();
        let tried = self.tried_at.load(Ordering::Acquire);
        let pause = i64::try_from(pause.as_micros()).unwrap_or(i64::MAX);
        if tried != NEVER && now.saturating_sub(tried) < pause {
            return;
        }
        self.tried_at.store(now, Ordering::Release);
        let outcome = match self.read().await {
            Ok(keys) => {
                let changed = *self.keys() != keys;
                if changed {
                    tracing::info!(
                        issuer = self.config.issuer,
                        keys = keys.len(),
                        "the issuer's keys changed"
                    );
                    *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                    self.generation.fetch_add(1, Ordering::AcqRel);
                }
                self.fetched_at.store(now, Ordering::Release);
                "read"
            }
            Err(error) => {
                tracing::warn!(issuer = self.config.issuer, error, "the issuer's keys can't be read");
                "failed"
            }
        };
        metrics::counter!("ondol_gateway_issuer_fetches_total", "outcome" => outcome).increment(1);
    }

    async fn read(&self) -> Result<KeySet, String> {
        let url = if self.config.jwks_url.is_empty() {
            let at = format!("{}{DISCOVERY}", self.config.issuer.trim_end_matches('/'));
            let document = self.get(&at).await?;
            let found: Discovery = serde_json::from_slice(&document)
                .map_err(|error| format!("`{at}` is no discovery document: {error}"))?;
            if found.issuer != self.config.issuer {
                return Err(format!("`{at}` is of issuer `{}`", found.issuer));
            }
            safe(&found.jwks_uri)?;
            found.jwks_uri
        } else {
            self.config.jwks_url.clone()
        };
        let document = self.get(&url).await?;
        let keys = KeySet::parse(&document).map_err(|error| format!("`{url}` is no JWKS: {error}"))?;
        if keys.is_empty() {
            return Err(format!("`{url}` holds no key that can be used"));
        }
        Ok(keys)
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        let failed = |error: reqwest::Error| format!("`{url}`: {error}");
        let mut response = self.http.get(url).send().await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(format!("`{url}` answers {}", response.status()));
        }
        let mut document = Vec::new();
        while let Some(part) = response.chunk().await.map_err(failed)? {
            if document.len() + part.len() > DOCUMENT_BYTES {
                return Err(format!("`{url}` is larger than {DOCUMENT_BYTES} bytes"));
            }
            document.extend_from_slice(&part);
        }
        Ok(document)
    }
}

fn micros(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000)
}

/// Why a token is refused, in words that hold nothing of it.
fn refused(why: impl std::fmt::Display) -> AccessError {
    AccessError::Unauthenticated {
        detail: format!("the token is refused: {why}"),
    }
}

/// Keys come over HTTPS, or from this machine.
fn safe(url: &str) -> Result<(), String> {
    let parsed = reqwest::Url::parse(url).map_err(|error| format!("`{url}` is no URL: {error}"))?;
    let is_local = parsed.host_str().is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    });
    match parsed.scheme() {
        "https" => Ok(()),
        "http" if is_local => Ok(()),
        _ => Err(format!("`{url}`: keys are fetched over https only")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        for url in [
            "https://issuer/keys",
            "http://localhost:1/k",
            "http://127.0.0.1:1",
            "http://[::1]:1/",
        ] {
            assert_eq!(safe(url), Ok(()), "{url}");
        }
        for url in [
            "http://issuer/keys",
            "http://127.0.0.1.evil.com/",
            "file:///etc/passwd",
            "issuer",
            "",
        ] {
            assert!(safe(url).is_err(), "{url}");
        }
    }
}
