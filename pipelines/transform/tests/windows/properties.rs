//! Random views over random events in any order and split: the engine against the oracle, bit for bit.

use crate::aggregations::agrees;
use crate::events::{Event, any_events, any_time, any_unit, batch, source};
use crate::oracle::{Answer, Value, answers};
use crate::views::{Feature, View, any_view};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType as ArrowType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use ondol_transform::{Projection, Row, ViewEngine};
use ondol_vocabulary::{EntityKey, EventTime};
use proptest::prelude::*;
use std::collections::BTreeMap;

const GENERATION: u64 = 0xfeed;

pub(crate) type Rows = BTreeMap<EntityKey, Row>;

pub(crate) fn engine(view: &View) -> ViewEngine {
    ViewEngine::compile(&view.definition(), &source()).unwrap()
}

pub(crate) fn key(entity: &str) -> EntityKey {
    EntityKey::from_values(&[ondol_vocabulary::Value::String(entity.to_owned())])
        .unwrap()
        .unwrap()
}

/// Absorbs `events` in batches that end before each of `cuts`, storing and loading every row in between.
pub(crate) fn absorb(engine: &ViewEngine, events: &[Event], cuts: &[usize]) -> Rows {
    let mut rows = Rows::new();
    for part in parts(events, cuts) {
        let projection = engine.project(&batch(part)).unwrap();
        for (key, indexes) in projection.entities() {
            let row = rows.entry(key).or_default();
            for index in indexes {
                engine.absorb(row, &projection, index as usize);
            }
            *row = stored_and_loaded(engine, row);
        }
    }
    rows
}

fn parts<'a>(events: &'a [Event], cuts: &[usize]) -> Vec<&'a [Event]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (events.len() + 1)).collect();
    cuts.extend([0, events.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &events[pair[0]..pair[1]]).collect()
}

fn stored_and_loaded(engine: &ViewEngine, row: &Row) -> Row {
    let loaded = engine.decode(&bytes(engine, row)).unwrap();
    assert_eq!(loaded, *row);
    loaded
}

pub(crate) fn bytes(engine: &ViewEngine, row: &Row) -> Vec<u8> {
    let mut bytes = Vec::new();
    engine.encode(row, &mut bytes);
    bytes
}

fn stored(engine: &ViewEngine, rows: &Rows) -> Vec<(EntityKey, Vec<u8>)> {
    rows.iter()
        .map(|(key, row)| (key.clone(), bytes(engine, row)))
        .collect()
}

/// What the engine reads of `row` at `moment`, in the oracle's terms.
pub(crate) fn read(engine: &ViewEngine, row: Option<&Row>, moment: i64) -> Vec<Answer> {
    let features: Vec<usize> = (0..engine.definition().features.len()).collect();
    // The row is not the batch's only one: its neighbours must not matter.
    let now = EventTime::from_micros(moment);
    let finished = engine.finish(&[None, row, row], &[now, EventTime::MAX, now], &features);
    let answer = |at: usize| {
        let feature = &finished[at];
        assert_eq!(
            *feature.values.data_type(),
            engine.definition().features[at].data_type.arrow()
        );
        assert_eq!(feature.values.len(), 3);
        Answer {
            value: value(&feature.values, 2),
            status: feature.status[2],
            event_time: feature.event_time[2].map(EventTime::micros),
        }
    };
    (0..features.len()).map(answer).collect()
}

pub(crate) fn value(array: &ArrayRef, at: usize) -> Value {
    if array.is_null(at) {
        return Value::Null;
    }
    match array.data_type() {
        ArrowType::Boolean => Value::Bool(array.as_boolean().value(at)),
        ArrowType::Int32 => Value::Integer(i64::from(array.as_primitive::<Int32Type>().value(at))),
        ArrowType::Int64 => Value::Integer(array.as_primitive::<Int64Type>().value(at)),
        ArrowType::Float32 => Value::F32(array.as_primitive::<Float32Type>().value(at).to_bits()),
        ArrowType::Float64 => Value::F64(array.as_primitive::<Float64Type>().value(at).to_bits()),
        ArrowType::Timestamp(..) => Value::Integer(array.as_primitive::<TimestampMicrosecondType>().value(at)),
        ArrowType::Utf8 => Value::Text(array.as_string::<i32>().value(at).to_owned()),
        ArrowType::List(_) => {
            let items = array.as_list::<i32>().value(at);
            Value::List((0..items.len()).map(|item| value(&items, item)).collect())
        }
        other => panic!("no feature has type {other}"),
    }
}

