//! What messages add to events: rows that are deleted, events that came too late, several events of one message.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;
use arrow::util::display::array_value_to_string;
use ondol_transform::{Row, ViewEngine, definition};
use ondol_vocabulary::{DefinitionFile, DefinitionFiles, EventTime, FeatureStatus};
use proptest::prelude::*;
use std::sync::Arc;

/// What happened to the one entity of these tests.
#[derive(Clone, Debug, Default)]
struct Event {
    time: i64,
    offset: i64,
    tier: Option<&'static str>,
    n: i64,
    deleted: bool,
    late: Option<bool>,
}

fn engine(source: &str, view: &str) -> ViewEngine {
    let text = format!(
        "[source.s]\nkafka = \"s\"\ntime = \"at\"\n{source}\n\
         schema = {{ id = {{ type = \"string\", key = true }}, tier = \"string\", n = \"i64\", at = \"timestamp\" }}\n\
         [view.v]\nfrom = \"s\"\nkey = \"id\"\n{view}\n"
    );
    let files = DefinitionFiles {
        files: vec![DefinitionFile {
            path: "test.toml".to_owned(),
            text,
        }],
    };
    let definitions = definition::compile(&files).unwrap_or_else(|found| panic!("{found:?}"));
    ViewEngine::compile(&definitions.views[0], &definitions.sources[0]).unwrap()
}

fn deletable(view: &str) -> ViewEngine {
    engine("tombstones = \"delete\"", &format!("features.tier = \"tier\"\n{view}"))
}

