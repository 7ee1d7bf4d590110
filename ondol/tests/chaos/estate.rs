//! The program under test, in processes of its own: a core (feature store, ingest, pipelines and a gateway in one), and
//! gateways beside it.

use crate::scene::{self, CARDS, Model, Outcome, Row};
use ondol_feature_store_api::{FeatureStore, FeatureStoreClient};
use ondol_ingest_api::wire::PushRequest;
use ondol_ingest_api::{Ingest, IngestClient};
use ondol_model_gateway_api::wire::{PredictRequest, RegisterRequest, RegisteredModel};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayClient, ModelGatewayError};
use ondol_testkit::process::{Process, free_port};
use ondol_testkit::services;
use ondol_vocabulary::{DefinitionFile, DefinitionFiles};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use url::Url;

/// How long anything that must come may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// An `ondol serve` process.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) url: Url,
    pub(crate) process: Process,
}

/// A core and the gateways beside it.
pub(crate) struct Estate {
    pub(crate) folder: TempDir,
    pub(crate) core: Server,
    pub(crate) gateways: Vec<Server>,
}

impl Server {
    fn new(folder: &Path, name: &str, service: &str, settings: &str) -> Self {
        let port = free_port();
        let file = folder.join(format!("{name}.toml"));
        let text = format!(
            "listen = \"127.0.0.1:{port}\"\ndata_dir = \"{}\"\nlog_format = \"text\"\nlog_filter = \"warn\"\n{settings}",
            folder.join(name).display()
        );
        std::fs::write(&file, text).unwrap();
        let arguments = ["serve", service, "--config", &file.display().to_string()].map(str::to_owned);
        Self {
            port,
            url: Url::parse(&format!("http://127.0.0.1:{port}")).unwrap(),
            process: Process::new(name, env!("CARGO_BIN_EXE_ondol"), arguments, folder),
        }
    }

    pub(crate) async fn start(&mut self) {
        self.process.start().unwrap();
        self.wait_until_ready().await;
    }

    pub(crate) async fn wait_until_ready(&mut self) {
        let ready = self.url.join("/readyz").unwrap();
        let (name, log) = (self.process.name().to_owned(), self.process.log().to_owned());
        until(
            || {
                format!(
                    "{name} is not ready: {}",
                    std::fs::read_to_string(&log).unwrap_or_default()
                )
            },
            async || {
                reqwest::get(ready.clone())
                    .await
                    .is_ok_and(|answer| answer.status().is_success())
            },
        )
        .await;
    }

    /// Asks it to end and waits until it has; it must end well.
    pub(crate) fn stop(&mut self) {
        let ended = tokio::task::block_in_place(|| self.process.terminate(PATIENCE));
        let status = ended.unwrap().expect("the process does not end");
        assert!(status.success(), "{} ended with {status}", self.process.name());
    }

    pub(crate) fn gateway(&self) -> ModelGatewayClient {
        ModelGatewayClient::new(self.url.clone()).unwrap()
    }

    /// What it has written since it was first started.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.process.log()).unwrap()
    }

    /// The sum of a counter over its labels.
    pub(crate) async fn counter(&self, name: &str) -> u64 {
        let text = reqwest::get(self.url.join("/metrics").unwrap()).await.unwrap();
        let text = text.text().await.unwrap();
        let of_name = |line: &&str| line.starts_with(name) && line[name.len()..].starts_with([' ', '{']);
        let values = text.lines().filter(of_name);
        let sum: f64 = values
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum();
        sum as u64
    }

    /// Sends a request without a body to its API of the Open Inference Protocol.
    pub(crate) async fn repository(&self, path: &str) -> Result<(), (u16, String)> {
        let url = self.url.join(&format!("/v2/repository/models/{path}")).unwrap();
        let answer = reqwest::Client::new().post(url).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        if status.is_success() {
            Ok(())
        } else {
            Err((status.as_u16(), text))
        }
    }
}

