//! Everything a run is made of: brokers, Redis, the registry's database, feature store replicas, ingest workers, and
//! the proxies and disks between and below them.

use crate::disk::Disk;
use crate::event::MAX_EVENT_BYTES;
use crate::redis::Redis;
use crate::target::Target;
use crate::views::SOURCE;
use crate::{Options, topic};
use anyhow::{Context as _, Result};
use ondol_feature_store_api::FeatureStoreClient;
use ondol_testkit::kafka_cluster::KafkaCluster;
use ondol_testkit::process::{Process, free_port};
use ondol_testkit::proxy::Proxy;
use ondol_testkit::{services, unique_name};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use url::Url;

/// How soon the group gives a silent worker's partitions to others.
pub(crate) const SESSION: Duration = Duration::from_secs(4);
/// Workers that may join for a while.
const SPARE_WORKERS: usize = 2;
/// Room of the offline tables.
const STORE_DISK_MIB: u64 = 2_048;
/// Room of the workers' own folders.
const WORKER_DISK_MIB: u64 = 16;
/// How long the processes may take to be ready at the beginning.
const READY: Duration = Duration::from_secs(120);

/// Everything. Processes end before their disks go.
pub(crate) struct Estate {
    pub(crate) workers: Vec<Worker>,
    pub(crate) stores: Vec<Target>,
    pub(crate) brokers: Vec<Target>,
    /// Held by whoever strikes a broker: with two of three down, nothing can go on.
    pub(crate) broker_turn: tokio::sync::Mutex<()>,
    pub(crate) redis: Redis,
    /// Before each broker, for the workers.
    pub(crate) kafka_proxies: Vec<Proxy>,
    /// Before Redis: one for each replica of the store; in a cluster, one for each server.
    pub(crate) redis_proxies: Vec<Proxy>,
    pub(crate) registry_proxy: Proxy,
    pub(crate) store_disk: Disk,
    pub(crate) worker_disk: Disk,
    pub(crate) disk_turn: tokio::sync::Mutex<()>,
    /// Bootstrap servers that lead past the proxies.
    pub(crate) kafka: String,
    pub(crate) topic: String,
    pub(crate) partitions: i32,
    /// The one life of the topic, as ingest names it.
    pub(crate) generation: String,
}

/// An ingest worker and its way to the feature store.
pub(crate) struct Worker {
    pub(crate) target: Target,
    pub(crate) store_proxy: Proxy,
    /// Runs only for a while.
    pub(crate) is_spare: bool,
}

impl Estate {
    /// Starts everything below `folder`, and waits until it is ready.
    pub(crate) async fn start(options: &Options, folder: &Path) -> Result<Self> {
        let store_disk = Disk::mount(&folder.join("offline"), STORE_DISK_MIB)?;
        let worker_disk = Disk::mount(&folder.join("workers"), WORKER_DISK_MIB)?;
        let mut kafka_proxies = Vec::new();
        for id in 1..=3 {
            kafka_proxies.push(Proxy::start(&format!("workers to kafka-{id}"), &[]).await?);
        }
        let announced = [0, 1, 2].map(|index: usize| kafka_proxies.get(index).map_or(0, |proxy| proxy.port));
        let home = PathBuf::from(services::kafka_home());
        let cluster = KafkaCluster::start(&home, folder, &announced).context("kafka can't start")?;
        let (kafka, bootstrap, id) = (cluster.direct(), cluster.announced(), cluster.id());
        let mut brokers = Vec::new();
        for (broker, proxy) in cluster.into_brokers().into_iter().zip(&kafka_proxies) {
            proxy.lead_to(broker.client_port);
            brokers.push(Target::new(broker.direct_port, broker.process));
        }
        let (redis, redis_proxies) = start_redis(options, folder).await?;
        let (registry, registry_proxy) = registry().await?;

        let name = unique_name("faults");
        let place = Place {
            folder,
            name: &name,
            binary: &options.binary,
            wait_replicas: options.wait_replicas,
        };
        let mut stores = Vec::new();
        for index in 0..options.stores {
            let online = online_url(&redis, &redis_proxies, index);
            stores.push(place.store(index, &registry, &online, store_disk.folder())?);
        }
        let ports: Vec<u16> = stores.iter().map(|store: &Target| store.port).collect();
        let mut workers = Vec::new();
        for index in 0..options.workers + SPARE_WORKERS {
            let store_proxy = Proxy::start(&format!("worker {} to the store", index + 1), &ports).await?;
            workers.push(Worker {
                target: place.worker(index, store_proxy.port, &bootstrap, worker_disk.folder())?,
                store_proxy,
                is_spare: index >= options.workers,
            });
        }
        let estate = Self {
            workers,
            stores,
            brokers,
            broker_turn: tokio::sync::Mutex::default(),
            redis,
            kafka_proxies,
            redis_proxies,
            registry_proxy,
            store_disk,
            worker_disk,
            disk_turn: tokio::sync::Mutex::default(),
            kafka,
            generation: format!("{id}/{name}"),
            topic: name,
            partitions: options.partitions,
        };
        estate.begin().await?;
        Ok(estate)
    }

