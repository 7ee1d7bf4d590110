//! Upkeep of the offline tables by the service: it merges files by itself and when asked, and views built meanwhile miss
//! nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod store;

use ondol_feature_store_api::maintenance::VacuumOptions;
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use std::path::Path;
use std::time::Duration;
use store::{DEFINITIONS, HOUR, Payment, START, Store, embedded, payments};

/// A view with the features of `card`.
const TWIN: &str = r#"
[view.twin]
from = "payments"
key = "card"
ttl = "30d"
features.n_1h = "count() over 1h"
features.spend_24h = "sum(amount) over 24h"
features.last_amount = "last(amount)"
"#;

fn payment(offset: i64) -> Payment {
    Payment {
        partition: 0,
        offset,
        card: Some(format!("card {}", offset % 5)),
        merchant: offset % 3,
        amount: offset as f64,
        // Some come a day late, so that files of several dates take turns.
        ts: START + offset * HOUR / 7 - (offset % 4) * 9 * HOUR,
        ingested_at: START + offset * HOUR / 7 + 1,
    }
}

async fn write(store: &Store, steps: std::ops::Range<i64>) {
    for step in steps {
        let events: Vec<Payment> = (step * 10..step * 10 + 10).map(payment).collect();
        let delivery = payments(&events, "t", &[(0, step * 10, step * 10 + 10)]);
        store.write(delivery).await.unwrap();
        store.service.flush("payments").await.unwrap();
    }
}

/// Whether a commit of the table has merged files.
fn merged(folder: &Path) -> bool {
    let log = folder.join("offline/payments/_delta_log");
    let entries = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    let mut commits = entries.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    commits.any(|path| std::fs::read_to_string(path).unwrap().contains("\"OPTIMIZE\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_built_while_files_are_merged_has_the_rows_of_one_that_saw_every_event() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = embedded(folder.path());
    config.compact_files = 3;
    let store = Store::open(&config).await;
    store.apply(DEFINITIONS).await;
    write(&store, 0..30).await;
    tokio::time::timeout(Duration::from_secs(60), async {
        while !merged(folder.path()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the service merges files by itself");
    let twins = format!("{DEFINITIONS}{TWIN}");
    tokio::join!(store.apply(&twins), write(&store, 30..60));
    write(&store, 60..62).await;
    assert_eq!(store.rows("twin").await, store.rows("card").await);
    assert_eq!(store.rows("twin").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn merging_and_deleting_can_be_asked_for_and_what_has_no_table_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = embedded(folder.path());
    config.compact = false;
    let store = Store::open(&config).await;
    store.apply(DEFINITIONS).await;
    let nothing = store.service.compact("payments").await.unwrap();
    assert_eq!(nothing.commits, 0);
    write(&store, 0..10).await;
    assert!(!merged(folder.path()));

    let done = store.service.compact("payments").await.unwrap();
    assert!(done.files_removed > done.files_added && done.rows == 100, "{done:?}");
    let kept = store
        .service
        .vacuum("payments", VacuumOptions::default())
        .await
        .unwrap();
    assert_eq!(kept.files_deleted, 0, "the default retention is a week");
    let at_once = VacuumOptions {
        retention_ms: Some(0),
        ..VacuumOptions::default()
    };
    let gone = store.service.vacuum("payments", at_once.clone()).await.unwrap();
    assert_eq!(gone.files_deleted, done.files_removed);
    assert_eq!(gone.files_kept, done.files_after);
    let tables = store.service.tables().await.unwrap();
    assert_eq!(tables[0].rows, Some(100));

    let unknown = store.service.compact("payment").await.unwrap_err();
    assert!(matches!(unknown, FeatureStoreError::Unknown { .. }), "{unknown}");
    let table = store.service.vacuum("shops", at_once).await.unwrap_err();
    assert!(matches!(table, FeatureStoreError::InvalidRequest { .. }), "{table}");
}
