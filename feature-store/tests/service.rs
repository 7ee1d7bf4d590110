//! The service as its callers see it: what a write makes visible, what a read answers and refuses.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod store;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};
use ondol_feature_store_api::wire::{EntityColumn, PartitionPosition, TableRows};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_vocabulary::{FeatureStatus, Value};
use std::time::Duration;
use store::{DEFINITIONS, HOUR, Payment, START, Store, at, embedded, payments, request, shops, text};

fn payment(offset: i64, card: &str, amount: f64, ts: i64) -> Payment {
    Payment {
        partition: 0,
        offset,
        card: Some(card.to_owned()),
        merchant: 9,
        amount,
        ts,
        ingested_at: ts,
    }
}

async fn open() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&embedded(folder.path())).await;
    store.apply(DEFINITIONS).await;
    (folder, store)
}

fn i64s(values: &ArrayRef) -> Vec<Option<i64>> {
    values.as_primitive::<Int64Type>().iter().collect()
}

fn f64s(values: &ArrayRef) -> Vec<Option<f64>> {
    values.as_primitive::<Float64Type>().iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_read_at_once_in_the_order_asked() {
    let (_folder, store) = open().await;
    store.clock.set(START + HOUR);
    let events = [
        payment(0, "a", 1.5, START),
        payment(1, "b", 2.0, START + HOUR - 10),
        payment(2, "a", 4.0, START + HOUR - 5),
    ];
    store.write(payments(&events, "t", &[(0, 0, 3)])).await.unwrap();
    let cards = [text("a"), text("nobody"), Value::Null, text("b")];
    let merchants = [Value::I64(9), Value::I64(9), Value::I64(1), Value::Null];
    let features = [
        "merchant.largest",
        "card.spend_24h",
        "card.n_1h",
        "card.spend_24h",
        "merchant.latest",
    ];
    let batch = store
        .read(&features, &[("card", &cards), ("merchant", &merchants)])
        .await
        .unwrap();

    assert_eq!(batch.rows, 4);
    assert_eq!(batch.as_of, at(START + HOUR));
    let names: Vec<String> = batch.features.iter().map(ToString::to_string).collect();
    assert_eq!(names, features);
    assert_eq!(f64s(&batch.columns[0].values), [Some(4.0), Some(4.0), None, None]);
    assert_eq!(f64s(&batch.columns[1].values), [Some(5.5), None, None, Some(2.0)]);
    // The sawtooth's tail at one hour past the first event still includes it; absent entities count 0.
    assert_eq!(i64s(&batch.columns[2].values), [Some(2), Some(0), Some(0), Some(1)]);
    assert_eq!(batch.columns[3].values.as_ref(), batch.columns[1].values.as_ref());
    assert_eq!(f64s(&batch.columns[4].values), [Some(4.0), Some(4.0), None, None]);
    use FeatureStatus::{Fresh, Missing};
    assert_eq!(*batch.columns[1].status, [Fresh, Missing, Missing, Fresh]);
    assert_eq!(
        *batch.columns[1].event_time,
        [Some(at(START + HOUR - 5)), None, None, Some(at(START + HOUR - 10))]
    );
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_is_served_for_who_is_missing_or_stale() {
    let (_folder, store) = open().await;
    let with_default = DEFINITIONS.replace(
        "features.last_amount = \"last(amount)\"",
        "features.last_amount = { expr = \"last(amount)\", default = 0.5 }",
    );
    store.apply(&with_default).await;
    let day = 24 * HOUR;
    let events = [payment(0, "old", 1.0, START), payment(1, "new", 2.0, START + 40 * day)];
    store.write(payments(&events, "t", &[(0, 0, 2)])).await.unwrap();
    store.clock.set(START + 41 * day);
    let cards = [text("old"), text("new"), text("nobody"), Value::Null];
    let features = ["card.last_amount", "card.spend_24h"];
    let batch = store.read(&features, &[("card", &cards)]).await.unwrap();
    assert_eq!(
        f64s(&batch.columns[0].values),
        [Some(0.5), Some(2.0), Some(0.5), Some(0.5)]
    );
    assert_eq!(f64s(&batch.columns[1].values), [None, Some(2.0), None, None]);
    use FeatureStatus::{Fresh, Missing, Stale};
    assert_eq!(*batch.columns[0].status, [Stale, Fresh, Missing, Missing]);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_now_sees_events_newer_than_the_clock() {
    let (_folder, store) = open().await;
    store.clock.set(START - HOUR);
    store
        .write(payments(&[payment(0, "a", 1.0, START)], "t", &[(0, 0, 1)]))
        .await
        .unwrap();
    let batch = store
        .read(&["card.n_1h"], &[("card", &[text("a"), text("b")])])
        .await
        .unwrap();
    assert_eq!(i64s(&batch.columns[0].values), [Some(1), Some(0)]);
    assert_eq!(batch.as_of, at(START + 1));
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_that_a_row_has_passed_is_refused() {
    let (_folder, store) = open().await;
    store
        .write(payments(&[payment(0, "a", 1.0, START)], "t", &[(0, 0, 1)]))
        .await
        .unwrap();
    let mut past = request(&["card.n_1h"], &[("card", &[text("b"), text("a")])]);
    past.as_of = Some(at(START));
    let error = store.service.read(past.clone()).await.unwrap_err();
    let FeatureStoreError::AsOfInThePast { entity, newest, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(entity, "row 1 of view `card`");
    assert_eq!(newest, at(START).to_string());
    past.as_of = Some(at(START + 1));
    let batch = store.service.read(past).await.unwrap();
    assert_eq!(i64s(&batch.columns[0].values), [Some(0), Some(1)]);
    assert_eq!(batch.as_of, at(START + 1));
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_older_than_its_time_to_live_is_stale() {
    let (_folder, store) = open().await;
    store
        .write(payments(&[payment(0, "a", 1.0, START)], "t", &[(0, 0, 1)]))
        .await
        .unwrap();
    store.clock.set(START + 31 * 24 * HOUR);
    let batch = store
        .read(&["card.last_amount"], &[("card", &[text("a")])])
        .await
        .unwrap();
    assert!(batch.columns[0].values.is_null(0));
    assert_eq!(*batch.columns[0].status, [FeatureStatus::Stale]);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_get_the_nearest_known_one() {
    let (_folder, store) = open().await;
    let refusal = async |feature: &str| {
        store
            .read(&[feature], &[("card", &[text("a")])])
            .await
            .unwrap_err()
            .to_string()
    };
    assert_eq!(refusal("crad.n_1h").await, "unknown view `crad`: did you mean `card`?");
    assert_eq!(
        refusal("card.n_2h").await,
        "unknown feature `card.n_2h`: did you mean `card.n_1h`?"
    );
    assert_eq!(
        refusal("shop.country").await,
        "view `shop` is still being provisioned: try again shortly"
    );
    assert_eq!(
        refusal("merchant.n").await,
        "the features need entity `merchant` (i64), and the request gives `card`"
    );
    let error = store.service.flush("payment").await.unwrap_err().to_string();
    assert_eq!(error, "unknown source `payment`: did you mean `payments`?");
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_features_or_entities_is_answered_empty() {
    let (_folder, store) = open().await;
    let batch = store.read(&[], &[("card", &[text("a")])]).await.unwrap();
    assert_eq!((batch.rows, batch.columns.len()), (1, 0));
    let batch = store.read(&["card.n_1h"], &[("card", &[])]).await.unwrap();
    assert_eq!((batch.rows, batch.columns[0].values.len()), (0, 0));
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_entities_at_once_are_refused() {
    let (_folder, store) = open().await;
    let mut large = request(&["card.n_1h"], &[]);
    large.entities = vec![EntityColumn {
        name: "card".to_owned(),
        values: vec![text("a"); 10_001],
    }];
    let error = store.service.read(large.clone()).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "a read of 10001 entities is too large: read at most 10000 at once"
    );
    large.entities[0].values.pop();
    assert_eq!(store.service.read(large).await.unwrap().rows, 10_000);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_refused_before_anything_is_absorbed() {
    let (_folder, store) = open().await;
    store
        .write(payments(&[payment(0, "a", 1.0, START)], "t", &[(0, 0, 1)]))
        .await
        .unwrap();
    let error = store
        .write(payments(&[payment(5, "a", 1.0, START)], "t", &[(0, 2, 6)]))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            FeatureStoreError::Gap {
                expected: 1,
                from: 2,
                ..
            }
        ),
        "{error}"
    );
    let batch = store.read(&["card.n_1h"], &[("card", &[text("a")])]).await.unwrap();
    assert_eq!(*batch.columns[0].event_time, [Some(at(START))]);
    let merchants = store
        .read(&["merchant.n"], &[("merchant", &[Value::I64(9)])])
        .await
        .unwrap();
    assert_eq!(i64s(&merchants.columns[0].values), [Some(1)]);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_tell_what_is_held_and_what_is_durable() {
    let (_folder, store) = open().await;
    let position = |next_offset| {
        vec![PartitionPosition {
            partition: 0,
            next_offset,
        }]
    };
    let write = async |from: i64, to: i64| {
        store
            .service
            .write(payments(&[payment(from, "a", 1.0, START)], "t", &[(0, from, to)]))
            .await
            .unwrap()
    };
    let receipt = write(0, 4).await;
    assert_eq!((receipt.written, receipt.durable), (position(4), Vec::new()));
    assert_eq!(store.service.resume("payments", "t").await.unwrap(), []);
    let receipt = store.service.flush("payments").await.unwrap();
    assert_eq!((receipt.written, receipt.durable), (position(4), position(4)));
    let receipt = write(4, 9).await;
    assert_eq!((receipt.written, receipt.durable), (position(9), position(4)));
    assert_eq!(store.service.resume("payments", "t").await.unwrap(), position(4));
    assert_eq!(store.service.resume("payments", "another life").await.unwrap(), []);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn due_commits_happen_by_themselves_and_a_shutdown_commits_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let config = ondol_feature_store::FeatureStoreConfig {
        commit_interval_ms: 10,
        commit_rows: 1,
        ..embedded(folder.path())
    };
    let store = Store::open(&config).await;
    store.apply(DEFINITIONS).await;
    store
        .write(payments(&[payment(0, "a", 1.0, START)], "t", &[(0, 0, 1)]))
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(60), async {
        while store.service.resume("payments", "t").await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    store.stop().await;

    let store = Store::open(&embedded(folder.path())).await;
    store
        .write(payments(&[payment(1, "a", 1.0, START)], "t", &[(0, 1, 2)]))
        .await
        .unwrap();
    store.stop().await;
    let store = Store::open(&embedded(folder.path())).await;
    let expected = [PartitionPosition {
        partition: 0,
        next_offset: 2,
    }];
    assert_eq!(store.service.resume("payments", "t").await.unwrap(), expected);
    let batch = store
        .read(&["merchant.n"], &[("merchant", &[Value::I64(9)])])
        .await
        .unwrap();
    assert_eq!(i64s(&batch.columns[0].values), [Some(2)]);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tables_view_serves_once_activated_and_a_new_version_of_the_table_starts_over() {
    let (_folder, store) = open().await;
    store
        .write(shops(&[(9, "KR", START), (8, "SE", START)], "v1", 0))
        .await
        .unwrap();
    store.write(shops(&[(9, "JP", START + 5)], "v1", 2)).await.unwrap();
    let refused = store.read(&["shop.country"], &[("merchant", &[Value::I64(9)])]).await;
    assert!(matches!(refused, Err(FeatureStoreError::NotActive { .. })));
    store.service.activate(store.view_id("shop").await).await.unwrap();
    let read = async || {
        let merchants = [Value::I64(9), Value::I64(8)];
        let batch = store
            .read(&["shop.country"], &[("merchant", &merchants)])
            .await
            .unwrap();
        let countries = batch.columns[0]
            .values
            .as_string::<i32>()
            .iter()
            .map(|text| text.unwrap_or("none").to_owned());
        countries.collect::<Vec<_>>()
    };
    assert_eq!(read().await, ["JP", "SE"]);
    // A repeated row changes nothing; a new version of the table may take one back.
    store
        .write(shops(&[(9, "KR", START + 9), (8, "SE", START)], "v1", 0))
        .await
        .unwrap();
    assert_eq!(read().await, ["JP", "SE"]);
    store
        .write(shops(&[(9, "KR", START), (9, "CN", START + 4)], "v2", 0))
        .await
        .unwrap();
    assert_eq!(read().await, ["CN", "SE"]);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_in_a_table_is_added_to_the_views_that_are_named() {
    let (_folder, store) = open().await;
    let view = store.view_id("shop").await;
    let rows = |rows: &[(i64, &str, i64)], generation: &str, views: &[u32], whole: bool| {
        let mut delivery = shops(rows, generation, 0);
        let views = views.to_vec();
        delivery.header.table = Some(TableRows { views, whole });
        delivery
    };
    let whole = rows(&[(9, "KR", START), (8, "SE", START)], "v1", &[view], true);
    store.write(whole.clone()).await.unwrap();
    store.service.activate(view).await.unwrap();
    let read = async || {
        let merchants = [Value::I64(9), Value::I64(8)];
        let batch = store
            .read(&["shop.country"], &[("merchant", &merchants)])
            .await
            .unwrap();
        let countries = batch.columns[0].values.as_string::<i32>().iter();
        countries
            .map(|text| text.unwrap_or("none").to_owned())
            .collect::<Vec<_>>()
    };
    // Another generation adds to the row: an older update of 9 changes nothing.
    let new = rows(
        &[(9, "JP", START - 5), (8, "FI", START + 7)],
        "v1 to v2",
        &[view],
        false,
    );
    store.write(new.clone()).await.unwrap();
    assert_eq!(read().await, ["KR", "FI"]);
    // Whatever is delivered again, and for whomever else: nothing changes.
    store.write(new).await.unwrap();
    store
        .write(rows(&[(9, "XX", START + 9)], "v3", &[view + 100], false))
        .await
        .unwrap();
    assert_eq!(read().await, ["KR", "FI"]);
    // The whole table starts over.
    store
        .write(rows(&[(8, "NO", START)], "v4", &[view], true))
        .await
        .unwrap();
    assert_eq!(read().await, ["KR", "NO"]);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_view_version_is_built_from_the_log_and_takes_over_without_missing_an_event() {
    let (_folder, store) = open().await;
    for offset in 0..20 {
        let event = payment(offset, "a", 1.0, START + offset);
        store
            .write(payments(&[event], "t", &[(0, offset, offset + 1)]))
            .await
            .unwrap();
        if offset == 9 {
            store.service.flush("payments").await.unwrap();
        }
    }
    store
        .apply(&DEFINITIONS.replace(
            "features.n = \"count()\"",
            "features.n = \"count()\"\nfeatures.sum = \"sum(amount)\"",
        ))
        .await;
    store
        .write(payments(&[payment(20, "a", 1.0, START)], "t", &[(0, 20, 21)]))
        .await
        .unwrap();
    let batch = store
        .read(&["merchant.n", "merchant.sum"], &[("merchant", &[Value::I64(9)])])
        .await
        .unwrap();
    assert_eq!(i64s(&batch.columns[0].values), [Some(21)]);
    assert_eq!(f64s(&batch.columns[1].values), [Some(21.0)]);
    assert_eq!(batch.columns[0].view_version, 2);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_whose_caller_goes_away_loses_nothing() {
    let (_folder, store) = open().await;
    for offset in 0..5 {
        let event = payment(offset, "a", 1.0, START);
        store
            .write(payments(&[event], "t", &[(0, offset, offset + 1)]))
            .await
            .unwrap();
        let mut flush = Box::pin(store.service.flush("payments"));
        // One poll starts the commit; then the caller is gone.
        assert!(futures::poll!(flush.as_mut()).is_pending());
        drop(flush);
    }
    store.service.flush("payments").await.unwrap();
    let tables = store.service.tables().await.unwrap();
    assert_eq!(
        tables
            .iter()
            .map(|table| (table.source.as_str(), table.rows))
            .collect::<Vec<_>>(),
        [("payments", Some(5))]
    );
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_beyond_the_line_are_refused_and_those_in_line_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let config = ondol_feature_store::FeatureStoreConfig {
        max_pending_deliveries: 2,
        ..embedded(folder.path())
    };
    let store = Store::open(&config).await;
    store.apply(DEFINITIONS).await;
    let turn = store.service.writer().turn("payments").await;
    let delivery = |offset| payments(&[payment(offset, "a", 1.0, START)], "t", &[(0, offset, offset + 1)]);
    let mut first = Box::pin(store.service.write(delivery(0)));
    let mut second = Box::pin(store.service.write(delivery(1)));
    assert!(futures::poll!(first.as_mut()).is_pending());
    assert!(futures::poll!(second.as_mut()).is_pending());
    let refused = store.service.write(delivery(2)).await.unwrap_err().to_string();
    assert_eq!(
        refused,
        "the feature store is unavailable: 2 deliveries of `payments` are waiting already"
    );
    drop(turn);
    first.await.unwrap();
    assert_eq!(
        second.await.unwrap().written,
        [PartitionPosition {
            partition: 0,
            next_offset: 2
        }]
    );
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_deliveries_of_partitions_are_all_kept() {
    let (_folder, store) = open().await;
    let mut tasks = Vec::new();
    for partition in 0..6 {
        let service = std::sync::Arc::clone(&store.service);
        tasks.push(tokio::spawn(async move {
            for offset in 0..20 {
                let event = Payment {
                    partition,
                    ..payment(offset, "a", 0.1, START + offset)
                };
                service
                    .write(payments(&[event], "t", &[(partition, offset, offset + 1)]))
                    .await
                    .unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let batch = store
        .read(&["merchant.n"], &[("merchant", &[Value::I64(9)])])
        .await
        .unwrap();
    assert_eq!(i64s(&batch.columns[0].values), [Some(120)]);
    store.stop().await;
}
