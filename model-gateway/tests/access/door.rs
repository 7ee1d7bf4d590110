//! What the door asks of whom, and its refusals in each protocol.

use crate::fixture::{ADMIN, Door, NOW, required};
use ondol_model_gateway::access::AccessSetting;
use ondol_model_gateway::access::config::{AccessConfig, CertificateConfig, RateConfig};
use ondol_model_gateway_api::wire::{AccessMode, CallerIdentity};
use ondol_runtime::TlsConfig;
use ondol_testkit::authority::Authority;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

#[tokio::test]
async fn a_stranger_is_refused_in_the_words_of_the_protocol() {
    let door = Door::open(required()).await;
    let problem = door
        .request("POST", "/v1/models/fraud:predict", None)
        .send()
        .await
        .unwrap();
    assert_eq!(problem.status(), 401);
    assert_eq!(problem.headers()["www-authenticate"], "Bearer");
    assert_eq!(problem.headers()["content-type"], "application/problem+json");
    let problem: Value = problem.json().await.unwrap();
    assert_eq!(problem["code"], "unauthenticated");
    assert!(problem["detail"].as_str().unwrap().contains("x-api-key"), "{problem}");

    let open = door
        .request("POST", "/v2/models/fraud/infer", None)
        .send()
        .await
        .unwrap();
    assert_eq!(
        (open.status().as_u16(), &open.headers()["content-type"]),
        (401, &"application/json".parse().unwrap())
    );
    let open: Value = open.json().await.unwrap();
    assert!(open["error"].as_str().unwrap().contains("who calls?"), "{open}");

    let mlflow = door
        .request("POST", "/v1/models/fraud/invocations", None)
        .send()
        .await
        .unwrap();
    let mlflow: Value = mlflow.json().await.unwrap();
    assert_eq!(mlflow["error_code"], "UNAUTHENTICATED");

    let grpc = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let call = |token: &'static str| {
        let request = grpc
            .post(format!("{}/inference.GRPCInferenceService/ModelInfer", door.base))
            .header("content-type", "application/grpc")
            .header("authorization", token);
        async move { request.send().await.unwrap() }
    };
    let refused = call("Bearer nothing").await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["grpc-status"]),
        (200, &"16".parse().unwrap())
    );
    let words = refused.headers()["grpc-message"].to_str().unwrap();
    assert!(
        words.contains("neither an API key nor a JWT") && !words.contains("nothing"),
        "{words}"
    );
}

#[tokio::test]
async fn health_answers_anyone_and_nothing_else_does() {
    let door = Door::open(required()).await;
    assert_eq!(door.status("GET", "/v2/health/live", None).await, 200);
    for (method, path) in [
        ("GET", "/v1/models"),
        ("GET", "/v1/identity"),
        ("GET", "/v1/keys"),
        ("GET", "/v1/audit"),
        ("GET", "/v1/forgotten"),
        ("POST", "/v1/models/fraud:predict"),
        ("POST", "/v2/models/fraud/infer"),
    ] {
        assert_eq!(door.status(method, path, None).await, 401, "{path}");
        assert_eq!(door.status(method, path, Some("x")).await, 401, "{path}");
    }
    let closed = Door::open(AccessConfig {
        open_health: false,
        ..required()
    })
    .await;
    assert_eq!(closed.status("GET", "/v2/health/live", None).await, 401);
    assert_eq!(closed.status("GET", "/v2/health/live", Some(ADMIN)).await, 200);
}

