//! What strangers show at the gateway's door: tokens, keys, paths; and what issuers publish.

use ondol_model_gateway::access::claims;
use ondol_model_gateway::access::config::IssuerConfig;
use ondol_model_gateway::access::jose::{KeySet, Unverified};
use ondol_model_gateway::access::keys::id_of;
use ondol_model_gateway::access::routes::{Need, need};
use ondol_model_gateway::access::scopes::Scope;

/// A published key that nobody here has the private half of.
const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// The first byte says what the rest is.
pub fn door(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 5 {
        0 => token(data),
        1 => published(data),
        2 => claimed(data),
        3 => scope(data),
        _ => path(data),
    }
}

/// A token that was not signed with the published key is not believed, whatever it says.
fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(id) = id_of(text) {
        assert!(text.starts_with("ondol_") && id.len() == 12);
    }
    let Ok(unverified) = Unverified::parse(text) else {
        return;
    };
    let keys = KeySet::parse(KEYS.as_bytes()).unwrap();
    let key = keys.find(Some("a")).unwrap();
    assert!(unverified.verified(key).is_err());
}

/// Keys of an issuer are used without a panic, however strange.
fn published(data: &[u8]) {
    let Ok(keys) = KeySet::parse(data) else { return };
    for algorithm in ["RS256", "PS512", "ES256", "ES384", "EdDSA"] {
        let header = [r#"{"alg":""#, algorithm, r#""}"#].concat();
        let token = format!("{}.e30.AAAA", base64url(header.as_bytes()));
        if let (Ok(unverified), Some(key)) = (Unverified::parse(&token), keys.find(None)) {
            assert!(unverified.verified(key).is_err());
        }
    }
}

/// Claims are refused, or name a tenant and end after now.
fn claimed(data: &[u8]) {
    let Ok(claims) = serde_json::from_slice(data) else {
        return;
    };
    let config = IssuerConfig {
        issuer: "i".to_owned(),
        audiences: vec!["ondol".to_owned()],
        ..IssuerConfig::default()
    };
    let now = 1_000_000_000;
    if let Ok((identity, ends)) = claims::identity(&claims, &config, now) {
        assert!(!identity.tenant.is_empty() && ends > now);
        assert!(identity.who.starts_with("jwt:i#"));
    }
}

/// A scope is refused, or written as it was read.
fn scope(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(scope) = text.parse::<Scope>() {
        assert_eq!(scope.to_string(), text);
    }
}

/// Only health is open.
fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for method in [axum::http::Method::GET, axum::http::Method::POST] {
        if need(&method, text) == Need::Open {
            assert!(text.contains("ealth") || text.contains("ping") || text.contains("Server") || text.contains('%'));
        }
    }
}

fn base64url(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number =
            chunk.iter().fold(0u32, |number, byte| (number << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(SIGNS[((number >> (18 - 6 * place)) & 63) as usize]));
        }
    }
    text
}
