//! A Kafka of the benchmark's own, behind a proxy: one broker, whose clients reach it through what can be troubled.

use anyhow::{Context as _, Result, ensure};
use ondol_testkit::kafka_cluster::{Broker, KafkaCluster};
use ondol_testkit::proxy::Proxy;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the broker may take to start.
const LONGEST: Duration = Duration::from_secs(120);
/// How long it is waited for its answer.
const ASK: Duration = Duration::from_secs(2);

/// It, running; killed when it is dropped.
pub(super) struct Kafka {
    /// On its clients' way to it.
    pub(super) proxy: Proxy,
    _broker: Broker,
}

impl Kafka {
    /// Starts it with the libraries of `home`; its data is below `folder`.
    pub(super) async fn start(home: Option<&Path>, folder: &Path) -> Result<Self> {
        let home = home.context("ONDOL_TEST_KAFKA_HOME (or --kafka) is missing: scripts/bench sets it")?;
        let proxy = Proxy::start("kafka", &[]).await?;
        let (home, folder, announced) = (home.to_owned(), folder.to_owned(), [proxy.port]);
        let started = tokio::task::spawn_blocking(move || KafkaCluster::start(&home, &folder, &announced));
        let cluster = started.await?.context("kafka can't be started")?;
        let direct = cluster.direct();
        let broker = cluster.into_brokers().pop().context("kafka has no broker")?;
        proxy.lead_to(broker.client_port);
        tokio::task::spawn_blocking(move || answers(&direct)).await??;
        Ok(Self { proxy, _broker: broker })
    }

    /// Its bootstrap servers, through the proxy.
    pub(super) fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.proxy.port)
    }
}

/// Returns once a broker answers at `bootstrap`.
fn answers(bootstrap: &str) -> Result<()> {
    let begun = Instant::now();
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    loop {
        match client.fetch_metadata(None, ASK) {
            Ok(metadata) if !metadata.brokers().is_empty() => return Ok(()),
            told => ensure!(begun.elapsed() < LONGEST, "kafka does not answer: {:?}", told.err()),
        }
    }
}
