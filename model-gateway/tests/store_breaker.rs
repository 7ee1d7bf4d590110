//! A feature store that does not answer is not asked for a while, by any model; policies apply at once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::{FeatureStatus, ModelPolicy, Remedy};
use std::sync::Arc;
use std::time::Duration;
use support::{Bench, C1, FakeStore, snapshot};

/// A gateway whose breaker opens after three lookups of 20 ms, for `open_ms`, and whose model has the answer of `remedy`
/// without the store.
async fn bench(remedy: Remedy, open_ms: u64) -> Bench {
    let mut definitions = snapshot();
    definitions.models[0].definition.policy = ModelPolicy {
        unavailable: remedy,
        lookup_ms: Some(20),
        ..ModelPolicy::default()
    };
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let bench = Bench::open_in(folder, FakeStore::new(definitions), |config| {
        config.deadline_ms = 120_000;
        config.store_breaker.timeouts = 3;
        config.store_breaker.slow_ms = 1;
        config.store_breaker.open_ms = open_ms;
        config.store_breaker.max_open_ms = open_ms;
    })
    .await;
    bench.register("matrix").await.unwrap();
    bench.fill();
    bench
}

/// What `/readyz` says of the store, which never keeps traffic out.
fn note(bench: &Bench) -> Option<String> {
    let checks = bench.health.checks();
    let check = checks.into_iter().find(|check| check.name == "gateway-feature-store");
    let check = check.unwrap();
    assert!(check.ready);
    check.reason
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_not_waited_for_again_and_again() {
    let bench = bench(Remedy::Serve, 3_600_000).await;
    assert_eq!(note(&bench), None);
    let _silent = bench.store.gate.acquire_many(1_000).await.unwrap();
    while note(&bench).is_none() {
        let answer = bench.predict(C1).await.unwrap();
        assert!(answer.degraded[0].detail.contains("deadline"), "{answer:?}");
    }
    let asked = bench.store.reads.lock().unwrap().len();
    assert!(asked >= 3);
    for _ in 0..5 {
        let answer = bench.predict(C1).await.unwrap();
        assert!(
            answer.degraded[0].detail.contains("did not answer 3 lookups in a row"),
            "{answer:?}"
        );
        assert_eq!(answer.features["card.n_1h"].status, FeatureStatus::Unavailable);
    }
    assert_eq!(bench.store.reads.lock().unwrap().len(), asked);
}

#[tokio::test]
async fn a_model_that_needs_the_store_is_refused_at_once_meanwhile() {
    let bench = bench(Remedy::Reject, 3_600_000).await;
    let _silent = bench.store.gate.acquire_many(1_000).await.unwrap();
    while note(&bench).is_none() {
        bench.predict(C1).await.unwrap_err();
    }
    let refused = bench.predict(C1).await.unwrap_err();
    assert!(matches!(refused, ModelGatewayError::Unavailable { .. }), "{refused}");
    assert!(refused.to_string().contains("did not answer 3 lookups"), "{refused}");
}

#[tokio::test]
async fn a_store_that_answers_again_is_asked_again() {
    let bench = bench(Remedy::Serve, 5).await;
    let silent = bench.store.gate.acquire_many(1_000).await.unwrap();
    while note(&bench).is_none() {
        bench.predict(C1).await.unwrap();
    }
    drop(silent);
    loop {
        let answer = bench.predict(C1).await.unwrap();
        if answer.degraded.is_empty() {
            assert_eq!(answer.features["card.n_1h"].status, FeatureStatus::Fresh);
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(note(&bench), None);
    assert!(bench.predict(C1).await.unwrap().degraded.is_empty());
}

#[tokio::test]
async fn a_store_that_answers_errors_is_asked_all_the_same() {
    let bench = bench(Remedy::Serve, 3_600_000).await;
    bench.store.down.store(true, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..10 {
        assert!(!bench.predict(C1).await.unwrap().degraded.is_empty());
    }
    bench.store.down.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(bench.predict(C1).await.unwrap().degraded.is_empty());
}
