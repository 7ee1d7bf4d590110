//! Redis slow, dead, failing over, and back with nothing: features are right, or said to be missing; never others.

use crate::estate::{Estate, until};
use crate::grpc::Servers;
use crate::load::{Load, Seen};
use crate::scene::{Model, Outcome, is_of_features};
use futures::future::join_all;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_testkit::process::{Process, free_port};
use ondol_testkit::proxy::Proxy;
use ondol_testkit::redis_cluster::RedisCluster;
use ondol_testkit::{services, unique_name};
use std::path::Path;
use tokio::task::block_in_place;

const MODELS: [Model; 4] = [Model::Steady, Model::Soft, Model::Spare, Model::Plain];

/// Only a model that has no answer without features may refuse one, and only for that reason.
fn features_only(model: Model, error: &ModelGatewayError) -> bool {
    model == Model::Steady && is_of_features(error)
}

/// A core on `online`, and a gateway beside it.
async fn estate(online: &str, more: &str) -> Estate {
    let prefix = unique_name("chaos");
    let core = format!(
        "[feature_store]\nonline = \"{online}\"\nonline_prefix = \"{prefix}\"\nonline_timeout_ms = 500\n{more}\n"
    );
    Estate::start(&core, &[""]).await.with_models(&MODELS).await
}

/// Each model does under the fault what its policy says, and the one without features does not notice.
async fn without_features(load: &Load) {
    load.more(Model::Soft, Outcome::Degraded, 6).await;
    load.more(Model::Spare, Outcome::Degraded, 6).await;
    load.more(Model::Steady, Outcome::Refused, 2).await;
    load.more(Model::Plain, Outcome::Whole, 20).await;
}

fn refused_for_features(seen: &Seen) {
    assert!(
        seen.refusals.keys().all(|(model, _)| *model == Model::Steady),
        "{:?}",
        seen.refusals
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_slow_or_cut_off_costs_features_and_no_truth() {
    let server = url::Url::parse(&services::redis()).unwrap();
    let proxy = Proxy::start("core to redis", &[server.port().unwrap()]).await.unwrap();
    let estate = estate(&format!("redis://127.0.0.1:{}", proxy.port), "").await;
    let load = Load::start(&estate, &MODELS, features_only);
    let grpc = Load::grpc(&Servers::one(estate.front().port), &MODELS, features_only);
    let both = [&load, &grpc];
    join_all(both.map(|load| load.whole(10))).await;

    proxy.stall();
    join_all(both.map(without_features)).await;
    // Who brings the vector needs no features.
    grpc.raw(&MODELS, 10).await;
    proxy.mend();
    join_all(both.map(|load| load.whole(10))).await;

    proxy.cut();
    join_all(both.map(without_features)).await;
    grpc.raw(&MODELS, 10).await;
    proxy.mend();
    join_all(both.map(|load| load.whole(10))).await;
    refused_for_features(&load.stop("redis slow and cut off").await);
    refused_for_features(&grpc.stop("redis slow and cut off, over gRPC").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_cluster_that_fails_over_under_load_answers_right_before_during_and_after() {
    let folder = tempfile::tempdir().unwrap();
    let kept = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut cluster = block_in_place(|| RedisCluster::start(folder.path(), 3, &kept));
    let estate = estate(&cluster.url(), "online_wait_replicas = 1").await;
    let load = Load::start(&estate, &MODELS, features_only);
    let grpc = Load::grpc(&Servers::one(estate.front().port), &MODELS, features_only);
    let whole = async |more: usize| {
        join_all([&load, &grpc].map(|load| load.whole(more))).await;
    };
    whole(10).await;

    // Dead: its replica is promoted, then it comes back as a replica.
    let killed = cluster.primaries()[0];
    block_in_place(|| cluster.kill_primary(killed));
    whole(20).await;
    block_in_place(|| cluster.revive(killed));
    whole(10).await;

    // Hanging: the same, and it wakes up as one who still takes itself for the primary.
    let paused = cluster.primaries()[1];
    cluster.process(paused).pause().unwrap();
    until(
        || "nobody takes a silent primary's place".to_owned(),
        async || {
            let primaries = block_in_place(|| cluster.primaries());
            !primaries.contains(&paused) && primaries.len() == 3
        },
    )
    .await;
    whole(20).await;
    cluster.process(paused).resume().unwrap();
    whole(20).await;

    // All of it, with what it had on disk.
    for node in 0..6 {
        cluster.process(node).kill().unwrap();
    }
    join_all([&load, &grpc].map(without_features)).await;
    grpc.raw(&MODELS, 10).await;
    for node in 0..6 {
        cluster.process(node).start().unwrap();
    }
    whole(10).await;
    refused_for_features(&load.stop("redis failing over").await);
    refused_for_features(&grpc.stop("redis failing over, over gRPC").await);
}

/// A server that keeps nothing.
fn forgetful(port: u16, folder: &Path) -> Process {
    let port = port.to_string();
    let arguments = [
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    .map(str::to_owned);
    Process::new("redis", services::redis_server(), arguments, folder)
}

/// Redis without persistence loses every row at a restart. The store notices and builds them anew from the log; until
/// then features can't be had, and no card is said to be missing that has payments.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_with_nothing_is_filled_again_and_never_passes_for_another() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut server = forgetful(port, folder.path());
    server.start().unwrap();
    let estate = estate(&format!("redis://127.0.0.1:{port}"), "").await;
    let load = Load::start(&estate, &MODELS, features_only);
    let grpc = Load::grpc(&Servers::one(estate.front().port), &MODELS, features_only);
    for _ in 0..2 {
        join_all([&load, &grpc].map(|load| load.whole(10))).await;
        server.kill().unwrap();
        server.start().unwrap();
        without_features(&load).await;
    }
    join_all([&load, &grpc].map(|load| load.whole(20))).await;
    refused_for_features(&load.stop("redis empty").await);
    refused_for_features(&grpc.stop("redis empty, over gRPC").await);
}
