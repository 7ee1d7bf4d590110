//! A Redis of the benchmark's own, so that its counters count nothing else: what it was sent, what it spent, what keys
//! weigh.

use crate::store::redis_url;
use anyhow::{Context as _, Result, ensure};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How often, and how long apart, a new server is asked whether it answers.
const ASKED: usize = 200;
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long a command may take: weighing many keys takes a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server; stopped when it is dropped.
pub(crate) struct RedisServer {
    pub(crate) url: String,
    connection: MultiplexedConnection,
    _child: Option<Child>,
    _folder: Option<TempDir>,
}

/// What a server has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    /// `MGET`s and scripts sent to it.
    pub(crate) reads: f64,
    pub(crate) scripts: f64,
    /// Rows that scripts set.
    pub(crate) rows_set: f64,
    pub(crate) cpu_s: f64,
}

impl RedisServer {
    /// Starts one that writes nothing to disk; where the program is missing, the one of `ONDOL_TEST_REDIS` serves, and
    /// its counters count its other users too.
    pub(crate) async fn start() -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = tempfile::tempdir()?;
        let spawned = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
            .arg(port.to_string())
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let (url, child) = match spawned {
            Ok(child) => (format!("redis://127.0.0.1:{port}"), Some(child)),
            Err(error) if error.kind() == ErrorKind::NotFound => (redis_url()?, None),
            Err(error) => return Err(error).context("redis-server can't be started"),
        };
        let client = redis::Client::open(url.as_str())?;
        let settings = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let mut connection = client.get_multiplexed_async_connection_with_config(&settings).await;
        for _ in 0..ASKED {
            if connection.is_ok() {
                break;
            }
            tokio::time::sleep(ASK_EVERY).await;
            connection = client.get_multiplexed_async_connection_with_config(&settings).await;
        }
        Ok(Self {
            url,
            connection: connection.context("redis does not answer")?,
            _child: child,
            _folder: Some(folder),
        })
    }

    /// Removes every key: what a run left behind must not weigh on the next. Only of a server of our own.
    pub(crate) async fn clear(&self) -> Result<()> {
        if self._child.is_some() {
            let () = redis::cmd("FLUSHALL")
                .arg("ASYNC")
                .query_async(&mut self.connection.clone())
                .await?;
        }
        Ok(())
    }

    /// What it has done.
    pub(crate) async fn done(&self) -> Result<Done> {
        let info: String = redis::cmd("INFO")
            .arg("everything")
            .query_async(&mut self.connection.clone())
            .await?;
        let number = |name: &str, field: &str| -> f64 {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let value = line.and_then(|line| line.split(',').find_map(|part| part.strip_prefix(field)));
            value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
        };
        Ok(Done {
            reads: number("cmdstat_mget", "calls="),
            scripts: number("cmdstat_evalsha", "calls=") + number("cmdstat_eval", "calls="),
            rows_set: number("cmdstat_set", "calls="),
            cpu_s: number("used_cpu_user", "") + number("used_cpu_sys", ""),
        })
    }

    /// Mean bytes that `MEMORY USAGE` gives for the keys that match, over all of them.
    pub(crate) async fn bytes_per_key(&self, pattern: &str) -> Result<f64> {
        let connection = &mut self.connection.clone();
        let (mut cursor, mut keys, mut bytes) = (0_u64, 0_u64, 0_u64);
        loop {
            let (next, found): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(pattern)
                .arg("COUNT")
                .arg(1_000)
                .query_async(connection)
                .await?;
            let mut usage = redis::pipe();
            for key in &found {
                usage.cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(0);
            }
            if !found.is_empty() {
                let each: Vec<u64> = usage.query_async(connection).await?;
                keys += each.len() as u64;
                bytes += each.iter().sum::<u64>();
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        ensure!(keys > 0, "no key matches `{pattern}`");
        Ok(bytes as f64 / keys as f64)
    }

    /// Sends `commands`.
    pub(crate) async fn send(&self, commands: &redis::Pipeline) -> Result<()> {
        let () = commands.query_async(&mut self.connection.clone()).await?;
        Ok(())
    }
}

impl Done {
    /// What came since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            reads: self.reads - before.reads,
            scripts: self.scripts - before.scripts,
            rows_set: self.rows_set - before.rows_set,
            cpu_s: self.cpu_s - before.cpu_s,
        }
    }
}
