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
use ondol_wire::ContractError as _;
use std::sync::atomic::Ordering;
use support::{Bench, C1, STRANGER, derived, from_derived, from_input, request};

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
    assert_eq!(logged["degraded"][0]["trouble"], "unavailable");

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

/// Version 1 reads no features (it scores five times the amount), version 2 is `matrix.onnx` of the vector; the views and the
/// policy are what `change` makes of them.
async fn with_a_stand_in(change: impl FnOnce(&mut Snapshot)) -> Bench {
    let bench = Bench::open_with(|config| config.deadline_ms = 120_000).await;
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
        change(snapshot);
    })
    .await;
    bench.register("matrix").await.unwrap();
    bench
}

#[tokio::test]
async fn an_earlier_version_stands_in_when_the_policy_names_it() {
    let bench = with_a_stand_in(|snapshot| {
        policy(snapshot).unavailable = Remedy::Version(1);
        policy(snapshot).missing = Remedy::Version(1);
    })
    .await;
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

/// What is wrong with a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Stale,
    Missing,
    Slow,
    Down,
}

/// What comes of a request whose lookup went wrong.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// Scored by a version, whose sum this is; and what `card.spend_24h` was served as, unless that version reads nothing.
    Scored(u32, f32, Option<(f64, bool)>),
    /// An error of this status and code.
    Refused(u16, &'static str),
}

const WITH_DEFAULTS: Option<(f64, bool)> = Some((-2.0, false));

/// Trouble by remedy. Of the vector (n_1h, spend_24h, risk, amount 8, amount / spend_24h) the first two have the defaults 3
/// and -2, and the risk of m1 is 0.25.
#[rustfmt::skip]
const TABLE: [(Wrong, Remedy, Outcome); 16] = [
    // What the read gives already holds the defaults: served, whatever the policy calls it.
    (Wrong::Stale,   Remedy::Serve,      Outcome::Scored(2, 5.25, WITH_DEFAULTS)),
    (Wrong::Stale,   Remedy::Default,    Outcome::Scored(2, 5.25, WITH_DEFAULTS)),
    (Wrong::Stale,   Remedy::Version(1), Outcome::Scored(1, 40.0, None)),
    (Wrong::Stale,   Remedy::Reject,     Outcome::Refused(503, "features-rejected")),
    (Wrong::Missing, Remedy::Serve,      Outcome::Scored(2, 5.25, WITH_DEFAULTS)),
    (Wrong::Missing, Remedy::Default,    Outcome::Scored(2, 5.25, WITH_DEFAULTS)),
    (Wrong::Missing, Remedy::Version(1), Outcome::Scored(1, 40.0, None)),
    (Wrong::Missing, Remedy::Reject,     Outcome::Refused(422, "features-rejected")),
    // Nothing is known: null, or the declared defaults in the place of an answer.
    (Wrong::Slow,    Remedy::Serve,      Outcome::Scored(2, 8.0, Some((f64::NAN, false)))),
    (Wrong::Slow,    Remedy::Default,    Outcome::Scored(2, 5.0, Some((-2.0, true)))),
    (Wrong::Slow,    Remedy::Version(1), Outcome::Scored(1, 40.0, None)),
    (Wrong::Slow,    Remedy::Reject,     Outcome::Refused(504, "deadline-exceeded")),
    (Wrong::Down,    Remedy::Serve,      Outcome::Scored(2, 8.0, Some((f64::NAN, false)))),
    (Wrong::Down,    Remedy::Default,    Outcome::Scored(2, 5.0, Some((-2.0, true)))),
    (Wrong::Down,    Remedy::Version(1), Outcome::Scored(1, 40.0, None)),
    (Wrong::Down,    Remedy::Reject,     Outcome::Refused(503, "unavailable")),
];

impl Wrong {
    fn trouble(self) -> Trouble {
        match self {
            Self::Stale => Trouble::Stale,
            Self::Missing => Trouble::Missing,
            Self::Slow | Self::Down => Trouble::Unavailable,
        }
    }

    fn status(self) -> FeatureStatus {
        match self {
            Self::Stale => FeatureStatus::Stale,
            Self::Missing => FeatureStatus::Missing,
            Self::Slow | Self::Down => FeatureStatus::Unavailable,
        }
    }

