//! What one stored row costs a read: decoding, finishing, and both, in nanoseconds. Prints, judges nothing.
//!
//! `cargo run --release -p ondol-transform --example row_speed`
#![allow(
    clippy::print_stdout,
    clippy::arithmetic_side_effects,
    reason = "a measurement prints"
)]

use arrow::array::TimestampMicrosecondArray;
use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use ondol_transform::{Row, ViewEngine};
use ondol_vocabulary::{
    Aggregation, Arrival, DataType, Element, EventTime, FeatureDefinition, FeatureKind, Field, SourceDefinition,
    SourceOrigin, StreamFormat, ViewDefinition, Window,
};
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const MINUTE: i64 = 60_000_000;
const EVENTS: i64 = 100;
const ROUNDS: u32 = 20_000;
/// Widths and hops.
const WINDOWS: [(i64, i64); 3] = [(60, 5), (24 * 60, 120), (7 * 24 * 60, 720)];

fn field(name: &str, data_type: DataType) -> Field {
    Field {
        name: name.to_owned(),
        data_type,
    }
}

fn source() -> SourceDefinition {
    SourceDefinition {
        name: "payments".to_owned(),
        origin: SourceOrigin::Stream {
            topic: "payments".to_owned(),
            format: StreamFormat::Json,
            shape: ondol_vocabulary::MessageShape::default(),
        },
        time: "ts".to_owned(),
        late_us: 0,
        arrival: Arrival::EventTime { delay_us: 0 },
        schema: vec![
            field("card", DataType::String),
            field("amount", DataType::F64),
            field("fee", DataType::F64),
            field("declined", DataType::Bool),
            field("ts", DataType::Timestamp),
        ],
    }
}

/// Eight aggregations over each window.
fn windows() -> Vec<FeatureDefinition> {
    let aggregations = [
        (Aggregation::Count, None, None),
        (Aggregation::Count, None, Some("declined")),
        (Aggregation::Sum, Some("amount"), None),
        (Aggregation::Sum, Some("fee"), None),
        (Aggregation::Mean, Some("amount"), None),
        (Aggregation::Min, Some("amount"), None),
        (Aggregation::Max, Some("amount"), None),
        (Aggregation::Max, Some("fee"), None),
    ];
    let mut features = Vec::new();
    for (width, hop) in WINDOWS {
        for (function, argument, filter) in aggregations {
            features.push(FeatureDefinition {
                name: format!("f{}", features.len()),
                expression: String::new(),
                kind: FeatureKind::Aggregate {
                    function,
                    argument: argument.map(str::to_owned),
                    parameters: Vec::new(),
                    filter: filter.map(str::to_owned),
                    window: Some(Window {
                        width_us: width * MINUTE,
                        hop_us: hop * MINUTE,
                    }),
                },
                data_type: if function == Aggregation::Count {
                    DataType::I64
                } else {
                    DataType::F64
                },
                default: None,
            });
        }
    }
    features
}

/// Spreads, lists and sketches over each window.
fn spreads() -> Vec<FeatureDefinition> {
    let aggregations: [(Aggregation, &str, &[u32], DataType); 6] = [
        (Aggregation::Stddev, "amount", &[], DataType::F64),
        (Aggregation::LastN, "amount", &[10], DataType::List(Element::F64)),
        (Aggregation::TopK, "amount", &[3], DataType::List(Element::F64)),
        (Aggregation::CountDistinct, "fee", &[], DataType::I64),
        (Aggregation::Quantile, "amount", &[500_000], DataType::F64),
        (Aggregation::Quantile, "amount", &[950_000], DataType::F64),
    ];
    let mut features = Vec::new();
    for (width, hop) in WINDOWS {
        for (function, argument, parameters, data_type) in aggregations {
            features.push(FeatureDefinition {
                name: format!("f{}", features.len()),
                expression: String::new(),
                kind: FeatureKind::Aggregate {
                    function,
                    argument: Some(argument.to_owned()),
                    parameters: parameters.to_vec(),
                    filter: None,
                    window: Some(Window {
                        width_us: width * MINUTE,
                        hop_us: hop * MINUTE,
                    }),
                },
                data_type,
                default: None,
            });
        }
    }
    features
}

fn latest() -> Vec<FeatureDefinition> {
    let feature = |place: i32| FeatureDefinition {
        name: format!("f{place}"),
        expression: String::new(),
        kind: FeatureKind::LatestRow {
            expression: format!("amount + fee * {place}.0"),
        },
        data_type: DataType::F64,
        default: None,
    };
    (0..16).map(feature).collect()
}

fn events() -> Result<RecordBatch, Box<dyn Error>> {
    // The nearer to the end, the denser; amounts and fees in cents.
    let time = |at: i64| Some(20_000 * 1440 * MINUTE - (EVENTS - at).pow(2) * MINUTE);
    let times = || {
        (0..EVENTS)
            .map(time)
            .collect::<TimestampMicrosecondArray>()
            .with_timezone("UTC")
    };
    let cents = |factor: i64| {
        let cent = move |at: i64| (at * factor % 20_011) as f64 / 100.0;
        (0..EVENTS).map(|at| Some(cent(at))).collect::<Float64Array>()
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("card", Arc::new(StringArray::from(vec!["c"; EVENTS as usize]))),
        ("amount", Arc::new(cents(7919))),
        ("fee", Arc::new(cents(104_729))),
        (
            "declined",
            Arc::new((0..EVENTS).map(|at| Some(at % 9 == 0)).collect::<BooleanArray>()),
        ),
        ("ts", Arc::new(times())),
        ("_partition", Arc::new(Int32Array::from(vec![0; EVENTS as usize]))),
        ("_offset", Arc::new((0..EVENTS).collect::<Int64Array>())),
        ("_ingested_at", Arc::new(times())),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// Nanoseconds per call, the least of a few repetitions.
fn time(mut call: impl FnMut()) -> f64 {
    let repetition = |_| {
        let started = Instant::now();
        (0..ROUNDS).for_each(|_| call());
        started.elapsed().as_nanos() as f64 / f64::from(ROUNDS)
    };
    (0..7).map(repetition).fold(f64::INFINITY, f64::min)
}

fn main() -> Result<(), Box<dyn Error>> {
    for (name, features) in [("windows", windows()), ("spreads", spreads()), ("latest", latest())] {
        let view = ViewDefinition {
            name: name.to_owned(),
            source: "payments".to_owned(),
            key: vec![field("card", DataType::String)],
            filter: None,
            ttl_us: None,
            features,
        };
        let engine = ViewEngine::compile(&view, &source())?;
        let projection = engine.project(&events()?)?;
        let mut row = Row::default();
        for index in 0..EVENTS as usize {
            engine.absorb(&mut row, &projection, index);
        }
        let mut bytes = Vec::new();
        engine.encode(&row, &mut bytes);
        let features: Vec<usize> = (0..view.features.len()).collect();
        let moment = row.newest().unwrap_or(EventTime::from_micros(0)).plus_micros(1);
        let decode = time(|| drop(black_box(engine.decode(black_box(&bytes)))));
        let finish = time(|| drop(black_box(engine.finish(&[Some(black_box(&row))], &[moment], &features))));
        let mut finisher = engine.finisher(&features, ROUNDS as usize * 7);
        let push = time(|| finisher.push(Some(black_box(&row)), moment));
        let (length, count) = (bytes.len(), features.len());
        println!("{name}: {length} bytes, {count} features: decode {decode:.0} finish {finish:.0} (push {push:.0}) ns");
    }
    Ok(())
}
