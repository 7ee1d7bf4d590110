//! Known answers, worked out by hand.

use crate::events::{Event, MINUTE};
use crate::oracle::{Value, answers};
use crate::properties::{absorb, engine, key, read};
use crate::views::{View, WIDTHS, aggregate, automatic, with_parameters};
use ondol_transform::ViewEngine;
use ondol_transform::definition::compile;
use ondol_vocabulary::{Aggregation, DefinitionFile, DefinitionFiles, FeatureKind, Window};

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

fn list(values: &[f64]) -> Value {
    Value::List(values.iter().map(|value| number(*value)).collect())
}

/// (minute, value)
const PUBLISHED: [(i64, f64); 6] = [(1, 10.0), (2, 20.0), (16, 30.0), (31, 5.0), (61, 7.0), (76, 3.0)];

fn published() -> Vec<Event> {
    let at = |(offset, (minute, value)): (i64, (i64, f64))| Event::at(minute * MINUTE, offset, value);
    (0..).zip(PUBLISHED).map(at).collect()
}

/// The case that a well-known feature store gets wrong: it answers 65 for the greatest of 5, 7 and 3.
#[test]
fn an_hour_in_quarter_hops_read_at_minute_90_has_max_7_min_3_and_stddev_2() {
    let text = r#"
        [source.events]
        kafka = "events"
        time = "ts"
        schema = { key = "string", ts = "timestamp", amount = "f64" }

        [view.published]
        from = "events"
        key = "key"
        features.greatest = { expr = "max(amount) over 1h", hop = "15m" }
        features.least = { expr = "min(amount) over 1h", hop = "15m" }
        features.spread = { expr = "stddev(amount) over 1h", hop = "15m" }
    "#;
    let file = DefinitionFile {
        path: "ondol.toml".to_owned(),
        text: text.to_owned(),
    };
    let definitions = compile(&DefinitionFiles { files: vec![file] }).unwrap();
    let engine = ViewEngine::compile(&definitions.views[0], &definitions.sources[0]).unwrap();
    let rows = absorb(&engine, &published(), &[]);
    let found = read(&engine, rows.get(&key("a")), 90 * MINUTE);
    let values: Vec<Value> = found.into_iter().map(|answer| answer.value).collect();
    assert_eq!(values, [number(7.0), number(3.0), number(2.0)]);
}

#[test]
fn every_function_over_the_published_events() {
    // 5, 7 and 3 within the hour; with them 10, 20 and 30 of all time.
    check_every_function(
        Some(HOUR),
        &[
            ("count", Value::Integer(3)),
            ("sum", number(15.0)),
            ("mean", number(5.0)),
            ("min", number(3.0)),
            ("max", number(7.0)),
            ("variance", number(4.0)),
            ("var_pop", number(8.0 / 3.0)),
            ("stddev", number(2.0)),
            ("stddev_pop", number((8.0f64 / 3.0).sqrt())),
            ("first", number(5.0)),
            ("last", number(3.0)),
            ("last_n", list(&[3.0, 7.0])),
            ("last_distinct", list(&[3.0, 7.0])),
            ("top_k", list(&[7.0, 5.0])),
        ],
    );
    check_every_function(
        None,
        &[
            ("count", Value::Integer(6)),
            ("sum", number(75.0)),
            ("mean", number(12.5)),
            ("min", number(3.0)),
            ("max", number(30.0)),
            ("variance", number(109.1)),
            ("var_pop", number(545.5 / 6.0)),
            ("stddev", number(109.1f64.sqrt())),
            ("stddev_pop", number((545.5f64 / 6.0).sqrt())),
            ("first", number(10.0)),
            ("last", number(3.0)),
            ("last_n", list(&[3.0, 7.0])),
            ("last_distinct", list(&[3.0, 7.0])),
            ("top_k", list(&[30.0, 20.0])),
        ],
    );
}

fn check_every_function(window: Option<Window>, expected: &[(&str, Value)]) {
    let feature = |name: &str| {
        let function = Aggregation::ALL.into_iter().find(|function| function.name() == name);
        let function = function.unwrap();
        let takes_n = matches!(
            function,
            Aggregation::LastN | Aggregation::LastDistinct | Aggregation::TopK
        );
        let parameters: &[u32] = if takes_n { &[2] } else { &[] };
        with_parameters(function, Some("amount"), parameters, window)
    };
    let view = View::of(expected.iter().map(|(name, _)| feature(name)).collect());
    let values: Vec<Value> = expected.iter().map(|(_, value)| value.clone()).collect();
    check(&view, &published(), 90, &values);
}

#[test]
fn the_hop_chosen_for_a_window_is_the_documented_one() {
    for (written, width) in WIDTHS {
        let text = format!(
            "[source.s]\nkafka = \"s\"\ntime = \"ts\"\nschema = {{ id = \"string\", ts = \"timestamp\" }}\n\
             [view.v]\nfrom = \"s\"\nkey = \"id\"\nfeatures.n = \"count() over {written}\"\n"
        );
        let path = "ondol.toml".to_owned();
        let files = vec![DefinitionFile { path, text }];
        let definitions = compile(&DefinitionFiles { files }).unwrap();
        let FeatureKind::Aggregate { window, .. } = &definitions.views[0].features[0].kind else {
            panic!("it aggregates")
        };
        assert_eq!(*window, Some(automatic(width)), "{written}");
    }
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
