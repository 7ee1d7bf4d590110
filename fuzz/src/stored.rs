//! Stored bytes: rows, frames of the embedded log, online values, entity keys. Refused, or the one form of what they mean.

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use ondol_feature_store::fuzzing as online;
use ondol_ingest::fuzzing as log;
use ondol_transform::definition::{Definitions, compile};
use ondol_transform::{Projection, Row, ViewEngine};
use ondol_vocabulary::{DefinitionFile, DefinitionFiles, EntityKey, EventTime};
use std::sync::{Arc, LazyLock};

/// Views that between them keep every kind of state.
const VIEWS: &str = r#"
    [source.s]
    kafka = "s"
    time = "ts"
    schema = { id = "string", x = "f64", n = "i64", small = "i32", text = "string", ts = "timestamp" }

    [view.sums]
    from = "s"
    key = "id"
    features.count = "count() over 1h"
    features.x = "sum(x) over 1h"
    features.n = "sum(n) over 24h"
    features.mean = "mean(small)"
    features.spread = "stddev(x) over 24h"
    features.variance = "variance(n)"

    [view.picks]
    from = "s"
    key = "id"
    features.least = "min(x) over 1h"
    features.greatest = "max(text) over 24h"
    features.first = "first(n)"
    features.last = "last(text) over 10m"
    features.top = "top_k(x, 3) over 1h"
    features.now = "text"
    features.x = "x"

    [view.trails]
    from = "s"
    key = "id"
    features.recent = "last_n(x, 3) over 1h"
    features.words = "last_distinct(text, 3) over 24h"
    features.distinct = "count_distinct(n) over 1h"
    features.ever = "count_distinct(text)"
    features.half = "quantile(x, 0.5) over 1h"
    features.tails = "quantiles(n, 0.01, 0.99)"
    features.any = "any(n > 0) over 1h"
"#;

/// A view's engine, and events to absorb into whatever row was decoded.
struct View {
    engine: ViewEngine,
    events: Projection,
}

static ENGINES: LazyLock<Vec<View>> = LazyLock::new(|| {
    let definitions = views();
    let view = |definition| {
        let engine = ViewEngine::compile(definition, &definitions.sources[0]).unwrap();
        let events = engine.project(&events()).unwrap();
        View { engine, events }
    };
    definitions.views.iter().map(view).collect()
});

fn views() -> Definitions {
    let file = DefinitionFile {
        path: "views.toml".to_owned(),
        text: VIEWS.to_owned(),
    };
    compile(&DefinitionFiles { files: vec![file] }).unwrap()
}

fn events() -> RecordBatch {
    const HOUR: i64 = 3_600_000_000;
    let times = [0, 1, HOUR, HOUR, 30 * HOUR, -HOUR];
    let moments = |times: [i64; 6]| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"))
    };
    let columns: [(&str, ArrayRef); 9] = [
        ("id", Arc::new(StringArray::from(vec!["a"; 6]))),
        (
            "x",
            Arc::new(Float64Array::from(vec![0.1, f64::NAN, 1e300, -0.0, 5.0, 5.0])),
        ),
        (
            "n",
            Arc::new(Int64Array::from(vec![
                Some(1),
                Some(i64::MIN),
                None,
                Some(1),
                Some(7),
                Some(7),
            ])),
        ),
        ("small", Arc::new(Int32Array::from(vec![1, 2, 3, 4, 5, 6]))),
        (
            "text",
            Arc::new(StringArray::from(vec![
                Some("a"),
                Some("온돌"),
                None,
                Some("a"),
                Some(""),
                Some("z"),
            ])),
        ),
        ("ts", moments(times)),
        ("_partition", Arc::new(Int32Array::from(vec![0, 0, 1, 0, 0, 1]))),
        ("_offset", Arc::new(Int64Array::from(vec![5, 6, 5, 7, 8, 6]))),
        ("_ingested_at", moments([0, 1, HOUR, 0, 30 * HOUR, 31 * HOUR])),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

/// Rows of every view with some of the events, behind the byte that names the view.
pub(crate) fn rows() -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    for (at, View { engine, events }) in (0u8..).zip(ENGINES.iter()) {
        for count in [0, 1, 3, 6] {
            let mut row = Row::default();
            engine.deliver(&mut row, events, &(0..count).collect::<Vec<_>>(), 9);
            let mut bytes = vec![at];
            engine.encode(&row, &mut bytes);
            rows.push(bytes);
        }
    }
    rows
}

/// A row of a view: 1 byte for the view, then the stored row. What decodes is written as it was, can be read at any
/// moment, and absorbs events into a row that is stored and loaded as itself.
pub fn row(data: &[u8]) {
    let Some((view, stored)) = data.split_first() else {
        return;
    };
    let View { engine, events } = &ENGINES[usize::from(*view) % ENGINES.len()];
    let Ok(mut row) = engine.decode(stored) else { return };
    assert_eq!(encoded(engine, &row), stored, "a row has one stored form");
    read(engine, &row);
    engine.deliver(&mut row, events, &[0, 1, 2, 3, 4, 5], 9);
    let later = encoded(engine, &row);
    assert!(
        engine.decode(&later).unwrap() == row,
        "a row is loaded as it was stored"
    );
    read(engine, &row);
}

fn encoded(engine: &ViewEngine, row: &Row) -> Vec<u8> {
    let mut bytes = Vec::new();
    engine.encode(row, &mut bytes);
    bytes
}

fn read(engine: &ViewEngine, row: &Row) {
    let features: Vec<usize> = (0..engine.definition().features.len()).collect();
    let moments = [EventTime::MIN, EventTime::from_micros(0), EventTime::MAX];
    for moment in moments.into_iter().chain(row.newest()) {
        let finished = engine.finish(&[Some(row)], &[moment], &features);
        assert!(finished.iter().all(|feature| feature.values.len() == 1));
    }
}

/// A frame of the embedded log, as it is and with its length and checksum put right.
pub fn log_frame(data: &[u8]) {
    for seal in [false, true] {
        if let Some((frame, again)) = log::log_frame(data, seal) {
            assert_eq!(frame, again, "a record has one frame");
        }
    }
}

/// A stored online value, as it is and sealed.
pub fn online_value(data: &[u8]) {
    if let Some((_, again)) = online::online_value(data) {
        assert_eq!(again, data);
    }
    let (payload, _) = online::online_value(&online::sealed(data)).expect("what is sealed opens");
    assert_eq!(payload, data);
}

/// Stored bytes of an entity's key: values that make the same key, or none.
pub fn entity_key(data: &[u8]) {
    let key = EntityKey::from_bytes(data.to_vec());
    let Ok(values) = key.values() else { return };
    let again = EntityKey::from_values(&values).unwrap();
    assert_eq!(
        again.as_ref(),
        (!values.contains(&ondol_vocabulary::Value::Null)).then_some(&key)
    );
}
