//! Two gateways on one PostgreSQL: each sees what the other registered, routed and measured.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway_api::wire::{Limits, PromoteRequest, Routing, RoutingAction, RoutingChange, Share, Target};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use ondol_testkit::services;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use support::{Bench, C1, FakeStore, artifact, request};
use tempfile::TempDir;

/// Two replicas of a gateway, and the name of a model that is this test's own.
async fn two() -> (String, TempDir, Bench, Bench) {
    let name = services::unique_name("fraud");
    let store = FakeStore::new(support::snapshot());
    store.apply(|snapshot| snapshot.models[0].definition.name = name.clone());
    let artifacts = tempfile::tempdir().unwrap();
    let a = Bench::replica(&store, artifacts.path()).await;
    let b = Bench::replica(&store, artifacts.path()).await;
    (name, artifacts, a, b)
}

async fn register(bench: &Bench, model: &str, fixture: &str) {
    bench.register_as(model, artifact(fixture)).await.unwrap();
}

/// Waits until `bench` scores `model` by `version`.
async fn serves(bench: &Bench, model: &str, version: u32) {
    loop {
        match bench.gateway.predict(model, request(C1)).await {
            Ok(answer) if answer.model.version == version => return,
            Ok(_) | Err(ModelGatewayError::NothingRegistered { .. } | ModelGatewayError::UnknownModel { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// All requests to version 2, beside the champion 1.
fn canary() -> Routing {
    Routing {
        aliases: BTreeMap::from([("champion".to_owned(), 1), ("canary".to_owned(), 2)]),
        split: vec![Share {
            to: Target::Alias("canary".to_owned()),
            percent: 100.0,
        }],
        limits: Limits {
            min_requests: Some(30),
            max_error_rate: Some(0.5),
            ..Limits::default()
        },
        ..Routing::default()
    }
}

#[tokio::test]
async fn what_one_replica_registers_and_routes_the_other_serves() {
    let (name, _artifacts, a, b) = two().await;
    register(&a, &name, "matrix").await;
    serves(&b, &name, 1).await;
    register(&b, &name, "matrix_double").await;
    serves(&a, &name, 2).await;
    a.set_routing(&name, canary()).await.unwrap();
    serves(&b, &format!("{name}@champion"), 1).await;
    // What the other wrote a moment ago is what a change is held against.
    let change = RoutingChange {
        routing: canary(),
        expected_revision: Some(0),
        ..RoutingChange::default()
    };
    let error = b.gateway.set_routing(&name, change).await.unwrap_err();
    assert!(
        matches!(error, ModelGatewayError::RevisionConflict { current: 1, .. }),
        "{error}"
    );
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_promotion_looks_at_the_traffic_of_all_replicas() {
    let (name, _artifacts, a, b) = two().await;
    register(&a, &name, "matrix").await;
    register(&a, &name, "matrix_double").await;
    a.set_routing(&name, canary()).await.unwrap();
    serves(&b, &name, 2).await;
    for _ in 0..20 {
        a.gateway.predict(&name, request(C1)).await.unwrap();
    }
    let promote = || b.gateway.promote(&name, PromoteRequest::default());
    // `serves` asked b at least once, and a was asked 20 times: not yet 30.
    let error = promote().await.unwrap_err().to_string();
    assert!(error.contains("`min_requests` asks for 30"), "{error}");
    for _ in 0..15 {
        a.gateway.predict(&name, request(C1)).await.unwrap();
    }
    let promoted = loop {
        match promote().await {
            Ok(promoted) => break promoted,
            Err(ModelGatewayError::LimitsNotMet { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((promoted.revision, promoted.action), (2, RoutingAction::Promote));
    assert_eq!(promoted.effective, BTreeMap::from([(2, 100.0)]));
    let report = b.gateway.routing_report(&name).await.unwrap();
    assert!(
        report.live.iter().any(|live| live.version == 2 && live.requests >= 35),
        "{report:?}"
    );
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn of_two_changes_of_one_revision_at_the_same_moment_one_is_refused() {
    let (name, _artifacts, a, b) = two().await;
    register(&a, &name, "matrix").await;
    register(&a, &name, "matrix_double").await;
    let change = |bench: &Bench| {
        let (gateway, name) = (Arc::clone(&bench.gateway), name.clone());
        async move {
            let change = RoutingChange {
                routing: canary(),
                expected_revision: Some(0),
                ..RoutingChange::default()
            };
            gateway.set_routing(&name, change).await
        }
    };
    let (first, second) = tokio::join!(change(&a), change(&b));
    let kept = [&first, &second].iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(kept, 1, "{first:?} {second:?}");
    assert_eq!(a.gateway.routing_history(&name).await.unwrap().len(), 1);
    a.stop().await;
    b.stop().await;
}
