//! The rules of `docs/semantics.md`, one test each.

use crate::events::{Event, MINUTE, batch, source};
use crate::oracle::{Answer, Value};
use crate::properties::{absorb, bytes, engine, key, read, trained};
use crate::views::{Feature, View, aggregate, with_parameters};
use ondol_transform::view::Delivered;
use ondol_transform::{Absorbed, Row, ViewEngine};
use ondol_vocabulary::{Aggregation, FeatureStatus, Field, Window};

const HOUR: Window = Window {
    width_us: 60 * MINUTE,
    hop_us: 5 * MINUTE,
};
/// The place of `amount` among the arguments.
const AMOUNT: usize = 0;

fn count_and_latest() -> View {
    View::of(vec![
        aggregate(Aggregation::Count, None, Some(HOUR)),
        Feature::Latest(AMOUNT),
    ])
}

fn number(value: f64) -> Value {
    Value::f64(Some(value))
}

fn values(answers: &[Answer]) -> Vec<Value> {
    answers.iter().map(|answer| answer.value.clone()).collect()
}

fn statuses(answers: &[Answer]) -> Vec<FeatureStatus> {
    answers.iter().map(|answer| answer.status).collect()
}

fn row(engine: &ViewEngine, events: &[Event]) -> Row {
    absorb(engine, events, &[]).remove(&key("a")).unwrap_or_default()
}

/// The values of one feature over amounts a minute apart, read an hour's window at minute 10.
fn over_amounts(function: Aggregation, amounts: &[Option<f64>]) -> Value {
    let engine = engine(&View::of(vec![aggregate(function, Some("amount"), Some(HOUR))]));
    let events: Vec<Event> = (0..)
        .zip(amounts)
        .map(|(at, amount)| Event {
            amount: *amount,
            ..Event::at(at * MINUTE, at, 0.0)
        })
        .collect();
    read(&engine, Some(&row(&engine, &events)), 10 * MINUTE).remove(0).value
}

#[test]
fn an_event_at_exactly_t_is_not_in_its_own_features() {
    let engine = engine(&count_and_latest());
    let events = [Event::at(5 * MINUTE, 0, 1.0), Event::at(6 * MINUTE, 1, 2.0)];
    let found = trained(&engine, &events, "a", &[6 * MINUTE, 6 * MINUTE + 1]);
    assert_eq!(values(&found[0]), [Value::Integer(1), number(1.0)]);
    assert_eq!(values(&found[1]), [Value::Integer(2), number(2.0)]);
}

#[test]
fn a_read_at_or_before_the_newest_event_is_moved_to_just_after_it() {
    let engine = engine(&count_and_latest());
    let row = row(&engine, &[Event::at(5 * MINUTE, 0, 1.0)]);
    assert_eq!(read(&engine, Some(&row), 0), read(&engine, Some(&row), 5 * MINUTE + 1));
}

#[test]
fn an_event_that_has_not_arrived_is_not_known() {
    let engine = engine(&count_and_latest());
    let late = Event {
        ingested_at: 20 * MINUTE,
        ..Event::at(5 * MINUTE, 0, 1.0)
    };
    let found = trained(&engine, &[late], "a", &[6 * MINUTE, 20 * MINUTE - 1, 20 * MINUTE]);
    assert_eq!(statuses(&found[1]), [FeatureStatus::Missing; 2]);
    assert_eq!(values(&found[2]), [Value::Integer(1), number(1.0)]);
}

#[test]
fn a_late_event_lands_in_its_own_tile() {
    let engine = engine(&count_and_latest());
    let events = [
        Event::at(50 * MINUTE, 0, 1.0),
        Event {
            ingested_at: 51 * MINUTE,
            ..Event::at(10 * MINUTE, 1, 2.0)
        },
    ];
    let row = row(&engine, &events);
    assert_eq!(
        values(&read(&engine, Some(&row), 74 * MINUTE)),
        [Value::Integer(2), number(1.0)]
    );
    assert_eq!(
        values(&read(&engine, Some(&row), 75 * MINUTE)),
        [Value::Integer(1), number(1.0)]
    );
}

