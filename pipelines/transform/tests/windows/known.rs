//! Known answers, worked out by hand.

use crate::events::{Event, MINUTE};
use crate::oracle::{Value, answers};
use crate::properties::{absorb, engine, key, read};
use crate::views::{View, aggregate};
use ondol_vocabulary::{Aggregation, Window};

const HOUR: Window = Window {
    width_us: 60 * MINUTE,
    hop_us: 15 * MINUTE,
};

fn check(view: &View, events: &[Event], minute: i64, expected: &[Value]) {
    let engine = engine(view);
    let rows = absorb(&engine, events, &[]);
    let found = read(&engine, rows.get(&key("a")), minute * MINUTE);
    let values: Vec<Value> = found.iter().map(|answer| answer.value.clone()).collect();
    assert_eq!(values, expected);
    assert_eq!(
        found,
        answers(view, events, "a", minute * MINUTE, false),
        "the oracle agrees"
    );
}

fn number(value: f64) -> Value {
    Value::f64(Some(value))
}

fn every_function(window: Option<Window>) -> View {
    View::of(
        Aggregation::ALL
            .map(|function| aggregate(function, Some("amount"), window))
            .to_vec(),
    )
}

#[test]
fn an_hour_in_quarter_hops_read_at_minute_90_covers_minutes_30_to_90() {
    let events = [(1, 10.0), (2, 20.0), (16, 30.0), (31, 5.0), (61, 7.0), (76, 3.0)];
    let events: Vec<Event> = (0..)
        .zip(events)
        .map(|(offset, (minute, value))| Event::at(minute * MINUTE, offset, value))
        .collect();
    // count, sum, mean, min, max, first, last
    let expected = [
        Value::Integer(3),
        number(15.0),
        number(5.0),
        number(3.0),
        number(7.0),
        number(5.0),
        number(3.0),
    ];
    check(&every_function(Some(HOUR)), &events, 90, &expected);
    let all = [
        Value::Integer(6),
        number(75.0),
        number(12.5),
        number(3.0),
        number(30.0),
        number(10.0),
        number(3.0),
    ];
    check(&every_function(None), &events, 90, &all);
}

#[test]
fn a_window_ages_with_the_clock_without_a_new_event() {
    let view = View::of(vec![
        aggregate(Aggregation::Count, None, Some(HOUR)),
        aggregate(Aggregation::Sum, Some("amount"), Some(HOUR)),
    ]);
    let events = [Event::at(20 * MINUTE, 0, 1.0), Event::at(40 * MINUTE, 1, 2.0)];
    check(&view, &events, 89, &[Value::Integer(2), number(3.0)]);
    check(&view, &events, 90, &[Value::Integer(1), number(2.0)]);
    check(&view, &events, 104, &[Value::Integer(1), number(2.0)]);
    check(&view, &events, 105, &[Value::Integer(0), Value::Null]);
}

#[test]
fn windows_before_the_epoch_floor_towards_minus_infinity() {
    let view = View::of(vec![aggregate(Aggregation::Count, None, Some(HOUR))]);
    let events = [
        Event::at(-76 * MINUTE, 0, 1.0),
        Event::at(-75 * MINUTE, 1, 1.0),
        Event::at(-20 * MINUTE, 2, 1.0),
    ];
    // floor(-1 - 60, 15) = -75
    check(&view, &events, -1, &[Value::Integer(2)]);
}

#[test]
fn a_width_need_not_be_a_multiple_of_the_hop() {
    let window = Window {
        width_us: 20 * MINUTE,
        hop_us: 15 * MINUTE,
    };
    let view = View::of(vec![aggregate(Aggregation::Count, None, Some(window))]);
    let events = [Event::at(14 * MINUTE, 0, 1.0), Event::at(15 * MINUTE, 1, 1.0)];
    // floor(49 - 20, 15) = 15, floor(50 - 20, 15) = 30
    check(&view, &events, 49, &[Value::Integer(1)]);
    check(&view, &events, 50, &[Value::Integer(0)]);
}
