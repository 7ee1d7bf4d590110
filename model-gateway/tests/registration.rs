//! An artifact is registered only if it takes the model's vector; otherwise the refusal says what differs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway_api::wire::RegisterRequest;
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use ondol_vocabulary::{DataType, Element, ModelFeature};
use serde_json::json;
use support::{Bench, artifact, derived, from_derived, from_view, manifest};

async fn refused(bench: &Bench, fixture: &str, manifest: Option<serde_json::Value>) -> String {
    match bench.register_with(fixture, manifest).await {
        Err(error @ ModelGatewayError::Mismatch { .. }) => error.to_string(),
        other => panic!("expected a mismatch, got {other:?}"),
    }
}

fn set_vector(bench: &Bench, features: Vec<ModelFeature>) {
    bench
        .store
        .apply(|snapshot| snapshot.models[0].definition.features = features);
}

#[tokio::test]
async fn a_matrix_that_names_its_columns_is_registered() {
    let bench = Bench::open().await;
    let registered = bench.register("matrix").await.unwrap();
    assert_eq!(registered.model.to_string(), "fraud@1");
    assert_eq!(registered.definition_version, 3);
    assert_eq!(registered.inputs[0].shape, [-1, 5]);
    assert_eq!(
        registered
            .outputs
            .iter()
            .map(|output| output.datatype.as_str())
            .collect::<Vec<_>>(),
        ["INT64", "FP32"]
    );
}

#[tokio::test]
async fn versions_count_up_and_the_same_artifact_is_the_same_version() {
    let bench = Bench::open().await;
    assert_eq!(bench.register("matrix").await.unwrap().model.version, 1);
    assert_eq!(bench.register("matrix").await.unwrap().model.version, 1);
    assert_eq!(bench.register("matrix_double").await.unwrap().model.version, 2);
    assert_eq!(bench.register("matrix").await.unwrap().model.version, 3);
    let models = bench.gateway.models().await.unwrap();
    assert_eq!(
        models[0]
            .versions
            .iter()
            .map(|version| version.model.version)
            .collect::<Vec<_>>(),
        [3, 2, 1]
    );
}

#[tokio::test]
async fn registrations_that_race_take_different_versions() {
    let bench = Bench::open().await;
    let (one, two) = tokio::join!(bench.register("matrix"), bench.register("matrix_double"));
    let mut versions = [one.unwrap().model.version, two.unwrap().model.version];
    versions.sort_unstable();
    assert_eq!(versions, [1, 2]);
}

#[tokio::test]
async fn columns_named_in_another_order_are_refused_with_a_diff() {
    let bench = Bench::open().await;
    insta::assert_snapshot!(refused(&bench, "matrix_reordered", None).await);
}

#[tokio::test]
async fn a_matrix_of_another_width_is_refused_with_a_diff() {
    let bench = Bench::open().await;
    insta::assert_snapshot!(refused(&bench, "matrix_narrow", None).await);
}

#[tokio::test]
async fn a_matrix_without_names_is_checked_by_its_width_alone() {
    let bench = Bench::open().await;
    assert!(bench.register("matrix_unnamed").await.is_ok());
}

#[tokio::test]
async fn a_fixed_batch_is_refused_with_the_remedy() {
    let bench = Bench::open().await;
    insta::assert_snapshot!(refused(&bench, "matrix_fixed_batch", None).await);
}

#[tokio::test]
async fn an_output_of_maps_is_refused_with_the_remedy() {
    let bench = Bench::open().await;
    insta::assert_snapshot!(refused(&bench, "zipmap", None).await);
}

#[tokio::test]
async fn text_in_a_matrix_is_refused_with_the_remedy() {
    let bench = Bench::open().await;
    let mut features = support::fraud().features;
    features[2] = from_view("merchant.country", DataType::String);
    set_vector(&bench, features);
    insta::assert_snapshot!(refused(&bench, "matrix_unnamed", None).await);
}

#[tokio::test]
async fn a_manifest_that_agrees_is_accepted() {
    let bench = Bench::open().await;
    assert!(bench.register_with("matrix", Some(manifest())).await.is_ok());
}

#[tokio::test]
async fn a_manifest_of_another_vector_is_refused_with_a_diff() {
    let bench = Bench::open().await;
    let mut manifest = manifest();
    manifest["model"] = json!("fraud@2");
    manifest["views"] = json!(["card@1", "merchant@4"]);
    manifest["features"] = json!([
        { "name": "card.spend_24h", "data_type": "f64", "nulls": 0 },
        { "name": "card.n_1h", "data_type": "i64", "nulls": 0 },
        { "name": "merchant.risk", "data_type": "i64", "nulls": 0 },
        { "name": "card.n_2h", "data_type": "i64", "nulls": 0 },
        { "name": "amount", "data_type": "f64", "nulls": 0 },
    ]);
    insta::assert_snapshot!(refused(&bench, "matrix_unnamed", Some(manifest)).await);
}

