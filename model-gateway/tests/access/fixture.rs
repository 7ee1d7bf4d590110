//! The door before routes that only say that they were reached.

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::routing::{get, post, put};
use ondol_model_gateway::access::config::AccessConfig;
use ondol_model_gateway::access::{Access, AccessSetting};
use ondol_model_gateway_api::wire::CreatedKey;
use ondol_runtime::{Health, ManualClock, Secret, Shutdown, TlsConfig, TlsServer, serve_tls};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::TcpListener;

pub const NOW: i64 = 1_800_000_000_000_000;
pub const ADMIN: &str = "0123456789abcdef0123456789abcdef-admin";

pub struct Door {
    pub folder: Arc<TempDir>,
    pub base: String,
    pub clock: ManualClock,
    pub health: Health,
    pub http: reqwest::Client,
}

pub fn required() -> AccessConfig {
    AccessConfig {
        mode: AccessSetting::Required,
        admin_key: Secret::from(ADMIN),
        refresh_ms: 50,
        ..AccessConfig::default()
    }
}

fn routes() -> Router {
    let reached = || post(|body: Bytes| async move { format!("reached with {} bytes", body.len()) });
    Router::new()
        .route("/v1/models", get(|| async { "models" }))
        .route("/v1/models/{model}", reached())
        .route("/v1/models/{model}/versions", reached())
        .route("/v1/models/{model}/invocations", reached())
        .route("/v1/models/{model}/routing", put(|| async { "routed" }))
        .route("/v1/forgotten", get(|| async { "forgotten" }))
        .route("/v2/health/live", get(|| async { "live" }))
        .route("/v2/models/{model}/infer", reached())
        .route(
            "/inference.GRPCInferenceService/{method}",
            post(|_: Request| async { "called" }),
        )
}

impl Door {
    pub async fn open(config: AccessConfig) -> Self {
        Self::open_with(Arc::new(tempfile::tempdir().unwrap()), config, &TlsConfig::default()).await
    }

    /// A replica on the same database.
    pub async fn open_with(folder: Arc<TempDir>, config: AccessConfig, tls: &TlsConfig) -> Self {
        let url = database(&folder);
        let (shutdown, health, clock) = (Shutdown::new(), Health::new(), ManualClock::at(NOW));
        let access = Access::open(&config, &url, Arc::new(clock.clone()), &shutdown, &health)
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_on() { "https" } else { "http" };
        let base = format!("{scheme}://localhost:{}", listener.local_addr().unwrap().port());
        let tls = TlsServer::open(tls, &shutdown).unwrap();
        let router = access.protect(routes());
        shutdown.spawn("http", serve_tls(listener, tls, router, shutdown.clone()));
        Self {
            folder,
            base,
            clock,
            health,
            http: reqwest::Client::new(),
        }
    }

    pub fn request(&self, method: &str, path: &str, token: Option<&str>) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.http.request(method, format!("{}{path}", self.base));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn status(&self, method: &str, path: &str, token: Option<&str>) -> u16 {
        self.request(method, path, token)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    }

    pub async fn create_key(&self, tenant: &str, scopes: &[&str]) -> CreatedKey {
        let body = serde_json::json!({ "label": "test", "tenant": tenant, "scopes": scopes });
        let response = self
            .request("POST", "/v1/keys", Some(ADMIN))
            .json(&body)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 201);
        assert_eq!(response.headers()["cache-control"], "no-store");
        response.json().await.unwrap()
    }
}

pub fn database(folder: &TempDir) -> String {
    format!("sqlite://{}?mode=rwc", folder.path().join("models.db").display())
}
