//! Ondol as it is run: the `ondol` binary, all services in one process or the three of a request in a process each, online
//! rows in Redis, everything else embedded (where it is not said that the streams are in Kafka). The decision log is on, as it is by default.

use super::server::{Server, free_address, url};
use crate::payments::{Payments, SOURCE, fifty_features, fifty_latest};
use crate::services::apply;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ondol_feature_store_api::FeatureStoreClient;
use ondol_feature_store_api::wire::DefinitionFiles;
use ondol_ingest_api::wire::PushRequest;
use ondol_ingest_api::{Ingest as _, IngestClient};
use ondol_model_gateway_api::wire::{ArtifactKind, RegisterRequest};
use ondol_model_gateway_api::{ModelGateway as _, ModelGatewayClient};
use serde_json::value::RawValue;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::Command;
use url::Url;

/// Events of one push.
const PUSH: u64 = 1_000;
/// How long the events may take to be read.
const LONGEST: Duration = Duration::from_secs(120);
/// The decision log's last commit comes a second after its last decision.
const TRAILING: Duration = Duration::from_millis(1_200);

/// Which processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// `ondol dev`.
    OneProcess,
    /// `ondol serve` of feature store, ingest and model gateway.
    Services,
}

/// Where it keeps what.
pub(super) struct Places {
    /// The `ondol` program.
    pub(super) binary: PathBuf,
    pub(super) folder: PathBuf,
    /// The Redis of the online rows, as the feature store is to reach it.
    pub(super) redis: String,
    /// Bootstrap servers of the Kafka of the streams; none: they are embedded.
    pub(super) kafka: Option<String>,
}

/// It, running.
pub(super) struct Ondol {
    pub(super) server: Arc<Server>,
    pub(super) gateway: SocketAddr,
    pub(super) predictions: ModelGatewayClient,
    pub(super) store: FeatureStoreClient,
    pub(super) ingest: IngestClient,
}

impl Ondol {
    pub(super) async fn start(way: Way, places: &Places) -> Result<Self> {
        std::fs::create_dir_all(&places.folder)?;
        let mut server = Server::new(TRAILING);
        let [store, ingest, gateway] = match way {
            Way::OneProcess => [free_address()?; 3],
            Way::Services => [free_address()?, free_address()?, free_address()?],
        };
        let prefix = format!("bench-{:016x}", rand::random::<u64>());
        let processes: &[(&[&str], SocketAddr)] = match way {
            Way::OneProcess => &[(&["dev"], gateway)],
            Way::Services => &[
                (&["serve", "feature-store"], store),
                (&["serve", "ingest"], ingest),
                (&["serve", "model-gateway"], gateway),
            ],
        };
        for (arguments, address) in processes {
            let name = arguments.join("-");
            let mut command = Command::new(&places.binary);
            command
                .args(*arguments)
                .args(["--listen", &address.to_string(), "--data"])
                .arg(places.folder.join(&name))
                .env("ONDOL_LOG_FILTER", "error")
                .env("ONDOL_FEATURE_STORE__ONLINE", &places.redis)
                .env("ONDOL_FEATURE_STORE__ONLINE_PREFIX", &prefix)
                .env("ONDOL_FEATURE_STORE_URL", format!("http://{store}"))
                .env("ONDOL_INGEST_URL", format!("http://{ingest}"));
            if let Some(bootstrap) = &places.kafka {
                command
                    .env("ONDOL_INGEST__STREAM__KIND", "kafka")
                    .env("ONDOL_INGEST__STREAM__BOOTSTRAP", bootstrap);
            }
            // The gateway and ingest are ready when they have the definitions of the store, which is there by then.
            let ready = url(*address, "/readyz")?;
            server.add(&name, &places.folder, command, &ready).await?;
        }
        let base = |address: SocketAddr| -> Result<Url> { url(address, "") };
        Ok(Self {
            server: Arc::new(server),
            gateway,
            predictions: ModelGatewayClient::new(base(gateway)?)?,
            store: FeatureStoreClient::new(base(store)?)?,
            ingest: IngestClient::new(base(ingest)?)?,
        })
    }

    /// Puts `files` in force.
    pub(super) async fn apply(&self, files: DefinitionFiles) -> Result<()> {
        apply(&self.store, files).await
    }

    /// Puts `files` in force beside those that are.
    pub(super) async fn apply_more(&self, files: DefinitionFiles) -> Result<()> {
        let mut all = definitions()?;
        all.files.extend(files.files);
        self.apply(all).await
    }

    /// Pushes `count` payments, and waits until reads see them.
    pub(super) async fn push(&self, mut payments: Payments, count: u64) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let size = left.min(PUSH);
            let events = (0..size).map(|_| RawValue::from_string(payments.next().json()));
            let events = events.collect::<Result<Vec<_>, _>>()?;
            self.ingest.push(SOURCE, PushRequest::from(events)).await?;
            left -= size;
        }
        let count = i64::try_from(count)?;
        let begun = Instant::now();
        loop {
            let status = self.ingest.status().await?;
            let source = status.iter().find(|status| status.source == SOURCE);
            let partitions = source.map_or(&[][..], |source| source.partitions.as_slice());
            if partitions
                .iter()
                .map(|partition| partition.delivered.max(0))
                .sum::<i64>()
                >= count
            {
                return Ok(());
            }
            ensure!(begun.elapsed() < LONGEST, "the payments are not delivered: {source:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Registers `artifact` as a version of `model`. A gateway in a process of its own may not know the definitions yet.
    pub(super) async fn register(&self, model: &str, artifact: Bytes, kind: ArtifactKind) -> Result<()> {
        let begun = Instant::now();
        loop {
            let request = RegisterRequest {
                artifact: artifact.clone(),
                kind: Some(kind),
                manifest: None,
            };
            match self.predictions.register(model, request).await {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > Duration::from_secs(20) => {
                    return Err(error).with_context(|| format!("the gateway refused the model `{model}`"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

/// What is measured by key: both shapes.
pub(super) fn definitions() -> Result<DefinitionFiles> {
    let mut files = fifty_features(SOURCE)?;
    files.files.extend(fifty_latest()?.files);
    Ok(files)
}

/// The binary beside this program, unless another one is named.
pub(super) fn binary(named: Option<&Path>) -> Result<PathBuf> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("ondol"),
    };
    ensure!(
        path.exists(),
        "no binary at `{}`: scripts/bench builds it",
        path.display()
    );
    Ok(path)
}
