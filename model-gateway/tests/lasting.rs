//! What outlives the process: registered versions, the definitions last known, and the decisions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway::catalog::{Catalog, VersionRecord};
use ondol_model_gateway_api::wire::BatchPredictRequest;
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use ondol_testkit::services;
use ondol_vocabulary::Value;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use support::{Bench, C1, FakeStore, inputs};

#[tokio::test]
async fn registered_versions_survive_a_restart() {
    let bench = Bench::with_model().await;
    bench.register("columns").await.unwrap();
    let before = bench.gateway.models().await.unwrap();
    let (folder, store) = (Arc::clone(&bench.folder), Arc::clone(&bench.store));
    let prediction = bench.predict(C1).await.unwrap().prediction;
    bench.stop().await;

    let bench = Bench::open_in(folder, store, |_| {}).await;
    assert_eq!(bench.gateway.models().await.unwrap(), before);
    assert_eq!(bench.predict(C1).await.unwrap().prediction, prediction);
    let pinned = bench.gateway.predict("fraud@1", support::request(C1)).await.unwrap();
    assert_eq!(pinned.model.version, 1);
}

#[tokio::test]
async fn a_gateway_that_was_not_stopped_leaves_everything_behind_all_the_same() {
    let bench = Bench::with_model().await;
    let (folder, store) = (Arc::clone(&bench.folder), Arc::clone(&bench.store));
    // No drain and no close, as after a kill: what `register` acknowledged is on disk.
    std::mem::forget(bench);
    let bench = Bench::open_in(folder, store, |_| {}).await;
    assert!(bench.predict(C1).await.is_ok());
}

#[tokio::test]
async fn without_the_store_a_restart_goes_on_with_the_definitions_last_known() {
    let bench = Bench::with_model().await;
    let (folder, store) = (Arc::clone(&bench.folder), Arc::clone(&bench.store));
    bench.stop().await;
    store.down.store(true, Ordering::SeqCst);

    let bench = Bench::open_in(folder, Arc::clone(&store), |_| {}).await;
    assert!(bench.health.is_ready());
    let error = bench.predict(C1).await.unwrap_err();
    assert!(matches!(&error, ModelGatewayError::Unavailable { .. }), "{error}");
    store.down.store(false, Ordering::SeqCst);
    assert!(bench.predict(C1).await.is_ok());
}

#[tokio::test]
async fn a_first_start_without_the_store_waits_for_it() {
    let store = FakeStore::new(support::snapshot());
    store.down.store(true, Ordering::SeqCst);
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let bench = Bench::open_in(folder, Arc::clone(&store), |_| {}).await;
    assert!(!bench.health.is_ready());
    store.down.store(false, Ordering::SeqCst);
    while !bench.health.is_ready() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(bench.register("matrix").await.is_ok());
}

