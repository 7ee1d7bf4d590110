//! Two gateways on one PostgreSQL: each sees what the other registered, routed and measured.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway_api::wire::{
    Limits, PromoteRequest, RegisterRequest, Routing, RoutingAction, RoutingChange, Share, Target,
};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use ondol_testkit::services;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use support::{Bench, FakeStore, request};

const C1: &str = r#"{"card_id":"c1","merchant_id":"m1","amount":8}"#;

/// A gateway on the shared database, whose artifacts are in `artifacts`. The model's name is this test's own, since the
/// database is shared by tests that run side by side.
async fn replica(store: &Arc<FakeStore>, artifacts: &Path) -> Bench {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let artifacts = artifacts.to_str().unwrap().to_owned();
    Bench::open_in(folder, Arc::clone(store), |config| {
        config.database = services::postgres();
        config.artifacts = artifacts;
        config.catalog_refresh_ms = 20;
        config.deadline_ms = 60_000;
    })
    .await
}

async fn register(bench: &Bench, model: &str, fixture: &str) {
    let request = RegisterRequest {
        artifact: support::artifact(fixture),
        kind: None,
        manifest: None,
    };
    bench.gateway.register(model, request).await.unwrap();
}

async fn set(bench: &Bench, model: &str, routing: Routing) -> u64 {
    let change = RoutingChange {
        routing,
        ..RoutingChange::default()
    };
    bench.gateway.set_routing(model, change).await.unwrap().revision
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
    let name = services::unique_name("fraud");
    let store = FakeStore::new(support::snapshot());
    store.apply(|snapshot| snapshot.models[0].definition.name = name.clone());
    let artifacts = tempfile::tempdir().unwrap();
    let (a, b) = (
        replica(&store, artifacts.path()).await,
        replica(&store, artifacts.path()).await,
    );
    register(&a, &name, "matrix").await;
    serves(&b, &name, 1).await;
    register(&b, &name, "matrix_double").await;
    serves(&a, &name, 2).await;
    set(&a, &name, canary()).await;
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
    let name = services::unique_name("fraud");
    let store = FakeStore::new(support::snapshot());
    store.apply(|snapshot| snapshot.models[0].definition.name = name.clone());
    let artifacts = tempfile::tempdir().unwrap();
    let (a, b) = (
        replica(&store, artifacts.path()).await,
        replica(&store, artifacts.path()).await,
    );
    register(&a, &name, "matrix").await;
    register(&a, &name, "matrix_double").await;
    set(&a, &name, canary()).await;
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
    let name = services::unique_name("fraud");
    let store = FakeStore::new(support::snapshot());
    store.apply(|snapshot| snapshot.models[0].definition.name = name.clone());
    let artifacts = tempfile::tempdir().unwrap();
    let (a, b) = (
        replica(&store, artifacts.path()).await,
        replica(&store, artifacts.path()).await,
    );
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
