//! How the gateway knows its callers. Every key is documented here.

use super::jose::Algorithm;
use super::scopes::Scopes;
use ondol_model_gateway_api::wire::AccessMode;
use ondol_runtime::Secret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Whether callers are asked who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessSetting {
    /// `off` on a loopback address; elsewhere the process refuses to start until `required` is chosen.
    Auto,
    /// Every caller shows an API key, a JWT or a certificate.
    Required,
    /// Anyone may do anything. Only on a loopback address.
    Off,
}

/// Who may use the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessConfig {
    /// Whether callers are asked who they are: `auto`, `required` or `off`.
    pub mode: AccessSetting,
    /// A key that may do everything, to begin with: at least 32 characters, `${file:…}` or `${env:…}`. Empty: none
    /// (`ondol key bootstrap` makes one in the database).
    pub admin_key: Secret,
    /// How often keys are read from the database, in milliseconds: how long another replica may take to refuse a key
    /// that was revoked.
    pub refresh_ms: u64,
    /// How long keys are believed while the database does not answer, in milliseconds.
    pub max_stale_ms: u64,
    /// How many days entries of the audit log are kept. 0: for ever.
    pub audit_days: u32,
    /// Whether health (`/v2/health/…`, gRPC `ServerLive` and `ServerReady`, `/ping`) answers anyone.
    pub open_health: bool,
    /// Largest body of a request that scores, in bytes.
    pub max_predict_bytes: u64,
    /// Largest body of any other request but a registration, in bytes.
    pub max_change_bytes: u64,
    /// What each tenant may ask of each model, unless `tenants` says otherwise.
    pub rate: RateConfig,
    /// The rates of single tenants, by name.
    pub tenants: BTreeMap<String, RateConfig>,
    /// Who issues JWTs that are believed.
    pub issuers: Vec<IssuerConfig>,
    /// Clients known by their certificate (`[tls]` `client_ca`).
    pub certificates: Vec<CertificateConfig>,
}

/// How many requests, per tenant and model, on each replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateConfig {
    /// Requests a second in the long run. 0: unlimited.
    pub requests_per_s: f64,
    /// Requests at once after a quiet time. 0: as many as a second's.
    pub burst: f64,
}

/// An issuer of JWTs (OpenID Connect, or any that publishes a JWKS).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IssuerConfig {
    /// What the claim `iss` says, exactly.
    pub issuer: String,
    /// What the claim `aud` must hold one of.
    pub audiences: Vec<String>,
    /// Where its keys are. Empty: as `{issuer}/.well-known/openid-configuration` says.
    pub jwks_url: String,
    /// Algorithms that are believed.
    pub algorithms: Vec<Algorithm>,
    /// The claim that names the tenant; dots lead into nested claims. Empty: `tenant` below.
    pub tenant_claim: String,
    /// The tenant of tokens that name none. Empty: such tokens are refused.
    pub tenant: String,
    /// The claim that holds scopes: text with spaces between, or a list; dots lead into nested claims.
    pub scope_claim: String,
    /// What stands before the scopes that are meant for the gateway, and is taken away: `ondol.` of `ondol.predict:fraud`.
    pub scope_prefix: String,
    /// Scopes that every token of this issuer has.
    pub scopes: Vec<String>,
    /// How far the issuer's clock may be off, in seconds.
    pub clock_skew_s: u64,
    /// How often its keys are read, in seconds.
    pub refresh_s: u64,
    /// How long at least between two readings that unknown keys cause, in seconds.
    pub min_refetch_s: u64,
    /// How long its keys are believed while it does not answer, in seconds.
    pub max_stale_s: u64,
    /// Certificates (PEM) of authorities to trust for it besides the system's. Empty: none.
    pub authorities: PathBuf,
}

