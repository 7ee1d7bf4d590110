//! A model's memory is given back when it is unloaded, however often it is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use bytes::Bytes;
use ondol_model_gateway::ModelGatewayConfig;
use ondol_model_gateway::runtime::Runtime as _;
use ondol_model_gateway::runtime::onnx::OnnxModel;
use ondol_model_gateway::runtime::tensor::{NamedTensor, TensorData};
use ondol_testkit::services;
use std::process::Command;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is loaded and unloaded.
const ROUNDS: usize = 32;

/// One layer of `16 << 20` weights: 64 MiB of zeroes, so that the file is made in a moment.
const MAKE: &str = r#"
import sys
from onnx import TensorProto as T, helper
wide = 1 << 20
weights = helper.make_tensor("W", T.FLOAT, [16, wide], bytes(64 * wide), raw=True)
nodes = [helper.make_node("MatMul", ["X", "W"], ["wide"]), helper.make_node("ReduceMax", ["wide"], ["y"], axes=[1], keepdims=0)]
graph = helper.make_graph(nodes, "wide", [helper.make_tensor_value_info("X", T.FLOAT, [None, 16])],
                          [helper.make_tensor_value_info("y", T.FLOAT, [None])], [weights])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
open(sys.argv[1], "wb").write(model.SerializeToString())
"#;

/// Memory of this process that is in use, in MiB.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

#[tokio::test]
async fn a_large_model_gives_all_of_its_memory_back_each_time_it_is_unloaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wide.onnx");
    let made = Command::new(services::python())
        .args(["-c", MAKE])
        .arg(&file)
        .status()
        .unwrap();
    assert!(made.success());
    let artifact = Bytes::from(std::fs::read(&file).unwrap());
    let config = ModelGatewayConfig {
        python: services::python(),
        ..ModelGatewayConfig::default()
    };
    let options = config.onnx_options();
    let mut resident = Vec::new();
    for _ in 0..ROUNDS {
        let model = OnnxModel::load(artifact.clone(), &options).unwrap();
        assert!(model.memory_bytes() >= 2 * artifact.len());
        let input = NamedTensor {
            name: "X".to_owned(),
            shape: vec![4, 16],
            data: TensorData::F32(vec![1.0; 64]),
        };
        let outputs = model
            .run(4, vec![input], Instant::now() + Duration::from_secs(600))
            .await
            .unwrap();
        assert_eq!(outputs[0].data, TensorData::F32(vec![0.0; 4]));
        let loaded = resident_mib();
        drop(model);
        resident.push((loaded, resident_mib()));
    }
    // Shown with --nocapture: what docs/models.md says.
    eprintln!("MiB loaded and unloaded: {resident:?}");
    let gives_back = |(loaded, unloaded): &(u64, u64)| *loaded >= unloaded + 48;
    assert!(resident.iter().all(gives_back), "{resident:?}");
    // Level from the start: not even half of what one run allocates besides is left, however often it is loaded.
    let (_, first) = resident[0];
    let is_level = |(_, unloaded): &(u64, u64)| *unloaded <= first + 8;
    assert!(resident.iter().all(is_level), "{resident:?}");
}
