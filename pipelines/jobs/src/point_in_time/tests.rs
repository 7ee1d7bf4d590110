//! Joins of random events, every way they can go: in memory, spilled, by candidates and by the stream's own row.

use super::*;
use crate::point_in_time::latest::Latest;
use arrow::array::TimestampMicrosecondArray;
use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use ondol_pipelines_api::wire::AsOf;
use ondol_transform::{Row, ViewEngine};
use ondol_vocabulary::key::EntityKeyColumns;
use ondol_vocabulary::{DefinitionFile, DefinitionFiles, EventTime, FeatureStatus, SourceDefinition, ViewDefinition};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

const DEFINITIONS: &str = r#"
[source.log]
kafka = "log"
time = "ts"
schema = { k = "string", amount = "f64", tag = "string", ts = "timestamp" }

[source.table]
parquet = "somewhere"
time = "ts"
schema = { k = "string", amount = "f64", tag = "string", ts = "timestamp" }

[view.windows]
from = "log"
key = "k"
features.n = "count() over 1h"
features.sum = "sum(amount) over 1h"
features.sum_or = { expr = "sum(amount) over 1h", default = 0.5 }
features.most = "max(amount) over 1d"
features.tags = "count_distinct(tag) over 1d"
features.last = "last(tag) over 1d"

[view.latest]
from = "log"
key = "k"
ttl = "2h"
filter = "amount is not null"
features.amount = "amount"
features.tag = { expr = "upper(tag)", default = "none" }

[view.rows]
from = "table"
key = "k"
features.amount = "amount"
features.tag = { expr = "tag", default = "" }
"#;

fn definitions(view: &str) -> (ViewDefinition, SourceDefinition) {
    let files = DefinitionFiles {
        files: vec![DefinitionFile {
            path: "test.toml".to_owned(),
            text: DEFINITIONS.to_owned(),
        }],
    };
    let definitions = ondol_transform::definition::compile(&files).unwrap();
    let view = definitions.views.into_iter().find(|known| known.name == view).unwrap();
    let source = definitions
        .sources
        .into_iter()
        .find(|source| source.name == view.source)
        .unwrap();
    (view, source)
}

#[derive(Clone, Debug)]
struct Event {
    key: Option<u8>,
    amount: Option<i8>,
    tag: Option<u8>,
    time: i64,
    late: i64,
    offset: i64,
}

const MINUTE: i64 = 60_000_000;