impl Estate {
    /// A core with `settings`, on which `gateways` (their settings) lean: definitions applied, events online.
    pub(crate) async fn start(settings: &str, gateways: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let python = format!("python = \"{}\"", services::python());
        // A table is opened once: what a test says of the gateway comes last in its settings.
        let gateway_of = |settings: &str| match settings.split_once("[model_gateway]") {
            Some((before, after)) => format!("{before}[model_gateway]\n{python}\n{after}"),
            None => format!("{settings}\n[model_gateway]\n{python}\n"),
        };
        let core = Server::new(folder.path(), "core", "all", &gateway_of(settings));
        let place = |(number, settings): (usize, &&str)| {
            let urls = format!("feature_store_url = \"{0}\"\ningest_url = \"{0}\"\n", core.url);
            let settings = urls + &gateway_of(settings);
            Server::new(
                folder.path(),
                &format!("gateway-{}", number + 1),
                "model-gateway",
                &settings,
            )
        };
        let gateways = gateways.iter().enumerate().map(place).collect();
        let mut estate = Self { folder, core, gateways };
        estate.core.start().await;
        estate.fill().await;
        for gateway in &mut estate.gateways {
            gateway.start().await;
        }
        estate
    }

    async fn fill(&self) {
        let store = FeatureStoreClient::new(self.core.url.clone()).unwrap();
        let files = DefinitionFiles {
            files: vec![DefinitionFile {
                path: "features.toml".to_owned(),
                text: scene::DEFINITIONS.to_owned(),
            }],
        };
        store.apply(files).await.unwrap();
        let ingest = IngestClient::new(self.core.url.clone()).unwrap();
        until(
            || "events can't be pushed".to_owned(),
            async || {
                ingest
                    .push("payments", PushRequest::from(scene::events()))
                    .await
                    .is_ok()
            },
        )
        .await;
    }

    /// The gateway that is asked: the first that stands beside the core, or the core's own.
    pub(crate) fn front(&self) -> &Server {
        self.gateways.first().unwrap_or(&self.core)
    }

    /// Registers the first version of `models`, and waits until every card's features are served.
    pub(crate) async fn with_models(self, models: &[Model]) -> Self {
        for model in models {
            self.register(*model, 1).await.unwrap();
        }
        let served = models.iter().copied().filter(|model| model.has_features());
        let gateway = self.front().gateway();
        for model in served {
            for card in 0..CARDS {
                let row = Row { card, amount: 1.0 };
                let whole = || async {
                    let answer = gateway.predict(model.name(), request(model, &row)).await;
                    answer.is_ok_and(|answer| model.judge(&row, &answer) == Ok(Outcome::Whole))
                };
                until(|| format!("card {card} is not online for {}", model.name()), whole).await;
            }
        }
        // Online is not yet durable: what a failover must find is what was committed.
        let store = FeatureStoreClient::new(self.core.url.clone()).unwrap();
        store.flush("payments").await.unwrap();
        self
    }

    /// Registers `version` of `model`, which must be its next one.
    pub(crate) async fn register(&self, model: Model, version: u32) -> Result<RegisteredModel, ModelGatewayError> {
        let registered = self.register_bytes(model, model.artifact(version)).await?;
        assert_eq!(registered.model.version, version);
        Ok(registered)
    }

    pub(crate) async fn register_bytes(
        &self,
        model: Model,
        artifact: bytes::Bytes,
    ) -> Result<RegisteredModel, ModelGatewayError> {
        let request = RegisterRequest {
            artifact,
            kind: None,
            manifest: None,
        };
        self.front().gateway().register(model.name(), request).await
    }

    /// Where the front keeps an artifact.
    pub(crate) fn artifact_file(&self, sha256: &str) -> PathBuf {
        let name = self.front().process.name();
        let folder = self.folder.path().join(name).join("model-gateway/artifacts");
        folder.join(format!("{sha256}.onnx"))
    }
}

/// A request of one row.
pub(crate) fn request(model: Model, row: &Row) -> PredictRequest {
    PredictRequest {
        inputs: model.inputs(row),
        deadline_ms: Some(model.deadline_ms()),
        explain: Some(true),
        ..PredictRequest::default()
    }
}

/// Waits until `done`, at most for [`PATIENCE`].
pub(crate) async fn until(complaint: impl Fn() -> String, mut done: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        panic!("{} within {PATIENCE:?}", complaint());
    }
}