#[test]
fn an_event_too_late_for_every_window_counts_offline_only() {
    let engine = engine(&count_and_latest());
    let mut row = row(&engine, &[Event::at(500 * MINUTE, 0, 1.0)]);
    let before = row.clone();
    let projection = engine.project(&batch(&[Event::at(5 * MINUTE, 1, 2.0)])).unwrap();
    assert_eq!(engine.absorb(&mut row, &projection, 0), Absorbed::TooLate);
    assert_eq!(row, before);
}

#[test]
fn an_event_ahead_of_its_arrival_waits_for_its_time() {
    let engine = engine(&count_and_latest());
    let events = [
        Event::at(5 * MINUTE, 0, 1.0),
        Event {
            ingested_at: 5 * MINUTE,
            ..Event::at(30 * MINUTE, 1, 2.0)
        },
    ];
    let row = row(&engine, &events);
    assert_eq!(row.newest().map(|newest| newest.micros()), Some(5 * MINUTE));
    assert_eq!(
        values(&read(&engine, Some(&row), 30 * MINUTE)),
        [Value::Integer(1), number(1.0)]
    );
    assert_eq!(
        values(&read(&engine, Some(&row), 30 * MINUTE + 1)),
        [Value::Integer(2), number(2.0)]
    );
}

#[test]
fn of_events_at_one_time_the_greater_position_is_later() {
    let engine = engine(&View::of(vec![
        aggregate(Aggregation::First, Some("amount"), Some(HOUR)),
        aggregate(Aggregation::Last, Some("amount"), Some(HOUR)),
        Feature::Latest(AMOUNT),
    ]));
    let at = |partition, offset, amount| Event {
        partition,
        ..Event::at(0, offset, amount)
    };
    let row = row(&engine, &[at(1, 0, 3.0), at(0, 8, 1.0), at(0, 9, 2.0)]);
    assert_eq!(
        values(&read(&engine, Some(&row), 1)),
        [number(1.0), number(3.0), number(3.0)]
    );
}

#[test]
fn an_older_row_never_overwrites_a_newer_one() {
    let engine = engine(&View::of(vec![Feature::Latest(AMOUNT)]));
    let late = Event {
        ingested_at: 60 * MINUTE,
        ..Event::at(4 * MINUTE, 1, 2.0)
    };
    let row = row(&engine, &[Event::at(5 * MINUTE, 0, 1.0), late]);
    assert_eq!(values(&read(&engine, Some(&row), 61 * MINUTE)), [number(1.0)]);
}

#[test]
fn the_latest_row_may_be_null_while_last_skips_nulls() {
    let engine = engine(&View::of(vec![
        Feature::Latest(AMOUNT),
        aggregate(Aggregation::Last, Some("amount"), Some(HOUR)),
    ]));
    let null = Event {
        amount: None,
        ..Event::at(MINUTE, 1, 0.0)
    };
    let found = read(&engine, Some(&row(&engine, &[Event::at(0, 0, 1.0), null])), 2 * MINUTE);
    assert_eq!(values(&found), [Value::Null, number(1.0)]);
    assert_eq!(statuses(&found), [FeatureStatus::Null, FeatureStatus::Fresh]);
}

#[test]
fn an_entity_without_events_is_missing_and_its_counts_are_0() {
    let engine = engine(&count_and_latest());
    for row in [None, Some(&Row::default())] {
        let found = read(&engine, row, 0);
        assert_eq!(values(&found), [Value::Integer(0), Value::Null]);
        assert_eq!(statuses(&found), [FeatureStatus::Missing; 2]);
        assert_eq!(found[0].event_time, None);
    }
}

#[test]
fn a_default_stands_wherever_there_is_no_value_and_the_status_says_why() {
    let engine = engine(&View {
        ttl_us: Some(10 * MINUTE),
        with_defaults: true,
        ..View::of(vec![
            Feature::Latest(AMOUNT),
            aggregate(Aggregation::Max, Some("n"), Some(HOUR)),
            with_parameters(Aggregation::LastN, Some("text"), &[3], Some(HOUR)),
        ])
    });
    let none = || Value::Text("none".to_owned());
    let defaults = [number(-0.0), Value::Integer(-7), Value::List(vec![none(), none()])];
    let missing = read(&engine, None, 0);
    assert_eq!(values(&missing), defaults);
    assert_eq!(statuses(&missing), [FeatureStatus::Missing; 3]);
    let row = row(&engine, &[Event::at(0, 0, 1.0)]);
    let stale = read(&engine, Some(&row), 10 * MINUTE + 1);
    assert_eq!(values(&stale), defaults);
    assert_eq!(statuses(&stale), [FeatureStatus::Stale; 3]);
    // Of the event neither `n` nor `text` is known.
    let live = read(&engine, Some(&row), MINUTE);
    assert_eq!(values(&live), [number(1.0), defaults[1].clone(), defaults[2].clone()]);
    assert_eq!(
        statuses(&live),
        [FeatureStatus::Fresh, FeatureStatus::Null, FeatureStatus::Null]
    );
}

