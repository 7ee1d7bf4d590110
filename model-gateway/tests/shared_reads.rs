//! A batch whose requests go to several versions reads its features once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway_api::ModelGateway;
use ondol_model_gateway_api::wire::{BatchPredictRequest, Routing, Share, Target};
use ondol_vocabulary::{Remedy, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use support::{Bench, inputs, request};

fn row(card: usize) -> String {
    format!(r#"{{"card_id":"c{card}","merchant_id":"m1","amount":{card}}}"#)
}

/// Version 1 of `fraud` with its whole vector, version 2 of a definition without `merchant.risk`, and half of the requests
/// for each.
async fn split() -> Bench {
    let bench = Bench::open_with(|config| config.deadline_ms = 120_000).await;
    bench.register("matrix").await.unwrap();
    bench.store.apply(|snapshot| {
        let model = &mut snapshot.models[0];
        model.version += 1;
        model
            .definition
            .features
            .retain(|feature| feature.name != "merchant.risk");
        model.definition.policy.unavailable = Remedy::Serve;
    });
    bench.register("matrix_narrow").await.unwrap();
    bench.fill();
    for card in 0..40_u8 {
        let spend = Value::F64(f64::from(card) - 20.0);
        bench.store.set("card.spend_24h", &format!("c{card}"), spend, 60);
    }
    let share = |version| Share {
        to: Target::Version(version),
        percent: 50.0,
    };
    let routing = Routing {
        aliases: BTreeMap::from([("champion".to_owned(), 1)]),
        split: vec![share(1), share(2)],
        sticky_by: vec!["card_id".to_owned()],
        ..Routing::default()
    };
    bench.set_routing("fraud", routing).await.unwrap();
    bench.store.reads.lock().unwrap().clear();
    bench
}

fn batch() -> BatchPredictRequest {
    BatchPredictRequest {
        instances: (0..40).map(|card| inputs(&row(card))).collect(),
        explain: Some(true),
        ..BatchPredictRequest::default()
    }
}

#[tokio::test]
async fn each_version_has_its_features_from_one_read() {
    let bench = split().await;
    let answered = bench.gateway.batch_predict("fraud", batch()).await.unwrap().predictions;
    {
        let reads = bench.store.reads.lock().unwrap();
        assert_eq!(reads.len(), 1);
        let read: BTreeSet<String> = reads[0].features.iter().map(ToString::to_string).collect();
        assert_eq!(
            read,
            BTreeSet::from(["card.n_1h", "card.spend_24h", "merchant.risk"].map(String::from))
        );
    }
    let versions: BTreeSet<u32> = answered.iter().map(|answer| answer.model.version).collect();
    assert_eq!(versions, BTreeSet::from([1, 2]));
    for (card, answer) in answered.iter().enumerate() {
        let alone = bench
            .gateway
            .predict(&answer.model.to_string(), request(&row(card)))
            .await
            .unwrap();
        assert_eq!(answer.prediction, alone.prediction, "{card}");
        assert_eq!(answer.features, alone.features, "{card}");
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_asked_once_and_every_version_answers_as_the_policy_says() {
    let bench = split().await;
    bench.store.down.store(true, Ordering::SeqCst);
    let answered = bench.gateway.batch_predict("fraud", batch()).await.unwrap().predictions;
    assert_eq!(bench.store.reads.lock().unwrap().len(), 1);
    assert!(answered.iter().all(|answer| answer.degraded.len() == 1));
}
