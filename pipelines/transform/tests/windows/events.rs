//! Events by hand and at random, and as the batches that a view reads.

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use ondol_vocabulary::{Arrival, DataType, Field, SourceDefinition, SourceOrigin, StreamFormat};
use proptest::prelude::*;
use std::sync::Arc;

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Event {
    pub key: Option<String>,
    pub time: i64,
    pub ingested_at: i64,
    pub partition: i32,
    pub offset: i64,
    pub amount: Option<f64>,
    pub ratio: Option<f32>,
    pub n: Option<i64>,
    pub small: Option<i32>,
    pub text: Option<String>,
    pub flag: Option<bool>,
    pub moment: Option<i64>,
}

impl Event {
    /// An event of entity `a` known when it happens.
    pub(crate) fn at(time: i64, offset: i64, amount: f64) -> Self {
        Self {
            key: Some("a".to_owned()),
            time,
            ingested_at: time,
            offset,
            amount: Some(amount),
            ..Self::default()
        }
    }
}

pub(crate) fn source() -> SourceDefinition {
    let schema = [
        ("unused", DataType::String),
        ("key", DataType::String),
        ("ts", DataType::Timestamp),
        ("amount", DataType::F64),
        ("ratio", DataType::F32),
        ("n", DataType::I64),
        ("small", DataType::I32),
        ("text", DataType::String),
        ("flag", DataType::Bool),
        ("moment", DataType::Timestamp),
    ];
    SourceDefinition {
        name: "events".to_owned(),
        origin: SourceOrigin::Stream {
            topic: "events".to_owned(),
            format: StreamFormat::Json,
            shape: ondol_vocabulary::MessageShape::default(),
        },
        time: "ts".to_owned(),
        late_us: 0,
        arrival: Arrival::Ingest,
        schema: schema
            .map(|(name, data_type)| Field {
                name: name.to_owned(),
                data_type,
            })
            .to_vec(),
    }
}

/// The batch of `events`, columns in another order than the source's and without those no view here reads.
pub(crate) fn batch<'a>(events: impl IntoIterator<Item = &'a Event>) -> RecordBatch {
    let events: Vec<&Event> = events.into_iter().collect();
    let moments = |of: fn(&Event) -> Option<i64>| -> ArrayRef {
        Arc::new(
            events
                .iter()
                .map(|event| of(event))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        )
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "_offset",
            Arc::new(events.iter().map(|event| Some(event.offset)).collect::<Int64Array>()),
        ),
        (
            "_partition",
            Arc::new(events.iter().map(|event| Some(event.partition)).collect::<Int32Array>()),
        ),
        ("_ingested_at", moments(|event| Some(event.ingested_at))),
        ("moment", moments(|event| event.moment)),
        ("ts", moments(|event| Some(event.time))),
        (
            "key",
            Arc::new(events.iter().map(|event| event.key.as_deref()).collect::<StringArray>()),
        ),
        (
            "text",
            Arc::new(
                events
                    .iter()
                    .map(|event| event.text.as_deref())
                    .collect::<StringArray>(),
            ),
        ),
        (
            "amount",
            Arc::new(events.iter().map(|event| event.amount).collect::<Float64Array>()),
        ),
        (
            "ratio",
            Arc::new(events.iter().map(|event| event.ratio).collect::<Float32Array>()),
        ),
        (
            "n",
            Arc::new(events.iter().map(|event| event.n).collect::<Int64Array>()),
        ),
        (
            "small",
            Arc::new(events.iter().map(|event| event.small).collect::<Int32Array>()),
        ),
        (
            "flag",
            Arc::new(events.iter().map(|event| event.flag).collect::<BooleanArray>()),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

/// What a history counts in: its events lie some 270 units apart at most, so a week is one of five years.
pub(crate) fn any_unit() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => Just(MINUTE),
        3 => prop::sample::select(vec![SECOND, HOUR, DAY, 7 * DAY]),
    ]
}

/// Up to `most` events of entities `a` and `b`: late, out of order, ahead, tied, far apart, with every odd value.
/// Positions are unique; within a partition offsets rise with the place in the list, with gaps.
pub(crate) fn any_events(unit: i64, most: usize) -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec((any_event(unit), 1i64..3), 0..=most).prop_map(|drawn| {
        let mut next = [0i64; 3];
        let place = |(mut event, gap): (Event, i64)| {
            let next = &mut next[event.partition as usize];
            event.offset = *next;
            *next += gap;
            event
        };
        drawn.into_iter().map(place).collect()
    })
}

fn any_event(unit: i64) -> impl Strategy<Value = Event> {
    let key = prop::sample::select(vec![Some("a"), Some("a"), Some("a"), Some("b"), None]);
    let delay = prop_oneof![
        3 => Just(0),
        4 => 0..10 * unit,
        2 => -30 * unit..0,
        1 => 0..3000 * unit,
    ];
    let place = (key, any_time(unit), delay, 0i32..3);
    let numbers = (
        prop::option::weighted(0.8, any_float()),
        prop::option::weighted(0.8, any_float().prop_map(|value| value as f32)),
        prop::option::weighted(0.8, any_integer()),
        prop::option::weighted(0.8, any_integer().prop_map(|value| value as i32)),
    );
    let others = (
        prop::option::weighted(
            0.8,
            prop::sample::select(vec!["", "a", "b", "온돌", "a long text that is on the heap"]),
        ),
        prop::option::weighted(0.8, any::<bool>()),
        prop::option::weighted(0.8, any_time(unit)),
    );
    (place, numbers, others).prop_map(
        |((key, time, delay, partition), (amount, ratio, n, small), (text, flag, moment))| Event {
            key: key.map(str::to_owned),
            time,
            ingested_at: time.saturating_add(delay),
            partition,
            offset: 0,
            amount,
            ratio,
            n,
            small,
            text: text.map(str::to_owned),
            flag,
            moment,
        },
    )
}

/// Around the epoch mostly, on whole units often (so that there are ties and tile edges), at times far away.
pub(crate) fn any_time(unit: i64) -> impl Strategy<Value = i64> {
    prop_oneof![
        8 => (-90i64..180).prop_map(move |units| units * unit),
        4 => -90 * unit..180 * unit,
        1 => (-40i64..40).prop_map(|days| days * DAY),
        1 => prop::sample::select(vec![i64::MIN, i64::MIN + 1, -1, 0, 1, 1_357_000_000_000_000, i64::MAX - 1]),
    ]
}

fn any_float() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => (-1000i64..1000).prop_map(|cents| cents as f64 / 100.0),
        3 => any::<u64>().prop_map(f64::from_bits),
        3 => prop::sample::select(vec![
            0.0, -0.0, 0.1, -0.1, f64::MAX, f64::MIN, 5e-324, -5e-324, f64::MIN_POSITIVE, 1e16, 1.0, -1e16,
            f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY,
        ]),
    ]
}

fn any_integer() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => -4i64..4,
        1 => any::<i64>(),
        1 => prop::sample::select(vec![i64::MIN, i64::MAX, i64::from(i32::MIN), i64::from(i32::MAX)]),
    ]
}