#[tokio::test]
async fn a_caller_does_what_its_scopes_say_and_learns_which_is_missing() {
    let door = Door::open(required()).await;
    let key = door.create_key("bank", &["predict:fraud", "route:churn"]).await.key;
    for (method, path, expected) in [
        ("POST", "/v1/models/fraud:predict", 200),
        ("POST", "/v1/models/fraud@3:batchPredict", 200),
        ("POST", "/v1/models/fr%61ud:predict", 200),
        ("POST", "/v1/models/fraud:outcome", 200),
        ("POST", "/v2/models/fraud/infer", 200),
        ("POST", "/v1/models/fraud/invocations", 200),
        ("GET", "/v1/models", 200),
        ("GET", "/v1/identity", 200),
        ("PUT", "/v1/models/churn/routing", 200),
        ("PUT", "/v1/models/fraud/routing", 403),
        ("POST", "/v1/models/churn:predict", 403),
        ("POST", "/v1/models/ch%75rn:predict", 403),
        ("POST", "/v2/models/churn/infer", 403),
        ("POST", "/v1/models/fraud/versions", 403),
        ("POST", "/v1/models/fraud:forgotten", 403),
        ("GET", "/v1/forgotten", 403),
        ("GET", "/v1/keys", 403),
        ("GET", "/v1/audit", 403),
        ("POST", "/inference.GRPCInferenceService/ModelInfer", 200),
        ("POST", "/inference.GRPCInferenceService/RepositoryModelLoad", 403),
    ] {
        assert_eq!(door.status(method, path, Some(&key)).await, expected, "{method} {path}");
        assert_eq!(door.status(method, path, Some(ADMIN)).await, 200, "{method} {path}");
    }
    let refused = door
        .request("POST", "/v2/models/churn/infer", Some(&key))
        .send()
        .await
        .unwrap();
    let words = refused.text().await.unwrap();
    assert!(
        words.contains("lacks the scope `predict:churn`") && words.contains("predict:fraud"),
        "{words}"
    );
    assert!(!words.contains(&key));
    let by_header = door
        .request("POST", "/v1/models/fraud:predict", None)
        .header("x-api-key", &key);
    assert_eq!(by_header.send().await.unwrap().status(), 200);
    let basic = door.request("GET", "/v1/models", None).basic_auth("user", Some(&key));
    assert_eq!(basic.send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_rate_that_is_used_up_says_when_to_try_again() {
    let rate = RateConfig {
        requests_per_s: 0.5,
        burst: 2.0,
    };
    let door = Door::open(AccessConfig {
        rate,
        tenants: BTreeMap::from([("shop".to_owned(), RateConfig::default())]),
        ..required()
    })
    .await;
    let bank = door.create_key("bank", &["predict:*"]).await.key;
    let shop = door.create_key("shop", &["predict:*"]).await.key;
    let predict = |key: &str, model: &str| {
        door.request("POST", &format!("/v1/models/{model}:predict"), Some(key))
            .send()
    };
    for _ in 0..2 {
        assert_eq!(predict(&bank, "fraud").await.unwrap().status(), 200);
    }
    let refused = predict(&bank, "fraud").await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["retry-after"]),
        (429, &"2".parse().unwrap())
    );
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(
        (&problem["code"], &problem["retryable"]),
        (&json!("rate-limited"), &json!(true))
    );
    assert!(
        problem["detail"].as_str().unwrap().contains("tenant `bank`"),
        "{problem}"
    );
    assert_eq!(
        predict(&bank, "fraud@2").await.unwrap().status(),
        429,
        "versions share the model's"
    );
    assert_eq!(
        predict(&bank, "churn").await.unwrap().status(),
        200,
        "another model has its own"
    );
    for _ in 0..20 {
        assert_eq!(predict(&shop, "fraud").await.unwrap().status(), 200);
    }
    door.clock.advance(2_000_000);
    assert_eq!(predict(&bank, "fraud").await.unwrap().status(), 200);
    assert_eq!(predict(&bank, "fraud").await.unwrap().status(), 429);
}