    async fn begin(&self) -> Result<()> {
        topic::create(&self.kafka, &self.topic, self.partitions).await?;
        for store in &self.stores {
            store.hold().await.start()?;
        }
        for worker in self.workers.iter().filter(|worker| !worker.is_spare) {
            worker.target.hold().await.start()?;
        }
        for store in &self.stores {
            wait_until_ready(store).await?;
        }
        Ok(())
    }

    /// A client of replica `index`, past the proxies.
    pub(crate) fn store(&self, index: usize) -> Result<FeatureStoreClient> {
        let store = self.stores.get(index).context("no such replica")?;
        Ok(FeatureStoreClient::new(Url::parse(&store.url())?)?)
    }

    /// The table of the source.
    pub(crate) fn table(&self) -> PathBuf {
        self.store_disk.folder().join(SOURCE)
    }

    /// Every process, for those who look at all of them.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Target> {
        let workers = self.workers.iter().map(|worker| &worker.target);
        let redis = self.redis.nodes.iter().map(|node| &node.target);
        workers.chain(&self.stores).chain(&self.brokers).chain(redis)
    }

    /// What each process says of itself, for a run that is stuck.
    pub(crate) async fn statements(&self) -> String {
        let mut text = String::new();
        let workers = self.workers.iter().map(|worker| &worker.target);
        for target in workers.chain(&self.stores) {
            for path in ["readyz", "v1/sources"] {
                let url = format!("{}/{path}", target.url());
                let answer = match reqwest::Client::new()
                    .get(&url)
                    .timeout(Duration::from_secs(5))
                    .send()
                    .await
                {
                    Ok(answer) => answer.text().await.unwrap_or_else(|error| error.to_string()),
                    Err(error) => error.to_string(),
                };
                text.push_str(&format!("{} {path}: {answer}\n", target.name));
            }
        }
        text
    }
}

