//! Models within a bound of memory: who goes when another comes, who stays, and that all answers are right meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use bytes::Bytes;
use futures::future::join_all;
use ondol_model_gateway_api::wire::Routing;
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use support::{Bench, C1, artifact, request};

/// What `columns_float` answers for C1, and `matrix` the logistic function of.
const SUM: f64 = 4.25;

/// `fixture` with a comment of `kib`: the same model in a larger file. A `mark` makes it another file.
fn padded(fixture: &str, kib: usize, mark: u8) -> Bytes {
    let mut file = artifact(fixture).to_vec();
    // Field 6 of a ModelProto, doc_string: a length as a varint, and the text.
    file.push(0x32);
    let mut length = kib << 10;
    while length >= 0x80 {
        file.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    file.push(length as u8);
    file.resize(file.len() + (kib << 10), b'a' + mark);
    Bytes::from(file)
}

/// A gateway with room for `mib` of models, each of whose files counts twice; and, beside `fraud`, models `other` and
/// `third` of the same vector.
async fn bounded(mib: usize) -> Bench {
    let bench = Bench::open_with(|config| {
        config.max_model_memory_mib = mib;
        config.sessions = 1;
        config.deadline_ms = 120_000;
    })
    .await;
    bench.fill();
    bench.store.apply(|snapshot| {
        for name in ["other", "third"] {
            let mut model = snapshot.models[0].clone();
            model.definition.name = name.to_owned();
            snapshot.models.push(model);
        }
    });
    bench
}

async fn score(bench: &Bench, model: &str) -> f64 {
    let prediction = bench.gateway.predict(model, request(C1)).await.unwrap();
    prediction.prediction.as_f64().unwrap()
}

/// The gateway's Open Inference port.
async fn port(bench: &Bench) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, bench.gateway.router()).into_future());
    base
}

/// Which versions are in memory.
async fn loaded(base: &str) -> Vec<String> {
    let index = reqwest::Client::new().post(format!("{base}/v2/repository/index"));
    let index: Vec<Value> = index.send().await.unwrap().json().await.unwrap();
    let entries = index.iter().filter(|entry| entry["reason"] == "");
    let mut names: Vec<String> = entries
        .map(|entry| {
            format!(
                "{}@{}",
                entry["name"].as_str().unwrap(),
                entry["version"].as_str().unwrap()
            )
        })
        .collect();
    names.sort();
    names
}

fn sigmoid(sum: f64) -> f64 {
    f64::from(1.0 / (1.0 + (-sum as f32).exp()))
}

