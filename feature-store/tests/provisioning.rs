//! A version that is provisioned while the stream goes on, held back, killed and released: its rows end as those of a store
//! in which nothing of that happened.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod store;
mod topic;

use ondol_feature_store::FeatureStoreConfig;
use ondol_feature_store::bootstrap::RowSink as _;
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::provisioning::{Provisioning, ProvisioningState};
use ondol_feature_store_api::wire::{DefinitionFile, DefinitionFiles};
use ondol_testkit::{services, unique_name};
use ondol_vocabulary::ViewState;
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::{DEFINITIONS, HOUR, Payment, START, Store, embedded};
use topic::{GENERATION, Outcome, PARTITIONS, Topic, outcome};

const EVENTS: usize = 150;

fn a_topic() -> Topic {
    let event = |partition: i32, offset: i64| Payment {
        partition,
        offset,
        card: Some(format!("card {}", offset % 7)),
        merchant: offset % 5,
        amount: offset as f64 / 3.0,
        ts: START + (offset * 7 % 11) * HOUR / 4 + offset * HOUR / 8,
        ingested_at: START + offset * HOUR / 4,
    };
    Topic {
        partitions: (0..PARTITIONS as i32)
            .map(|partition| (0..EVENTS as i64).map(|offset| event(partition, offset)).collect())
            .collect(),
    }
}

/// The definitions with other windows: new versions of both views over the stream.
fn changed() -> String {
    DEFINITIONS
        .replace("count() over 1h", "count() over 3h")
        .replace("max(amount) over 7d", "max(amount) over 2d")
}

async fn apply(store: &Store, text: &str) {
    let file = DefinitionFile {
        path: "features.toml".to_owned(),
        text: text.to_owned(),
    };
    store
        .service
        .apply(DefinitionFiles { files: vec![file] })
        .await
        .unwrap();
}

async fn deliver(store: &Store, topic: &Topic, from: usize, to: usize) {
    let delivery = topic.delivery(&[from; PARTITIONS], &[to; PARTITIONS]);
    store.write(delivery).await.unwrap();
}

/// A store that never knew other definitions, and read the topic once.
async fn undisturbed(topic: &Topic) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&embedded(folder.path())).await;
    store.apply(&changed()).await;
    deliver(&store, topic, 0, EVENTS).await;
    let outcome = outcome(&store).await;
    store.stop().await;
    outcome
}

/// A folder as a killed process leaves it: no destructor has run, nothing was flushed.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn of_streams(store: &Store) -> Vec<Provisioning> {
    let mut all = store.service.provisionings().await.unwrap();
    all.retain(|found| found.source == "payments");
    all
}

/// Waits until the versions over the stream that do not serve are those named, in these states.
async fn until(store: &Store, expected: &[(&str, ProvisioningState)]) {
    let mut found = Vec::new();
    for _ in 0..2_400 {
        found = of_streams(store).await;
        let states = found.iter().map(|found| (found.view.as_str(), found.state));
        if states.eq(expected.iter().copied()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never {expected:?}: {found:?}");
}

/// Versions that are being built are held, the stream goes on, the process is killed; once they are released they serve
/// the rows of a store in which nothing happened. What serves meanwhile is the version before.
async fn held_killed_and_released(config: impl Fn(&Path) -> FeatureStoreConfig) {
    use ProvisioningState::Held;
    let folder = tempfile::tempdir().unwrap();
    let life = |number: usize| -> PathBuf { folder.path().join(number.to_string()) };
    let topic = a_topic();
    let store = Store::open(&config(&life(0))).await;
    store.apply(DEFINITIONS).await;
    deliver(&store, &topic, 0, 40).await;
    store.service.flush("payments").await.unwrap();
    deliver(&store, &topic, 40, 60).await;

    // With the source in our hands, nothing can be handed over before it is held.
    let turn = store.service.writer().lock_source("payments").await.unwrap();
    apply(&store, &changed()).await;
    for found in of_streams(&store).await {
        store.service.hold(found.view_id).await.unwrap();
    }
    drop(turn);
    deliver(&store, &topic, 60, 80).await;
    store.service.flush("payments").await.unwrap();
    deliver(&store, &topic, 80, 90).await;
    until(&store, &[("card", Held), ("merchant", Held)]).await;

    copy_folder(&life(0), &life(1));
    let killed = store;
    let store = Store::open(&config(&life(1))).await;
    until(&store, &[("card", Held), ("merchant", Held)]).await;
    let snapshot = store.service.snapshot().await.unwrap();
    let versions: Vec<(u32, ViewState)> = (snapshot.views.iter())
        .filter(|view| view.definition.name == "card")
        .map(|view| (view.version, view.state))
        .collect();
    assert_eq!(versions, [(1, ViewState::Active), (2, ViewState::Provisioning)]);
    let resumed = store.service.resume("payments", GENERATION).await.unwrap();
    let from = topic.place(0, resumed[0].next_offset);
    deliver(&store, &topic, from, 110).await;

    // One by one, while the stream goes on.
    for (number, found) in of_streams(&store).await.into_iter().enumerate() {
        store.service.release(found.view_id).await.unwrap();
        deliver(&store, &topic, 110 + number * 20, 130 + number * 20).await;
        store.service.flush("payments").await.unwrap();
        let left = &[("card", Held), ("merchant", Held)][number + 1..];
        until(&store, left).await;
    }
    assert_eq!(outcome(&store).await, undisturbed(&topic).await);
    store.stop().await;
    // Only now: what it still wrote went elsewhere, or was fenced.
    drop(killed);
}

#[tokio::test(flavor = "multi_thread")]
async fn held_killed_and_released_versions_serve_the_rows_of_an_undisturbed_store() {
    held_killed_and_released(embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_killed_and_released_versions_serve_the_rows_of_an_undisturbed_store_on_redis() {
    let prefix = unique_name("provisioning");
    held_killed_and_released(|folder| FeatureStoreConfig {
        online: Some(services::redis()),
        online_prefix: prefix.clone(),
        ..embedded(folder)
    })
    .await;
}