/// A client known by its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CertificateConfig {
    /// A name in the certificate: `uri:spiffe://bank/checkout`, `dns:checkout.internal` or `cn:checkout`.
    pub name: String,
    /// Whose rate limits hold.
    pub tenant: String,
    /// What the client may do.
    pub scopes: Vec<String>,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            mode: AccessSetting::Auto,
            admin_key: Secret::from(""),
            refresh_ms: 5_000,
            max_stale_ms: 3_600_000,
            audit_days: 0,
            open_health: true,
            max_predict_bytes: 64 << 20,
            max_change_bytes: 1 << 20,
            rate: RateConfig::default(),
            tenants: BTreeMap::new(),
            issuers: Vec::new(),
            certificates: Vec::new(),
        }
    }
}

impl Eq for AccessConfig {}

impl Default for IssuerConfig {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audiences: Vec::new(),
            jwks_url: String::new(),
            algorithms: vec![
                Algorithm::RS256,
                Algorithm::PS256,
                Algorithm::ES256,
                Algorithm::ES384,
                Algorithm::EdDSA,
            ],
            tenant_claim: "tenant".to_owned(),
            tenant: String::new(),
            scope_claim: "scope".to_owned(),
            scope_prefix: String::new(),
            scopes: Vec::new(),
            clock_skew_s: 60,
            refresh_s: 600,
            min_refetch_s: 10,
            max_stale_s: 86_400,
            authorities: PathBuf::new(),
        }
    }
}

/// Shortest `admin_key` that is taken.
pub const ADMIN_KEY_CHARS: usize = 32;

impl AccessConfig {
    /// Whether a gateway that listens on `address` asks its callers who they are.
    ///
    /// # Errors
    /// When it would serve anyone on an address that others can reach; with the remedy.
    pub fn resolve(&self, address: SocketAddr) -> Result<AccessMode, String> {
        let is_loopback = address.ip().to_canonical().is_loopback();
        match self.mode {
            AccessSetting::Required => Ok(AccessMode::Required),
            AccessSetting::Auto | AccessSetting::Off if is_loopback => Ok(AccessMode::Off),
            AccessSetting::Auto | AccessSetting::Off => Err(format!(
                "the model gateway would let anyone at {address} do anything: set `mode = \"required\"` in \
                 `[model_gateway.access]` and make a first key with `ondol key bootstrap`, or listen on a loopback \
                 address (`--listen 127.0.0.1:{}`), where access is off",
                address.port()
            )),
        }
    }

    /// Checks what can be wrong without asking anyone.
    ///
    /// # Errors
    /// Which key holds what, and what to do.
    pub fn check(&self) -> Result<(), String> {
        let admin_key = self
            .admin_key
            .reveal()
            .map_err(|error| format!("`access.admin_key`: {error}"))?;
        if !admin_key.is_empty() && admin_key.len() < ADMIN_KEY_CHARS {
            return Err(format!(
                "`access.admin_key` has {} characters: use at least {ADMIN_KEY_CHARS} random ones, such as \
                 `openssl rand -hex 32` makes",
                admin_key.len()
            ));
        }
        for (name, rate) in self
            .tenants
            .iter()
            .map(|(name, rate)| (name.as_str(), rate))
            .chain([("", &self.rate)])
        {
            let fits = |number: f64| number.is_finite() && number >= 0.0;
            if !fits(rate.requests_per_s) || !fits(rate.burst) {
                let key = if name.is_empty() {
                    "rate".to_owned()
                } else {
                    format!("tenants.{name}")
                };
                return Err(format!("`access.{key}` holds {rate:?}: use numbers from 0 on"));
            }
        }
        for issuer in &self.issuers {
            issuer.check()?;
        }
        for certificate in &self.certificates {
            let name = &certificate.name;
            if !["uri:", "dns:", "cn:"]
                .iter()
                .any(|kind| name.len() > kind.len() && name.starts_with(kind))
            {
                return Err(format!(
                    "`access.certificates` has name `{name}`: begin it with `uri:`, `dns:` or `cn:`"
                ));
            }
            if certificate.tenant.is_empty() {
                return Err(format!("`access.certificates` `{name}` has no `tenant`"));
            }
            Scopes::parse(&certificate.scopes).map_err(|error| format!("`access.certificates` `{name}`: {error}"))?;
        }
        Ok(())
    }
}