#[tokio::test]
async fn the_version_that_was_named_longest_ago_is_evicted_and_loaded_again_when_it_is_named() {
    let bench = bounded(2).await;
    let base = port(&bench).await;
    for (mark, fixture) in ["matrix", "columns_float", "matrix"].into_iter().enumerate() {
        bench
            .register_as("fraud", padded(fixture, 400, mark as u8))
            .await
            .unwrap();
        // Uses are told apart by milliseconds.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // Room for two: the third serves, and came in the place of the first.
    assert_eq!(loaded(&base).await, ["fraud@2", "fraud@3"]);
    assert_eq!(score(&bench, "fraud@1").await, sigmoid(SUM));
    assert_eq!(loaded(&base).await, ["fraud@1", "fraud@3"]);
    assert_eq!(score(&bench, "fraud@2").await, SUM);
    assert_eq!(score(&bench, "fraud").await, sigmoid(SUM));
    assert_eq!(loaded(&base).await, ["fraud@2", "fraud@3"]);
}

#[tokio::test]
async fn what_is_named_by_an_alias_stays() {
    let bench = bounded(3).await;
    let base = port(&bench).await;
    for (mark, fixture) in ["columns_float", "matrix", "matrix"].into_iter().enumerate() {
        bench
            .register_as("fraud", padded(fixture, 400, mark as u8))
            .await
            .unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        if mark == 0 {
            let routing = Routing {
                aliases: BTreeMap::from([("steady".to_owned(), 1)]),
                ..Routing::default()
            };
            bench.set_routing("fraud", routing).await.unwrap();
        }
    }
    bench
        .register_as("other", padded("columns_float", 400, 9))
        .await
        .unwrap();
    assert_eq!(loaded(&base).await, ["fraud@1", "fraud@3", "other@1"]);
}

#[tokio::test]
async fn a_model_without_room_is_refused_by_name_and_comes_in_when_another_is_unloaded() {
    let bench = bounded(1).await;
    let base = port(&bench).await;
    bench.register_as("fraud", padded("matrix", 400, 0)).await.unwrap();
    let refused = bench.register_as("other", padded("matrix", 401, 0)).await.unwrap_err();
    let ModelGatewayError::ModelMemory { detail } = &refused else {
        panic!("{refused}");
    };
    assert!(
        detail.contains("`other` takes 0.7 MiB")
            && detail.contains("`max_model_memory_mib` is 1.0 MiB")
            && detail.contains("`fraud@1` 0.7 MiB")
            && detail.contains("/unload"),
        "{detail}"
    );
    assert_eq!(score(&bench, "fraud").await, sigmoid(SUM));
    let unload = reqwest::Client::new().post(format!("{base}/v2/repository/models/fraud/unload"));
    assert_eq!(unload.send().await.unwrap().status(), 200);
    bench.register_as("other", padded("matrix", 401, 0)).await.unwrap();
    assert_eq!(score(&bench, "other").await, sigmoid(SUM));
    let alone = bench.register_as("third", padded("matrix", 600, 0)).await.unwrap_err();
    assert!(alone.to_string().contains("`third` takes 1.1 MiB"), "{alone}");
}

#[tokio::test]
async fn what_a_graph_runs_stays_with_it() {
    let bench = bounded(2).await;
    bench
        .register_as("other", padded("columns_float", 400, 0))
        .await
        .unwrap();
    let graph = "output = \"twice\"\n[nodes.other]\nmodel = \"other@1\"\n[nodes.twice]\nweights = { other = 2.0 }\n";
    bench.register_as("fraud", Bytes::from(graph)).await.unwrap();
    bench.register_as("other", padded("matrix", 400, 1)).await.unwrap();
    let refused = bench.register_as("third", padded("matrix", 400, 2)).await.unwrap_err();
    assert!(
        refused.to_string().contains("`other@1`") && refused.to_string().contains("`other@2`"),
        "{refused}"
    );
    assert_eq!(score(&bench, "fraud").await, 2.0 * SUM);
}

#[tokio::test]
async fn requests_get_right_answers_while_versions_go_and_come_under_them() {
    let bench = Arc::new(bounded(2).await);
    // Three versions that answer differently, and room for the one that serves and one of the others.
    for (mark, fixture) in ["matrix", "columns_float", "matrix"].into_iter().enumerate() {
        bench
            .register_as("fraud", padded(fixture, 400, mark as u8))
            .await
            .unwrap();
    }
    let caller = |caller: usize| {
        let bench = Arc::clone(&bench);
        async move {
            for turn in 0..12 {
                let (model, expected) = match (caller + turn) % 3 {
                    0 => ("fraud@1", sigmoid(SUM)),
                    1 => ("fraud@2", SUM),
                    _ => ("fraud", sigmoid(SUM)),
                };
                assert_eq!(score(&bench, model).await, expected, "{model}");
            }
        }
    };
    join_all((0..8).map(caller)).await;
}

#[tokio::test]
async fn a_load_goes_on_when_the_request_that_began_it_gave_up() {
    let bench = bounded(2).await;
    let base = port(&bench).await;
    for mark in 0..3 {
        bench.register_as("fraud", padded("matrix", 400, mark)).await.unwrap();
    }
    let evicted = ["fraud@1", "fraud@2"];
    let here = loaded(&base).await;
    let evicted = evicted.into_iter().find(|model| !here.contains(&(*model).to_owned()));
    let mut call = bench.gateway.predict(evicted.unwrap(), request(C1));
    assert!(futures::poll!(call.as_mut()).is_pending());
    drop(call);
    while !loaded(&base).await.contains(&evicted.unwrap().to_owned()) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