#[tokio::test]
async fn a_manifest_of_another_model_is_refused() {
    let bench = Bench::open().await;
    let mut manifest = manifest();
    manifest["model"] = json!("churn@3");
    insta::assert_snapshot!(refused(&bench, "matrix", Some(manifest)).await);
}

#[tokio::test]
async fn a_manifest_that_is_none_is_named() {
    let bench = Bench::open().await;
    let error = bench
        .register_with("matrix", Some(json!({ "rows": 1 })))
        .await
        .unwrap_err();
    assert!(matches!(&error, ModelGatewayError::InvalidRequest { .. }), "{error}");
    assert!(
        error.to_string().contains("pass the file written beside its output"),
        "{error}"
    );
}

#[tokio::test]
async fn a_tensor_per_feature_is_registered_by_exact_and_by_plain_names() {
    let bench = Bench::open().await;
    let registered = bench.register("columns").await.unwrap();
    assert_eq!(registered.inputs.len(), 5);
}

#[tokio::test]
async fn tensors_of_another_vector_are_refused_with_a_diff() {
    let bench = Bench::open().await;
    let mut features = support::fraud().features;
    features[1].data_type = DataType::String;
    features[2] = from_view("merchant.country", DataType::String);
    set_vector(&bench, features);
    insta::assert_snapshot!(refused(&bench, "columns", None).await);
}

#[tokio::test]
async fn an_integer_tensor_fed_by_a_feature_that_can_be_missing_is_refused_with_the_remedy() {
    let bench = Bench::open().await;
    // With a time to live, even a count is null when it is stale.
    bench
        .store
        .apply(|snapshot| snapshot.views[0].definition.ttl_us = Some(1));
    insta::assert_snapshot!(refused(&bench, "columns", None).await);
    assert!(bench.register("columns_float").await.is_ok());
}

#[tokio::test]
async fn an_integer_tensor_whose_feature_was_null_in_training_is_refused() {
    let bench = Bench::open().await;
    let mut manifest = manifest();
    manifest["features"][0]["nulls"] = json!(12);
    insta::assert_snapshot!(refused(&bench, "columns", Some(manifest)).await);
}

#[tokio::test]
async fn a_text_tensor_takes_a_derived_feature() {
    let bench = Bench::open().await;
    bench.store.apply(|snapshot| {
        let definition = &mut snapshot.models[0].definition;
        definition.features = vec![from_derived("country", DataType::String)];
        definition.derived = vec![derived("country", "coalesce(merchant.country, '')", DataType::String)];
    });
    assert_eq!(bench.register("text").await.unwrap().inputs[0].datatype, "BYTES");
}

#[tokio::test]
async fn bytes_that_are_no_model_are_the_callers_fault() {
    let bench = Bench::open().await;
    let request = RegisterRequest {
        artifact: bytes::Bytes::from_static(b"not a model"),
        kind: None,
        manifest: None,
    };
    let error = bench.gateway.register("fraud", request).await.unwrap_err();
    assert!(matches!(&error, ModelGatewayError::InvalidRequest { .. }), "{error}");
    assert!(error.to_string().contains("send an ONNX file"), "{error}");
}

#[tokio::test]
async fn an_unknown_model_is_refused_with_the_nearest_name() {
    let bench = Bench::open().await;
    let request = RegisterRequest {
        artifact: artifact("matrix"),
        kind: None,
        manifest: None,
    };
    let error = bench.gateway.register("frod", request).await.unwrap_err();
    assert_eq!(error.to_string(), "unknown model `frod`: did you mean `fraud`?");
}

#[tokio::test]
async fn an_artifact_beyond_the_bound_is_refused() {
    let bench = Bench::open_with(|config| config.max_artifact_bytes = 10).await;
    let error = bench.register("matrix").await.unwrap_err();
    assert!(error.to_string().contains("max_artifact_bytes"), "{error}");
}

#[tokio::test]
async fn a_list_takes_an_input_of_its_own_of_a_fixed_width() {
    let bench = Bench::of_recent(3).await;
    assert!(bench.register("list").await.is_ok());
    insta::assert_snapshot!("list_in_a_dynamic_width", refused(&bench, "list_dynamic", None).await);
    insta::assert_snapshot!("list_in_a_matrix", refused(&bench, "matrix_unnamed", None).await);
}

#[tokio::test]
async fn a_list_that_can_be_longer_than_its_input_is_refused_with_the_remedy() {
    let bench = Bench::of_recent(4).await;
    insta::assert_snapshot!(refused(&bench, "list", None).await);
}

#[tokio::test]
async fn a_list_of_texts_is_refused_with_the_remedy() {
    let bench = Bench::of_recent(3).await;
    let texts = DataType::List(Element::String);
    bench.store.apply(|snapshot| {
        snapshot.models[0].definition.features[0].data_type = texts;
        snapshot.views[0].definition.features[2].data_type = texts;
    });
    insta::assert_snapshot!(refused(&bench, "list", None).await);
}
