//! What a model's policy makes of features that are stale, missing, unavailable or changed; and that an answer says so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway_api::wire::{PredictRequest, Prediction, Trouble};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use ondol_vocabulary::{DataType, FeatureDefault, FeatureStatus, ModelPolicy, Remedy, Snapshot, Value, ViewDefinition};
use std::sync::atomic::Ordering;
use support::{Bench, derived, from_derived, from_input, request};

const C1: &str = r#"{"card_id":"c1","merchant_id":"m1","amount":8}"#;
const STRANGER: &str = r#"{"card_id":"c9","merchant_id":"m9","amount":8}"#;

/// A bench with a registered model whose definitions then become what `change` makes of them.
async fn bench(change: impl FnOnce(&mut Snapshot)) -> Bench {
    let bench = Bench::with_model().await;
    apply(&bench, change).await;
    bench
}

/// Applies a change, and waits until the gateway follows it.
async fn apply(bench: &Bench, change: impl FnOnce(&mut Snapshot)) {
    bench.store.apply(change);
    let version = bench.store.snapshot.lock().unwrap().version;
    while bench.gateway.definitions().current().version < version {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

fn policy(snapshot: &mut Snapshot) -> &mut ModelPolicy {
    &mut snapshot.models[0].definition.policy
}

fn card(snapshot: &mut Snapshot) -> &mut ViewDefinition {
    &mut snapshot.views[0].definition
}

fn near(prediction: &Prediction, sum: f32) {
    let expected = f64::from(1.0 / (1.0 + (-sum).exp()));
    let found = prediction.prediction.as_f64().unwrap();
    assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
}

fn status(prediction: &Prediction, feature: &str) -> (Value, FeatureStatus, bool) {
    let served = &prediction.features[feature];
    (served.value.clone(), served.status, served.defaulted)
}

#[tokio::test]
async fn a_dead_store_costs_the_features_and_not_the_answer_where_the_policy_serves() {
    let bench = bench(|snapshot| policy(snapshot).unavailable = Remedy::Serve).await;
    bench.store.down.store(true, Ordering::SeqCst);
    let answer = bench.predict(C1).await.unwrap();
    // NaN in the model's place for nothing: only the amount counts.
    near(&answer, 8.0);
    assert_eq!(
        status(&answer, "card.n_1h"),
        (Value::Null, FeatureStatus::Unavailable, false)
    );
    assert_eq!(status(&answer, "merchant.risk").1, FeatureStatus::Unavailable);
    assert_eq!(status(&answer, "amount").1, FeatureStatus::Fresh);
    assert_eq!(answer.degraded.len(), 1);
    assert_eq!(answer.degraded[0].trouble, Trouble::Unavailable);
    assert_eq!(answer.degraded[0].remedy, "serve");
    let logged = bench.ingest.wait_for(1).await.remove(0);
    let degraded: serde_json::Value = serde_json::from_str(logged["degraded"].as_str().unwrap()).unwrap();
    assert_eq!(degraded[0]["trouble"], "unavailable");

    bench.store.down.store(false, Ordering::SeqCst);
    let answer = bench.predict(C1).await.unwrap();
    near(&answer, 4.25);
    assert!(answer.degraded.is_empty());
}

#[tokio::test]
async fn a_dead_store_is_stood_in_for_by_declared_defaults() {
    let bench = bench(|snapshot| {
        policy(snapshot).unavailable = Remedy::Default;
        card(snapshot).features[0].default = Some(FeatureDefault(Value::I64(3)));
        card(snapshot).features[1].default = Some(FeatureDefault(Value::I64(-2)));
    })
    .await;
    bench.store.down.store(true, Ordering::SeqCst);
    let answer = bench.predict(C1).await.unwrap();
    // 3 - 2 + 8 + 8 / -2: derived features see the defaults.
    near(&answer, 5.0);
    assert_eq!(
        status(&answer, "card.n_1h"),
        (Value::I64(3), FeatureStatus::Unavailable, true)
    );
    assert_eq!(
        status(&answer, "card.spend_24h"),
        (Value::F64(-2.0), FeatureStatus::Unavailable, true)
    );
    assert_eq!(
        status(&answer, "merchant.risk"),
        (Value::Null, FeatureStatus::Unavailable, false)
    );
    assert_eq!(status(&answer, "derived.ratio").0, Value::F64(-4.0));
    // A default that declares what the feature is now served with is a change of the feature, and said to be one.
    let troubles: Vec<Trouble> = answer.degraded.iter().map(|found| found.trouble).collect();
    assert_eq!(troubles, [Trouble::Changed, Trouble::Unavailable]);
}

#[tokio::test]
async fn a_slow_store_is_not_waited_for_beyond_the_lookups_share() {
    let bench = bench(|snapshot| {
        policy(snapshot).unavailable = Remedy::Serve;
        policy(snapshot).lookup_ms = Some(30);
    })
    .await;
    let held = bench.store.gate.acquire_many(1_000).await.unwrap();
    let answer = bench.predict(C1).await.unwrap();
    near(&answer, 8.0);
    assert!(answer.degraded[0].detail.contains("features"), "{:?}", answer.degraded);
    drop(held);
    near(&bench.predict(C1).await.unwrap(), 4.25);
}

#[tokio::test]
async fn a_slow_store_costs_half_of_the_deadline_at_most_where_there_is_an_answer_without_it() {
    let bench = bench(|snapshot| policy(snapshot).unavailable = Remedy::Serve).await;
    let _held = bench.store.gate.acquire_many(1_000).await.unwrap();
    let hasty = PredictRequest {
        deadline_ms: Some(2_000),
        ..request(C1)
    };
    near(&bench.gateway.predict("fraud", hasty).await.unwrap(), 8.0);
}

#[tokio::test]
async fn without_a_policy_a_dead_store_is_an_error() {
    let bench = Bench::with_model().await;
    bench.store.down.store(true, Ordering::SeqCst);
    let error = bench.predict(C1).await.unwrap_err();
    assert!(matches!(error, ModelGatewayError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn an_earlier_version_stands_in_when_the_policy_names_it() {
    let bench = Bench::open().await;
    bench.fill();
    let fraud = bench.store.snapshot.lock().unwrap().models[0].definition.clone();
    apply(&bench, |snapshot| {
        let definition = &mut snapshot.models[0].definition;
        definition.features = vec![from_input("amount", DataType::F64)];
        definition
            .features
            .extend((0..4).map(|place| from_derived(&format!("copy_{place}"), DataType::F64)));
        definition.derived = (0..4)
            .map(|place| derived(&format!("copy_{place}"), "amount", DataType::F64))
            .collect();
        definition.derived_needs.clear();
    })
    .await;
    bench.register("matrix_unnamed").await.unwrap();
    apply(&bench, |snapshot| {
        snapshot.models[0].version = 4;
        snapshot.models[0].definition = fraud;
        policy(snapshot).unavailable = Remedy::Version(1);
        policy(snapshot).missing = Remedy::Version(1);
    })
    .await;
    bench.register("matrix").await.unwrap();
    let answer = bench.predict(C1).await.unwrap();
    assert_eq!(
        (answer.model.to_string().as_str(), answer.degraded.len()),
        ("fraud@2", 0)
    );

    let stranger = bench.predict(STRANGER).await.unwrap();
    near(&stranger, 40.0);
    assert_eq!(stranger.model.to_string(), "fraud@1");
    assert_eq!(stranger.degraded[0].trouble, Trouble::Missing);
    assert_eq!(stranger.degraded[0].remedy, "@1");
    assert!(
        stranger.degraded[0].detail.contains("card.n_1h"),
        "{:?}",
        stranger.degraded
    );

    bench.store.down.store(true, Ordering::SeqCst);
    let answer = bench.predict(C1).await.unwrap();
    near(&answer, 40.0);
    assert_eq!(answer.model.to_string(), "fraud@1");
    // The record says who really scored.
    let logged = bench.ingest.wait_for(3).await.remove(2);
    assert_eq!(logged["model_version"], 1);
}

#[tokio::test]
async fn a_stand_in_that_is_not_there_is_an_error_with_its_reason() {
    let bench = bench(|snapshot| policy(snapshot).unavailable = Remedy::Version(9)).await;
    bench.store.down.store(true, Ordering::SeqCst);
    let error = bench.predict(C1).await.unwrap_err().to_string();
    assert!(error.contains("version 9 score instead, which can't"), "{error}");
}

#[tokio::test]
async fn missing_and_stale_values_are_refused_where_the_policy_says_so() {
    let bench = bench(|snapshot| policy(snapshot).missing = Remedy::Reject).await;
    near(&bench.predict(C1).await.unwrap(), 4.25);
    let error = bench.predict(STRANGER).await.unwrap_err();
    let ModelGatewayError::FeaturesRejected { trouble, detail, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(trouble, Trouble::Missing);
    assert_eq!(detail, "card.n_1h, card.spend_24h, merchant.risk");
}

#[tokio::test]
async fn a_feature_that_is_another_than_at_registration_is_never_served_silently() {
    let bench = Bench::with_model().await;
    // Another feature of the view changes nothing for this model.
    apply(&bench, |snapshot| {
        snapshot.views[0].version = 2;
        let mut more = card(snapshot).features[0].clone();
        more.name = "n_2h".to_owned();
        card(snapshot).features.push(more);
    })
    .await;
    assert!(bench.predict(C1).await.unwrap().degraded.is_empty());

    apply(&bench, |snapshot| {
        snapshot.views[0].version = 3;
        card(snapshot).features[1].expression = "sum(amount) over 12h".to_owned();
    })
    .await;
    let answer = bench.predict(C1).await.unwrap();
    near(&answer, 4.25);
    assert_eq!(answer.degraded[0].trouble, Trouble::Changed);
    assert!(
        answer.degraded[0].detail.contains("is sum(amount) over 12h"),
        "{:?}",
        answer.degraded
    );

    apply(&bench, |snapshot| policy(snapshot).changed = Remedy::Reject).await;
    let error = bench.predict(C1).await.unwrap_err();
    assert!(
        matches!(
            error,
            ModelGatewayError::FeaturesRejected {
                trouble: Trouble::Changed,
                ..
            }
        ),
        "{error}"
    );
    // A version that is registered now is of what is served now.
    bench.register("matrix").await.unwrap();
    let answer = bench.predict(C1).await.unwrap();
    assert_eq!((answer.model.version, answer.degraded.len()), (2, 0));
}

#[tokio::test]
async fn an_answer_leaves_its_features_out_when_asked_to() {
    let bench = Bench::with_model().await;
    let terse = PredictRequest {
        explain: Some(false),
        ..request(C1)
    };
    let answer = bench.gateway.predict("fraud", terse).await.unwrap();
    near(&answer, 4.25);
    assert!(answer.features.is_empty());
    assert!(!serde_json::to_string(&answer).unwrap().contains("features"));
}
