//! Gateways on one PostgreSQL whose artifacts lie in one bucket, as they do on several machines.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use object_store::ObjectStoreExt;
use ondol_model_gateway::config::ModelGatewayConfig;
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use ondol_runtime::objects::{ObjectStores, configure};
use ondol_testkit::{s3, services};
use std::sync::Arc;
use std::time::Duration;
use support::{Bench, C1, FakeStore, artifact, request};
use tempfile::TempDir;

/// Longer than the slowest machine takes.
const DEADLINE_MS: u64 = 60_000;

async fn replica(folder: &Arc<TempDir>, store: &Arc<FakeStore>, place: &str) -> Bench {
    Bench::open_in(
        Arc::clone(folder),
        Arc::clone(store),
        |config: &mut ModelGatewayConfig| {
            config.database = services::postgres();
            config.artifacts = place.to_owned();
            config.catalog_refresh_ms = 20;
            config.deadline_ms = DEADLINE_MS;
        },
    )
    .await
}

/// Waits until `bench` scores `model`.
async fn serves(bench: &Bench, model: &str) {
    loop {
        match bench.gateway.predict(model, request(C1)).await {
            Ok(_) => return,
            Err(ModelGatewayError::NothingRegistered { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn what_one_replica_registers_the_other_serves_and_serves_again_without_the_bucket() {
    configure(&s3::config()).unwrap();
    let name = services::unique_name("fraud");
    let store = FakeStore::new(support::snapshot());
    store.apply(|snapshot| snapshot.models[0].definition.name = name.clone());
    let place = format!("s3://{}/models", s3::bucket());
    let folders = [(); 2].map(|()| Arc::new(tempfile::tempdir().unwrap()));
    let one = replica(&folders[0], &store, &place).await;
    let other = replica(&folders[1], &store, &place).await;
    let registered = one.register_as(&name, artifact("matrix")).await.unwrap();
    serves(&other, &name).await;

    let object = ObjectStores::of_process().at(&place).unwrap();
    let object = object.join(&format!("{}.onnx", registered.sha256)).unwrap();
    let kept = object.root().get(object.path()).await.unwrap().bytes().await.unwrap();
    assert_eq!(kept, artifact("matrix"));
    object.root().delete(object.path()).await.unwrap();

    drop(other);
    let again = replica(&folders[1], &store, &place).await;
    serves(&again, &name).await;
    // Who never had it can't, and says where it should be.
    let stranger = replica(&Arc::new(tempfile::tempdir().unwrap()), &store, &place).await;
    let error = stranger
        .gateway
        .predict(&name, request(C1))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the artifact is gone") && error.contains(&place),
        "{error}"
    );
}
