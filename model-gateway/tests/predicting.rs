//! A request by key: one lookup, one run, and an answer that says what it stands on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway_api::wire::{BatchPredictRequest, PredictRequest};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use ondol_vocabulary::{DataType, EventTime, FeatureStatus, Value};
use std::sync::atomic::Ordering;
use support::{Bench, C1, NOW, STRANGER, from_derived, from_input, inputs, request};

/// What the fixture's matrix answers: the logistic function of the row's sum.
fn sigmoid(sum: f32) -> f64 {
    f64::from(1.0 / (1.0 + (-sum).exp()))
}

fn assert_near(prediction: &serde_json::Value, expected: f64) {
    let prediction = prediction.as_f64().unwrap();
    assert!((prediction - expected).abs() < 1e-6, "{prediction} is not {expected}");
}

#[tokio::test]
async fn a_prediction_says_what_it_stands_on() {
    let bench = Bench::with_model().await;
    let prediction = bench.predict(C1).await.unwrap();
    // 2 - 4 + 0.25 + 8 + 8 / -4
    assert_near(&prediction.prediction, sigmoid(4.25));
    assert_eq!(prediction.model.to_string(), "fraud@1");
    assert_eq!(prediction.as_of, EventTime::from_micros(NOW));
    assert_eq!(prediction.request_id.len(), 26);
    let feature = |name: &str| prediction.features[name].clone();
    assert_eq!(feature("card.n_1h").value, Value::I64(2));
    assert_eq!(feature("card.n_1h").age_ms, Some(60_000));
    assert_eq!(feature("card.n_1h").view.unwrap().to_string(), "card@1");
    assert_eq!(feature("merchant.risk").age_ms, Some(3_600_000));
    assert_eq!(feature("amount").value, Value::F64(8.0));
    assert_eq!((feature("amount").age_ms, feature("amount").view), (None, None));
    assert_eq!(feature("derived.ratio").value, Value::F64(-2.0));
    assert!(
        prediction
            .features
            .values()
            .all(|feature| feature.status == FeatureStatus::Fresh)
    );
}

#[tokio::test]
async fn a_stranger_is_scored_on_missing_values() {
    let bench = Bench::with_model().await;
    let prediction = bench.predict(STRANGER).await.unwrap();
    assert_near(&prediction.prediction, sigmoid(8.0));
    let feature = |name: &str| {
        (
            prediction.features[name].value.clone(),
            prediction.features[name].status,
        )
    };
    assert_eq!(feature("card.n_1h"), (Value::I64(0), FeatureStatus::Missing));
    assert_eq!(feature("merchant.risk"), (Value::Null, FeatureStatus::Missing));
    assert_eq!(feature("derived.ratio"), (Value::Null, FeatureStatus::Null));
}

#[tokio::test]
async fn a_batch_is_one_read_of_the_store() {
    let bench = Bench::with_model().await;
    let instances = vec![inputs(C1), inputs(STRANGER), inputs(C1)];
    let request = BatchPredictRequest {
        instances,
        explain: Some(true),
        ..BatchPredictRequest::default()
    };
    let answers = bench.gateway.batch_predict("fraud", request).await.unwrap().predictions;
    assert_near(&answers[0].prediction, sigmoid(4.25));
    assert_near(&answers[1].prediction, sigmoid(8.0));
    assert_eq!(answers[0].prediction, answers[2].prediction);
    assert_ne!(answers[0].request_id, answers[2].request_id);
    let reads = bench.store.reads.lock().unwrap();
    assert_eq!(reads.len(), 1);
    assert_eq!(
        reads[0]
            .entities
            .iter()
            .map(|column| column.name.as_str())
            .collect::<Vec<_>>(),
        ["card_id", "merchant_id"]
    );
}

