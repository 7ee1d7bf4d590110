//! A window that a well-known feature store gets wrong: of 5, 7 and 3 it says that the greatest is 65.

use crate::platform::Platform;
use crate::scenario::{ended, push_to, wait_for_events};
use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use ondol_feature_store_api::feature_batch::value_at;
use ondol_feature_store_api::wire::{EntityColumn, ReadRequest};
use ondol_pipelines_api::wire::{AsOf, TrainingSetOptions, TrainingSetRequest};
use ondol_testkit::unique_name;
use ondol_vocabulary::{DefinitionFile, EventTime, FeatureRef, Value};
use std::sync::Arc;

/// 2026-01-01T00:00:00Z.
const START: EventTime = EventTime::from_micros(1_767_225_600_000_000);
/// (minute, value)
const EVENTS: [(i64, f64); 6] = [(1, 10.0), (2, 20.0), (16, 30.0), (31, 5.0), (61, 7.0), (76, 3.0)];
const FEATURES: [&str; 5] = ["greatest", "least", "spread", "newest", "high"];

/// Over an hour in quarter hops.
pub(crate) fn definitions() -> DefinitionFile {
    let topic = unique_name("published");
    let text = format!(
        r#"
        [source.published]
        kafka = "{topic}"
        time = "at"
        arrival = "event-time"
        schema = {{ id = "string", value = "f64", at = "timestamp" }}

        [view.published]
        from = "published"
        key = "id"
        features.greatest = {{ expr = "max(value) over 1h", hop = "15m" }}
        features.least = {{ expr = "min(value) over 1h", hop = "15m" }}
        features.spread = {{ expr = "stddev(value) over 1h", hop = "15m" }}
        features.newest = {{ expr = "last_n(value, 2) over 1h", hop = "15m" }}
        features.high = {{ expr = "top_k(value, 2) over 1h", hop = "15m" }}

        [model.published]
        inputs = {{ id = "string" }}
        features = ["published.*"]
        "#
    );
    DefinitionFile {
        path: "published.toml".to_owned(),
        text,
    }
}

/// Sends the events, out of order.
pub(crate) async fn stream(platform: &Platform) {
    let event = |(minute, value): &(i64, f64)| {
        let at = minutes(*minute);
        format!(r#"{{"id":"a","value":{value},"at":"{at}"}}"#)
    };
    let events: Vec<String> = EVENTS.iter().rev().map(event).collect();
    push_to(platform, "published", &events).await;
    wait_for_events(platform, "published", EVENTS.len() as u64).await;
}

fn minutes(minutes: i64) -> EventTime {
    START.plus_micros(minutes * 60_000_000)
}

fn expected() -> Vec<Value> {
    let list = |values: [f64; 2]| Value::List(values.map(Value::F64).to_vec());
    let [greatest, least, spread] = [7.0, 3.0, 2.0].map(Value::F64);
    vec![greatest, least, spread, list([3.0, 7.0]), list([7.0, 5.0])]
}

/// Read at minute 90.
pub(crate) async fn is_right_online(platform: &Platform) {
    let request = ReadRequest {
        features: FEATURES.map(|name| FeatureRef::new("published", name)).into(),
        entities: vec![EntityColumn {
            name: "id".to_owned(),
            values: vec![Value::String("a".to_owned())],
        }],
        as_of: Some(minutes(90)),
    };
    let batch = platform.feature_store().read(request).await.unwrap();
    let values: Vec<Value> = batch.columns.iter().map(|column| value_at(&column.values, 0)).collect();
    assert_eq!(values, expected());
}

/// A training row at minute 90.
pub(crate) async fn is_right_in_training(platform: &Platform) {
    let moment = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("time", moment, true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["a"])),
        Arc::new(TimestampMicrosecondArray::from(vec![minutes(90).micros()]).with_timezone("UTC")),
    ];
    let request = TrainingSetRequest {
        options: TrainingSetOptions {
            model: "published".to_owned(),
            time_column: Some("time".to_owned()),
            as_of: AsOf::KnownAt,
            exact_status: false,
        },
        spine: vec![RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()],
        spine_schema: schema,
    };
    let pipelines = platform.pipelines();
    let job = ended(platform, pipelines.training_set(request).await.unwrap()).await;
    let result = pipelines.result(&job.id).await.unwrap();
    let values: Vec<Value> = FEATURES
        .iter()
        .map(|name| {
            value_at(
                result.batches[0].column_by_name(&format!("published.{name}")).unwrap(),
                0,
            )
        })
        .collect();
    assert_eq!(values, expected());
}