#[tokio::test]
async fn an_artifact_that_was_changed_on_disk_is_not_run() {
    let bench = Bench::with_model().await;
    let (folder, store) = (Arc::clone(&bench.folder), Arc::clone(&bench.store));
    bench.stop().await;
    let file = std::fs::read_dir(folder.path().join("artifacts"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(file, support::artifact("columns")).unwrap();

    let bench = Bench::open_in(folder, store, |_| {}).await;
    let error = bench.predict(C1).await.unwrap_err();
    assert!(
        error.to_string().contains("has changed since it was registered"),
        "{error}"
    );
}

#[tokio::test]
async fn every_decision_is_logged_with_what_was_served() {
    let bench = Bench::with_model().await;
    // A float whose shortest decimal form has 17 digits: it must come back to the bit.
    let spend = 0.1 + 0.2;
    bench.store.set("card.spend_24h", "c1", Value::F64(spend), 60);
    let answer = bench
        .predict(r#"{"card_id":"c1","merchant_id":"m9","amount":"Infinity"}"#)
        .await
        .unwrap();
    let mut decision = bench.ingest.wait_for(1).await.remove(0);
    for timing in ["latency_us", "features_us", "model_us"] {
        assert!(decision.as_object_mut().unwrap().remove(timing).unwrap().is_i64());
    }
    let answer_digest = bench.gateway.models().await.unwrap()[0].versions[0].sha256.clone();
    let vector = decision["vector"].clone();
    assert_eq!(vector["card.spend_24h"].as_f64().unwrap().to_bits(), spend.to_bits());
    assert_eq!(
        vector,
        json!({"amount": "Infinity", "card.n_1h": 2, "card.spend_24h": spend, "derived.ratio": "Infinity", "merchant.risk": null})
    );
    assert_eq!(
        decision["inputs"],
        json!({"amount": "Infinity", "card_id": "c1", "merchant_id": "m9"})
    );
    assert_eq!(
        decision["statuses"],
        json!({"merchant.risk": "missing"}),
        "what is fresh is not said"
    );
    assert_eq!(
        decision["ages_ms"],
        json!({"card": 60_000}),
        "the features of a view have one time"
    );
    assert_eq!(decision["views"], json!({"card": 1, "merchant": 1}));
    assert_eq!(decision["prediction"], answer.prediction);
    assert_eq!(decision["event_times"], json!({"card": "2026-11-20T23:59:00Z"}));
    for structured in [
        "vector",
        "inputs",
        "statuses",
        "ages_ms",
        "views",
        "prediction",
        "event_times",
    ] {
        decision.as_object_mut().unwrap().remove(structured);
    }
    assert_eq!(
        decision,
        json!({
            "request_id": answer.request_id,
            "model": "fraud",
            "model_version": 1,
            "definition_version": 3,
            "at": "2026-11-21T00:00:00Z",
            "as_of": "2026-11-21T00:00:00Z",
            "model_digest": answer_digest,
            "route": "default",
            "degraded": null,
        })
    );
}

#[tokio::test]
async fn decisions_wait_while_ingest_is_down_and_are_pushed_when_it_is_back() {
    let bench = Bench::with_model().await;
    bench.ingest.down.store(true, Ordering::SeqCst);
    let first = bench.predict(C1).await.unwrap();
    while bench.ingest.refused.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let second = bench.predict(C1).await.unwrap();
    bench.ingest.down.store(false, Ordering::SeqCst);
    let logged = bench.ingest.wait_for(2).await;
    assert_eq!(
        [logged[0]["request_id"].as_str(), logged[1]["request_id"].as_str()],
        [Some(first.request_id.as_str()), Some(second.request_id.as_str())]
    );
}

#[tokio::test]
async fn a_full_queue_drops_decisions_and_requests_go_on() {
    let bench = Bench::open_with(|config| {
        config.decision_log.queue = 3;
        config.decision_log.drain_ms = 50;
    })
    .await;
    bench.register("matrix").await.unwrap();
    bench.ingest.down.store(true, Ordering::SeqCst);
    let batch = |rows: usize| BatchPredictRequest {
        instances: vec![inputs(C1); rows],
        explain: Some(true),
        ..BatchPredictRequest::default()
    };
    for rows in [2, 2, 1, 1] {
        assert!(bench.gateway.batch_predict("fraud", batch(rows)).await.is_ok());
    }
    bench.ingest.down.store(false, Ordering::SeqCst);
    // The second batch of 2 and the last one found no room.
    assert_eq!(bench.ingest.wait_for(3).await.len(), 3);
    bench.stop().await;
    assert_eq!(bench.ingest.events.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_backlog_goes_batch_by_batch_and_each_makes_room_for_new_decisions() {
    let bench = Bench::open_with(|config| {
        config.decision_log.queue = 6;
        config.decision_log.batch = 2;
    })
    .await;
    bench.register("matrix").await.unwrap();
    let refused_again = async || {
        let before = bench.ingest.refused.load(Ordering::SeqCst);
        while bench.ingest.refused.load(Ordering::SeqCst) == before {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    bench.ingest.down.store(true, Ordering::SeqCst);
    bench.predict(C1).await.unwrap();
    refused_again().await;
    // One is in hand, and five wait: it is full.
    for _ in 0..5 {
        bench.predict(C1).await.unwrap();
    }
    bench.ingest.last.store(true, Ordering::SeqCst);
    for recorded in [1, 3] {
        bench.ingest.down.store(false, Ordering::SeqCst);
        bench.ingest.wait_for(recorded).await;
        refused_again().await;
    }
    for _ in 0..3 {
        bench.predict(C1).await.unwrap();
    }
    assert_eq!(bench.gateway.dropped_decisions(), 0);
    bench.ingest.last.store(false, Ordering::SeqCst);
    bench.ingest.down.store(false, Ordering::SeqCst);
    assert_eq!(bench.ingest.wait_for(9).await.len(), 9);
}

#[tokio::test]
async fn the_shutdown_drains_the_decisions() {
    let bench = Bench::open_with(|config| config.decision_log.linger_ms = 60_000).await;
    bench.register("matrix").await.unwrap();
    for _ in 0..3 {
        bench.predict(C1).await.unwrap();
    }
    bench.stop().await;
    assert_eq!(bench.ingest.events.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_shutdown_while_ingest_is_down_counts_what_it_has_not_recorded() {
    let bench = Bench::open_with(|config| {
        config.decision_log.linger_ms = 60_000;
        config.decision_log.drain_ms = 500;
        config.decision_log.batch = 2;
    })
    .await;
    bench.register("matrix").await.unwrap();
    bench.ingest.last.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        bench.predict(C1).await.unwrap();
    }
    bench.stop().await;
    let recorded = bench.ingest.events.lock().unwrap().len() as u64;
    assert!(recorded > 0);
    assert_eq!(recorded + bench.gateway.dropped_decisions(), 5);
}

#[tokio::test]
async fn a_shutdown_while_ingest_is_down_ends() {
    let bench = Bench::open_with(|config| config.decision_log.drain_ms = 20).await;
    bench.register("matrix").await.unwrap();
    bench.ingest.down.store(true, Ordering::SeqCst);
    bench.predict(C1).await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn the_catalog_is_the_same_in_postgres() {
    let url = services::postgres();
    let bench = Bench::open_with(|config| config.database = url.clone()).await;
    // The database is shared by tests that run side by side: the model's name is this test's own.
    let name = services::unique_name("fraud");
    bench
        .store
        .apply(|snapshot| snapshot.models[0].definition.name = name.clone());
    let request = |fixture| ondol_model_gateway_api::wire::RegisterRequest {
        artifact: support::artifact(fixture),
        kind: None,
        manifest: None,
    };
    bench.gateway.register(&name, request("matrix")).await.unwrap();
    bench.gateway.register(&name, request("columns")).await.unwrap();
    bench.stop().await;
    let stored: Vec<VersionRecord> = Catalog::open(&url).await.unwrap().versions().await.unwrap();
    let versions: Vec<u32> = stored
        .iter()
        .filter(|record| record.registered.model.name == name)
        .map(|record| record.registered.model.version)
        .collect();
    assert_eq!(versions, [1, 2]);
}
