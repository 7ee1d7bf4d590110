//! Unmodified clients of the Open Inference Protocol, in processes of their own, against a gateway's port.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use crate::support::{Bench, artifact, config};
use ondol_model_gateway::runtime::Runtime;
use ondol_model_gateway::runtime::onnx::OnnxModel;
use ondol_model_gateway::runtime::tensor::{NamedTensor, TensorData};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// A gateway that takes large batches, and the time that a busy machine needs for them.
pub async fn bench() -> Bench {
    let bench = Bench::open_with(|config| {
        config.max_batch_rows = 300_000;
        config.deadline_ms = 120_000;
    })
    .await;
    bench.register("matrix").await.unwrap();
    bench.fill();
    bench
}

/// Rows of the model's matrix: ordinary ones, and what only bits can tell apart.
fn rows() -> Vec<f32> {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut cells: Vec<f32> = (0..250 * 5)
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % 20_001) as f32 / 1_000.0 - 10.0
        })
        .collect();
    cells.extend([0.1, f32::MIN_POSITIVE / 2.0, -0.0, f32::EPSILON, 1e-30]);
    cells.extend([f32::NAN, 1.0, 2.0, 3.0, 4.0]);
    cells
}

fn write<const N: usize, T>(folder: &Path, name: &str, values: impl IntoIterator<Item = T>, bytes: fn(T) -> [u8; N]) {
    let bytes: Vec<u8> = values.into_iter().flat_map(bytes).collect();
    std::fs::write(folder.join(name), bytes).unwrap();
}

/// Writes rows, and what the model gives for them when it is run in this process without a gateway; and the predictions
/// by key that the gateway gives in process.
pub async fn expectations(bench: &Bench) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let rows = rows();
    let model = OnnxModel::load(artifact("matrix"), &config(folder.path()).onnx_options()).unwrap();
    let input = NamedTensor {
        name: "X".to_owned(),
        shape: vec![rows.len() as i64 / 5, 5],
        data: TensorData::F32(rows.clone()),
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let outputs = model.run(rows.len() / 5, vec![input], deadline).await.unwrap();
    for output in outputs {
        match output.data {
            TensorData::I64(labels) => write(folder.path(), "labels.i64", labels, i64::to_le_bytes),
            TensorData::F32(probabilities) => {
                let finite = rows.chunks(5).zip(probabilities.chunks(2));
                let finite = finite.filter(|(row, _)| row.iter().all(|cell| cell.is_finite()));
                let finite = finite.flat_map(|(_, pair)| pair.to_vec());
                write(folder.path(), "finite_probabilities.f32", finite, f32::to_le_bytes);
                write(folder.path(), "probabilities.f32", probabilities, f32::to_le_bytes);
            }
            other => panic!("{other:?} is no output of the fixture"),
        }
    }
    write(folder.path(), "rows.f32", rows, f32::to_le_bytes);
    let mut by_key = Vec::new();
    for (card, merchant) in [("c1", "m1"), ("c9", "m9")] {
        let inputs = format!(r#"{{"card_id": "{card}", "merchant_id": "{merchant}", "amount": 8}}"#);
        by_key.push(bench.predict(&inputs).await.unwrap().prediction);
    }
    std::fs::write(folder.path().join("by_key.json"), serde_json::to_vec(&by_key).unwrap()).unwrap();
    folder
}

/// Runs `script` of this folder's neighbour with `before`, the gateway's address and `after` as its words.
pub async fn run(bench: &Bench, python: &str, script: &str, before: &[&str], after: &Path) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(axum::serve(listener, bench.gateway.router()).into_future());
    let output = tokio::process::Command::new(python)
        .arg(format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR")))
        .args(before)
        .arg(address)
        .arg(after)
        .output()
        .await
        .unwrap();
    server.abort();
    assert!(
        output.status.success(),
        "{script} {before:?}:\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
