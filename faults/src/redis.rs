//! Redis: one server, or a cluster of three primaries with a replica each. Every acknowledged write is in the file of
//! the server that acknowledged it.

use crate::target::Target;
use anyhow::{Context as _, Result, bail};
use ondol_testkit::process::{Process, free_port};
use ondol_testkit::proxy::Proxy;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a node of the cluster may be silent before its replica takes its place.
pub(crate) const NODE_TIMEOUT: Duration = Duration::from_millis(2_500);
/// How long the cluster may take to be whole again.
const WHOLE: Duration = Duration::from_secs(90);
const SLOTS: [(u16, u16); 3] = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];

/// The servers.
pub(crate) struct Redis {
    pub(crate) nodes: Vec<Node>,
    pub(crate) is_cluster: bool,
    /// Held by whoever strikes a server: another one waits until all is whole, since both copies of a shard lost at
    /// once is beyond what Redis promises.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// One server.
pub(crate) struct Node {
    pub(crate) target: Target,
    bus_port: u16,
    /// Under which others know it.
    announced_port: u16,
}

impl Redis {
    /// One server, which keeps its file in `folder`.
    pub(crate) async fn single(folder: &Path) -> Result<Self> {
        let node = Node::new("redis", folder, None)?;
        node.target.hold().await.start()?;
        let redis = Self {
            nodes: vec![node],
            is_cluster: false,
            turn: tokio::sync::Mutex::default(),
        };
        redis.wait_until_whole().await?;
        Ok(redis)
    }

    /// Six servers behind `proxies`.
    pub(crate) async fn cluster(folder: &Path, proxies: Vec<Proxy>) -> Result<Self> {
        let mut nodes = Vec::new();
        for (index, proxy) in proxies.into_iter().enumerate() {
            let node = Node::new(&format!("redis-{}", index + 1), folder, Some(&proxy))?;
            node.target.hold().await.start()?;
            nodes.push(node);
        }
        let redis = Self {
            nodes,
            is_cluster: true,
            turn: tokio::sync::Mutex::default(),
        };
        redis.join().await?;
        redis.wait_until_whole().await?;
        Ok(redis)
    }

