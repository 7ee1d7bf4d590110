//! Views with different keys, single and composite, over one spine: each finds its own entity in a row, and a null in
//! any part of a key names none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod support;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use ondol_pipelines_api::wire::AsOf;
use ondol_vocabulary::ViewState;
use proptest::prelude::*;
use std::sync::Arc;
use support::oracle::{Event, HOUR, MINUTE};
use support::{Bench, FakeStore, batch, cells, config, integers, moments, request, strings, write_log};

/// 2013-01-01T22:00:00Z.
const START: i64 = 1_357_077_600_000_000;

/// Keys of one part and of two, in an order that is not the source's, and with parts in common.
const DEFINITIONS: &str = r#"
[source.events]
kafka = "events"
time = "ts"
schema = { k = "string", amount = "f64", n = "i64", flag = "bool", ts = "timestamp" }

[view.text]
from = "events"
key = "k"
features.count = "count() over 2h"
features.last = "last(amount)"

[view.number]
from = "events"
key = "n"
features.count = "count() over 2h"
features.last = "last(amount)"

[view.pair]
from = "events"
key = ["n", "k"]
features.count = "count() over 2h"
features.last = "last(amount)"

[view.triple]
from = "events"
key = ["k", "flag", "n"]
features.count = "count() over 2h"
features.last = "last(amount)"

[model.m]
inputs = { flag = "bool", k = "string", n = "i64" }
features = ["text.*", "number.*", "pair.*", "triple.*", "derived.share"]
derived.share = "1.0 * pair.count / nullif(text.count, 0)"
"#;

/// A row of the spine: its keys and its moment.
type Row = (Option<String>, Option<i64>, Option<bool>, i64);

fn spine(rows: &[Row]) -> RecordBatch {
    let flags: ArrayRef = Arc::new(rows.iter().map(|(_, _, flag, _)| *flag).collect::<BooleanArray>());
    batch(vec![
        ("id", integers((0..).map(Some).take(rows.len()))),
        ("flag", flags),
        ("n", integers(rows.iter().map(|(_, n, ..)| *n))),
        ("k", strings(rows.iter().map(|(k, ..)| k.as_deref()))),
        ("time", moments(rows.iter().map(|(.., t)| *t))),
    ])
}

/// Count within two hours and the last amount of the events that `is_mine` and that a row at `t` sees.
fn expected(events: &[Event], t: i64, keyed: bool, is_mine: impl Fn(&Event) -> bool) -> (String, String) {
    let mine = |event: &&Event| keyed && is_mine(event) && event.time < t && event.known <= t;
    let mut seen: Vec<&Event> = events.iter().filter(mine).collect();
    seen.sort_by_key(|event| (event.time, event.partition, event.offset));
    let from = (t - 2 * HOUR).div_euclid(5 * MINUTE) * (5 * MINUTE);
    let count = seen.iter().filter(|event| event.time >= from).count();
    let last = seen.iter().rev().find_map(|event| event.amount);
    (
        count.to_string(),
        last.map_or_else(|| "null".to_owned(), |last| format!("{last:?}")),
    )
}

fn check(found: &RecordBatch, events: &[Event], rows: &[Row]) {
    let column = |name: &str| cells(found, name);
    let ids: Vec<String> = (0..rows.len()).map(|row| row.to_string()).collect();
    assert_eq!(column("id"), ids, "the spine's order");
    for view in ["text", "number", "pair", "triple"] {
        let (counts, lasts) = (column(&format!("{view}.count")), column(&format!("{view}.last")));
        for (row, (k, n, flag, t)) in rows.iter().enumerate() {
            let (keyed, by_k, by_n, by_flag) = match view {
                "text" => (k.is_some(), true, false, false),
                "number" => (n.is_some(), false, true, false),
                "pair" => (k.is_some() && n.is_some(), true, true, false),
                _ => (k.is_some() && n.is_some() && flag.is_some(), true, true, true),
            };
            let expected = expected(events, *t, keyed, |event| {
                (!by_k || event.key == *k) && (!by_n || event.n == *n) && (!by_flag || event.flag == *flag)
            });
            assert_eq!(
                (counts[row].clone(), lasts[row].clone()),
                expected,
                "{view}, row {row}: {:?}",
                rows[row]
            );
        }
    }
}

prop_compose! {
    fn any_event()(
        key in prop::option::weighted(0.9, 0..3u8),
        n in prop::option::weighted(0.9, 0..3i64),
        flag in prop::option::weighted(0.9, any::<bool>()),
        amount in prop::option::weighted(0.8, 0..9i32),
        slot in 0..200i64,
        late in prop_oneof![2 => Just(0i64), 1 => 1..2 * HOUR],
    ) -> Event {
        let time = START + slot * MINUTE;
        Event {
            key: key.map(|key| format!("key-{key}")),
            amount: amount.map(f64::from),
            n, flag, time, known: time + late, partition: 0, offset: 0,
        }
    }
}

fn any_row() -> impl Strategy<Value = Row> {
    let key = prop::option::weighted(0.85, 0..4u8).prop_map(|key| key.map(|key| format!("key-{key}")));
    let n = prop::option::weighted(0.85, 0..4i64);
    // Some before the first event.
    (key, n, prop::option::weighted(0.85, any::<bool>()), -30..260i64)
        .prop_map(|(key, n, flag, slot)| (key, n, flag, START + slot * MINUTE))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn each_view_finds_its_own_entity_in_a_row(
        mut events in prop::collection::vec(any_event(), 0..150),
        mut rows in prop::collection::vec(any_row(), 1..60),
    ) {
        for (offset, event) in (0..).zip(&mut events) {
            event.offset = offset;
        }
        // Duplicates.
        rows.extend(rows.clone().into_iter().step_by(4));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let log = folder.path().join("log");
            std::fs::create_dir_all(&log).unwrap();
            write_log(&log, std::slice::from_ref(&events)).await;
            let store = FakeStore::with(DEFINITIONS, ViewState::Active);
            store.archive("events", &log);
            let bench = Bench::open(Arc::new(store), config(folder.path())).await;
            let (_, found) = bench.build(request("m", AsOf::KnownAt, spine(&rows))).await;
            check(&found, &events, &rows);
            bench.close().await;
        });
    }
}

#[tokio::test]
async fn a_derived_feature_joins_views_of_different_keys() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    std::fs::create_dir_all(&log).unwrap();
    let event = |n: i64, offset: i64| Event {
        key: Some("a".to_owned()),
        amount: Some(1.0),
        n: Some(n),
        flag: Some(true),
        time: START + offset * MINUTE,
        known: START + offset * MINUTE,
        partition: 0,
        offset,
    };
    write_log(&log, &[vec![event(1, 0), event(1, 1), event(2, 2), event(3, 3)]]).await;
    let store = FakeStore::with(DEFINITIONS, ViewState::Active);
    store.archive("events", &log);
    let bench = Bench::open(Arc::new(store), config(folder.path())).await;
    let rows: Vec<Row> = [(Some(1), 10), (Some(2), 10), (None, 10), (Some(1), 0)]
        .map(|(n, minute)| (Some("a".to_owned()), n, None, START + minute * MINUTE))
        .to_vec();
    let (_, found) = bench.build(request("m", AsOf::KnownAt, spine(&rows))).await;
    assert_eq!(cells(&found, "text.count"), ["4", "4", "4", "0"]);
    assert_eq!(cells(&found, "pair.count"), ["2", "1", "0", "0"]);
    // Of the last row nothing had happened yet: there is no share of nothing.
    assert_eq!(cells(&found, "derived.share"), ["0.5", "0.25", "0.0", "null"]);
    bench.close().await;
}
