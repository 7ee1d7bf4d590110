//! Keys and the audit log: client → a real port → router → a stub, and every error back as itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use async_trait::async_trait;
use ondol_model_gateway_api::access::server;
use ondol_model_gateway_api::wire::*;
use ondol_model_gateway_api::{AccessError, GatewayAccess, GatewayAccessClient};
use ondol_vocabulary::EventTime;
use ondol_wire::{ContractError as _, Credentials};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Stub {
    calls: Mutex<Vec<String>>,
    failure: Option<AccessError>,
}

impl Stub {
    fn take<T>(&self, call: String, value: T) -> Result<T, AccessError> {
        self.calls.lock().unwrap().push(call);
        self.failure.clone().map_or(Ok(value), Err)
    }
}

#[async_trait]
impl GatewayAccess for Stub {
    async fn create_key(&self, request: CreateKey) -> Result<CreatedKey, AccessError> {
        self.take(format!("create {request:?}"), created())
    }
    async fn keys(&self) -> Result<Vec<KeySummary>, AccessError> {
        self.take("keys".to_owned(), vec![summary()])
    }
    async fn revoke_key(&self, id: &str) -> Result<KeySummary, AccessError> {
        self.take(format!("revoke {id}"), summary())
    }
    async fn audit(&self, query: AuditQuery) -> Result<AuditPage, AccessError> {
        self.take(format!("audit {query:?}"), page())
    }
}

fn request() -> CreateKey {
    CreateKey {
        label: "checkout".to_owned(),
        tenant: "payments".to_owned(),
        scopes: vec!["predict:fraud".to_owned()],
        lifetime_s: Some(60),
    }
}

fn summary() -> KeySummary {
    KeySummary {
        id: "3f9c2a71d0b4".to_owned(),
        label: "checkout".to_owned(),
        tenant: "payments".to_owned(),
        scopes: vec!["predict:fraud".to_owned()],
        created_at: EventTime::from_micros(5),
        expires_at: Some(EventTime::from_micros(6)),
        revoked_at: None,
        last_used_at: None,
    }
}

fn created() -> CreatedKey {
    CreatedKey {
        key: "ondol_3f9c2a71d0b4_secret".to_owned(),
        summary: summary(),
    }
}

fn page() -> AuditPage {
    AuditPage {
        entries: vec![AuditEntry {
            id: "01J".to_owned(),
            at: EventTime::from_micros(7),
            who: "key:3f9c2a71d0b4".to_owned(),
            tenant: "payments".to_owned(),
            action: "admin".to_owned(),
            subject: "POST /v1/keys".to_owned(),
            outcome: "done".to_owned(),
            status: Some(201),
        }],
        next: Some("01J".to_owned()),
    }
}

async fn serve(failure: Option<AccessError>) -> (Arc<Stub>, GatewayAccessClient, String) {
    let stub = Arc::new(Stub {
        failure,
        ..Stub::default()
    });
    let router = server::router(Arc::clone(&stub) as Arc<dyn GatewayAccess>);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let credentials = Credentials {
        token: Some("token".to_owned()),
        ..Credentials::default()
    };
    let client = GatewayAccessClient::with(base.parse().unwrap(), &credentials).unwrap();
    (stub, client, base)
}

#[tokio::test]
async fn every_call_and_answer_arrives_as_it_was_sent() {
    let (stub, client, _) = serve(None).await;
    let query = AuditQuery {
        limit: Some(3),
        before: Some("01J".to_owned()),
        action: None,
    };
    assert_eq!(client.create_key(request()).await.unwrap(), created());
    assert_eq!(client.keys().await.unwrap(), [summary()]);
    assert_eq!(client.revoke_key("a/b").await.unwrap(), summary());
    assert_eq!(client.audit(query.clone()).await.unwrap(), page());
    let who = client.identity().await.unwrap();
    assert_eq!(
        (who.who.as_str(), who.access),
        ("anyone", AccessMode::Off),
        "without a door"
    );
    let expected = [
        format!("create {:?}", request()),
        "keys".to_owned(),
        "revoke a/b".to_owned(),
        format!("audit {query:?}"),
    ];
    assert_eq!(*stub.calls.lock().unwrap(), expected);
}

#[tokio::test]
async fn every_error_comes_back_as_itself_and_as_a_problem() {
    let text = |text: &str| text.to_owned();
    let cases = [
        (AccessError::Unauthenticated { detail: text("d") }, 401),
        (AccessError::Forbidden { detail: text("d") }, 403),
        (
            AccessError::RateLimited {
                detail: text("d"),
                retry_after_s: 7,
            },
            429,
        ),
        (AccessError::TooLarge { detail: text("d") }, 413),
        (AccessError::UnknownKey { id: text("x") }, 404),
        (AccessError::InvalidRequest { detail: text("d") }, 400),
        (AccessError::Unavailable { detail: text("d") }, 503),
    ];
    for (error, status) in cases {
        let (_, client, base) = serve(Some(error.clone())).await;
        assert_eq!(client.keys().await.unwrap_err(), error);
        let response = reqwest::get(format!("{base}/v1/keys")).await.unwrap();
        assert_eq!(response.status(), status);
        let retry = response
            .headers()
            .get("retry-after")
            .map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(retry.is_some(), status == 429);
        let problem: serde_json::Value = response.json().await.unwrap();
        assert_eq!(problem["code"], error.code());
    }
}

#[test]
fn no_debug_text_holds_a_key_or_a_token() {
    let credentials = Credentials {
        token: Some("hunter2".to_owned()),
        identity: Some(b"hunter2".to_vec()),
        ..Credentials::default()
    };
    let client = GatewayAccessClient::with("http://localhost".parse().unwrap(), &credentials);
    // What is no certificate is refused, also without its words.
    let refused = format!("{client:?}");
    let shown = format!("{credentials:?}{:?}{refused}", created());
    assert!(!shown.contains("hunter2") && !shown.contains("secret"), "{shown}");
}
