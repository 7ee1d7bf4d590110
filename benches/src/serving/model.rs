//! The model: written by `peers/boosting.py`, and run here to know what every server must answer.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ondol_model_gateway::ModelGatewayConfig;
use ondol_model_gateway::runtime::Runtime as _;
use ondol_model_gateway::runtime::onnx::OnnxModel;
use ondol_model_gateway::runtime::tensor::{NamedTensor, TensorData};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Entries of its vector.
pub(super) const FEATURES: usize = 50;
/// How long a run may take.
const LONGEST: Duration = Duration::from_secs(60);

/// It, as a file and loaded.
pub(super) struct Model {
    pub(super) path: PathBuf,
    pub(super) artifact: Bytes,
    loaded: OnnxModel,
}

impl Model {
    /// Writes it into `folder`.
    pub(super) async fn write(python: &Path, script: &Path, folder: &Path) -> Result<Self> {
        let path = folder.join("boosting.onnx");
        let mut command = tokio::process::Command::new(python);
        let status = command
            .arg(script)
            .arg(FEATURES.to_string())
            .arg(&path)
            .status()
            .await?;
        ensure!(status.success(), "`{}` failed", script.display());
        let artifact = Bytes::from(std::fs::read(&path)?);
        let loaded = load(artifact.clone())?;
        Ok(Self { path, artifact, loaded })
    }

    /// What it says of one vector.
    pub(super) async fn probability(&self, vector: Vec<f32>) -> Result<f32> {
        let (_, probabilities) = run(&self.loaded, vector).await?;
        probabilities.get(1).copied().context("no second class")
    }
}

/// Opens a pool of sessions as the gateway does by default: one per core, one thread each.
pub(super) fn load(artifact: Bytes) -> Result<OnnxModel> {
    Ok(OnnxModel::load(
        artifact,
        &ModelGatewayConfig::default().onnx_options(),
    )?)
}

/// Labels and probabilities of one vector.
pub(super) async fn run(model: &OnnxModel, vector: Vec<f32>) -> Result<(Vec<i64>, Vec<f32>)> {
    let tensor = NamedTensor {
        name: "vector".to_owned(),
        shape: vec![1, i64::try_from(vector.len())?],
        data: TensorData::F32(vector),
    };
    let outputs = model.run(1, vec![tensor], Instant::now() + LONGEST).await?;
    let (mut labels, mut probabilities) = (None, None);
    for output in outputs {
        match output.data {
            TensorData::I64(values) => labels = Some(values),
            TensorData::F32(values) => probabilities = Some(values),
            _ => {}
        }
    }
    Ok((labels.context("no labels")?, probabilities.context("no probabilities")?))
}