impl IssuerConfig {
    fn check(&self) -> Result<(), String> {
        let named = |what: String| format!("`access.issuers` `{}`: {what}", self.issuer);
        if self.issuer.is_empty() {
            return Err("`access.issuers` has an entry without `issuer`: say what the claim `iss` says".to_owned());
        }
        if self.audiences.is_empty() || self.audiences.iter().any(String::is_empty) {
            return Err(named(
                "`audiences` is empty: name what the claim `aud` says, or a token made for another service would do"
                    .to_owned(),
            ));
        }
        if self.algorithms.is_empty() {
            return Err(named("`algorithms` is empty: name at least one".to_owned()));
        }
        if self.tenant.is_empty() && self.tenant_claim.is_empty() {
            return Err(named("neither `tenant` nor `tenant_claim` is set".to_owned()));
        }
        Scopes::parse(&self.scopes).map_err(|error| named(format!("`scopes`: {error}")))?;
        Ok(())
    }
}

impl RateConfig {
    /// Requests at once after a quiet time.
    pub(crate) fn capacity(self) -> f64 {
        if self.burst > 0.0 {
            self.burst.max(1.0)
        } else {
            self.requests_per_s.max(1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(mode: AccessSetting, address: &str) -> Result<AccessMode, String> {
        let config = AccessConfig {
            mode,
            ..AccessConfig::default()
        };
        config.resolve(address.parse().unwrap())
    }

    #[test]
    fn access_is_off_on_a_loopback_address_only() {
        for address in ["127.0.0.1:80", "127.8.8.8:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(resolve(AccessSetting::Auto, address), Ok(AccessMode::Off), "{address}");
            assert_eq!(resolve(AccessSetting::Off, address), Ok(AccessMode::Off), "{address}");
            assert_eq!(
                resolve(AccessSetting::Required, address),
                Ok(AccessMode::Required),
                "{address}"
            );
        }
        for address in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "[::ffff:10.0.0.1]:80"] {
            let refused = resolve(AccessSetting::Auto, address).unwrap_err();
            assert!(
                refused.contains("ondol key bootstrap") && refused.contains("required"),
                "{refused}"
            );
            assert!(resolve(AccessSetting::Off, address).is_err());
            assert_eq!(resolve(AccessSetting::Required, address), Ok(AccessMode::Required));
        }
    }

    #[test]
    fn a_configuration_that_would_let_too_many_in_is_refused() {
        let check = |change: fn(&mut AccessConfig), words: &str| {
            let mut config = AccessConfig::default();
            change(&mut config);
            let refused = config.check().unwrap_err();
            assert!(refused.contains(words), "{refused}");
        };
        check(|config| config.admin_key = Secret::from("hunter2"), "7 characters");
        check(
            |config| config.issuers = vec![IssuerConfig::default()],
            "without `issuer`",
        );
        check(
            |config| {
                config.issuers = vec![IssuerConfig {
                    issuer: "https://issuer".to_owned(),
                    ..IssuerConfig::default()
                }];
            },
            "`audiences` is empty",
        );
        check(|config| config.rate.requests_per_s = -1.0, "`access.rate`");
        check(
            |config| {
                config.certificates = vec![CertificateConfig {
                    name: "checkout".to_owned(),
                    ..CertificateConfig::default()
                }];
            },
            "begin it with",
        );
        let refused = AccessConfig {
            admin_key: Secret::from("hunter2"),
            ..AccessConfig::default()
        };
        assert!(!refused.check().unwrap_err().contains("hunter2"));
        AccessConfig::default().check().unwrap();
    }
}
