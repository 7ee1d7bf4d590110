//! A server under measurement: processes of its own, what they have used of the CPU, and when they are at rest.

use crate::measure::tree_cpu_seconds;
use anyhow::{Context as _, Result, bail, ensure};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use url::Url;

/// How long one may take to start: imports of Python take seconds.
const LONGEST: Duration = Duration::from_secs(120);
/// How long, and in how small a part of the CPU, counts as being at rest.
const LOOK: Duration = Duration::from_millis(300);
const REST_S: f64 = 0.02;
/// How often it is looked for.
const LOOKS: usize = 20;

/// Its processes; killed when it is dropped.
#[derive(Default)]
pub(super) struct Server {
    processes: Vec<(String, Child)>,
    /// How long work may come after the request it is for: the decision log's.
    trailing: Duration,
}

impl Server {
    /// One whose requests are done once they are answered, but for what comes within `trailing`.
    pub(super) fn new(trailing: Duration) -> Self {
        Self {
            processes: Vec::new(),
            trailing,
        }
    }

    /// Adds a process, and waits until `ready` answers with success. What it prints goes to `folder/name.log`.
    pub(super) async fn add(&mut self, name: &str, folder: &Path, mut command: Command, ready: &Url) -> Result<()> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        let mut child = command
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("can't start {name}"))?;
        let begun = Instant::now();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        loop {
            if let Ok(answer) = client.get(ready.clone()).send().await
                && answer.status().is_success()
            {
                break;
            }
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended with {status}:\n{}", tail(&log));
            }
            ensure!(begun.elapsed() < LONGEST, "{name} does not answer:\n{}", tail(&log));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.processes.push((name.to_owned(), child));
        Ok(())
    }

    /// The process of that name.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        let (_, child) = self.processes.iter().find(|(own, _)| own == name)?;
        child.id()
    }

    /// CPU seconds of all of them so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        let ids = self.processes.iter().filter_map(|(_, child)| child.id());
        ids.map(tree_cpu_seconds).sum()
    }

    /// Waits until they have done what requests left to do.
    pub(super) async fn settle(&self) -> Result<()> {
        tokio::time::sleep(self.trailing).await;
        for _ in 0..LOOKS {
            let before = self.cpu_seconds()?;
            tokio::time::sleep(LOOK).await;
            if self.cpu_seconds()? - before <= REST_S {
                return Ok(());
            }
        }
        bail!(
            "a server is not at rest {} s after its last request",
            LOOK.as_secs_f64() * LOOKS as f64
        )
    }
}

/// A free address on this machine.
pub(super) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// `path` at `address`.
pub(super) fn url(address: SocketAddr, path: &str) -> Result<Url> {
    Ok(Url::parse(&format!("http://{address}{path}"))?)
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
