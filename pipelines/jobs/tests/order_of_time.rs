//! A table in order of time is joined in another way than one that is not: both give the same rows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod support;

use arrow::array::RecordBatch;
use ondol_pipelines_api::wire::AsOf;
use ondol_vocabulary::ViewState;
use proptest::prelude::*;
use std::sync::Arc;
use support::oracle::{MINUTE, SECOND};
use support::{Bench, FakeStore, batch, cells, config, floats, integers, moments, request, strings, write_parquet};

const START: i64 = 1_357_077_600_000_000;

/// A table and three views of it.
const DEFINITIONS: &str = r#"
[source.NAME]
parquet = "FOLDER/NAME"
time = "at"
schema = { id = "i64", amount = "f64", n = "i32", tag = "string", at = "timestamp" }
ARRIVAL

[view.NAME_rows]
from = "NAME"
key = "id"
features.amount = "amount"
features.n = { expr = "n", default = -1 }

[view.NAME_fresh]
from = "NAME"
key = "id"
ttl = "20m"
filter = "n is null or n > 2"
features.n = "n"
features.tag = { expr = "upper(tag)", default = "none" }

[view.NAME_two]
from = "NAME"
key = ["id", "tag"]
ttl = "1h"
features.amount = "amount"
"#;

const MODEL: &str = r#"
[model.m]
inputs = { id = "i64", tag = "string" }
features = ["ordered_rows.*", "ordered_fresh.*", "ordered_two.*", "mixed_rows.*", "mixed_fresh.*", "mixed_two.*"]
"#;

#[derive(Clone, Debug)]
struct Event {
    id: Option<i64>,
    amount: Option<i8>,
    n: Option<i32>,
    tag: Option<u8>,
    time: i64,
}

fn texts(values: impl Iterator<Item = Option<u8>>) -> Vec<Option<String>> {
    values.map(|value| value.map(|value| format!("tag-{value}"))).collect()
}

fn table<'a>(events: impl Iterator<Item = &'a Event> + Clone) -> RecordBatch {
    let tags = texts(events.clone().map(|event| event.tag));
    batch(vec![
        ("id", integers(events.clone().map(|event| event.id))),
        (
            "amount",
            floats(events.clone().map(|event| event.amount.map(f64::from))),
        ),
        (
            "n",
            Arc::new(
                events
                    .clone()
                    .map(|event| event.n)
                    .collect::<arrow::array::Int32Array>(),
            ),
        ),
        ("tag", strings(tags.iter().map(Option::as_deref))),
        ("at", moments(events.map(|event| event.time))),
    ])
}

/// Of few entities, some far from the others; of few moments, so that some tie.
fn any_event() -> impl Strategy<Value = Event> {
    let id = prop_oneof![8 => (0..5i64).prop_map(Some), 1 => Just(Some(i64::MAX)), 1 => Just(None)];
    let amount = prop::option::weighted(0.8, any::<i8>());
    let n = prop::option::weighted(0.8, 0..9i32);
    let tag = prop::option::weighted(0.9, 0..3u8);
    (id, amount, n, tag, 0..90i64).prop_map(|(id, amount, n, tag, minute)| Event {
        id,
        amount,
        n,
        tag,
        time: START + minute * MINUTE,
    })
}

/// The spine, and the statuses and values of the model's features.
async fn joined(
    events: &[Event],
    spine: RecordBatch,
    (group, arrival): (usize, &str),
    (as_of, exact): (AsOf, bool),
) -> [Vec<String>; 2] {
    let folder = tempfile::tempdir().unwrap();
    let mut in_order = events.to_vec();
    in_order.sort_by_key(|event| event.time);
    let definitions = |name: &str| {
        DEFINITIONS
            .replace("NAME", name)
            .replace("FOLDER", folder.path().to_str().unwrap())
            .replace("ARRIVAL", arrival)
    };
    // Two files of each, so that rows are numbered through.
    let half = in_order.len() / 2;
    let (one, two) = in_order.split_at(half);
    for (name, events) in [("ordered/1.parquet", one), ("ordered/2.parquet", two)] {
        write_parquet(&folder.path().join(name), &table(events.iter()), group);
    }
    for (name, events) in [("mixed/1.parquet", two), ("mixed/2.parquet", one)] {
        write_parquet(&folder.path().join(name), &table(events.iter().rev()), group);
    }
    let text = definitions("ordered") + &definitions("mixed") + MODEL;
    let store = FakeStore::with(&text, ViewState::Active);
    let bench = Bench::open(Arc::new(store), config(folder.path())).await;
    let mut request = request("m", as_of, spine);
    request.options.exact_status = exact;
    let (job, rows) = bench.build(request).await;
    bench.close().await;
    let features = job.manifest.unwrap().features;
    ["ordered", "mixed"].map(|name| {
        let of_view = features.iter().filter(|feature| feature.name.starts_with(name));
        of_view
            .map(|feature| {
                let values = cells(&rows, &feature.name).join(" ");
                // Which old events were not even read depends on the files they are in.
                let statuses = feature.statuses.as_ref().filter(|_| exact);
                format!("{values} {:?} {statuses:?}", feature.statistics)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_a_table_changes_no_value_and_no_status(
        events in prop::collection::vec(any_event(), 1..120),
        spine in prop::collection::vec((prop::option::weighted(0.9, 0..6i64), 0..3u8, -5..130i64, 0..2i64), 1..60),
        group in 1..40usize,
        arrival in prop_oneof![
            Just(""),
            Just("arrival = \"event-time\"\ndelay = \"7m\""),
        ],
        as_of in prop_oneof![Just(AsOf::KnownAt), Just(AsOf::EventTime)],
        exact in any::<bool>(),
    ) {
        let tags = texts(spine.iter().map(|(_, tag, ..)| Some(*tag)));
        let rows = batch(vec![
            ("id", integers(spine.iter().map(|(id, ..)| *id))),
            ("tag", strings(tags.iter().map(Option::as_deref))),
            ("time", moments(spine.iter().map(|(.., minute, more)| START + minute * MINUTE + more * SECOND))),
        ]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let [ordered, mixed] = runtime.block_on(joined(&events, rows, (group, arrival), (as_of, exact)));
        prop_assert_eq!(ordered, mixed);
    }
}
