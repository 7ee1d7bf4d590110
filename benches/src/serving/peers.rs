//! The peers: Python servers of `benches/peers/serving/`, one worker process each, and the bare handler.

use super::model::Model;
use super::server::{Server, free_address, url};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

/// Where Python and the programs are.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Python {
    /// The Python that has FastAPI, Feast and ONNX Runtime.
    #[arg(long, env = "ONDOL_TEST_PEERS_PYTHON")]
    peers_python: PathBuf,
    /// The Python that has MLServer and ONNX Runtime.
    #[arg(long, env = "ONDOL_TEST_MLSERVER_PYTHON")]
    mlserver_python: PathBuf,
    /// The folder of the programs.
    #[arg(long, default_value = "benches/peers/serving")]
    programs: PathBuf,
}

/// What the programs read from their environment.
pub(super) struct Peers {
    python: Python,
    folder: PathBuf,
    model: PathBuf,
    redis: String,
}

/// One of them, running.
pub(super) struct Peer {
    pub(super) server: Arc<Server>,
    pub(super) address: SocketAddr,
}

impl Peers {
    /// `redis` as host:port; `folder` for what they write.
    pub(super) fn new(python: &Python, folder: &Path, model: &Model, redis: &str) -> Result<Self> {
        let folder = folder.join("peers");
        std::fs::create_dir_all(folder.join("feast"))?;
        let mut python = python.clone();
        python.programs = std::path::absolute(&python.programs)?;
        Ok(Self {
            python,
            folder,
            model: model.path.clone(),
            redis: redis.to_owned(),
        })
    }

    fn command(&self, python: &Path) -> Command {
        let mut command = Command::new(python);
        command
            .current_dir(&self.folder)
            .env("PYTHONPATH", &self.python.programs)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("FEAST_USAGE", "False")
            .env("MODEL", &self.model)
            .env("REDIS", &self.redis)
            .env("REPO", self.folder.join("feast"))
            .env("SHAPES", self.folder.join("shapes.json"));
        command
    }

    /// Puts the features of every entity into Redis, by Feast and by hand.
    pub(super) async fn seed(&self, shapes: &[serde_json::Value]) -> Result<()> {
        std::fs::write(self.folder.join("shapes.json"), serde_json::to_vec(shapes)?)?;
        let mut command = self.command(&self.python.peers_python);
        let output = command.arg(self.python.programs.join("seed.py")).output().await?;
        ensure!(
            output.status.success(),
            "seed.py failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// A FastAPI server on uvicorn.
    pub(super) async fn fastapi(&self, app: &str) -> Result<Peer> {
        let address = free_address()?;
        let mut command = self.command(&self.python.peers_python);
        command
            .args(["-m", "uvicorn", &format!("{app}:app"), "--host", "127.0.0.1"])
            .args(["--port", &address.port().to_string(), "--workers", "1"])
            .args([
                "--loop",
                "uvloop",
                "--http",
                "httptools",
                "--no-access-log",
                "--log-level",
                "warning",
            ]);
        self.start(app, command, address, "/openapi.json").await
    }

    /// MLServer, and where its gRPC is.
    pub(super) async fn mlserver(&self) -> Result<(Peer, SocketAddr)> {
        let (http, grpc, metrics) = (free_address()?, free_address()?, free_address()?);
        let folder = self.folder.join("mlserver");
        std::fs::create_dir_all(&folder)?;
        let settings = json!({
            "host": "127.0.0.1",
            "http_port": http.port(),
            "grpc_port": grpc.port(),
            "metrics_port": metrics.port(),
            "parallel_workers": 0,
            "debug": false
        });
        std::fs::write(folder.join("settings.json"), settings.to_string())?;
        let model = json!({"name": "bench", "implementation": "mlserver_runtime.Boosting"});
        std::fs::write(folder.join("model-settings.json"), model.to_string())?;
        let mut command = self.command(&self.python.mlserver_python);
        command
            .args(["-c", "from mlserver.cli import main; main()", "start"])
            .arg(&folder);
        let peer = self.start("mlserver", command, http, "/v2/models/bench/ready").await?;
        Ok((peer, grpc))
    }

    /// The bare handler.
    pub(super) async fn bare(&self) -> Result<Peer> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe().context("this program has no path")?);
        command
            .args(["serving-floor", "--listen", &address.to_string(), "--model"])
            .arg(&self.model);
        self.start("bare", command, address, "/readyz").await
    }

    async fn start(&self, name: &str, command: Command, address: SocketAddr, ready: &str) -> Result<Peer> {
        let mut server = Server::new(Duration::ZERO);
        server.add(name, &self.folder, command, &url(address, ready)?).await?;
        Ok(Peer {
            server: Arc::new(server),
            address,
        })
    }
}
