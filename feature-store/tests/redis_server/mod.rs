//! Redis servers of a test's own, to be killed or made a cluster of.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several tests, each of which uses its part"
)]

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server that keeps nothing on disk. Dropping it kills it.
pub struct RedisServer {
    pub port: u16,
    folder: tempfile::TempDir,
    options: Vec<String>,
    process: Child,
}

impl RedisServer {
    pub fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = run(port, &folder, &options);
        Self {
            port,
            folder,
            options,
            process,
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the server and starts another in its place, which holds what the options made the first one keep.
    pub fn replace(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = run(self.port, &self.folder, &self.options);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[allow(clippy::zombie_processes, reason = "its owner waits for it")]
fn run(port: u16, folder: &tempfile::TempDir, options: &[String]) -> Child {
    let process = Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
            "--bind",
            "127.0.0.1",
        ])
        .args(options)
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is missing: apt-get install redis-server");
    for _ in 0..600 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return process;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("redis-server does not answer on port {port}");
}

/// Three primaries that share the slots.
pub async fn cluster() -> Vec<RedisServer> {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let bus: Vec<u16> = (0..3).map(|_| free()).collect();
    let start = |bus: &u16| RedisServer::start(&["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()]);
    let nodes: Vec<RedisServer> = bus.iter().map(start).collect();
    let slots = [(0, 5_000), (5_001, 11_000), (11_001, 16_383)];
    for (node, (from, to)) in nodes.iter().zip(slots) {
        command(node, &["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]).await;
        for (other, bus) in nodes.iter().zip(&bus) {
            command(
                node,
                &[
                    "CLUSTER",
                    "MEET",
                    "127.0.0.1",
                    &other.port.to_string(),
                    &bus.to_string(),
                ],
            )
            .await;
        }
    }
    for node in &nodes {
        for _ in 0..600 {
            let info = command(node, &["CLUSTER", "INFO"]).await;
            if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    nodes
}

async fn command(node: &RedisServer, words: &[&str]) -> String {
    let client = redis::Client::open(node.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await.unwrap()
}
