//! Events of one message, late events and deleted rows, from a delivery to online rows and the log, and back from the log
//! into the rows of new views.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod store;

use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use ondol_feature_store_api::feature_batch::value_at;
use ondol_feature_store_api::wire::{DefinitionFile, DefinitionFiles, Delivery, DeliveryHeader};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_vocabulary::{EventTime, FeatureStatus, PartitionRange, Value};
use std::sync::Arc;
use store::{START, Store, embedded, text};

/// What stands at one place of an event.
#[derive(Clone, Copy, Default)]
struct Event {
    offset: i64,
    n: i64,
    time: i64,
    mark: Option<bool>,
}

/// Of the one entity `e`, with the mark called `mark`.
fn delivery(version: u32, mark: Option<&str>, events: &[Event]) -> Delivery {
    let times: ArrayRef = {
        let times = TimestampMicrosecondArray::from_iter_values(events.iter().map(|event| START + event.time));
        Arc::new(times.with_timezone("UTC"))
    };
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(StringArray::from(vec!["e"; events.len()]))),
        (
            "n",
            Arc::new(Int64Array::from_iter_values(events.iter().map(|event| event.n))),
        ),
        ("at", Arc::clone(&times)),
        ("_partition", Arc::new(Int32Array::from(vec![0; events.len()]))),
        (
            "_offset",
            Arc::new(Int64Array::from_iter_values(events.iter().map(|event| event.offset))),
        ),
        ("_ingested_at", times),
    ];
    if let Some(name) = mark {
        let marks: BooleanArray = events.iter().map(|event| event.mark).collect();
        columns.push((name, Arc::new(marks)));
    }
    let (from, to) = (events[0].offset, events[events.len() - 1].offset + 1);
    Delivery {
        header: DeliveryHeader {
            source: "s".to_owned(),
            source_version: version,
            generation: "g".to_owned(),
            ranges: vec![PartitionRange { partition: 0, from, to }],
            table: None,
        },
        events: RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
            .unwrap(),
    }
}

fn definitions(source: &str, views: &str) -> String {
    format!(
        "[source.s]\nkafka = \"s\"\ntime = \"at\"\n{source}\n\
         schema = {{ id = {{ type = \"string\", key = true }}, n = \"i64\", at = \"timestamp\" }}\n{views}\n"
    )
}

const COUNT: &str = "[view.v]\nfrom = \"s\"\nkey = \"id\"\nfeatures.n = \"count()\"\n";
const COUNT_ANEW: &str = "[view.w]\nfrom = \"s\"\nkey = \"id\"\nfeatures.n = \"count()\"\nfeatures.sum = \"sum(n)\"\n";

async fn value(store: &Store, feature: &str) -> Value {
    read(store, feature).await.0
}

/// A feature of `e`, what it is worth, and since when.
async fn read(store: &Store, feature: &str) -> (Value, FeatureStatus, Option<EventTime>) {
    let batch = store.read(&[feature], &[("id", &[text("e")])]).await.unwrap();
    let column = &batch.columns[0];
    (value_at(&column.values, 0), column.status[0], column.event_time[0])
}

#[tokio::test]
async fn events_of_one_message_are_never_split_not_even_by_a_bootstrap() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&embedded(folder.path())).await;
    store.apply(&definitions("unnest = \"items\"", COUNT)).await;
    // The second message lies across the 16384 rows that a bootstrap absorbs at a time.
    let of = |offset, count| {
        vec![
            Event {
                offset,
                n: 1,
                ..Event::default()
            };
            count
        ]
    };
    let events = [of(0, 16_380), of(1, 10), of(2, 5)].concat();
    let message = delivery(1, None, &events);
    store.write(message.clone()).await.unwrap();
    store.write(message).await.unwrap();
    assert_eq!(value(&store, "v.n").await, Value::I64(16_395));
    store.service.flush("s").await.unwrap();
    let views = format!("{COUNT}{COUNT_ANEW}");
    store.apply(&definitions("unnest = \"items\"", &views)).await;
    assert_eq!(value(&store, "w.n").await, Value::I64(16_395));
    assert_eq!(value(&store, "w.sum").await, Value::I64(16_395));
    store.stop().await;
}

#[tokio::test]
async fn without_unnest_an_offset_is_one_event() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&embedded(folder.path())).await;
    store.apply(&definitions("", COUNT)).await;
    let refused = store.write(delivery(1, None, &[Event::default(); 2])).await;
    assert!(
        matches!(refused, Err(FeatureStoreError::InvalidRequest { .. })),
        "{refused:?}"
    );
    store.stop().await;
}

