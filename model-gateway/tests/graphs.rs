//! Graphs of registered models, and models in the files of LightGBM and XGBoost.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use bytes::Bytes;
use ondol_model_gateway_api::wire::{ArtifactKind, BatchPredictRequest, RegisteredModel};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use ondol_vocabulary::DataType;
use serde_json::json;
use std::sync::Arc;
use support::{Bench, C1, STRANGER, artifact, derived, from_derived, inputs};

/// What `columns_float` answers for C1: 2 - 4 + 0.25 + 8 + 8 / -4.
const SUM: f64 = 4.25;

fn sigmoid(sum: f64) -> f64 {
    f64::from(1.0 / (1.0 + (-sum as f32).exp()))
}

/// `trees` (the logistic function of the sum) and `sum` are registered; `fraud` has the same vector and no version.
async fn members() -> Bench {
    let bench = Bench::open().await;
    bench.fill();
    bench.store.apply(|snapshot| {
        for name in ["trees", "sum"] {
            let mut model = snapshot.models[0].clone();
            model.definition.name = name.to_owned();
            snapshot.models.push(model);
        }
    });
    bench.register_as("trees", artifact("matrix")).await.unwrap();
    bench.register_as("sum", artifact("columns_float")).await.unwrap();
    bench
}

async fn graph(bench: &Bench, spec: &str) -> Result<RegisteredModel, ModelGatewayError> {
    bench.register_as("fraud", Bytes::from(spec.to_owned())).await
}

async fn score(bench: &Bench, json: &str) -> f64 {
    bench.predict(json).await.unwrap().prediction.as_f64().unwrap()
}

const MEMBERS: &str = "[nodes.trees]\nmodel = \"trees@1\"\n[nodes.sum]\nmodel = \"sum@1\"\n";

#[tokio::test]
async fn an_ensemble_is_weighted_or_computed() {
    let bench = members().await;
    let registered = graph(
        &bench,
        &format!("output = \"mix\"\n{MEMBERS}[nodes.mix]\nweights = {{ trees = 0.5, sum = 2.0 }}\n"),
    )
    .await
    .unwrap();
    assert_eq!(registered.kind, ArtifactKind::Graph);
    assert_eq!(score(&bench, C1).await, 2.0 * SUM + 0.5 * sigmoid(SUM));
    let computed =
        format!("output = \"mix\"\n{MEMBERS}[nodes.mix]\nexpression = \"greatest(trees, sum) + amount / card.n_1h\"\n");
    graph(&bench, &computed).await.unwrap();
    assert_eq!(score(&bench, C1).await, SUM + 4.0);
}

#[tokio::test]
async fn a_switch_runs_each_row_through_the_node_it_chose() {
    let bench = members().await;
    let spec = format!(
        "output = \"route\"\n{MEMBERS}[nodes.route]\n\
         switch = [{{ when = \"amount > 100\", then = \"trees\" }}, {{ when = \"merchant.risk < 1\", then = \"sum\" }}, {{ then = \"none\" }}]\n\
         [nodes.none]\nexpression = \"-1\"\n"
    );
    graph(&bench, &spec).await.unwrap();
    let big = r#"{"card_id":"c1","merchant_id":"m1","amount":200}"#;
    let request = BatchPredictRequest {
        instances: [C1, big, STRANGER, C1].map(inputs).into(),
        explain: Some(true),
        ..BatchPredictRequest::default()
    };
    let answers = bench.gateway.batch_predict("fraud", request).await.unwrap().predictions;
    let found: Vec<f64> = answers
        .iter()
        .map(|answer| answer.prediction.as_f64().unwrap())
        .collect();
    // A stranger's risk is null, and a condition over null does not hold.
    assert_eq!(found, [SUM, sigmoid(2.0 - 4.0 + 0.25 + 200.0 - 50.0), -1.0, SUM]);
}

#[tokio::test]
async fn a_sequence_feeds_a_model_with_what_another_said() {
    let bench = members().await;
    let spec = "output = \"second\"\n[nodes.first]\nmodel = \"trees@1\"\n\
                [nodes.second]\nmodel = \"sum@1\"\nfeatures = { \"merchant.risk\" = \"first\" }\n";
    graph(&bench, spec).await.unwrap();
    let expected = f64::from((SUM - 0.25 + sigmoid(SUM)) as f32);
    assert!((score(&bench, C1).await - expected).abs() < 1e-6);
}

#[tokio::test]
async fn a_graph_survives_a_restart_and_its_members_new_versions() {
    let bench = members().await;
    graph(&bench, &format!("output = \"sum\"\n{MEMBERS}")).await.unwrap();
    let (folder, store) = (Arc::clone(&bench.folder), Arc::clone(&bench.store));
    bench.stop().await;
    let again = Bench::open_in(folder, store, |_| {}).await;
    again.register_as("sum", artifact("matrix")).await.unwrap();
    assert_eq!(score(&again, C1).await, SUM);
}

