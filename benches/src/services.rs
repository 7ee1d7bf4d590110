//! The services under measurement, each a process of its own: started, asked how far they are, weighed and stopped.

use crate::measure::{cpu_seconds, memory_mib};
use crate::payments::SOURCE;
use crate::subject::{Hello, Written};
use anyhow::{Context as _, Result, bail, ensure};
use ondol_feature_store_api::wire::DefinitionFiles;
use ondol_feature_store_api::{FeatureStore, FeatureStoreClient};
use ondol_vocabulary::ViewState;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use url::Url;

/// How long a process may take to start, or to stop.
const LONGEST: Duration = Duration::from_secs(90);

/// How the services run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setting {
    /// The Redis of the online rows; absent: embedded.
    pub(crate) redis: Option<String>,
    /// Ingest and feature store in a process each.
    pub(crate) separate: bool,
    /// Every event a delivery of its own.
    pub(crate) one_by_one: bool,
    /// Page cache of the embedded online store, MiB.
    pub(crate) cache_mib: Option<usize>,
}

/// Running services, over a folder of their own.
pub(crate) struct Services {
    pub(crate) client: FeatureStoreClient,
    folder: TempDir,
    /// The one that holds the feature store first.
    processes: Vec<Process>,
}

struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    url: Option<Url>,
}

/// What the processes weigh together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weight {
    pub(crate) resident_mib: f64,
    /// Of it, what no file backs: heap, stacks, caches of our own.
    pub(crate) anonymous_mib: f64,
    /// The embedded online store's file.
    pub(crate) online_file_mib: f64,
}

impl Setting {
    /// In words.
    pub(crate) fn name(&self) -> &'static str {
        match (self.redis.is_some(), self.separate) {
            (false, false) => "embedded, one process",
            (false, true) => "embedded, separate services",
            (true, false) => "redis, one process",
            (true, true) => "redis, separate services",
        }
    }
}

impl Services {
    /// Starts them with `files` in force, reading from Kafka at `bootstrap`.
    pub(crate) async fn start(setting: &Setting, bootstrap: &str, files: DefinitionFiles) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let group = format!("bench-{:016x}", rand::random::<u64>());
        let ingest = ["--bootstrap", bootstrap, "--group", &group];
        let role = if setting.separate { "store" } else { "all" };
        let mut command = command(role, folder.path())?;
        command.args(ingest);
        if let Some(redis) = &setting.redis {
            command.args(["--redis", redis]);
        }
        if let Some(mib) = setting.cache_mib {
            command.args(["--cache-mib", &mib.to_string()]);
        }
        if setting.one_by_one {
            command.arg("--one-by-one");
        }
        let store = Process::start(command).await?;
        let url = store.url.clone().context("the feature store has no address")?;
        let client = FeatureStoreClient::new(url.clone())?;
        let mut services = Self {
            client,
            folder,
            processes: vec![store],
        };
        apply(&services.client, files).await?;
        if setting.separate {
            let mut command = self::command("ingest", services.folder.path())?;
            command.args(ingest).args(["--store", url.as_str()]);
            services.processes.push(Process::start(command).await?);
        }
        Ok(services)
    }

    /// How far they are.
    pub(crate) async fn written(&mut self) -> Result<Written> {
        let process = self.processes.first_mut().context("no process")?;
        process.input.write_all(b"\n").await?;
        let line = process.output.next_line().await?.context("the services have ended")?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Waits until `events` are written.
    pub(crate) async fn wait_for(&mut self, events: u64, longest: Duration) -> Result<Written> {
        let events = i64::try_from(events)?;
        let begun = Instant::now();
        loop {
            let written = self.written().await?;
            if written.events >= events {
                return Ok(written);
            }
            if begun.elapsed() > longest {
                bail!("{} of {events} events after {} s", written.events, longest.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Makes everything durable.
    pub(crate) async fn flush(&self) -> Result<()> {
        self.client.flush(SOURCE).await?;
        Ok(())
    }

    /// CPU seconds of all of them so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        self.ids().map(|id| cpu_seconds(Some(id))).sum()
    }

    /// What they weigh now.
    pub(crate) fn weight(&self) -> Result<Weight> {
        let sum = |field: &str| -> Result<f64> { self.ids().map(|id| memory_mib(Some(id), field)).sum() };
        let file = std::fs::metadata(self.folder.path().join("online.redb"));
        Ok(Weight {
            resident_mib: sum("VmRSS")?,
            anonymous_mib: sum("RssAnon")?,
            online_file_mib: file.map_or(0.0, |file| file.len() as f64 / 1_048_576.0),
        })
    }

    fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.processes.iter().filter_map(|process| process.child.id())
    }

    /// Stops them: ingest first.
    pub(crate) async fn stop(self) -> Result<()> {
        for process in self.processes.into_iter().rev() {
            process.stop().await?;
        }
        Ok(())
    }
}

/// Puts `files` in force and waits until every view serves.
pub(crate) async fn apply(client: &FeatureStoreClient, files: DefinitionFiles) -> Result<()> {
    client.apply(files).await?;
    let begun = Instant::now();
    while client
        .snapshot()
        .await?
        .views
        .iter()
        .any(|view| view.state != ViewState::Active)
    {
        ensure!(begun.elapsed() < LONGEST, "a view is not active");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn command(role: &str, folder: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["subject", "--role", role, "--folder"]).arg(folder);
    Ok(command)
}

impl Process {
    async fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("no input")?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?).lines();
        let hello = tokio::time::timeout(LONGEST, output.next_line())
            .await
            .context("the services did not start")??
            .context("the services ended at once")?;
        let Hello { url } = serde_json::from_str(&hello)?;
        Ok(Self {
            child,
            input,
            output,
            url,
        })
    }

    async fn stop(self) -> Result<()> {
        let Self { mut child, input, .. } = self;
        drop(input);
        let ended = tokio::time::timeout(LONGEST, child.wait())
            .await
            .context("the services did not end")??;
        ensure!(ended.success(), "the services ended with {ended}");
        Ok(())
    }
}
