//! A Redis Cluster of a test's own: primaries with a replica each, that can be killed, paused and failed over.

#![allow(clippy::panic, reason = "a test without its cluster must fail, and say what to do")]

use crate::process::{Process, free_port};
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a cluster may take to form, or to settle after a fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a node may be silent before the others take it for dead.
const NODE_TIMEOUT_MS: u32 = 1_000;

/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// A cluster. Dropping it kills its servers.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Node>,
    shards: usize,
}

/// One server of it.
#[derive(Debug)]
pub struct Node {
    /// Where it listens on loopback.
    pub port: u16,
    bus: u16,
    /// The server.
    pub process: Process,
}

impl RedisCluster {
    /// As many primaries as `shards`, each with a replica, their files in `folder`. `options` are given to each server.
    pub fn start(folder: &Path, shards: usize, options: &[&str]) -> Self {
        let nodes = (0..shards * 2)
            .map(|index| Node::start(folder, index, options))
            .collect();
        let cluster = Self { nodes, shards };
        cluster.join();
        cluster
    }

    /// For the feature store: `redis-cluster://host:port,…`, every node named.
    pub fn url(&self) -> String {
        let nodes: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port))
            .collect();
        format!("redis-cluster://{}", nodes.join(","))
    }

    /// The nodes that serve slots now, by index, as the first of them that answers says.
    pub fn primaries(&self) -> Vec<usize> {
        let table = self.ask_any(&["CLUSTER", "NODES"]);
        let serves = |line: &&str| {
            let fields: Vec<&str> = line.split(' ').collect();
            let flags = fields.get(2).copied().unwrap_or_default();
            flags.contains("master") && !flags.contains("fail") && fields.len() > 8
        };
        let ports = table.lines().filter(serves).filter_map(|line| {
            let address = line.split(' ').nth(1)?.split(['@', ',']).next()?;
            address.rsplit_once(':')?.1.parse::<u16>().ok()
        });
        let index = |port| self.nodes.iter().position(|node| node.port == port);
        ports.filter_map(index).collect()
    }

    /// The replica of a primary, by index.
    pub fn replica_of(&self, primary: usize) -> usize {
        let id = self
            .node(primary)
            .ask(&["CLUSTER", "MYID"])
            .unwrap_or_else(|error| panic!("{error}"));
        let follows = |node: &Node| {
            node.ask(&["CLUSTER", "NODES"]).is_ok_and(|table| {
                table
                    .lines()
                    .any(|line| line.contains("myself,slave") && line.contains(id.trim()))
            })
        };
        let found = self.nodes.iter().position(follows);
        found.unwrap_or_else(|| panic!("node {primary} has no replica"))
    }

    /// One of the servers.
    pub fn node(&self, index: usize) -> &Node {
        self.nodes
            .get(index)
            .unwrap_or_else(|| panic!("the cluster has no node {index}"))
    }

    /// One of the servers, to be killed, paused or started.
    pub fn process(&mut self, index: usize) -> &mut Process {
        let node = self.nodes.get_mut(index);
        &mut node
            .unwrap_or_else(|| panic!("the cluster has no node {index}"))
            .process
    }

    /// Kills a primary and waits until its replica has taken its place.
    pub fn kill_primary(&mut self, primary: usize) {
        self.process(primary).kill().unwrap_or_else(|error| panic!("{error}"));
        wait("the cluster does not replace a dead primary", || {
            let primaries = self.primaries();
            !primaries.contains(&primary) && primaries.len() == self.shards && self.is_whole()
        });
    }

    /// Starts a server that was killed, and waits until it follows.
    pub fn revive(&mut self, index: usize) {
        self.process(index).start().unwrap_or_else(|error| panic!("{error}"));
        wait("a revived server does not follow", || {
            self.node(index)
                .ask(&["INFO", "replication"])
                .is_ok_and(|info| info.contains("role:slave") && info.contains("master_link_status:up"))
        });
    }

    /// Whether every node that answers takes the cluster for whole.
    pub fn is_whole(&self) -> bool {
        let states = self.nodes.iter().filter_map(|node| node.ask(&["CLUSTER", "INFO"]).ok());
        states.into_iter().all(|info| info.contains("cluster_state:ok"))
    }

    fn join(&self) {
        let share = SLOTS / u16::try_from(self.shards).unwrap_or(1);
        for (index, node) in self.nodes.iter().enumerate() {
            for other in &self.nodes {
                node.must(&[
                    "CLUSTER",
                    "MEET",
                    "127.0.0.1",
                    &other.port.to_string(),
                    &other.bus.to_string(),
                ]);
            }
            if index < self.shards {
                let from = share * u16::try_from(index).unwrap_or(0);
                let to = if index + 1 == self.shards {
                    SLOTS - 1
                } else {
                    from + share - 1
                };
                node.must(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
            }
        }
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        wait("the cluster does not form", || {
            let knows = |node: &Node| node.ask(&["CLUSTER", "INFO"]).is_ok_and(|info| info.contains(&known));
            self.nodes.iter().all(knows)
        });
        for index in 0..self.shards {
            let id = self.node(index).must(&["CLUSTER", "MYID"]);
            let replica = self.node(index + self.shards);
            wait("a replica does not follow", || {
                replica.ask(&["CLUSTER", "REPLICATE", id.trim()]).is_ok()
            });
        }
        wait("the cluster does not become whole", || {
            let follows = |node: &Node| {
                node.ask(&["INFO", "replication"])
                    .is_ok_and(|info| info.contains("master_link_status:up"))
            };
            let replicas = self.nodes.iter().filter(|node| follows(node)).count();
            self.is_whole() && replicas == self.shards && self.primaries().len() == self.shards
        });
    }

    fn ask_any(&self, words: &[&str]) -> String {
        self.nodes
            .iter()
            .find_map(|node| node.ask(words).ok())
            .unwrap_or_default()
    }
}