fn micros(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn texts(values: impl Iterator<Item = Option<u8>>) -> ArrayRef {
    Arc::new(
        values
            .map(|value| value.map(|value| format!("value-{value}")))
            .collect::<StringArray>(),
    )
}

fn batch(events: &[Event]) -> RecordBatch {
    let columns: [(&str, ArrayRef); 7] = [
        ("k", texts(events.iter().map(|event| event.key))),
        (
            "amount",
            Arc::new(
                events
                    .iter()
                    .map(|event| event.amount.map(f64::from))
                    .collect::<Float64Array>(),
            ),
        ),
        ("tag", texts(events.iter().map(|event| event.tag))),
        ("ts", micros(events.iter().map(|event| event.time))),
        ("_partition", Arc::new(Int32Array::from_value(0, events.len()))),
        (
            "_offset",
            Arc::new(events.iter().map(|event| Some(event.offset)).collect::<Int64Array>()),
        ),
        (
            "_ingested_at",
            micros(events.iter().map(|event| event.time + event.late)),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

/// Values, defaults filled in, and what the entities are worth.
type Joined = (Vec<ArrayRef>, Vec<Worth>);

fn filled(view: &JoinView, answers: Answers) -> Joined {
    (view.filled(answers.values).unwrap(), answers.worth)
}

/// Feature by feature what the stream's row says, an event after another.
fn by_rows(view: &str, events: &[Event], spine: &[(Option<u8>, i64)]) -> Joined {
    let (view, source) = definitions(view);
    let engine = ViewEngine::compile(&view, &source).unwrap();
    let features: Vec<usize> = (0..view.features.len()).collect();
    let projection = engine.project(&batch(events)).unwrap();
    let entities = projection.entities();
    let keys = texts(spine.iter().map(|(key, _)| *key));
    let keys = EntityKeyColumns::new([&keys]).unwrap();
    let mut finisher = engine.finisher(&features, spine.len());
    for (row, (_, t)) in spine.iter().enumerate() {
        let t = EventTime::from_micros(*t);
        let mut state: Option<Row> = None;
        let found = keys
            .key(row)
            .and_then(|key| entities.iter().find(|(known, _)| *known == key));
        if let Some((_, indexes)) = found {
            let mut indexes = indexes.clone();
            indexes.sort_by_key(|index| projection.visible_from(*index as usize));
            for index in indexes {
                if projection.visible_from(index as usize) <= t {
                    engine.absorb(state.get_or_insert_default(), &projection, index as usize);
                }
            }
        }
        finisher.push(state.as_ref(), t);
    }
    let finished = finisher.finish();
    let worth = finished[0].status.iter().map(|status| match status {
        FeatureStatus::Missing => Worth::Missing,
        FeatureStatus::Stale => Worth::Stale,
        _ => Worth::Live,
    });
    let worth = worth.collect();
    (finished.into_iter().map(|feature| feature.values).collect(), worth)
}

/// By the seam for others, with memory for everything.
fn joined(view: &str, batches: &[RecordBatch], spine: &[(Option<u8>, i64)]) -> Joined {
    let (view, source) = definitions(view);
    let view = JoinView::compile(&view, &source).unwrap();
    let done = task(&view, batches, spine, (u64::MAX, Path::new("")), || true).unwrap();
    assert_eq!(done.spilled_bytes, 0);
    filled(&view, done.answers)
}

/// By the seam for others, in memory of so many bytes, spilling to a folder.
fn task(
    view: &JoinView,
    batches: &[RecordBatch],
    spine: &[(Option<u8>, i64)],
    (memory_bytes, spill): (u64, &Path),
    goes_on: impl Fn() -> bool,
) -> Result<Done, JobError> {
    let task = JoinTask {
        view,
        keys: &[texts(spine.iter().map(|(key, _)| *key))],
        times: &TimestampMicrosecondArray::from_iter_values(spine.iter().map(|(_, t)| *t)),
        as_of: AsOf::KnownAt,
        room: Room {
            events: batches.iter().map(|batch| batch.num_rows() as u64).sum(),
            memory_bytes,
            spill,
        },
    };
    task.run(batches.iter().cloned().map(Ok), goes_on)
}

/// As [`joined`], by a candidate for each row of the spine.
fn by_candidates(view: &str, batches: &[RecordBatch], spine: &[(Option<u8>, i64)]) -> Joined {
    let (view, source) = definitions(view);
    let view = JoinView::compile(&view, &source).unwrap();
    assert!(view.history().is_latest_only());
    let keys = texts(spine.iter().map(|(key, _)| *key));
    let times: Vec<i64> = spine.iter().map(|(_, t)| *t).collect();
    let entities = Entities::group(&[vec![&keys]], &times).unwrap();
    // Positions are read of logs only.
    let read = |batch: &RecordBatch| {
        let names: Vec<&str> = ["k", "amount", "tag", "ts", "_ingested_at"].to_vec();
        let marks = if view.has_positions() {
            vec!["_partition", "_offset"]
        } else {
            vec![]
        };
        let places = names
            .iter()
            .chain(&marks)
            .map(|name| batch.schema().index_of(name).unwrap());
        batch.project(&places.collect::<Vec<_>>()).unwrap()
    };
    let beyond = Beyond::new(&view, &entities);
    let latest = Latest::new(&view, &entities, &beyond);
    for (unit, batch) in batches.iter().enumerate() {
        // Two batches of a unit.
        let half = batch.num_rows() / 2;
        for (from, rows) in [(0, half), (half, batch.num_rows() - half)] {
            latest
                .push(&read(&batch.slice(from, rows)), unit as u32, from as u32)
                .unwrap();
        }
    }
    let winners = latest.winners(batches.len()).unwrap();
    let assembly = Assembly::new(view.features().map(|feature| feature.data_type), spine.len());
    for (unit, batch) in batches.iter().enumerate() {
        winners
            .place(&view, &entities, &read(batch), (unit, 0), &assembly)
            .unwrap();
    }
    winners.settle(&view, &entities, &assembly).unwrap();
    let mut assembled = assembly.finish().unwrap();
    beyond.settle(&view, &entities, false, &mut assembled.worth);
    let answers = assembled.into_answers().unwrap();
    filled(&view, answers)
}

prop_compose! {
    /// Few times and offsets, so that both tie.
    fn any_event()(
        key in prop::option::weighted(0.95, 0..4u8),
        amount in prop::option::weighted(0.9, any::<i8>()),
        tag in prop::option::weighted(0.9, 0..4u8),
        minute in 0..400i64,
        late in prop_oneof![3 => Just(0i64), 1 => 0..300i64],
        offset in 0..40i64,
    ) -> Event {
        Event { key, amount, tag, time: minute / 4 * 4 * MINUTE, late: late * MINUTE, offset }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_way_to_join_gives_the_bits_of_the_row(
        events in prop::collection::vec(any_event(), 0..150),
        spine in prop::collection::vec((prop::option::weighted(0.95, 0..5u8), (0..500i64).prop_map(|m| m * MINUTE)), 0..40),
        cut in 1..60usize,
        memory_bytes in 1..20_000u64,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let batches: Vec<RecordBatch> = events.chunks(cut).map(batch).collect();
        for view in ["windows", "latest", "rows"] {
            let expected = by_rows(view, &events, &spine);
            prop_assert_eq!(&joined(view, &batches, &spine), &expected, "{}", view);
            let (definition, source) = definitions(view);
            let compiled = JoinView::compile(&definition, &source).unwrap();
            let done = task(&compiled, &batches, &spine, (memory_bytes, folder.path()), || true).unwrap();
            prop_assert_eq!(&filled(&compiled, done.answers), &expected, "{} in {} bytes", view, memory_bytes);
            if view != "windows" {
                prop_assert_eq!(&by_candidates(view, &batches, &spine), &expected, "{} by candidates", view);
            }
        }
    }
}

#[test]
fn a_join_of_ten_times_its_memory_spills_and_gives_the_same() {
    let (view, source) = definitions("windows");
    let view = JoinView::compile(&view, &source).unwrap();
    let event = |at: i64| Event {
        key: Some((at % 251) as u8),
        amount: Some(at as i8),
        tag: Some((at % 7) as u8),
        time: at * MINUTE / 50,
        late: 0,
        offset: at,
    };
    let events: Vec<Event> = (0..60_000).map(event).collect();
    let batches: Vec<RecordBatch> = events.chunks(512).map(batch).collect();
    let spine: Vec<(Option<u8>, i64)> = (0..3_000)
        .map(|row: i64| (Some((row * 7 % 256) as u8), (row * 97 % 1_300) * MINUTE))
        .collect();
    let expected = joined("windows", &batches, &spine);

    let carried = 60_000 * view.carried_width();
    let folder = tempfile::tempdir().unwrap();
    let done = task(&view, &batches, &spine, (carried / 10, folder.path()), || true).unwrap();
    assert_eq!(filled(&view, done.answers), expected);
    assert!(done.spilled_bytes > carried / 2, "{} spilled", done.spilled_bytes);
    assert!(
        done.peak_bytes <= carried / 10,
        "{} of {} bytes",
        done.peak_bytes,
        carried / 10
    );
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 0, "the file has no name");
}

#[test]
fn one_entity_with_ten_times_the_memory_is_folded_piece_by_piece_and_gives_the_same() {
    let (view, source) = definitions("windows");
    let view = JoinView::compile(&view, &source).unwrap();
    // One has nearly all events, some of which arrive late; another few.
    let event = |at: i64| Event {
        key: Some(u8::from(at % 2_000 == 0)),
        amount: Some(at as i8),
        tag: Some((at % 7) as u8),
        time: (at * 7 % 60_000) * MINUTE / 50,
        late: if at % 11 == 0 { 90 * MINUTE } else { 0 },
        offset: at,
    };
    let events: Vec<Event> = (0..60_000).map(event).collect();
    let batches: Vec<RecordBatch> = events.chunks(512).map(batch).collect();
    let spine: Vec<(Option<u8>, i64)> = (0..3_000)
        .map(|row: i64| (Some((row % 3) as u8), (row * 97 % 1_300) * MINUTE))
        .collect();
    let expected = joined("windows", &batches, &spine);

    let limit = 60_000 * view.carried_width() / 10;
    let folder = tempfile::tempdir().unwrap();
    let done = task(&view, &batches, &spine, (limit, folder.path()), || true).unwrap();
    assert_eq!(filled(&view, done.answers), expected);
    assert!(done.peak_bytes <= limit, "{} of {limit} bytes", done.peak_bytes);
}

#[test]
fn a_task_that_nobody_waits_for_ends() {
    let (view, source) = definitions("windows");
    let view = JoinView::compile(&view, &source).unwrap();
    let ended = task(&view, &[], &[(Some(1), 5)], (1 << 20, Path::new("")), || false);
    assert!(matches!(ended, Err(JobError::Cancelled)));
}

#[test]
fn keys_that_do_not_fit_their_moments_are_refused() {
    let (view, source) = definitions("windows");
    let view = JoinView::compile(&view, &source).unwrap();
    let refused = |times: TimestampMicrosecondArray| {
        let task = JoinTask {
            view: &view,
            keys: &[texts([Some(1)].into_iter())],
            times: &times,
            as_of: AsOf::KnownAt,
            room: Room {
                events: 0,
                memory_bytes: 1 << 20,
                spill: Path::new(""),
            },
        };
        task.run(std::iter::empty(), || true).is_err()
    };
    assert!(!refused(TimestampMicrosecondArray::from(vec![1])));
    assert!(refused(TimestampMicrosecondArray::from(vec![1, 2])));
    assert!(refused(TimestampMicrosecondArray::from(vec![None])));
    let none = concat_batches(&batch(&[]).schema(), &[]).unwrap();
    assert_eq!(joined("windows", &[none], &[(None, 5)]).1, [Worth::Missing]);
}