#[test]
fn a_count_of_nothing_is_0_and_only_a_stale_one_is_its_default() {
    let engine = engine(&View {
        ttl_us: Some(10 * MINUTE),
        with_defaults: true,
        ..View::of(vec![aggregate(Aggregation::Count, None, Some(HOUR))])
    });
    assert_eq!(values(&read(&engine, None, 0)), [Value::Integer(0)]);
    let row = row(&engine, &[Event::at(0, 0, 1.0)]);
    assert_eq!(values(&read(&engine, Some(&row), 11 * MINUTE)), [Value::Integer(-7)]);
}

#[test]
fn a_row_older_than_its_time_to_live_is_stale_and_withheld() {
    let engine = engine(&View {
        ttl_us: Some(10 * MINUTE),
        ..count_and_latest()
    });
    let row = row(&engine, &[Event::at(0, 0, 1.0)]);
    assert_eq!(
        statuses(&read(&engine, Some(&row), 10 * MINUTE)),
        [FeatureStatus::Fresh; 2]
    );
    let stale = read(&engine, Some(&row), 10 * MINUTE + 1);
    assert_eq!(statuses(&stale), [FeatureStatus::Stale; 2]);
    assert_eq!(values(&stale), [Value::Null, Value::Null]);
    assert_eq!(stale[0].event_time, Some(0), "it says how old what it withholds is");
}

#[test]
fn float_sums_are_exact_until_they_are_read() {
    let amounts = [Some(1e16), Some(1.0), Some(-1e16)];
    assert_eq!(over_amounts(Aggregation::Sum, &amounts), number(1.0));
    assert_eq!(
        over_amounts(Aggregation::Sum, &[Some(0.1); 10]),
        number(1.0),
        "naive addition gives 0.9999999999999999"
    );
    assert_eq!(over_amounts(Aggregation::Mean, &[Some(0.1); 10]), number(0.1));
    assert_eq!(
        over_amounts(Aggregation::Sum, &[Some(-0.0)]),
        number(0.0),
        "a sum of zero is positive"
    );
}

#[test]
fn sums_beyond_the_range_are_infinite_for_floats_and_null_for_integers() {
    assert_eq!(
        over_amounts(Aggregation::Sum, &[Some(f64::MAX), Some(f64::MAX)]),
        number(f64::INFINITY)
    );
    assert_eq!(
        over_amounts(Aggregation::Sum, &[Some(f64::MAX), Some(f64::MAX), Some(f64::MIN)]),
        number(f64::MAX)
    );
    let functions = [Aggregation::Sum, Aggregation::Mean];
    let engine = engine(&View::of(
        functions.map(|function| aggregate(function, Some("n"), None)).to_vec(),
    ));
    let most = |offset| Event {
        n: Some(i64::MAX),
        ..Event::at(0, offset, 0.0)
    };
    let found = read(&engine, Some(&row(&engine, &[most(0), most(1)])), 1);
    assert_eq!(values(&found), [Value::Null, number(9_223_372_036_854_775_807.0)]);
}

#[test]
fn nulls_are_skipped_and_nothing_but_nulls_is_null() {
    assert_eq!(over_amounts(Aggregation::Count, &[None, Some(1.0)]), Value::Integer(1));
    assert_eq!(
        over_amounts(Aggregation::Mean, &[None, Some(1.0), Some(2.0)]),
        number(1.5)
    );
    assert_eq!(over_amounts(Aggregation::Count, &[None]), Value::Integer(0));
    for function in [
        Aggregation::Sum,
        Aggregation::Mean,
        Aggregation::Min,
        Aggregation::Max,
        Aggregation::First,
    ] {
        assert_eq!(over_amounts(function, &[None]), Value::Null);
    }
}

