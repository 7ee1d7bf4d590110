//! The program of the services that a benchmark measures: the feature store, ingest, or both, in a process of their own,
//! so that its memory and CPU are theirs alone. Run by [`crate::services`] as a hidden command.
//!
//! It serves the feature store over HTTP, prints its address as its first line, answers each line of its input with how
//! far it is, and stops when its input ends.

use crate::metered::Metered;
use crate::store::{DRAIN, open_service};
use anyhow::{Context as _, Result, ensure};
use ondol_feature_store_api::{FeatureStore, FeatureStoreClient};
use ondol_ingest::IngestService;
use ondol_ingest::config::{IngestConfig, KafkaConfig, StreamConfig};
use ondol_runtime::{Health, ServiceRouter, Shutdown, SystemClock, serve};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use url::Url;

/// What the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// Both services.
    All,
    /// The feature store.
    Store,
    /// Ingest, for the feature store at another address.
    Ingest,
}

/// How to run it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    role: Role,
    /// The folder of what is embedded.
    #[arg(long)]
    folder: PathBuf,
    /// The Redis of the online rows; absent: embedded.
    #[arg(long)]
    redis: Option<String>,
    /// Page cache of the embedded online store, MiB.
    #[arg(long)]
    cache_mib: Option<usize>,
    /// Kafka.
    #[arg(long)]
    bootstrap: Option<String>,
    /// The consumer group.
    #[arg(long, default_value = "bench")]
    group: String,
    /// For ingest alone: where the feature store is.
    #[arg(long)]
    store: Option<Url>,
    /// Deliver every event on its own.
    #[arg(long)]
    one_by_one: bool,
}

/// Its first line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Where the feature store answers.
    pub(crate) url: Option<Url>,
}

/// How far it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Written {
    /// Events in the stores, over all partitions.
    pub(crate) events: i64,
    /// Deliveries that brought them.
    pub(crate) deliveries: u64,
    /// From the first delivery's coming to the last one's being written, seconds.
    pub(crate) seconds: f64,
}

/// Runs it.
pub(crate) async fn run(args: &Args) -> Result<()> {
    // Ingest stops before the store it writes to.
    let (shutdown, ingesting) = (Shutdown::new(), Shutdown::new());
    ondol_runtime::metrics::maintain(&shutdown);
    let health = Health::new();
    let mut metered = None;
    let mut url = None;
    if args.role != Role::Ingest {
        let service = open_service(&args.folder, args.redis.as_deref(), args.cache_mib, &shutdown)
            .await?
            .0;
        let store = Metered::new(service, args.one_by_one);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        url = Some(Url::parse(&format!("http://{}", listener.local_addr()?))?);
        let router = ServiceRouter::new(&health)
            .contract(
                "feature-store",
                ondol_feature_store_api::server::router(Arc::clone(&store) as Arc<dyn FeatureStore>),
                ondol_feature_store_api::server::openapi(),
            )
            .build();
        shutdown.spawn("http", serve(listener, router, shutdown.clone()));
        metered = Some(store);
    }
    let _ingest = match args.role {
        Role::Store => None,
        Role::All | Role::Ingest => Some(ingest(args, metered.as_ref(), &ingesting, &health)?),
    };

    let mut out = tokio::io::stdout();
    out.write_all(&line(&Hello { url })?).await?;
    out.flush().await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while lines.next_line().await?.is_some() {
        let written = metered.as_ref().map(|store| store.progress()).unwrap_or_default();
        out.write_all(&line(&written)?).await?;
        out.flush().await?;
    }
    ensure!(ingesting.drain(DRAIN).await, "ingest did not stop");
    ensure!(shutdown.drain(DRAIN).await, "the feature store did not stop");
    Ok(())
}

fn ingest(
    args: &Args,
    local: Option<&Arc<Metered>>,
    shutdown: &Shutdown,
    health: &Health,
) -> Result<Arc<IngestService>> {
    let kafka = KafkaConfig {
        bootstrap: args.bootstrap.clone().context("--bootstrap is missing")?,
        group: args.group.clone(),
        ..KafkaConfig::default()
    };
    let config = IngestConfig {
        stream: StreamConfig::Kafka(kafka),
        ..IngestConfig::default()
    };
    let store: Arc<dyn FeatureStore> = match local {
        Some(store) => Arc::clone(store) as _,
        None => Arc::new(FeatureStoreClient::new(
            args.store.clone().context("--store is missing")?,
        )?),
    };
    Ok(IngestService::start(
        &config,
        store,
        Arc::new(SystemClock),
        shutdown,
        health,
    )?)
}

fn line(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