/// One entity's training answers: its events by the moment from which reads see them, finished in between.
pub(crate) fn trained(engine: &ViewEngine, events: &[Event], entity: &str, moments: &[i64]) -> Vec<Vec<Answer>> {
    let projection: Projection = engine.project(&batch(events)).unwrap();
    let entities = projection.entities();
    let mut indexes = entities
        .into_iter()
        .find(|(found, _)| *found == key(entity))
        .map_or(vec![], |(_, indexes)| indexes);
    indexes.sort_by_key(|index| projection.visible_from(*index as usize));
    let mut pending = indexes.into_iter().peekable();
    let mut row = Row::default();
    let mut moments = moments.to_vec();
    moments.sort_unstable();
    let finish = |moment: i64| {
        while let Some(index) = pending.next_if(|index| projection.visible_from(*index as usize).micros() <= moment) {
            engine.absorb(&mut row, &projection, index as usize);
        }
        read(engine, Some(&row), moment)
    };
    moments.into_iter().map(finish).collect()
}

/// Whether what the engine says is what the oracle says: to the bit, but for sketches within their bound.
pub(crate) fn check(view: &View, found: &[Answer], expected: &[Answer], what: &str) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), view.features.len());
    for (feature, (found, expected)) in view.features.iter().zip(found.iter().zip(expected)) {
        let agree = match feature {
            Feature::Aggregate { function, .. } => agrees(*function, &found.value, &expected.value),
            Feature::Latest(_) => found.value == expected.value,
        };
        let agree = agree && (found.status, found.event_time) == (expected.status, expected.event_time);
        prop_assert!(
            agree,
            "{what}: {feature:?}\n  is        {found:?}\n  should be {expected:?}"
        );
    }
    Ok(())
}

/// How many cases each property is tried on: see `docs/semantics.md`.
fn cases() -> ProptestConfig {
    let cases = std::env::var("ONDOL_ORACLE_CASES").map_or(2_500, |cases| cases.parse().unwrap());
    ProptestConfig {
        cases,
        ..ProptestConfig::default()
    }
}

/// A definition, what happens, and when it is read.
#[derive(Clone, Debug)]
struct Case {
    view: View,
    events: Vec<Event>,
    /// The same events in another order.
    shuffled: Vec<Event>,
    /// Where batches end.
    cuts: Vec<usize>,
    moments: Vec<i64>,
}

fn any_case() -> impl Strategy<Value = Case> {
    any_unit()
        .prop_flat_map(|unit| (any_view(unit), any_events(unit, 40), any_moments(unit), any_cuts()))
        .prop_flat_map(|(view, events, moments, cuts)| {
            let shuffled = Just(events.clone()).prop_shuffle();
            (Just((view, events, moments, cuts)), shuffled)
        })
        .prop_map(|((view, events, moments, cuts), shuffled)| Case {
            view,
            events,
            shuffled,
            cuts,
            moments,
        })
}

fn any_cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0usize..100, 0..6)
}

/// When to read: anywhere, and just around the events.
fn any_moments(unit: i64) -> impl Strategy<Value = Vec<i64>> {
    let near = (any_time(unit), prop::sample::select(vec![-1, 0, 1, unit]))
        .prop_map(|(time, by): (i64, i64)| time.saturating_add(by));
    prop::collection::vec(prop_oneof![near, Just(i64::MAX), Just(i64::MIN)], 1..6)
}

/// `shuffled`, except that within a partition offsets rise: partitions interleaved in any way.
fn interleaved(events: &[Event], shuffled: &[Event]) -> Vec<Event> {
    let mut partitions = [0, 1, 2].map(|partition| events.iter().filter(move |event| event.partition == partition));
    let next = |event: &Event| partitions[event.partition as usize].next().unwrap().clone();
    shuffled.iter().map(next).collect()
}

