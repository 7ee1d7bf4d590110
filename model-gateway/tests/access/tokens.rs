//! JWTs of an issuer that is made up here: it publishes keys, exchanges them, and counts who asks.

use crate::fixture::{Door, NOW, required};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ondol_model_gateway::access::config::{AccessConfig, IssuerConfig};
use ondol_model_gateway_api::wire::CallerIdentity;
use ondol_testkit::authority::openssl;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const PREDICT: &str = "/v1/models/fraud:predict";

struct Signer {
    id: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        Self { id, pair }
    }

    fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": x, "use": "sig"})
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": "EdDSA", "kid": self.id}), claims)
    }

    fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()).as_ref());
        format!("{signed}.{signature}")
    }
}

/// The issuer: its keys, how often they were asked for, whether it answers.
struct Issuer {
    url: String,
    keys: Mutex<Value>,
    asked: AtomicUsize,
    down: AtomicBool,
}

impl Issuer {
    async fn start(keys: Value) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Arc::new(Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            keys: Mutex::new(keys),
            asked: AtomicUsize::new(0),
            down: AtomicBool::new(false),
        });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(jwks))
            .with_state(Arc::clone(&issuer));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        issuer
    }

    fn publish(&self, keys: Value) {
        *self.keys.lock().unwrap() = keys;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn config(&self) -> AccessConfig {
        AccessConfig {
            issuers: vec![IssuerConfig {
                issuer: self.url.clone(),
                audiences: vec!["ondol".to_owned()],
                ..IssuerConfig::default()
            }],
            ..required()
        }
    }

    fn claims(&self) -> Value {
        json!({"iss": self.url, "sub": "alice", "aud": "ondol", "exp": NOW / 1_000_000 + 3_600, "tenant": "bank",
               "scope": "openid predict:fraud"})
    }
}

async fn discovery(State(issuer): State<Arc<Issuer>>) -> Result<String, StatusCode> {
    if issuer.down.load(Ordering::SeqCst) {
        return Err(StatusCode::BAD_GATEWAY);
    }
    Ok(json!({"issuer": issuer.url, "jwks_uri": format!("{}/keys", issuer.url)}).to_string())
}

async fn jwks(State(issuer): State<Arc<Issuer>>) -> String {
    issuer.asked.fetch_add(1, Ordering::SeqCst);
    json!({"keys": *issuer.keys.lock().unwrap()}).to_string()
}

fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

#[tokio::test]
async fn a_token_of_a_known_issuer_says_who_calls_and_what_it_may_do() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(json!([signer.jwk()])).await;
    let door = Door::open(issuer.config()).await;
    let token = signer.sign(&issuer.claims());
    let who = door.request("GET", "/v1/identity", Some(&token)).send().await.unwrap();
    let who: CallerIdentity = who.json().await.unwrap();
    assert_eq!(
        (who.who.as_str(), who.tenant.as_str()),
        (format!("jwt:{}#alice", issuer.url).as_str(), "bank")
    );
    assert_eq!(who.scopes, ["predict:fraud"]);
    assert_eq!(door.status("POST", PREDICT, Some(&token)).await, 200);
    assert_eq!(door.status("POST", "/v1/models/churn:predict", Some(&token)).await, 403);
    door.clock.advance(3_659_999_999);
    assert_eq!(
        door.status("POST", PREDICT, Some(&token)).await,
        200,
        "within the clocks' skew"
    );
    door.clock.advance(1);
    let expired = door.request("POST", PREDICT, Some(&token)).send().await.unwrap();
    assert_eq!(expired.status(), 401);
    assert!(expired.text().await.unwrap().contains("expired"));
}

#[tokio::test]
async fn tokens_that_are_wrong_in_any_way_are_refused_and_not_quoted() {
    let (signer, stranger) = (Signer::new("one"), Signer::new("one"));
    let issuer = Issuer::start(json!([signer.jwk()])).await;
    let door = Door::open(issuer.config()).await;
    let good = issuer.claims();
    assert_eq!(door.status("POST", PREDICT, Some(&signer.sign(&good))).await, 200);
    let public = URL_SAFE_NO_PAD.encode(signer.pair.public_key().as_ref());
    let unsigned = signer.sign_as(&json!({"alg": "none"}), &good);
    let wrong = [
        stranger.sign(&good),
        signer.sign_as(&json!({"alg": "HS256", "kid": "one", "k": public}), &good),
        signer.sign_as(&json!({"alg": "RS256", "kid": "one"}), &good),
        signer.sign_as(&json!({"alg": "ES512", "kid": "one"}), &good),
        signer.sign_as(&json!({"alg": "EdDSA", "kid": "one", "crit": ["x"]}), &good),
        format!("{}.", unsigned.rsplit_once('.').unwrap().0),
        signer.sign(&with(&good, "exp", json!(NOW / 1_000_000 - 61))),
        signer.sign(&with(&good, "exp", json!("4102444800"))),
        signer.sign(&with(&good, "nbf", json!(NOW / 1_000_000 + 61))),
        signer.sign(&with(&good, "aud", json!(["other"]))),
        signer.sign(&with(&good, "iss", json!("https://other"))),
        signer.sign(&with(&good, "tenant", json!(null))),
        "a.b.c".to_owned(),
    ];
    for token in wrong {
        let refused = door.request("POST", PREDICT, Some(&token)).send().await.unwrap();
        assert_eq!(refused.status(), 401, "{token}");
        let words = refused.text().await.unwrap();
        let signature = token.rsplit_once('.').unwrap().1;
        assert!(
            !words.contains(&token) && (signature.len() < 4 || !words.contains(signature)),
            "{words}"
        );
    }
    let long = format!("{}.{}.{}", "a".repeat(8_000), "b".repeat(10_000), "c");
    assert!([401, 431].contains(&door.status("POST", PREDICT, Some(&long)).await));
}