#[tokio::test]
async fn a_bound_on_lateness_may_come_later_and_marked_events_count_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&embedded(folder.path())).await;
    store.apply(&definitions("", COUNT)).await;
    let event = |offset, mark| Event {
        offset,
        mark,
        ..Event::default()
    };
    store.write(delivery(1, None, &[event(0, None)])).await.unwrap();
    store.service.flush("s").await.unwrap();
    store.apply(&definitions("late = \"5m\"", COUNT)).await;
    let refused = store.write(delivery(2, None, &[event(1, None)])).await;
    assert!(refused.is_err(), "an event of this version says whether it is late");
    let marked = [event(1, Some(true)), event(2, Some(false))];
    store.write(delivery(2, Some("_late"), &marked)).await.unwrap();
    assert_eq!(value(&store, "v.n").await, Value::I64(2));
    store.service.flush("s").await.unwrap();
    // The log kept all three; a view that is built from it counts as the one that lived through it, also once the
    // source has no bound any more.
    let tables = store.service.tables().await.unwrap();
    assert_eq!(tables.iter().find(|table| table.source == "s").unwrap().rows, Some(3));
    let views = format!("{COUNT}{COUNT_ANEW}");
    store.apply(&definitions("", &views)).await;
    assert_eq!(value(&store, "w.n").await, Value::I64(2));
    store.stop().await;
}

const LATEST: &str = "[view.v]\nfrom = \"s\"\nkey = \"id\"\nfeatures.n = \"n\"\n";
const LATEST_ANEW: &str = "[view.w]\nfrom = \"s\"\nkey = \"id\"\nfeatures.twice = \"n * 2\"\n";
const DELETABLE: &str = "tombstones = \"delete\"";

#[tokio::test]
async fn a_deleted_row_is_missing_online_and_in_a_view_built_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&embedded(folder.path())).await;
    store.apply(&definitions(DELETABLE, LATEST)).await;
    let event = |offset, n, mark| Event {
        offset,
        n,
        time: offset,
        mark: Some(mark),
    };
    store
        .write(delivery(1, Some("_deleted"), &[event(0, 7, false)]))
        .await
        .unwrap();
    assert_eq!(value(&store, "v.n").await, Value::I64(7));
    store
        .write(delivery(1, Some("_deleted"), &[event(1, 0, true)]))
        .await
        .unwrap();
    let gone = (
        Value::Null,
        FeatureStatus::Missing,
        Some(EventTime::from_micros(START + 1)),
    );
    assert_eq!(read(&store, "v.n").await, gone);
    store.service.flush("s").await.unwrap();
    store
        .apply(&definitions(DELETABLE, &format!("{LATEST}{LATEST_ANEW}")))
        .await;
    assert_eq!(read(&store, "w.twice").await, gone);
    store
        .write(delivery(1, Some("_deleted"), &[event(2, 8, false)]))
        .await
        .unwrap();
    assert_eq!(value(&store, "w.twice").await, Value::I64(16));
    store.stop().await;
}

#[tokio::test]
async fn whether_rows_can_be_deleted_never_changes_under_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&embedded(folder.path())).await;
    store.apply(&definitions(DELETABLE, LATEST)).await;
    let file = DefinitionFile {
        path: "features.toml".to_owned(),
        text: definitions("", LATEST),
    };
    let files = DefinitionFiles { files: vec![file] };
    let Err(FeatureStoreError::InvalidDefinitions { diagnostics }) = store.service.plan(files).await else {
        panic!("it is refused");
    };
    assert_eq!(diagnostics[0].code, "incompatible-deletions");
    assert_eq!(
        diagnostics[0].message,
        "rows of source `s` could be deleted, and no longer can"
    );
    store.stop().await;
}

#[tokio::test]
async fn a_plan_tells_where_columns_are_and_what_messages_are() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&embedded(folder.path())).await;
    store.apply(&definitions("unnest = \"items\"", COUNT)).await;
    let file = DefinitionFile {
        path: "features.toml".to_owned(),
        text: definitions("unnest = \"lines\"", COUNT)
            .replace("n = \"i64\"", "n = { type = \"i64\", path = \"lines.n\" }"),
    };
    let files = DefinitionFiles { files: vec![file] };
    let plan = store.service.plan(files).await.unwrap();
    assert_eq!(
        plan.changes[0].differences,
        ["unnest: items → lines", "column n: i64 → i64 from path lines.n"]
    );
    store.stop().await;
}