    fn card(self) -> &'static str {
        match self {
            Self::Stale => "old",
            Self::Missing => "c9",
            Self::Slow | Self::Down => "c1",
        }
    }

    /// A policy that says `remedy` of this, and serves in spite of the rest.
    fn policy(self, remedy: Remedy) -> ModelPolicy {
        let mut policy = ModelPolicy::default();
        match self {
            Self::Stale => policy.stale = remedy,
            Self::Missing => policy.missing = remedy,
            Self::Slow | Self::Down => policy.unavailable = remedy,
        }
        policy.lookup_ms = (self == Self::Slow).then_some(30);
        policy
    }

    /// Asks `bench` while this is wrong.
    async fn ask(self, bench: &Bench) -> Result<Prediction, ModelGatewayError> {
        bench.store.down.store(self == Self::Down, Ordering::SeqCst);
        let held = if self == Self::Slow { 1_000 } else { 0 };
        let held = bench.store.gate.acquire_many(held).await.unwrap();
        let card = self.card();
        let asked = bench
            .predict(&format!(r#"{{"card_id":"{card}","merchant_id":"m1","amount":8}}"#))
            .await;
        drop(held);
        bench.store.down.store(false, Ordering::SeqCst);
        asked
    }
}

/// Troubles and their remedies, as `degraded` of an answer or a decision lists them.
fn listed(degraded: &serde_json::Value) -> Vec<(String, String)> {
    let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap().to_owned();
    let entries = degraded.as_array().into_iter().flatten();
    entries
        .map(|entry| (text(entry, "trouble"), text(entry, "remedy")))
        .collect()
}

#[tokio::test]
async fn every_trouble_meets_every_remedy_as_the_table_says() {
    let bench = with_a_stand_in(|snapshot| {
        card(snapshot).ttl_us = Some(3_600_000_000);
        card(snapshot).features[0].default = Some(FeatureDefault(Value::I64(3)));
        card(snapshot).features[1].default = Some(FeatureDefault(Value::I64(-2)));
    })
    .await;
    bench.store.set("card.n_1h", "old", Value::I64(7), 7_200);
    bench.store.set("card.spend_24h", "old", Value::F64(5.0), 7_200);
    let mut decisions = 0;
    for (wrong, remedy, expected) in TABLE {
        let case = format!("{wrong:?} with {remedy}");
        apply(&bench, |snapshot| *policy(snapshot) = wrong.policy(remedy)).await;
        match (wrong.ask(&bench).await, expected) {
            (Ok(answer), Outcome::Scored(version, sum, spend)) => {
                decisions += 1;
                near(&answer, sum);
                assert_eq!(answer.model.version, version, "{case}");
                let is_plain = matches!(
                    (wrong, remedy),
                    (Wrong::Stale | Wrong::Missing, Remedy::Serve | Remedy::Default)
                );
                let degraded = if is_plain {
                    Vec::new()
                } else {
                    vec![(wrong.trouble().name().to_owned(), remedy.to_string())]
                };
                assert_eq!(
                    listed(&serde_json::to_value(&answer.degraded).unwrap()),
                    degraded,
                    "{case}"
                );
                match spend {
                    None => assert!(!answer.features.contains_key("card.spend_24h"), "{case}"),
                    Some((value, defaulted)) => {
                        let value = if value.is_nan() { Value::Null } else { Value::F64(value) };
                        assert_eq!(
                            status(&answer, "card.spend_24h"),
                            (value, wrong.status(), defaulted),
                            "{case}"
                        );
                    }
                }
                let logged = bench.ingest.wait_for(decisions).await.remove(decisions - 1);
                assert_eq!(logged["model_version"], version, "{case}");
                let logged: Option<_> = serde_json::from_value(logged["degraded"].clone()).unwrap();
                assert_eq!(listed(&logged.unwrap_or_default()), degraded, "{case}");
            }
            (Err(error), Outcome::Refused(status, code)) => {
                assert_eq!(
                    (error.status().as_u16(), error.code()),
                    (status, code),
                    "{case}: {error}"
                );
                if let ModelGatewayError::FeaturesRejected { trouble, detail, .. } = &error {
                    assert_eq!(
                        (*trouble, detail.as_str()),
                        (wrong.trouble(), "card.n_1h, card.spend_24h"),
                        "{case}"
                    );
                }
            }
            (found, _) => panic!("{case}: {found:?} is not {expected:?}"),
        }
        // Nothing of it stays: who has all features is scored with them.
        apply(&bench, |snapshot| policy(snapshot).lookup_ms = None).await;
        let answer = bench.predict(C1).await.unwrap();
        near(&answer, 4.25);
        assert_eq!((answer.model.version, answer.degraded.len()), (2, 0), "{case}");
        decisions += 1;
    }
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
async fn an_answer_has_its_features_when_asked_for_them() {
    let bench = Bench::with_model().await;
    for (explain, is_asked) in [(None, false), (Some(false), false), (Some(true), true)] {
        let asked = PredictRequest { explain, ..request(C1) };
        let answer = bench.gateway.predict("fraud", asked).await.unwrap();
        near(&answer, 4.25);
        assert_eq!(answer.features.is_empty(), !is_asked);
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(text.contains("features"), is_asked, "{text}");
    }
}