/// Waits until a process says that it is ready.
pub(crate) async fn wait_until_ready(target: &Target) -> Result<()> {
    let deadline = Instant::now() + READY;
    let url = format!("{}/readyz", target.url());
    loop {
        let answer = reqwest::get(&url).await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            anyhow::bail!("{} is not ready within {READY:?}: see its log", target.name);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn start_redis(options: &Options, folder: &Path) -> Result<(Redis, Vec<Proxy>)> {
    let mut proxies = Vec::new();
    if options.redis.is_cluster() {
        for id in 1..=6 {
            proxies.push(Proxy::start(&format!("all to redis-{id}"), &[]).await?);
        }
        let redis = Redis::cluster(folder, proxies.clone()).await?;
        return Ok((redis, proxies));
    }
    let redis = Redis::single(folder).await?;
    let port: Vec<u16> = redis.nodes.iter().map(|node| node.target.port).collect();
    for index in 0..options.stores {
        proxies.push(Proxy::start(&format!("store {} to redis", index + 1), &port).await?);
    }
    Ok((redis, proxies))
}

fn online_url(redis: &Redis, proxies: &[Proxy], store: usize) -> String {
    if redis.is_cluster {
        let nodes: Vec<String> = proxies
            .iter()
            .map(|proxy| format!("127.0.0.1:{}", proxy.port))
            .collect();
        return format!("redis-cluster://{}", nodes.join(","));
    }
    let port = proxies.get(store).map_or(0, |proxy| proxy.port);
    format!("redis://127.0.0.1:{port}")
}

/// A fresh database on the test server, and the proxy before it.
async fn registry() -> Result<(String, Proxy)> {
    use sqlx::Connection as _;
    let server = services::postgres();
    let name = unique_name("faults");
    let mut connection = sqlx::PgConnection::connect(&server)
        .await
        .context("PostgreSQL does not answer: scripts/services up postgres")?;
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut connection)
        .await?;
    let mut url = Url::parse(&server)?;
    let proxy = Proxy::start("stores to the registry", &[url.port().unwrap_or(5_432)]).await?;
    url.set_path(&name);
    url.set_port(Some(proxy.port))
        .map_err(|()| anyhow::anyhow!("`{server}` takes no port"))?;
    Ok((url.to_string(), proxy))
}

/// Where Ondol's processes live, and what they are.
struct Place<'a> {
    folder: &'a Path,
    name: &'a str,
    binary: &'a Path,
    wait_replicas: u32,
}

impl Place<'_> {
    fn store(&self, index: usize, registry: &str, online: &str, offline: &Path) -> Result<Target> {
        let name = format!("store-{}", index + 1);
        let text = format!(
            "[feature_store]\nregistry = \"{registry}\"\nonline = \"{online}\"\nonline_prefix = \"{}\"\n\
             offline = \"{}\"\nonline_timeout_ms = 2000\ncommit_interval_ms = 700\nregistry_poll_ms = 500\n\
             online_wait_replicas = {}\n",
            self.name,
            offline.display(),
            self.wait_replicas
        );
        self.ondol(&name, "feature-store", &text, &self.folder.join(&name))
    }

    fn worker(&self, index: usize, store_port: u16, bootstrap: &str, disk: &Path) -> Result<Target> {
        let name = format!("worker-{}", index + 1);
        let text = format!(
            "feature_store_url = \"http://127.0.0.1:{store_port}\"\n\n\
             [ingest.limits]\nmax_event_bytes = {MAX_EVENT_BYTES}\n\n\
             [ingest.stream]\nkind = \"kafka\"\nbootstrap = \"{bootstrap}\"\ngroup = \"{}\"\n\n\
             [ingest.stream.properties]\n\"session.timeout.ms\" = \"{}\"\n\"heartbeat.interval.ms\" = \"1000\"\n\
             \"reconnect.backoff.max.ms\" = \"1000\"\n",
            self.name,
            SESSION.as_millis()
        );
        self.ondol(&name, "ingest", &text, &disk.join(&name))
    }

    fn ondol(&self, name: &str, service: &str, settings: &str, data: &Path) -> Result<Target> {
        let port = free_port();
        let file = self.folder.join(format!("{name}.toml"));
        let text = format!(
            "listen = \"127.0.0.1:{port}\"\ndata_dir = \"{}\"\nlog_format = \"text\"\ndrain_ms = 10000\n{settings}",
            data.display()
        );
        std::fs::write(&file, text)?;
        let arguments = ["serve", service, "--config", &file.display().to_string()].map(str::to_owned);
        Ok(Target::new(
            port,
            Process::new(name, self.binary, arguments, self.folder),
        ))
    }
}
