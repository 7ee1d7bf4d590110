//! Ondol as processes: all services in one, or each in its own.

use ondol_feature_store_api::{FeatureStore, FeatureStoreClient};
use ondol_ingest_api::{Ingest, IngestClient};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayClient};
use ondol_pipelines_api::{Pipelines, PipelinesClient};
use ondol_testkit::{services, unique_name};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use url::Url;

const SERVICES: [&str; 4] = ["feature-store", "ingest", "pipelines", "model-gateway"];

/// One `ondol serve` process.
struct Service {
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    url: Url,
    child: Option<Child>,
}

/// All services of one installation.
pub(crate) struct Platform {
    /// Holds definitions, spines and every store; removed at the end.
    _folder: TempDir,
    /// Kafka's bootstrap servers, where events come from Kafka.
    pub(crate) kafka: Option<String>,
    services: BTreeMap<&'static str, Service>,
}

impl Platform {
    /// One process, embedded stores.
    pub(crate) async fn embedded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let all = Service::new("all", &folder, BTreeMap::new());
        let mut platform = Self {
            _folder: folder,
            kafka: None,
            services: BTreeMap::from([("all", all)]),
        };
        platform.start().await;
        platform
    }

    /// A process per service, on Kafka, Redis and PostgreSQL.
    pub(crate) async fn separate() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = unique_name("e2e");
        let kafka = services::kafka();
        let mut all: BTreeMap<&'static str, Service> = SERVICES
            .into_iter()
            .map(|service| (service, Service::new(service, &folder, BTreeMap::new())))
            .collect();
        let environment = BTreeMap::from([
            ("ONDOL_FEATURE_STORE_URL", all["feature-store"].url.to_string()),
            ("ONDOL_INGEST_URL", all["ingest"].url.to_string()),
            ("ONDOL_FEATURE_STORE__ONLINE", services::redis()),
            ("ONDOL_FEATURE_STORE__ONLINE_PREFIX", name.clone()),
            ("ONDOL_FEATURE_STORE__REGISTRY", database(&name).await),
            ("ONDOL_INGEST__STREAM__KIND", "kafka".to_owned()),
            ("ONDOL_INGEST__STREAM__BOOTSTRAP", kafka.clone()),
            ("ONDOL_INGEST__STREAM__GROUP", name),
        ]);
        for service in all.values_mut() {
            service.environment = environment
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect();
        }
        let mut platform = Self {
            _folder: folder,
            kafka: Some(kafka),
            services: all,
        };
        platform.start().await;
        platform
    }

    async fn start(&mut self) {
        for service in self.services.values_mut() {
            service.start();
        }
        for service in self.services.values() {
            service.wait_until_ready().await;
        }
    }

    /// `kill -9` of every process, then a start from what they left.
    pub(crate) async fn kill_and_restart(&mut self) {
        for service in self.services.values_mut() {
            let mut child = service.child.take().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
        }
        self.start().await;
    }

    /// A graceful end; every process must exit with success.
    pub(crate) async fn stop(mut self) {
        // Callers first, so that each drains into the next.
        for name in ["all", "model-gateway", "pipelines", "ingest", "feature-store"] {
            let Some(service) = self.services.get_mut(name) else {
                continue;
            };
            let mut child = service.child.take().unwrap();
            let terminated = Command::new("kill")
                .args(["-TERM", &child.id().to_string()])
                .status()
                .unwrap();
            assert!(terminated.success());
            let status = tokio::task::spawn_blocking(move || child.wait().unwrap())
                .await
                .unwrap();
            assert!(status.success(), "{name} ended with {status}");
        }
    }

    fn url(&self, name: &str) -> Url {
        self.services
            .get("all")
            .or_else(|| self.services.get(name))
            .unwrap()
            .url
            .clone()
    }

    pub(crate) fn feature_store(&self) -> Arc<dyn FeatureStore> {
        Arc::new(FeatureStoreClient::new(self.url("feature-store")).unwrap())
    }

    pub(crate) fn ingest(&self) -> Arc<dyn Ingest> {
        Arc::new(IngestClient::new(self.url("ingest")).unwrap())
    }

    pub(crate) fn pipelines(&self) -> Arc<dyn Pipelines> {
        Arc::new(PipelinesClient::new(self.url("pipelines")).unwrap())
    }

    pub(crate) fn model_gateway(&self) -> Arc<dyn ModelGateway> {
        Arc::new(ModelGatewayClient::new(self.url("model-gateway")).unwrap())
    }

    /// GETs text from each process.
    pub(crate) async fn get(&self, path: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for service in self.services.values() {
            let response = reqwest::get(service.url.join(path).unwrap()).await.unwrap();
            assert!(response.status().is_success(), "{path}: {}", response.status());
            texts.push(response.text().await.unwrap());
        }
        texts
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        for service in self.services.values_mut() {
            if let Some(mut child) = service.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

impl Service {
    fn new(name: &str, folder: &TempDir, environment: BTreeMap<String, String>) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let data = folder.path().join(name).display().to_string();
        let arguments = ["serve", name, "--listen", &address.to_string(), "--data", &data]
            .map(str::to_owned)
            .to_vec();
        Self {
            arguments,
            environment,
            url: Url::parse(&format!("http://{address}")).unwrap(),
            child: None,
        }
    }

    fn start(&mut self) {
        let child = Command::new(env!("CARGO_BIN_EXE_ondol"))
            .args(&self.arguments)
            .envs(&self.environment)
            .env("ONDOL_LOG_FILTER", "warn")
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    async fn wait_until_ready(&self) {
        for _ in 0..1200 {
            let ready = reqwest::get(self.url.join("/readyz").unwrap()).await;
            if ready.is_ok_and(|response| response.status().is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let reason = match reqwest::get(self.url.join("/readyz").unwrap()).await {
            Ok(response) => response.text().await.unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        panic!("{} is not ready: {reason}", self.arguments[1]);
    }
}

/// The URL of a fresh PostgreSQL database.
async fn database(name: &str) -> String {
    use sqlx::Connection as _;
    let server = services::postgres();
    let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut connection)
        .await
        .unwrap();
    let mut url = Url::parse(&server).unwrap();
    url.set_path(name);
    url.to_string()
}
