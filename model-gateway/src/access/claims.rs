//! What a verified token says, and whether it is meant for this gateway, now (RFC 7519, section 4.1).

use super::config::IssuerConfig;
use super::identity::Identity;
use super::scopes::Scopes;
use serde_json::{Map, Value};

/// Longest tenant or subject that is taken from a token, in characters.
const NAME_CHARS: usize = 256;

/// Why claims are refused. Says which claim, nothing of its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// A claim is absent or of another type.
    #[error("its claim `{0}` is absent or of the wrong type")]
    Missing(String),
    /// It is over.
    #[error("it has expired: fetch a new one")]
    Expired,
    /// It is not good yet.
    #[error("it is not valid yet: is the issuer's clock right?")]
    Early,
    /// It is not of the issuer that its key is of.
    #[error("its issuer is not the one its key is of")]
    Issuer,
    /// It was made for somebody else.
    #[error("its audience is another service (`audiences` of its issuer)")]
    Audience,
}

/// Whose token it is, and until when it is good, in microseconds since the epoch.
///
/// # Errors
/// Which claim is absent or wrong.
pub fn identity(
    claims: &Map<String, Value>,
    config: &IssuerConfig,
    now_micros: i64,
) -> Result<(Identity, i64), ClaimError> {
    let missing = |name: &str| ClaimError::Missing(name.to_owned());
    if claims.get("iss").and_then(Value::as_str) != Some(config.issuer.as_str()) {
        return Err(ClaimError::Issuer);
    }
    let is_ours = |audience: &Value| {
        audience
            .as_str()
            .is_some_and(|audience| config.audiences.iter().any(|own| own == audience))
    };
    let meant_for_us = match claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(is_ours),
        Some(audience) => is_ours(audience),
        None => false,
    };
    if !meant_for_us {
        return Err(ClaimError::Audience);
    }
    let skew = i64::try_from(config.clock_skew_s)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000);
    let ends = moment(claims, "exp")?
        .ok_or_else(|| missing("exp"))?
        .saturating_add(skew);
    if now_micros >= ends {
        return Err(ClaimError::Expired);
    }
    for name in ["nbf", "iat"] {
        if moment(claims, name)?.is_some_and(|begins| begins.saturating_sub(skew) > now_micros) {
            return Err(ClaimError::Early);
        }
    }
    let subject = claims
        .get("sub")
        .and_then(Value::as_str)
        .ok_or_else(|| missing("sub"))?;
    let tenant = match at(claims, &config.tenant_claim) {
        Some(Value::String(tenant)) if !tenant.is_empty() => tenant.as_str(),
        None if !config.tenant.is_empty() => config.tenant.as_str(),
        _ => return Err(missing(&config.tenant_claim)),
    };
    for (name, text) in [("sub", subject), (config.tenant_claim.as_str(), tenant)] {
        if text.chars().count() > NAME_CHARS || text.contains(char::is_control) {
            return Err(missing(name));
        }
    }
    // Checked when the gateway was opened.
    let granted = Scopes::parse(&config.scopes).unwrap_or_default();
    let identity = Identity {
        who: format!("jwt:{}#{subject}", config.issuer),
        tenant: tenant.to_owned(),
        scopes: Scopes::known(scopes(claims, config).into_iter(), &granted),
    };
    Ok((identity, ends))
}

/// The texts that may be scopes, without the prefix that marks them as the gateway's.
fn scopes<'a>(claims: &'a Map<String, Value>, config: &'a IssuerConfig) -> Vec<&'a str> {
    let texts: Vec<&str> = match at(claims, &config.scope_claim) {
        Some(Value::String(text)) => text.split_ascii_whitespace().collect(),
        Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let own = |text: &'a str| text.strip_prefix(config.scope_prefix.as_str());
    texts.into_iter().filter_map(own).collect()
}

/// The claim at `path`: by its whole name, else by names with dots between.
fn at<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(found) = claims.get(path) {
        return Some(found);
    }
    let (first, rest) = path.split_once('.')?;
    at(claims.get(first)?.as_object()?, rest)
}