#[tokio::test]
async fn a_graph_that_can_not_be_is_refused_by_its_node() {
    let bench = members().await;
    bench.store.apply(|snapshot| {
        let mut other = snapshot.models[0].clone();
        other.definition.name = "other".to_owned();
        other.definition.features = vec![from_derived("country", DataType::String)];
        other.definition.derived = vec![derived("country", "coalesce(merchant.country, '')", DataType::String)];
        snapshot.models.push(other);
    });
    bench.register_as("other", artifact("text")).await.unwrap();
    for (spec, expected) in [
        (
            "output = \"a\"\n[nodes.a]\nmodel = \"sum@7\"\n",
            "no version `sum@7` is registered: its newest version is `sum@1`",
        ),
        (
            "output = \"a\"\n[nodes.a]\nexpression = \"b + 1\"\n[nodes.b]\nexpression = \"a + 1\"\n",
            "a needs b needs a",
        ),
        ("output = \"a\"\n[nodes.a]\nexpression = \"b + 1\"\n", "node `a`"),
        (
            "output = \"amount\"\n[nodes.amount]\nexpression = \"1\"\n",
            "the name of a feature",
        ),
        ("output = \"a\"\n[nodes.a]\nexpression = \"'x'\"\n", "is no number"),
        ("output = \"a\"\n[nodes.a]\nmodel = \"other@1\"\n", "node `a`"),
        (
            "output = \"a\"\n[nodes.a]\nmodel = \"sum@1\"\nfeatures = { x = \"amount\" }\n",
            "`x`, which is no feature of `sum@1`",
        ),
        (
            "output = \"a\"\n[nodes.a]\nswitch = [{ when = \"amount\", then = \"b\" }, { then = \"b\" }]\n[nodes.b]\nexpression = \"1\"\n",
            "no condition",
        ),
    ] {
        let error = graph(&bench, spec).await.unwrap_err();
        assert!(matches!(&error, ModelGatewayError::InvalidRequest { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// A tree model of the fixtures, which take six numbers.
fn trees(file: &str) -> Bytes {
    let path = format!("{}/tests/fixtures/trees/{file}", env!("CARGO_MANIFEST_DIR"));
    Bytes::from(std::fs::read(path).unwrap())
}

#[tokio::test]
async fn files_of_lightgbm_and_xgboost_are_recognised_and_score() {
    let bench = Bench::open().await;
    bench.fill();
    let narrow = bench
        .register_as("fraud", trees("light_numbers.lightgbm"))
        .await
        .unwrap_err();
    assert!(narrow.to_string().contains("found 6 columns"), "{narrow}");
    bench.store.apply(|snapshot| {
        let model = &mut snapshot.models[0].definition;
        model.features.push(from_derived("twice", DataType::F64));
        model.derived.push(derived("twice", "amount * 2", DataType::F64));
    });
    for (file, kind, datatype) in [
        ("light_numbers.lightgbm", ArtifactKind::Lightgbm, "FP64"),
        ("boost_squares.xgboost.json", ArtifactKind::Xgboost, "FP32"),
        ("boost_binary_ubj.xgboost.ubj", ArtifactKind::Xgboost, "FP32"),
    ] {
        let registered = bench.register_as("fraud", trees(file)).await.unwrap();
        assert_eq!(
            (registered.kind, registered.inputs[0].datatype.as_str()),
            (kind, datatype)
        );
        let prediction = bench.predict(C1).await.unwrap().prediction;
        assert!(prediction.is_number(), "{prediction}");
        assert_ne!(prediction, bench.predict(STRANGER).await.unwrap().prediction);
    }
    let classes = bench
        .register_as("fraud", trees("light_classes.lightgbm"))
        .await
        .unwrap();
    assert_eq!(classes.outputs[0].shape, [-1, 3]);
    let prediction = bench.predict(C1).await.unwrap().prediction;
    assert_eq!(prediction.as_array().map(Vec::len), Some(3), "{prediction}");
    assert_ne!(prediction, json!(null));
}

#[tokio::test]
async fn merged_requests_of_a_loaded_model_answer_as_alone() {
    let alone = Bench::with_model().await;
    let merged = Bench::open_with(|config| {
        config.batching.max_rows = 64;
        config.batching.max_delay_ms = 5;
    })
    .await;
    merged.fill();
    merged.register("matrix").await.unwrap();
    let merged = Arc::new(merged);
    let requests: Vec<_> = (0..64)
        .map(|amount| {
            let merged = Arc::clone(&merged);
            tokio::spawn(async move {
                let json = format!(r#"{{"card_id":"c1","merchant_id":"m1","amount":{amount}}}"#);
                (json.clone(), merged.predict(&json).await.unwrap())
            })
        })
        .collect();
    for request in requests {
        let (json, found) = request.await.unwrap();
        assert_eq!(
            found.prediction,
            alone.predict(&json).await.unwrap().prediction,
            "{json}"
        );
    }
}