#[test]
fn nan_is_greatest_and_minus_zero_is_less_than_zero() {
    let odd = [Some(f64::INFINITY), Some(-f64::NAN), Some(0.0), Some(-0.0)];
    assert_eq!(over_amounts(Aggregation::Max, &odd), number(f64::NAN));
    assert_eq!(over_amounts(Aggregation::Min, &odd), number(-0.0));
    assert_eq!(over_amounts(Aggregation::Max, &odd[2..]), number(0.0));
    assert_eq!(over_amounts(Aggregation::Min, &[Some(f64::NAN)]), number(f64::NAN));
    assert_eq!(over_amounts(Aggregation::Sum, &odd), number(f64::NAN));
}

#[test]
fn a_filter_decides_what_a_feature_counts_and_null_is_no() {
    let view = View::of(vec![Feature::Aggregate {
        function: Aggregation::Count,
        argument: None,
        parameters: Vec::new(),
        filter: Some(0),
        window: Some(HOUR),
    }]);
    let engine = engine(&view);
    let events = [Some(true), Some(false), None].map(|flag| Event {
        flag,
        ..Event::at(0, 0, 1.0)
    });
    assert_eq!(
        values(&read(&engine, Some(&row(&engine, &events)), 1)),
        [Value::Integer(1)]
    );
}

#[test]
fn events_without_a_key_or_that_fail_the_view_filter_are_left_out() {
    let engine = engine(&View {
        filter: Some(0),
        ..count_and_latest()
    });
    let passing = Event {
        flag: Some(true),
        ..Event::at(0, 0, 1.0)
    };
    let nobody = Event {
        key: None,
        ..passing.clone()
    };
    let failing = Event {
        flag: None,
        ..passing.clone()
    };
    let projection = engine.project(&batch(&[nobody, failing, passing])).unwrap();
    assert_eq!(
        (projection.len(), projection.entities()),
        (1, vec![(key("a"), vec![0])])
    );
}

#[test]
fn a_second_delivery_is_counted_and_changes_nothing() {
    let engine = engine(&count_and_latest());
    let projection = engine
        .project(&batch(&[Event::at(0, 7, 1.0), Event::at(1, 8, 2.0)]))
        .unwrap();
    let mut row = Row::default();
    let first = engine.deliver(&mut row, &projection, &[1, 0], 1);
    assert_eq!(
        first,
        Delivered {
            applied: 2,
            ..Delivered::default()
        }
    );
    let before = bytes(&engine, &row);
    let second = engine.deliver(&mut row, &projection, &[0, 1], 1);
    assert_eq!(
        second,
        Delivered {
            duplicates: 2,
            ..Delivered::default()
        }
    );
    assert_eq!(bytes(&engine, &row), before);
    assert_eq!(row.fence(1, 0), Some(9));
    assert_eq!(
        engine.deliver(&mut row, &projection, &[0], 2).applied,
        1,
        "another generation counts its own offsets"
    );
}

#[test]
fn an_engine_names_the_columns_it_needs() {
    let engine = engine(&View {
        filter: Some(1),
        ..count_and_latest()
    });
    assert_eq!(engine.columns(), ["key", "ts", "amount", "n"]);
    let events = batch(&[Event::at(0, 0, 1.0)]);
    let without = events
        .project(&(0..events.num_columns() - 3).collect::<Vec<_>>())
        .unwrap();
    let refused = engine.project(&without).unwrap_err().to_string();
    assert_eq!(refused, "`n` failed: the events have no column `n`: read it as well");
}

#[test]
fn definitions_that_cannot_be_computed_are_refused() {
    let check = |change: fn(&mut ondol_vocabulary::ViewDefinition), expected: &str| {
        let mut definition = count_and_latest().definition();
        change(&mut definition);
        let refused = ViewEngine::compile(&definition, &source()).unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    };
    check(
        |view| view.features[0].data_type = ondol_vocabulary::DataType::F64,
        "declared as f64",
    );
    check(|view| view.filter = Some("n + 1".to_owned()), "not a condition");
    check(
        |view| {
            view.key = vec![Field {
                name: "nobody".to_owned(),
                data_type: ondol_vocabulary::DataType::String,
            }];
        },
        "does not have",
    );
    check(
        |view| {
            view.key = vec![Field {
                name: "amount".to_owned(),
                data_type: ondol_vocabulary::DataType::F64,
            }];
        },
        "as its key",
    );
}