#[tokio::test]
async fn an_issuer_that_exchanges_its_keys_is_followed() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = Issuer::start(json!([old.jwk()])).await;
    let door = Door::open(issuer.config()).await;
    let (of_old, of_new) = (old.sign(&issuer.claims()), new.sign(&issuer.claims()));
    assert_eq!(door.status("POST", PREDICT, Some(&of_old)).await, 200);
    assert_eq!(
        door.status("POST", PREDICT, Some(&of_new)).await,
        401,
        "not published yet"
    );
    issuer.publish(json!([new.jwk()]));
    door.clock.advance(11_000_000);
    assert_eq!(
        door.status("POST", PREDICT, Some(&of_new)).await,
        200,
        "an unknown key is asked for"
    );
    assert_eq!(
        door.status("POST", PREDICT, Some(&of_old)).await,
        401,
        "also where it was verified before"
    );
}

#[tokio::test]
async fn a_flood_of_unknown_keys_does_not_reach_the_issuer() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(json!([signer.jwk()])).await;
    let door = Door::open(issuer.config()).await;
    assert_eq!(
        door.status("POST", PREDICT, Some(&signer.sign(&issuer.claims()))).await,
        200
    );
    let before = issuer.asked();
    let flood = |count: usize| {
        let tokens = (0..count)
            .map(|number| signer.sign_as(&json!({"alg": "EdDSA", "kid": number.to_string()}), &issuer.claims()));
        let requests = tokens.map(|token| {
            let request = door.request("POST", PREDICT, Some(&token));
            async move { request.send().await.unwrap().status().as_u16() }
        });
        futures::future::join_all(requests)
    };
    assert!(flood(60).await.iter().all(|status| *status == 401));
    assert_eq!(issuer.asked(), before, "it was asked a moment ago");
    door.clock.advance(10_000_000);
    assert!(flood(60).await.iter().all(|status| *status == 401));
    assert_eq!(issuer.asked(), before + 1);
}

#[tokio::test]
async fn an_issuer_that_is_down_costs_new_callers_a_503_and_known_keys_nothing() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(json!([signer.jwk()])).await;
    issuer.down.store(true, Ordering::SeqCst);
    let door = Door::open(issuer.config()).await;
    let token = signer.sign(&issuer.claims());
    let refused = door.request("POST", PREDICT, Some(&token)).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    issuer.down.store(false, Ordering::SeqCst);
    door.clock.advance(10_000_000);
    assert_eq!(door.status("POST", PREDICT, Some(&token)).await, 200);
    issuer.down.store(true, Ordering::SeqCst);
    let other = signer.sign(&with(&issuer.claims(), "sub", json!("bob")));
    assert_eq!(door.status("POST", PREDICT, Some(&other)).await, 200);
}

/// As large issuers do: RSA, without the gateway knowing the key's id before.
#[tokio::test]
async fn a_token_signed_with_rsa_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("rsa.pem");
    openssl(Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048")).unwrap();
    let modulus = openssl(
        Command::new("openssl")
            .args(["rsa", "-noout", "-modulus", "-in"])
            .arg(&key),
    )
    .unwrap();
    let modulus = String::from_utf8(modulus).unwrap();
    let digits = modulus.trim().strip_prefix("Modulus=").unwrap();
    let n: Vec<u8> = (0..digits.len() / 2)
        .map(|place| u8::from_str_radix(&digits[2 * place..2 * place + 2], 16).unwrap())
        .collect();
    let jwk = json!({"kty": "RSA", "kid": "rsa", "alg": "RS256", "n": URL_SAFE_NO_PAD.encode(n), "e": "AQAB"});
    let issuer = Issuer::start(json!([jwk])).await;
    let door = Door::open(issuer.config()).await;
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!(
        "{}.{}",
        part(&json!({"alg": "RS256", "kid": "rsa"})),
        part(&issuer.claims())
    );
    let message = folder.path().join("message");
    std::fs::write(&message, &signed).unwrap();
    let sign = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(&key)
        .arg(&message)
        .output()
        .unwrap();
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&sign.stdout));
    assert_eq!(door.status("POST", PREDICT, Some(&token)).await, 200);
    let swapped = token.replace(
        &part(&json!({"alg": "RS256", "kid": "rsa"})),
        &part(&json!({"alg": "PS256", "kid": "rsa"})),
    );
    assert_eq!(door.status("POST", PREDICT, Some(&swapped)).await, 401);
}