/// Delivers `events` in steps, each of which goes back some way, as after a crash, and then on.
fn deliver(engine: &ViewEngine, events: &[Event], steps: &[(usize, usize)]) -> Rows {
    let mut rows = Rows::new();
    let mut reached = 0;
    for (back, on) in steps.iter().chain(&[(40, 80), (40, 80)]) {
        let end = (reached + on).min(events.len());
        let part = &events[reached.saturating_sub(*back)..end];
        reached = end.max(reached);
        let projection = engine.project(&batch(part)).unwrap();
        for (key, indexes) in projection.entities() {
            let row = rows.entry(key).or_default();
            let delivered = engine.deliver(row, &projection, &indexes, GENERATION);
            assert_eq!(
                delivered.applied + delivered.duplicates + delivered.too_late,
                indexes.len()
            );
            *row = stored_and_loaded(engine, row);
        }
    }
    rows
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_feature_equals_the_oracle_whatever_the_order_and_batches(case in any_case()) {
        let engine = engine(&case.view);
        let rows = absorb(&engine, &case.shuffled, &case.cuts);
        for entity in ["a", "b", "c"] {
            for moment in &case.moments {
                let expected = answers(&case.view, &case.events, entity, *moment, false);
                let found = read(&engine, rows.get(&key(entity)), *moment);
                check(&case.view, &found, &expected, &format!("{entity} at {moment}"))?;
            }
        }
    }

    #[test]
    fn rows_and_their_bytes_do_not_depend_on_order_and_batches(case in any_case(), other_cuts in any_cuts()) {
        let engine = engine(&case.view);
        let rows = absorb(&engine, &case.events, &case.cuts);
        let other_rows = absorb(&engine, &case.shuffled, &other_cuts);
        prop_assert_eq!(&rows, &other_rows);
        prop_assert_eq!(stored(&engine, &rows), stored(&engine, &other_rows));
    }

    #[test]
    fn redelivery_changes_nothing(
        case in any_case(),
        steps in prop::collection::vec((0usize..20, 0usize..20), 0..10),
    ) {
        let engine = engine(&case.view);
        let events = interleaved(&case.events, &case.shuffled);
        let again = deliver(&engine, &events, &steps);
        prop_assert_eq!(stored(&engine, &deliver(&engine, &case.events, &[])), stored(&engine, &again));
        for entity in ["a", "b"] {
            for moment in &case.moments {
                let expected = answers(&case.view, &case.events, entity, *moment, false);
                let found = read(&engine, again.get(&key(entity)), *moment);
                check(&case.view, &found, &expected, &format!("{entity} at {moment}"))?;
            }
        }
    }

    #[test]
    fn training_sees_what_had_happened_and_arrived_by_each_moment(case in any_case()) {
        let engine = engine(&case.view);
        let mut sorted = case.moments.clone();
        sorted.sort_unstable();
        for entity in ["a", "b"] {
            for (moment, found) in sorted.iter().zip(trained(&engine, &case.events, entity, &case.moments)) {
                let expected = answers(&case.view, &case.events, entity, *moment, true);
                check(&case.view, &found, &expected, &format!("{entity} at {moment}"))?;
            }
        }
    }

    #[test]
    fn what_was_served_equals_what_training_says(case in any_case()) {
        let engine = engine(&case.view);
        let mut sorted = case.moments.clone();
        sorted.sort_unstable();
        for entity in ["a", "b"] {
            for (moment, training) in sorted.iter().zip(trained(&engine, &case.events, entity, &case.moments)) {
                // The online row at that moment: everything that had arrived, whenever it claims to have happened.
                let arrived = case.shuffled.iter().filter(|event| event.ingested_at <= *moment);
                let arrived: Vec<Event> = arrived.cloned().collect();
                let rows = absorb(&engine, &arrived, &case.cuts);
                let row = rows.get(&key(entity));
                if row.and_then(Row::newest).is_none_or(|newest| newest.micros() < *moment) {
                    prop_assert_eq!(read(&engine, row, *moment), training, "{} at {}", entity, moment);
                }
            }
        }
    }

    #[test]
    fn hostile_bytes_are_refused_or_are_rows(
        case in any_case(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let engine = engine(&case.view);
        for row in absorb(&engine, &case.events, &[]).values() {
            let mut damaged = bytes(&engine, row);
            for (at, byte) in &damage {
                let at = at.index(damaged.len());
                damaged[at] = *byte;
            }
            if let Ok(row) = engine.decode(&damaged) {
                prop_assert_eq!(bytes(&engine, &row), damaged.clone());
                read(&engine, Some(&row), 0);
            }
            let whole = bytes(&engine, row);
            prop_assert!(engine.decode(&whole[..cut.index(whole.len())]).is_err());
        }
    }
}
