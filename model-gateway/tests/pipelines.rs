//! Larger ONNX models: a pipeline with its preprocessing and trees, a network with two inputs and two outputs, strings in
//! and out. What the gateway answers, by key and by tensor, over every surface, is what ONNX Runtime answers in Python.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod clients;
mod support;

use ondol_model_gateway_api::ModelGateway;
use ondol_model_gateway_api::wire::BatchPredictRequest;
use ondol_testkit::services;
use ondol_vocabulary::{DataType, Element, FeatureRef, ModelFeature, Value};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use support::{Bench, artifact, derived, from_derived, from_input, from_view};

const ROWS: usize = 150;
const COUNTRY: &str = "derived.country";

/// Random rows and their answers: see `fixtures/pipelines/expect.py`.
async fn expectations(fixture: &str) -> Json {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let threads = ondol_model_gateway::ModelGatewayConfig::default().intra_op_threads;
    let output = tokio::process::Command::new(services::python())
        .arg(format!("{folder}/pipelines/expect.py"))
        .arg(format!("{folder}/{fixture}.onnx"))
        .args([ROWS.to_string(), threads.to_string()])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A gateway whose model has `features`, of card and merchant `row` those of row `row`; `fixture` is registered.
/// `derived.country` is the merchant's, or `unknown`: a text has no missing value that a model could take.
async fn bench(fixture: &str, features: &[ModelFeature], expected: &Json) -> Bench {
    let bench = Bench::of_recent(3).await;
    bench.store.apply(|snapshot| {
        let model = &mut snapshot.models[0].definition;
        model.features = features.to_vec();
        if features.iter().any(|feature| feature.name == COUNTRY) {
            let country = "coalesce(merchant.country, 'unknown')";
            model.derived = vec![derived("country", country, DataType::String)];
            model.derived_needs = vec![FeatureRef::new("merchant", "country")];
        }
    });
    let version = bench.store.snapshot.lock().unwrap().version;
    while bench.gateway.definitions().current().version < version {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    for feature in features {
        let source = if feature.name == COUNTRY {
            "merchant.country"
        } else {
            &feature.name
        };
        let Some((view, _)) = source.split_once('.') else {
            continue;
        };
        for row in 0..ROWS {
            let cells = &expected["inputs"][feature.name.replace('.', "_")][row];
            let value = match feature.data_type {
                DataType::List(_) => value(cells),
                _ => value(&cells[0]),
            };
            bench.store.set(source, &format!("{view}-{row}"), value, 60);
        }
    }
    bench.register_as("fraud", artifact(fixture)).await.unwrap();
    bench
}

fn value(cell: &Json) -> Value {
    serde_json::from_value(cell.clone()).unwrap()
}

fn instance(expected: &Json, row: usize) -> BTreeMap<String, Value> {
    let amount = &expected["inputs"]["amount"];
    let amount = if amount.is_null() {
        Value::F64(0.0)
    } else {
        value(&amount[row][0])
    };
    BTreeMap::from([
        ("card_id".to_owned(), Value::String(format!("card-{row}"))),
        ("merchant_id".to_owned(), Value::String(format!("merchant-{row}"))),
        ("amount".to_owned(), amount),
    ])
}

async fn predicted(bench: &Bench, instances: Vec<BTreeMap<String, Value>>) -> Vec<Json> {
    let batch = BatchPredictRequest {
        instances,
        deadline_ms: Some(120_000),
        explain: Some(false),
        ..BatchPredictRequest::default()
    };
    let answer = bench.gateway.batch_predict("fraud", batch).await.unwrap();
    answer.predictions.into_iter().map(|answer| answer.prediction).collect()
}

/// `prediction` is the output that stands for the model's answer: a list of its values, or the only one.
async fn check(fixture: &str, features: &[ModelFeature], prediction: &str) {
    let expected = expectations(fixture).await;
    let bench = bench(fixture, features, &expected).await;
    let answer = |outputs: &str, row: usize| {
        let cells = expected[outputs][prediction][row].clone();
        match cells.as_array().map(Vec::as_slice) {
            Some([cell]) => cell.clone(),
            _ => cells,
        }
    };
    let instances: Vec<_> = (0..ROWS).map(|row| instance(&expected, row)).collect();
    let whole = predicted(&bench, instances.clone()).await;
    for (row, found) in whole.iter().enumerate() {
        assert_eq!(*found, answer("outputs", row), "{fixture}: row {row} of a batch");
    }
    for (row, instance) in instances.into_iter().enumerate().take(25) {
        let alone = predicted(&bench, vec![instance]).await;
        assert_eq!(alone, [answer("alone", row)], "{fixture}: row {row} alone");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("expected.json");
    std::fs::write(&file, expected.to_string()).unwrap();
    let python = services::inference_python();
    clients::run(&bench, &python, "pipelines_scenes.py", &[], &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_with_its_preprocessing_is_served_as_it_was_exported() {
    let features = [
        from_view("card.n_1h", DataType::I64),
        from_view("card.spend_24h", DataType::F64),
        from_input("amount", DataType::F64),
        from_derived("country", DataType::String),
    ];
    check("pipelines/pipeline", &features, "probabilities").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_takes_two_inputs_and_gives_two_outputs() {
    let features = [
        from_view("card.recent", DataType::List(Element::F64)),
        from_input("amount", DataType::F64),
    ];
    check("pipelines/network", &features, "probability").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_go_in_and_come_out() {
    let features = [from_derived("country", DataType::String)];
    check("pipelines/regions", &features, "region").await;
}