impl Node {
    fn start(folder: &Path, index: usize, options: &[&str]) -> Self {
        let (port, bus) = (free_port(), free_port());
        let folder = folder.join(format!("redis-{index}"));
        std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let own = [
            ("--port", port.to_string()),
            ("--cluster-port", bus.to_string()),
            ("--cluster-enabled", "yes".to_owned()),
            ("--cluster-node-timeout", NODE_TIMEOUT_MS.to_string()),
            ("--cluster-replica-validity-factor", "0".to_owned()),
            ("--repl-diskless-sync-delay", "0".to_owned()),
            ("--bind", "127.0.0.1".to_owned()),
            ("--save", String::new()),
            ("--appendonly", "no".to_owned()),
        ];
        let own = own.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        let arguments = own.chain(options.iter().map(|option| (*option).to_owned()));
        let mut process = Process::new("redis", crate::services::redis_server(), arguments, &folder);
        process
            .start()
            .unwrap_or_else(|error| panic!("redis-server can't start: {error}"));
        let node = Self { port, bus, process };
        wait("redis-server does not answer", || node.ask(&["PING"]).is_ok());
        node
    }

    /// Sends a command, and answers what it answers as text.
    ///
    /// # Errors
    /// When it does not answer, or with an error.
    pub fn ask(&self, words: &[&str]) -> io::Result<String> {
        let address = ([127, 0, 0, 1], self.port).into();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(command.as_bytes())?;
        answer(&mut BufReader::new(stream))
    }

    fn must(&self, words: &[&str]) -> String {
        self.ask(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }
}

/// One answer of the protocol that is a line, a number or a text.
fn answer(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let line = line.trim_end();
    let rest = line.get(1..).unwrap_or_default();
    match line.chars().next() {
        Some('+' | ':') => Ok(rest.to_owned()),
        Some('$') => {
            let length: usize = rest
                .parse()
                .map_err(|_| io::Error::other(format!("no answer: {line}")))?;
            let mut text = vec![0; length];
            from.read_exact(&mut text)?;
            String::from_utf8(text).map_err(io::Error::other)
        }
        _ => Err(io::Error::other(line.to_owned())),
    }
}

fn wait(complaint: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > deadline {
            panic!("{complaint} within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