    /// Makes the started nodes a cluster: the first three primaries, the others their replicas.
    async fn join(&self) -> Result<()> {
        for node in &self.nodes {
            node.wait_until_it_answers().await?;
        }
        for (node, (from, to)) in self.nodes.iter().zip(SLOTS) {
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()])
                .await?;
        }
        let Some((first, rest)) = self.nodes.split_first() else {
            bail!("a cluster needs nodes");
        };
        for node in rest {
            let (port, bus) = (node.target.port.to_string(), node.bus_port.to_string());
            first.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await?;
        }
        let deadline = Instant::now() + WHOLE;
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        for node in &self.nodes {
            while !node.command(&["CLUSTER", "INFO"]).await?.contains(&known) {
                past(deadline, "the nodes of the cluster do not find each other")?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        for (primary, replica) in self.nodes.iter().zip(self.nodes.iter().skip(SLOTS.len())) {
            let id = primary.command(&["CLUSTER", "MYID"]).await?;
            while replica.command(&["CLUSTER", "REPLICATE", id.trim()]).await.is_err() {
                past(deadline, "a node does not become a replica")?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// The nodes that are primaries now.
    pub(crate) async fn primaries(&self) -> Vec<&Node> {
        self.of_role("role:master").await
    }

    /// The nodes that are replicas now.
    pub(crate) async fn replicas(&self) -> Vec<&Node> {
        self.of_role("role:slave").await
    }

    /// The primary that `replica` follows.
    pub(crate) async fn primary_of(&self, replica: &Node) -> Result<&Node> {
        let info = replica.command(&["INFO", "replication"]).await?;
        let port = info
            .lines()
            .find_map(|line| line.strip_prefix("master_port:")?.trim().parse().ok());
        let found = self.nodes.iter().find(|node| Some(node.announced_port) == port);
        found.with_context(|| format!("{} follows nobody", replica.target.name))
    }

    async fn of_role(&self, role: &str) -> Vec<&Node> {
        let mut found = Vec::new();
        for node in &self.nodes {
            if let Ok(info) = node.command(&["INFO", "replication"]).await
                && info.contains(role)
            {
                found.push(node);
            }
        }
        found
    }

    /// Waits until every server answers, every slot is served and every replica follows its primary.
    pub(crate) async fn wait_until_whole(&self) -> Result<()> {
        let deadline = Instant::now() + WHOLE;
        while !self.is_whole().await {
            past(deadline, "redis does not become whole again")?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn is_whole(&self) -> bool {
        let mut primaries = 0;
        for node in &self.nodes {
            let Ok(info) = node.command(&["INFO", "replication"]).await else {
                return false;
            };
            let loading = node.command(&["INFO", "persistence"]).await;
            if !loading.is_ok_and(|info| info.contains("loading:0")) {
                return false;
            }
            let follows = info.contains("master_link_status:up");
            let leads = info.contains("role:master");
            if !(leads || follows) {
                return false;
            }
            primaries += usize::from(leads);
            if self.is_cluster {
                let state = node.command(&["CLUSTER", "INFO"]).await.unwrap_or_default();
                if !state.contains("cluster_state:ok") || (leads && !info.contains("connected_slaves:1")) {
                    return false;
                }
            }
        }
        !self.is_cluster || primaries == SLOTS.len()
    }

    /// What it is, for the report.
    pub(crate) async fn version(&self) -> String {
        let info = match self.nodes.first() {
            Some(node) => node.command(&["INFO", "server"]).await.unwrap_or_default(),
            None => String::new(),
        };
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        version.unwrap_or_default().trim().to_owned()
    }
}

impl Node {
    /// A server; of a cluster if it has a proxy, under whose port it announces itself.
    fn new(name: &str, folder: &Path, proxy: Option<&Proxy>) -> Result<Self> {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let (port, bus_port) = (free_port(), free_port());
        let mut arguments: Vec<String> = [
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ]
        .map(str::to_owned)
        .to_vec();
        if let Some(proxy) = proxy {
            proxy.lead_to(port);
            let cluster = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus_port.to_string(),
                "--cluster-announce-ip",
                "127.0.0.1",
                "--cluster-announce-port",
                &proxy.port.to_string(),
                "--cluster-node-timeout",
                &NODE_TIMEOUT.as_millis().to_string(),
                "--cluster-replica-validity-factor",
                "0",
                "--cluster-allow-replica-migration",
                "no",
                "--repl-backlog-size",
                "64mb",
                "--repl-diskless-sync-delay",
                "0",
            ];
            arguments.extend(cluster.map(str::to_owned));
        }
        let program = std::env::var("ONDOL_TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        Ok(Self {
            target: Target::new(port, Process::new(name, program, arguments, &folder)),
            bus_port,
            announced_port: proxy.map_or(port, |proxy| proxy.port),
        })
    }

    /// Asks the server itself, past its proxy.
    pub(crate) async fn command(&self, words: &[&str]) -> Result<String> {
        let (first, rest) = words.split_first().context("an empty command")?;
        let ask = async {
            let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.target.port))?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            let mut command = redis::cmd(first);
            command.arg(rest);
            command.query_async::<String>(&mut connection).await
        };
        let answer = tokio::time::timeout(Duration::from_secs(2), ask).await;
        let name = &self.target.name;
        answer
            .with_context(|| format!("{name} does not answer"))?
            .with_context(|| format!("{name}: {}", words.join(" ")))
    }

    async fn wait_until_it_answers(&self) -> Result<()> {
        let deadline = Instant::now() + WHOLE;
        while self.command(&["PING"]).await.is_err() {
            past(deadline, "a redis server does not answer")?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

fn past(deadline: Instant, what: &str) -> Result<()> {
    if Instant::now() > deadline {
        bail!("{what} within {WHOLE:?}");
    }
    Ok(())
}
