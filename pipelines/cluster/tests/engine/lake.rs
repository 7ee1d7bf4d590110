//! Tables to read: a log of events, and a batch source beside it.

use crate::support::lake::upload;
use crate::support::oracle::Event;
use crate::support::{FakeStore, batch, moments, strings, write_log};
use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use ondol_feature_store_api::wire::OfflineTable;
use ondol_vocabulary::ViewState;
use parquet::arrow::ArrowWriter;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// 2013-01-01T22:00:00Z, so that tests cross a date.
pub const START: i64 = 1_357_077_600_000_000;
pub const MINUTE: i64 = 60_000_000;

/// Definitions of a stream and a table, read by one model through views of different keys.
fn definitions(merchants: &str) -> String {
    format!(
        r#"
[source.events]
kafka = "events"
time = "ts"
schema = {{ k = "string", amount = "f64", n = "i64", flag = "bool", ts = "timestamp" }}

[source.merchants]
parquet = "{merchants}"
time = "updated_at"
schema = {{ m = "string", risk = "f64", updated_at = "timestamp" }}

[view.w]
from = "events"
key = "k"
features.count_12m = "count() over 12m"
features.sum_2h = "sum(amount) over 2h"
features.mean_2h = "mean(amount) over 2h"
features.stddev_2h = "stddev(amount) over 2h"
features.flagged = "count() filter (where flag) over 2h"
features.last_amount = "last(amount)"

[view.merchant]
from = "merchants"
key = "m"
features.risk = "risk"
ttl = "3h"

[model.m]
inputs = {{ k = "string", m = "string", amount = "f64" }}
features = ["w.*", "merchant.*", "amount", "derived.ratio"]
derived.ratio = "amount / nullif(w.sum_2h, 0)"
"#
    )
}

/// A store over `events` in two commits (none where there are no events), and a table of merchants in two files, of
/// which the second repeats the first one's times.
pub async fn lake(folder: &Path, events: &[Event]) -> Arc<FakeStore> {
    let merchants = folder.join("merchants");
    std::fs::create_dir_all(&merchants).unwrap();
    for (name, risk) in [("a.parquet", 0.0), ("b.parquet", 100.0)] {
        write_parquet(&merchants.join(name), &merchants_batch(risk));
    }
    let store = FakeStore::with(&definitions(merchants.to_str().unwrap()), ViewState::Active);
    if !events.is_empty() {
        let log = folder.join("log");
        std::fs::create_dir_all(&log).unwrap();
        let (first, second) = events.split_at(events.len() / 2);
        write_log(&log, &[first.to_vec(), second.to_vec()]).await;
        store.archive("events", &log);
    }
    Arc::new(store)
}

/// A store over the tables of [`lake`] in `folder`, copied to a bucket.
pub async fn lake_on_s3(folder: &Path) -> Arc<FakeStore> {
    let bucket = upload(folder).await;
    let store = FakeStore::with(&definitions(&format!("{bucket}/merchants")), ViewState::Active);
    store.tables.lock().unwrap().push(OfflineTable {
        source: "events".to_owned(),
        url: format!("{bucket}/log/"),
        version: Some(0),
        rows: None,
    });
    Arc::new(store)
}

fn merchants_batch(risk: f64) -> RecordBatch {
    let names: Vec<String> = (0..40).map(|row| format!("m-{}", row % 10)).collect();
    let risks: ArrayRef = Arc::new(Float64Array::from_iter_values((0..40).map(|row| risk + f64::from(row))));
    batch(vec![
        ("m", strings(names.iter().map(|name| Some(name.as_str())))),
        ("risk", risks),
        (
            "updated_at",
            moments((0..40i64).map(|row| START - 60 * MINUTE + (row / 2) * 10 * MINUTE)),
        ),
    ])
}

pub fn write_parquet(path: &Path, rows: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
}

/// Events of `entities` entities, two hours of them, some late, some without a key.
pub fn events(count: i64, entities: i64) -> Vec<Event> {
    (0..count)
        .map(|index| {
            let time = START + index * 120 * MINUTE / count.max(1);
            Event {
                key: (index % 31 != 0).then(|| format!("key-{}", (index * 7_919) % entities)),
                amount: (index % 5 != 0).then_some(0.1 * ((index % 97) as f64)),
                n: Some(index % 11),
                flag: Some(index % 3 == 0),
                time,
                known: time + if index % 4 == 0 { 20 * MINUTE } else { 0 },
                partition: (index % 3) as i32,
                offset: index,
            }
        })
        .collect()
}

/// Rows of a spine: known and unknown keys, null ones, moments before, amid and after the events.
pub fn spine(count: i64, entities: i64) -> RecordBatch {
    let keys: Vec<Option<String>> = (0..count)
        .map(|row| (row % 17 != 0).then(|| format!("key-{}", row % (entities + 3))))
        .collect();
    let merchants: Vec<Option<String>> = (0..count).map(|row| Some(format!("m-{}", row % 12))).collect();
    let moment = |row: i64| START - 10 * MINUTE + (row * 37) % 140 * MINUTE;
    batch(vec![
        ("k", strings(keys.iter().map(Option::as_deref))),
        ("m", strings(merchants.iter().map(Option::as_deref))),
        ("time", moments((0..count).map(moment))),
        (
            "amount",
            Arc::new(Float64Array::from_iter_values((0..count).map(|row| row as f64))) as ArrayRef,
        ),
    ])
}