#[tokio::test]
async fn a_body_is_bounded_whether_it_says_its_length_or_not() {
    let door = Door::open(AccessConfig {
        max_predict_bytes: 1_000,
        max_change_bytes: 100,
        ..required()
    })
    .await;
    let post = |path: &str, bytes: usize| door.request("POST", path, Some(ADMIN)).body(vec![b'x'; bytes]).send();
    assert_eq!(post("/v1/models/fraud:predict", 1_000).await.unwrap().status(), 200);
    let refused = post("/v1/models/fraud:predict", 1_001).await.unwrap();
    assert_eq!(refused.status(), 413);
    assert!(
        refused
            .text()
            .await
            .unwrap()
            .contains("1001 bytes, this route takes 1000")
    );
    assert_eq!(post("/v1/keys", 101).await.unwrap().status(), 413);
    assert_eq!(
        post("/v1/models/fraud/versions", 50_000).await.unwrap().status(),
        200,
        "it has a limit of its own"
    );
    let chunks = futures::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 100])));
    let chunked = door
        .request("POST", "/v1/models/fraud:predict", Some(ADMIN))
        .body(reqwest::Body::wrap_stream(chunks));
    assert_eq!(chunked.send().await.unwrap().status(), 413);
}

#[tokio::test]
async fn where_access_is_off_every_answer_and_readiness_say_so() {
    let door = Door::open(AccessConfig {
        mode: AccessSetting::Off,
        ..required()
    })
    .await;
    let answer = door.request("GET", "/v1/models", None).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["ondol-access"]),
        (200, &"off".parse().unwrap())
    );
    let identity: CallerIdentity = door
        .request("GET", "/v1/identity", None)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!((identity.who.as_str(), identity.access), ("anyone", AccessMode::Off));
    let checks = door.health.checks();
    assert!(
        checks
            .iter()
            .any(|check| check.ready && check.reason.as_deref().is_some_and(|note| note.starts_with("off")))
    );
    let required = Door::open(required()).await;
    let answer = required.request("GET", "/v1/models", Some(ADMIN)).send().await.unwrap();
    assert!(!answer.headers().contains_key("ondol-access"));
}

#[tokio::test]
async fn a_client_is_known_by_its_certificate() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let authority = Authority::new(folder.path(), "ca").unwrap();
    let server = authority.issue("server", "DNS:localhost").unwrap();
    let tls = TlsConfig {
        certificate: server.certificate,
        key: server.key,
        client_ca: authority.certificate(),
        client_certificate: ondol_runtime::tls::ClientCertificate::Optional,
        ..TlsConfig::default()
    };
    let config = AccessConfig {
        certificates: vec![CertificateConfig {
            name: "uri:spiffe://bank/checkout".to_owned(),
            tenant: "bank".to_owned(),
            scopes: vec!["predict:fraud".to_owned()],
        }],
        ..required()
    };
    let door = Door::open_with(Arc::clone(&folder), config, &tls).await;
    let client = |identity: Option<&ondol_testkit::authority::Issued>| {
        let ca = std::fs::read(authority.certificate()).unwrap();
        let builder = reqwest::Client::builder()
            .use_rustls_tls()
            .add_root_certificate(reqwest::Certificate::from_pem(&ca).unwrap());
        let builder = match identity {
            Some(issued) => builder.identity(reqwest::Identity::from_pem(&issued.together().unwrap()).unwrap()),
            None => builder,
        };
        builder.build().unwrap()
    };
    let known = authority.issue("checkout", "URI:spiffe://bank/checkout").unwrap();
    let other = authority.issue("other", "URI:spiffe://bank/other").unwrap();
    let identity = |client: reqwest::Client| client.get(format!("{}/v1/identity", door.base)).send();
    let who: CallerIdentity = identity(client(Some(&known))).await.unwrap().json().await.unwrap();
    assert_eq!(who.who, "certificate:uri:spiffe://bank/checkout");
    assert_eq!(who.scopes, ["predict:fraud"]);
    let refused = identity(client(Some(&other))).await.unwrap();
    assert_eq!(refused.status(), 401);
    assert!(refused.text().await.unwrap().contains("spiffe://bank/other"));
    assert_eq!(identity(client(None)).await.unwrap().status(), 401);
    // A key goes before the certificate.
    let keyed = client(Some(&known))
        .get(format!("{}/v1/identity", door.base))
        .bearer_auth(ADMIN);
    let who: CallerIdentity = keyed.send().await.unwrap().json().await.unwrap();
    assert_eq!(who.who, "key:admin_key");
    assert_eq!(NOW % 1_000_000, 0);
}
