//! An existing model endpoint is fronted, mirrored, then moved by weight, and back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use bytes::Bytes;
use ondol_model_gateway_api::ModelGateway;
use ondol_model_gateway_api::wire::{Limits, PromoteRequest, Routing, Shadow, Share, Target};
use std::collections::BTreeMap;
use std::time::Duration;
use support::{Bench, C1};

async fn set(bench: &Bench, routing: Routing) {
    bench.set_routing("fraud", routing).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_is_fronted_mirrored_moved_by_weight_and_moved_back() {
    // The server that stands today.
    let old = Bench::patient().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = old.gateway.open_inference();
    tokio::spawn(async move { axum::serve(listener, router).await });

    // Fronted: callers ask the gateway, the old server answers.
    let bench = Bench::open_with(|config| config.deadline_ms = 60_000).await;
    bench.fill();
    let upstream = format!("url = \"{url}\"\nmodel = \"fraud\"\nprotocol = \"v2-rest\"\n");
    bench.register_as("fraud", Bytes::from(upstream)).await.unwrap();
    let fronted = bench.predict(C1).await.unwrap();
    assert_eq!(fronted.prediction, old.predict(C1).await.unwrap().prediction);

    // Mirrored: the new model scores the same vectors, aside.
    bench.register("matrix_double").await.unwrap();
    let mirrored = Routing {
        aliases: BTreeMap::from([("champion".to_owned(), 1)]),
        shadow: vec![Shadow {
            version: Target::Version(2),
            flip_at: Some(0.5),
            sample_percent: 100.0,
        }],
        limits: Limits {
            min_requests: Some(5),
            max_flip_rate: Some(0.0),
            max_mean_difference: Some(0.001),
            ..Limits::default()
        },
        ..Routing::default()
    };
    set(&bench, mirrored.clone()).await;
    for _ in 0..5 {
        assert_eq!(bench.predict(C1).await.unwrap().model.version, 1);
    }
    loop {
        let report = bench.gateway.routing_report("fraud").await.unwrap();
        if report.shadows.iter().any(|shadow| shadow.compared == 5) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // Moved by weight; the mirror stays.
    let half = Routing {
        split: vec![
            Share {
                to: Target::Version(1),
                percent: 50.0,
            },
            Share {
                to: Target::Version(2),
                percent: 50.0,
            },
        ],
        ..mirrored
    };
    set(&bench, half).await;
    let mut met = BTreeMap::<u32, u32>::new();
    for card in 0..30 {
        let answer = bench
            .predict(&format!(r#"{{"card_id":"c{card}","merchant_id":"m1","amount":8}}"#))
            .await
            .unwrap();
        *met.entry(answer.model.version).or_default() += 1;
    }
    assert_eq!(met.len(), 2, "{met:?}");

    // Moved, and one step back.
    let promoted = bench.gateway.promote("fraud", PromoteRequest::default()).await.unwrap();
    assert_eq!(promoted.effective, BTreeMap::from([(2, 100.0)]));
    let back = bench.gateway.rollback("fraud", <_>::default()).await.unwrap();
    assert_eq!(back.effective, BTreeMap::from([(1, 50.0), (2, 50.0)]));
}
