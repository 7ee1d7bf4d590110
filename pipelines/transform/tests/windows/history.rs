//! History against the row: what is read off sorted columns has the bits that a row gives, absorbing and finished event
//! by event, over random views, events and moments.

use crate::events::{Event, any_events, any_time, any_unit, batch, source};
use crate::oracle::{Answer, Value};
use crate::properties::{trained, value};
use crate::views::{View, any_view};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use ondol_transform::{Answers, History, Moments, ViewEngine, Worth};
use ondol_vocabulary::{FeatureStatus, SourceDefinition, SourceOrigin, TableFormat};
use proptest::prelude::*;

const ENTITIES: [&str; 3] = ["a", "b", "c"];

/// The same columns as a table: rows that no position orders.
fn table() -> SourceDefinition {
    SourceDefinition {
        origin: SourceOrigin::Table {
            location: "events".to_owned(),
            format: TableFormat::Parquet,
        },
        ..source()
    }
}

/// The events that the view takes, without those of no entity, and the lane of each.
fn admitted(history: &History, events: &[Event]) -> (RecordBatch, Vec<u32>) {
    let mut events = batch(events);
    if let Some(mask) = history.admits(&events).unwrap() {
        events = filter_record_batch(&events, &mask).unwrap();
    }
    let lane = |key: Option<&str>| {
        ENTITIES
            .iter()
            .position(|entity| key == Some(entity))
            .map(|lane| lane as u32)
    };
    let keys = events.column_by_name("key").unwrap().as_string::<i32>();
    let lanes: Vec<Option<u32>> = keys.iter().map(lane).collect();
    let mask = lanes.iter().map(|lane| Some(lane.is_some())).collect();
    let carried = history
        .carried()
        .iter()
        .map(|field| events.schema().index_of(&field.name).unwrap());
    let carried: Vec<usize> = carried.collect();
    let events = filter_record_batch(&events, &mask).unwrap().project(&carried).unwrap();
    (events, lanes.into_iter().flatten().collect())
}

/// The same from events that come in order, a few at a time.
fn folded(history: &History, events: &RecordBatch, lanes: &[u32], moments: Moments<'_>) -> Answers {
    let visible = history.seen_from(events).unwrap();
    let mut order: Vec<u32> = (0..lanes.len() as u32).collect();
    order.sort_by_key(|event| (lanes[*event as usize], visible[*event as usize]));
    let mut folding = history.folding(moments);
    for piece in order.chunks(7) {
        let events = take_record_batch(events, &UInt32Array::from(piece.to_vec())).unwrap();
        let lanes: Vec<u32> = piece.iter().map(|event| lanes[*event as usize]).collect();
        folding.push(&events, &lanes).unwrap();
    }
    folding.finish().unwrap()
}

/// Every feature at the moments of each entity in turn, and what the entity is worth.
fn read(history: &History, events: &[Event], moments: &[i64]) -> Vec<(Vec<Value>, Worth)> {
    let (events, lanes) = admitted(history, events);
    let mut sorted = moments.to_vec();
    sorted.sort_unstable();
    let times = sorted.repeat(ENTITIES.len());
    let ends: Vec<u32> = (1..=ENTITIES.len()).map(|lane| (lane * sorted.len()) as u32).collect();
    let moments = Moments {
        times: &times,
        ends: &ends,
    };
    let answers = history.answers(&events, &lanes, &moments).unwrap();
    let folded = folded(history, &events, &lanes, moments);
    assert_eq!((&folded.values, &folded.worth), (&answers.values, &answers.worth));
    let columns: Vec<ArrayRef> = history.filled(answers.values).unwrap();
    for (column, feature) in columns.iter().zip(&history.definition().features) {
        assert_eq!(*column.data_type(), feature.data_type.arrow());
        assert_eq!(column.len(), times.len());
    }
    (0..times.len())
        .map(|slot| {
            (
                columns.iter().map(|column| value(column, slot)).collect(),
                answers.worth[slot],
            )
        })
        .collect()
}

fn check(view: &View, source: &SourceDefinition, events: &[Event], moments: &[i64]) -> Result<(), TestCaseError> {
    let definition = view.definition();
    let engine = ViewEngine::compile(&definition, source).unwrap();
    let history = History::compile(&definition, source).unwrap();
    let expected = ENTITIES
        .iter()
        .flat_map(|entity| trained(&engine, events, entity, moments));
    let values = |answers: Vec<Answer>| {
        let worth = match answers[0].status {
            FeatureStatus::Missing => Worth::Missing,
            FeatureStatus::Stale => Worth::Stale,
            _ => Worth::Live,
        };
        (answers.into_iter().map(|answer| answer.value).collect(), worth)
    };
    let expected: Vec<(Vec<Value>, Worth)> = expected.map(values).collect();
    for (slot, (found, expected)) in read(&history, events, moments).iter().zip(&expected).enumerate() {
        prop_assert_eq!(found, expected, "moment {} of {:?}", slot, moments);
    }
    Ok(())
}

/// A view, what happens and when it is read.
fn any_case() -> impl Strategy<Value = (View, Vec<Event>, Vec<i64>)> {
    any_unit().prop_flat_map(|unit| {
        let near = (any_time(unit), prop::sample::select(vec![-1, 0, 1, unit]))
            .prop_map(|(time, by): (i64, i64)| time.saturating_add(by));
        let moments = prop::collection::vec(prop_oneof![8 => near, 1 => Just(i64::MAX), 1 => Just(i64::MIN)], 1..12);
        (any_view(unit), any_events(unit, 60), moments)
    })
}

/// As most streams are: everything known as soon as it happens, or always as late.
fn in_order(events: &[Event], delay: i64) -> Vec<Event> {
    let prompt = |event: &Event| Event {
        ingested_at: event.time.saturating_add(delay),
        ..event.clone()
    };
    events.iter().map(prompt).collect()
}

/// Values of one magnitude, as amounts are: whose sums an integer holds.
fn tame(events: &[Event]) -> Vec<Event> {
    let tame = |event: &Event| Event {
        amount: event.amount.map(|amount| {
            if amount.is_finite() {
                (amount % 1e6) + 0.01
            } else {
                -0.0
            }
        }),
        ..event.clone()
    };
    events.iter().map(tame).collect()
}

fn cases() -> ProptestConfig {
    let cases = std::env::var("ONDOL_ORACLE_CASES").map_or(500, |cases| cases.parse().unwrap());
    ProptestConfig {
        cases,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn history_in_order_has_the_bits_of_the_row(
        (view, events, moments) in any_case(),
        delay in prop::sample::select(vec![-5i64, 0, 1, 1_000_000]),
        is_tame in any::<bool>(),
    ) {
        let events = in_order(&events, delay);
        let events = if is_tame { tame(&events) } else { events };
        check(&view, &source(), &events, &moments)?;
        check(&view, &table(), &events, &moments)?;
    }

    #[test]
    fn history_out_of_order_has_the_bits_of_the_row((view, events, moments) in any_case()) {
        check(&view, &source(), &events, &moments)?;
        check(&view, &table(), &events, &moments)?;
    }
}

#[test]
fn history_of_nothing_is_missing() {
    let view = View::of(vec![crate::views::aggregate(
        ondol_vocabulary::Aggregation::Count,
        None,
        None,
    )]);
    let history = History::compile(&view.definition(), &source()).unwrap();
    assert_eq!(
        read(&history, &[], &[5]),
        vec![(vec![Value::integer(Some(0))], Worth::Missing); 3]
    );
}