fn batch(events: &[Event]) -> RecordBatch {
    let times = |micros: &dyn Fn(&Event) -> i64| -> ArrayRef {
        let times = TimestampMicrosecondArray::from_iter_values(events.iter().map(micros));
        Arc::new(times.with_timezone("UTC"))
    };
    let columns: [(&str, ArrayRef); 9] = [
        ("id", Arc::new(StringArray::from(vec!["e"; events.len()]))),
        (
            "tier",
            Arc::new(events.iter().map(|event| event.tier).collect::<StringArray>()),
        ),
        (
            "n",
            Arc::new(Int64Array::from_iter_values(events.iter().map(|event| event.n))),
        ),
        ("at", times(&|event| event.time)),
        ("_partition", Arc::new(Int32Array::from(vec![0; events.len()]))),
        (
            "_offset",
            Arc::new(Int64Array::from_iter_values(events.iter().map(|event| event.offset))),
        ),
        ("_ingested_at", times(&|event| event.time)),
        (
            "_deleted",
            Arc::new(events.iter().map(|event| Some(event.deleted)).collect::<BooleanArray>()),
        ),
        (
            "_late",
            Arc::new(events.iter().map(|event| event.late).collect::<BooleanArray>()),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

fn absorb(engine: &ViewEngine, row: &mut Row, events: &[Event]) {
    let projection = engine.project(&batch(events)).unwrap();
    for (_, indexes) in projection.entities() {
        engine.deliver(row, &projection, &indexes, 1);
    }
}

fn row_of(engine: &ViewEngine, events: &[Event]) -> Row {
    let mut row = Row::default();
    absorb(engine, &mut row, events);
    row
}

fn bytes(engine: &ViewEngine, row: &Row) -> Vec<u8> {
    let mut bytes = Vec::new();
    engine.encode(row, &mut bytes);
    bytes
}

/// The first feature of a row read a second after 1970-01-01T00:00:10Z: its text, what it is worth, and since when.
fn read(engine: &ViewEngine, row: &Row) -> (Option<String>, FeatureStatus, Option<i64>) {
    let finished = engine.finish(&[Some(row)], &[EventTime::from_micros(11_000_000)], &[0]);
    let feature = &finished[0];
    let value = (!feature.values.is_null(0)).then(|| array_value_to_string(&feature.values, 0).unwrap());
    (value, feature.status[0], feature.event_time[0].map(EventTime::micros))
}

fn update(time: i64, offset: i64, tier: &'static str) -> Event {
    Event {
        time,
        offset,
        tier: Some(tier),
        ..Event::default()
    }
}

fn deletion(time: i64, offset: i64) -> Event {
    Event {
        time,
        offset,
        deleted: true,
        ..Event::default()
    }
}

#[test]
fn a_deleted_row_is_missing_and_says_when_it_went() {
    let engine = deletable("");
    let row = row_of(&engine, &[update(1, 0, "gold"), deletion(5, 1)]);
    assert_eq!(read(&engine, &row), (None, FeatureStatus::Missing, Some(5)));
}

#[test]
fn a_row_that_was_deleted_before_anything_was_known_of_it_is_missing() {
    let engine = deletable("");
    let row = row_of(&engine, &[deletion(5, 1)]);
    assert_eq!(read(&engine, &row), (None, FeatureStatus::Missing, Some(5)));
}

#[test]
fn an_older_update_that_comes_after_the_deletion_does_not_revive_the_row() {
    let engine = deletable("");
    let mut row = row_of(&engine, &[deletion(5, 1)]);
    absorb(&engine, &mut row, &[update(4, 2, "gold")]);
    assert_eq!(read(&engine, &row).1, FeatureStatus::Missing);
}

#[test]
fn of_an_update_and_a_deletion_of_one_moment_the_later_in_the_stream_counts() {
    let engine = deletable("");
    let row = row_of(&engine, &[update(5, 1, "gold"), deletion(5, 2)]);
    assert_eq!(read(&engine, &row).1, FeatureStatus::Missing);
    let row = row_of(&engine, &[deletion(5, 1), update(5, 2, "gold")]);
    assert_eq!(read(&engine, &row).0.as_deref(), Some("gold"));
}

#[test]
fn a_later_insert_makes_the_row_anew() {
    let engine = deletable("");
    let row = row_of(&engine, &[update(1, 0, "gold"), deletion(5, 1), update(6, 2, "iron")]);
    assert_eq!(
        read(&engine, &row),
        (Some("iron".to_owned()), FeatureStatus::Fresh, Some(6))
    );
}

#[test]
fn a_deletion_passes_the_filter_whatever_is_left_of_its_row() {
    let engine = deletable("where = \"tier = 'gold' -- only these\"");
    let row = row_of(&engine, &[update(1, 0, "gold"), update(2, 1, "iron")]);
    assert_eq!(read(&engine, &row).0.as_deref(), Some("gold"));
    let row = row_of(&engine, &[update(1, 0, "gold"), deletion(5, 1)]);
    assert_eq!(read(&engine, &row).1, FeatureStatus::Missing);
}

#[test]
fn a_deleted_row_is_missing_and_never_stale() {
    let engine = deletable("ttl = \"1s\"");
    let stale = row_of(&engine, &[update(1, 0, "gold")]);
    assert_eq!(read(&engine, &stale).1, FeatureStatus::Stale);
    let deleted = row_of(&engine, &[update(1, 0, "gold"), deletion(5, 1)]);
    assert_eq!(read(&engine, &deleted).1, FeatureStatus::Missing);
}

#[test]
fn a_deletion_ahead_of_the_clock_is_not_seen_before_its_time() {
    let engine = deletable("");
    let mut events = [update(1, 0, "gold"), deletion(20_000_000, 1)];
    // Known at 2 us, although it happens at 20 s: a read at 11 s does not see it.
    let mut batch = batch(&events);
    let known = TimestampMicrosecondArray::from(vec![1, 2]).with_timezone("UTC");
    let at = batch.schema().index_of("_ingested_at").unwrap();
    let mut columns = batch.columns().to_vec();
    columns[at] = Arc::new(known);
    batch = RecordBatch::try_new(batch.schema(), columns).unwrap();
    let projection = engine.project(&batch).unwrap();
    let mut row = Row::default();
    engine.deliver(&mut row, &projection, &[0, 1], 1);
    assert_eq!(read(&engine, &row).0.as_deref(), Some("gold"));
    events[1].time = 10;
    assert_eq!(read(&engine, &row_of(&engine, &events)).1, FeatureStatus::Missing);
}

#[test]
fn a_late_event_counts_in_no_view_and_one_that_nobody_marked_counts() {
    let engine = engine("late = \"5m\"", "features.n = \"count()\"");
    let event = |offset, late| Event {
        time: 1,
        offset,
        late,
        ..Event::default()
    };
    let row = row_of(&engine, &[event(0, Some(true)), event(1, Some(false)), event(2, None)]);
    assert_eq!(read(&engine, &row).0.as_deref(), Some("2"));
    let unmarked = batch(&[event(0, Some(true))]);
    let unmarked = unmarked.project(&(0..8).collect::<Vec<_>>()).unwrap();
    assert_eq!(
        engine.project(&unmarked).unwrap().len(),
        1,
        "events without marks are in time"
    );
}

const OF_MESSAGES: &str = "features.all = \"count()\"\nfeatures.sum = \"sum(n)\"\nfeatures.first = \"first(tier)\"\n\
    features.last = \"last(tier)\"\nfeatures.latest = \"tier\"\nfeatures.newest = \"last_n(n, 3)\"\n\
    features.kinds = \"count_distinct(tier)\"\nfeatures.recent = \"last_distinct(tier, 2) over 1h\"";

#[test]
fn every_event_of_a_message_counts_once_however_often_it_is_delivered() {
    let engine = engine("unnest = \"items\"", OF_MESSAGES);
    let message = [update(1, 7, "a"), update(1, 7, "b"), update(1, 7, "a")];
    let mut row = row_of(&engine, &message);
    let before = bytes(&engine, &row);
    absorb(&engine, &mut row, &message);
    assert_eq!(bytes(&engine, &row), before);
    assert_eq!(read(&engine, &row).0.as_deref(), Some("3"));
}

fn any_event() -> impl Strategy<Value = Event> {
    let tier = prop::sample::select(vec![None, Some("a"), Some("b"), Some("c")]);
    (0..6i64, tier, 0..3i64, any::<bool>()).prop_map(|(time, tier, n, deleted)| Event {
        time,
        tier,
        n,
        deleted,
        ..Event::default()
    })
}

proptest! {
    /// The oracle: of the events the one of the greatest (time, offset) decides.
    #[test]
    fn the_latest_event_decides_in_any_order_and_split(
        events in prop::collection::vec(any_event(), 1..12),
        seed: u64,
        cut: prop::sample::Index,
    ) {
        let engine = deletable("");
        let events: Vec<Event> = events
            .into_iter()
            .enumerate()
            .map(|(offset, event)| Event { offset: offset as i64, ..event })
            .collect();
        let latest = events.iter().max_by_key(|event| (event.time, event.offset)).unwrap();
        let expected = match (latest.deleted, latest.tier) {
            (true, _) => (None, FeatureStatus::Missing),
            (false, None) => (None, FeatureStatus::Null),
            (false, Some(tier)) => (Some(tier.to_owned()), FeatureStatus::Fresh),
        };
        // Deliveries follow one another; within one, events stand in any order.
        let at = cut.index(events.len());
        let mut row = Row::default();
        for part in [&events[..at], &events[at..]] {
            let mut part = part.to_vec();
            shuffle(&mut part, seed);
            absorb(&engine, &mut row, &part);
        }
        let (value, status, time) = read(&engine, &row);
        prop_assert_eq!((value, status), expected);
        prop_assert_eq!(time, Some(latest.time));
        prop_assert_eq!(bytes(&engine, &row), bytes(&engine, &row_of(&engine, &events)));
        // And read back from its bytes.
        let stored = engine.decode(&bytes(&engine, &row)).unwrap();
        prop_assert_eq!(read(&engine, &stored).1, status);
    }

    #[test]
    fn the_order_within_a_message_never_matters(
        mut events in prop::collection::vec(any_event(), 1..10),
        seed: u64,
    ) {
        let engine = engine("unnest = \"items\"", OF_MESSAGES);
        for (place, event) in events.iter_mut().enumerate() {
            event.deleted = false;
            event.offset = place as i64 / 4;
        }
        let count = events.len() as i64;
        let row = row_of(&engine, &events);
        shuffle(&mut events, seed);
        prop_assert_eq!(bytes(&engine, &row), bytes(&engine, &row_of(&engine, &events)));
        let counted = engine.finish(&[Some(&row)], &[EventTime::from_micros(1_000)], &[0]);
        prop_assert_eq!(counted[0].values.as_primitive::<Int64Type>().value(0), count);
    }
}

#[test]
fn of_a_tables_rows_of_one_time_each_value_decides_for_itself() {
    let text = "[source.s]\nparquet = \"s\"\ntime = \"at\"\n\
        schema = { id = \"string\", tier = \"string\", n = \"i64\", at = \"timestamp\" }\n\
        [view.v]\nfrom = \"s\"\nkey = \"id\"\nfeatures.tier = \"tier\"\nfeatures.n = \"n\"\n";
    let files = DefinitionFiles {
        files: vec![DefinitionFile {
            path: "test.toml".to_owned(),
            text: text.to_owned(),
        }],
    };
    let definitions = definition::compile(&files).unwrap();
    let engine = ViewEngine::compile(&definitions.views[0], &definitions.sources[0]).unwrap();
    let at = |offset, tier, n| Event {
        offset,
        tier: Some(tier),
        n,
        ..Event::default()
    };
    let mut events = [at(0, "silver", 9), at(1, "gold", 7), at(2, "bronze", 8)];
    for _ in 0..3 {
        // Whoever reads the table numbers its rows, in whatever order they stand.
        events.rotate_left(1);
        for (event, offset) in events.iter_mut().zip(0..) {
            event.offset = offset;
        }
        let row = row_of(&engine, &events);
        let found = engine.finish(&[Some(&row)], &[EventTime::from_micros(1_000)], &[0, 1]);
        assert_eq!(array_value_to_string(&found[0].values, 0).unwrap(), "silver");
        assert_eq!(found[1].values.as_primitive::<Int64Type>().value(0), 9);
    }
}

/// Any order, by a few steps of a linear congruence.
fn shuffle<T>(items: &mut [T], mut seed: u64) {
    for place in (1..items.len()).rev() {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        items.swap(place, (seed >> 33) as usize % (place + 1));
    }
}