/// A moment in microseconds; a claim that is there and no moment is an error, not an absent one.
fn moment(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, ClaimError> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            // From 1970 to the year 10,000: beyond, the arithmetic would not be exact.
            Some(seconds) if (0.0..253_402_300_800.0).contains(&seconds) => Ok(Some((seconds * 1e6) as i64)),
            _ => Err(ClaimError::Missing(name.to_owned())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::scopes::Action;
    use serde_json::json;

    const NOW: i64 = 1_000_000_000;

    fn config() -> IssuerConfig {
        IssuerConfig {
            issuer: "https://issuer".to_owned(),
            audiences: vec!["ondol".to_owned()],
            clock_skew_s: 10,
            ..IssuerConfig::default()
        }
    }

    fn good() -> Value {
        json!({"iss": "https://issuer", "sub": "s", "aud": ["x", "ondol"], "exp": 1_100, "tenant": "bank",
               "scope": "openid predict:fraud"})
    }

    fn read(claims: &Value, config: &IssuerConfig) -> Result<(Identity, i64), ClaimError> {
        identity(claims.as_object().unwrap(), config, NOW)
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = good();
        claims[name] = value;
        claims
    }

    #[test]
    fn a_token_names_its_subject_tenant_and_scopes() {
        let (identity, ends) = read(&good(), &config()).unwrap();
        assert_eq!(identity.who, "jwt:https://issuer#s");
        assert_eq!(identity.tenant, "bank");
        assert_eq!(
            identity.scopes.to_texts(),
            ["predict:fraud"],
            "others are other services'"
        );
        assert_eq!(ends, 1_110_000_000);
        let nested = IssuerConfig {
            tenant_claim: "org.name".to_owned(),
            scope_claim: "realm_access.roles".to_owned(),
            scope_prefix: "ondol.".to_owned(),
            scopes: vec!["see:*".to_owned()],
            ..config()
        };
        let mut claims = good();
        claims["org"] = json!({"name": "shop"});
        claims["realm_access"] = json!({"roles": ["ondol.predict:churn", "predict:fraud", 7]});
        let (identity, _) = read(&claims, &nested).unwrap();
        assert_eq!(identity.tenant, "shop");
        assert_eq!(identity.scopes.to_texts(), ["see:*", "predict:churn"]);
        assert!(!identity.scopes.allow(Action::Predict, "fraud"));
    }

    #[test]
    fn claims_that_are_wrong_absent_or_of_another_type_are_refused() {
        let check = |claims: &Value, expected: ClaimError| {
            assert_eq!(read(claims, &config()).unwrap_err(), expected, "{claims}");
        };
        check(&with("iss", json!("https://issuer/")), ClaimError::Issuer);
        check(&with("aud", json!("other")), ClaimError::Audience);
        check(&with("aud", json!({"ondol": 1})), ClaimError::Audience);
        check(&with("exp", json!(990)), ClaimError::Expired);
        check(&with("nbf", json!(1_011)), ClaimError::Early);
        check(&with("iat", json!(1_011)), ClaimError::Early);
        let missing = |name: &str| ClaimError::Missing(name.to_owned());
        for wrong in [json!("1100"), json!(null), json!(-1), json!(1e300), json!([1100])] {
            check(&with("exp", wrong.clone()), missing("exp"));
            check(&with("nbf", wrong), missing("nbf"));
        }
        check(&with("sub", json!(7)), missing("sub"));
        check(&with("sub", json!("a\nb")), missing("sub"));
        check(&with("tenant", json!("")), missing("tenant"));
        check(&with("tenant", json!("x".repeat(257))), missing("tenant"));
        for name in ["iss", "aud", "exp", "sub", "tenant"] {
            let mut claims = good();
            claims.as_object_mut().unwrap().remove(name);
            assert!(read(&claims, &config()).is_err(), "{name}");
        }
    }

    #[test]
    fn the_clocks_may_differ_by_the_skew() {
        assert!(read(&with("exp", json!(991)), &config()).is_ok());
        assert!(read(&with("nbf", json!(1_010)), &config()).is_ok());
    }

    #[test]
    fn a_token_without_a_tenant_takes_the_issuers() {
        let fixed = IssuerConfig {
            tenant: "everyone".to_owned(),
            ..config()
        };
        let mut claims = good();
        claims.as_object_mut().unwrap().remove("tenant");
        assert_eq!(read(&claims, &fixed).unwrap().0.tenant, "everyone");
        assert!(
            read(&with("tenant", json!(7)), &fixed).is_err(),
            "of another type is not absent"
        );
    }
}