#[tokio::test]
async fn a_large_batch_is_scored_like_its_rows() {
    let bench = Bench::with_model().await;
    let amount = |row: usize| format!(r#"{{"card_id":"c1","merchant_id":"m1","amount":{row}}}"#);
    // Beyond the inline budget, so that the blocking pool runs it.
    let instances = (0..9_000).map(|row| inputs(&amount(row))).collect();
    let request = BatchPredictRequest {
        instances,
        deadline_ms: Some(60_000),
        explain: Some(true),
        ..BatchPredictRequest::default()
    };
    let answers = bench.gateway.batch_predict("fraud", request).await.unwrap().predictions;
    let alone = bench.predict(&amount(3)).await.unwrap();
    assert_eq!(answers[3].prediction, alone.prediction);
}

#[tokio::test]
async fn a_prediction_as_of_a_moment_reads_as_of_it() {
    let bench = Bench::with_model().await;
    let as_of = EventTime::from_micros(NOW - 1);
    let answer = bench
        .gateway
        .predict(
            "fraud",
            PredictRequest {
                as_of: Some(as_of),
                ..request(C1)
            },
        )
        .await
        .unwrap();
    assert_eq!(answer.as_of, as_of);
    assert_eq!(bench.store.reads.lock().unwrap()[0].as_of, Some(as_of));
}

#[tokio::test]
async fn a_model_of_inputs_alone_reads_nothing() {
    let bench = Bench::open().await;
    bench.store.apply(|snapshot| {
        let definition = &mut snapshot.models[0].definition;
        definition.features = vec![from_input("amount", DataType::F64); 1];
        definition.features.extend((0..4).map(|place| {
            let name = format!("copy_{place}");
            from_derived(&name, DataType::F64)
        }));
        definition.derived = (0..4)
            .map(|place| support::derived(&format!("copy_{place}"), "amount", DataType::F64))
            .collect();
        definition.derived_needs.clear();
    });
    bench.register("matrix_unnamed").await.unwrap();
    let answer = bench
        .predict(r#"{"card_id":"c1","merchant_id":"m1","amount":0.5}"#)
        .await
        .unwrap();
    assert_near(&answer.prediction, sigmoid(2.5));
    assert_eq!(answer.as_of, EventTime::from_micros(NOW));
    assert!(bench.store.reads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn tensors_per_feature_are_fed_by_their_columns() {
    let bench = Bench::open().await;
    bench.register("columns").await.unwrap();
    bench.fill();
    assert_near(&bench.predict(C1).await.unwrap().prediction, 4.25);
}

#[tokio::test]
async fn a_null_where_the_tensor_has_none_is_the_requests_fault() {
    let bench = Bench::open().await;
    bench.register("columns").await.unwrap();
    // The store is free to answer null where the definition promises none; the request must not be scored on a 0.
    bench.store.set("card.n_1h", "c1", Value::Null, 60);
    let error = bench.predict(C1).await.unwrap_err();
    assert!(matches!(&error, ModelGatewayError::InvalidRequest { .. }), "{error}");
    assert!(error.to_string().starts_with("feature `card.n_1h` is null"), "{error}");
}

#[tokio::test]
async fn text_reaches_a_text_tensor_and_a_label_comes_back() {
    let bench = Bench::open().await;
    bench.store.apply(|snapshot| {
        let definition = &mut snapshot.models[0].definition;
        definition.features = vec![from_derived("country", DataType::String)];
        definition.derived = vec![support::derived(
            "country",
            "coalesce(merchant.country, 'none')",
            DataType::String,
        )];
        definition.derived_needs = vec!["merchant.country".parse().unwrap()];
    });
    bench.register("text").await.unwrap();
    bench
        .store
        .set("merchant.country", "m1", Value::String("대한민국".to_owned()), 1);
    assert_eq!(bench.predict(C1).await.unwrap().prediction, "대한민국");
    assert_eq!(bench.predict(STRANGER).await.unwrap().prediction, "none");
}

#[tokio::test]
async fn a_wrong_input_is_named_before_anything_is_read() {
    let bench = Bench::with_model().await;
    let error = bench
        .predict(r#"{"card_id":"c1","merchant_id":"m1","amount":"8"}"#)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "input `amount` is the text `8`, expected f64: send a number"
    );
    assert!(bench.store.reads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn unknown_models_and_versions_are_named_with_what_there_is() {
    let bench = Bench::with_model().await;
    let error = |model: &'static str| {
        let gateway = bench.gateway.clone();
        async move { gateway.predict(model, request(C1)).await.unwrap_err().to_string() }
    };
    assert_eq!(error("frod").await, "unknown model `frod`: did you mean `fraud`?");
    assert_eq!(
        error("fraud@9").await,
        "unknown model `fraud@9`: did you mean `fraud@1`?"
    );
}

#[tokio::test]
async fn a_model_without_a_version_says_how_to_register_one() {
    let bench = Bench::open().await;
    let error = bench.predict(C1).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "model `fraud` has no registered version: `ondol model register fraud model.onnx`"
    );
}

#[tokio::test]
async fn a_pinned_version_scores_beside_the_newest() {
    let bench = Bench::with_model().await;
    bench.register("columns").await.unwrap();
    assert_near(&bench.predict(C1).await.unwrap().prediction, 4.25);
    let pinned = bench.gateway.predict("fraud@1", request(C1)).await.unwrap();
    assert_near(&pinned.prediction, sigmoid(4.25));
    assert_eq!(pinned.model.version, 1);
}

#[tokio::test]
async fn a_new_definition_does_not_change_how_a_registered_version_is_scored() {
    let bench = Bench::with_model().await;
    bench.store.apply(|snapshot| {
        snapshot.models[0].version = 4;
        snapshot.models[0].definition.features.reverse();
    });
    assert_eq!(bench.gateway.models().await.unwrap()[0].features[0], "derived.ratio");
    assert_near(&bench.predict(C1).await.unwrap().prediction, sigmoid(4.25));
}

#[tokio::test]
async fn a_promoted_view_is_served_from_the_next_snapshot_on() {
    let bench = Bench::with_model().await;
    bench.predict(C1).await.unwrap();
    bench.store.apply(|snapshot| snapshot.views[0].version = 2);
    bench.gateway.models().await.unwrap();
    let answer = bench.predict(C1).await.unwrap();
    assert_eq!(
        answer.features["card.n_1h"].view.as_ref().unwrap().to_string(),
        "card@2"
    );
}

#[tokio::test]
async fn more_requests_than_the_bound_are_refused_at_once() {
    let bench = Bench::open_with(|config| {
        config.max_in_flight = 1;
        config.max_queue_per_model = 0;
        // Of a request that waits for this test.
        config.deadline_ms = 60_000;
    })
    .await;
    bench.register("matrix").await.unwrap();
    let held = bench.store.gate.acquire_many(1_000).await.unwrap();
    let gateway = bench.gateway.clone();
    let waiting = tokio::spawn(async move { gateway.predict("fraud", request(C1)).await });
    while bench.store.reads.lock().unwrap().is_empty() {
        assert!(!waiting.is_finished(), "the request did not wait for the store");
        tokio::task::yield_now().await;
    }
    let error = bench.predict(C1).await.unwrap_err();
    assert!(matches!(&error, ModelGatewayError::Overloaded { .. }), "{error}");
    drop(held);
    assert!(waiting.await.unwrap().is_ok());
    assert!(bench.predict(C1).await.is_ok());
}

#[tokio::test]
async fn a_slow_store_is_named_when_the_deadline_passes() {
    let bench = Bench::with_model().await;
    let _held = bench.store.gate.acquire_many(1_000).await.unwrap();
    let error = bench
        .gateway
        .predict(
            "fraud",
            PredictRequest {
                deadline_ms: Some(20),
                ..request(C1)
            },
        )
        .await
        .unwrap_err();
    assert_eq!(
        error,
        ModelGatewayError::DeadlineExceeded {
            deadline_ms: 20,
            stage: "features".to_owned()
        }
    );
}

#[tokio::test]
async fn without_the_store_a_request_is_unavailable_and_says_why() {
    let bench = Bench::with_model().await;
    bench.store.down.store(true, Ordering::SeqCst);
    let error = bench.predict(C1).await.unwrap_err();
    assert!(matches!(&error, ModelGatewayError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("it is down"), "{error}");
}

#[tokio::test]
async fn a_batch_beyond_the_bound_or_without_rows_is_refused() {
    let bench = Bench::open_with(|config| config.max_batch_rows = 1).await;
    bench.register("matrix").await.unwrap();
    let batch = |count: usize| BatchPredictRequest {
        instances: vec![inputs(C1); count],
        explain: Some(true),
        ..BatchPredictRequest::default()
    };
    let error = bench
        .gateway
        .batch_predict("fraud", batch(2))
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(error, "the batch has 2 rows, at most 1 are taken: send it in parts");
    assert!(bench.gateway.batch_predict("fraud", batch(0)).await.is_err());
}

#[tokio::test]
async fn a_list_is_scored_served_and_logged() {
    let bench = Bench::of_recent(3).await;
    bench.register("list").await.unwrap();
    let recent = Value::List(vec![Value::F64(4.0), Value::F64(0.5)]);
    bench.store.set("card.recent", "c1", recent.clone(), 60);
    let prediction = bench.predict(C1).await.unwrap();
    assert_near(&prediction.prediction, 4.5);
    let served = &prediction.features["card.recent"];
    assert_eq!((&served.value, served.status), (&recent, FeatureStatus::Fresh));
    let stranger = bench.predict(STRANGER).await.unwrap();
    assert_near(&stranger.prediction, 0.0);
    assert_eq!(stranger.features["card.recent"].status, FeatureStatus::Missing);
    let logged = bench.ingest.wait_for(2).await;
    assert_eq!(logged[0]["vector"].to_string(), r#"{"card.recent":[4.0,0.5]}"#);
    assert_eq!(logged[1]["vector"].to_string(), r#"{"card.recent":null}"#);
}

#[tokio::test]
async fn a_list_that_has_outgrown_the_model_is_an_error_that_names_it() {
    let bench = Bench::of_recent(3).await;
    bench.register("list").await.unwrap();
    let recent = Value::List(vec![Value::F64(1.0); 4]);
    bench.store.set("card.recent", "c1", recent, 60);
    let error = bench.predict(C1).await.unwrap_err().to_string();
    assert!(
        error.contains("feature `card.recent` has 4 values now and the model takes 3"),
        "{error}"
    );
}
