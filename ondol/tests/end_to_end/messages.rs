//! Messages that are more than a flat object: orders whose items are events, with a tenant in a header, one of them late;
//! and changes of a table, with a row that goes. Online values equal those of a training set, before and after it went.

use crate::platform::Platform;
use crate::scenario::{ended, wait_for_events};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use ondol_feature_store_api::feature_batch::value_at;
use ondol_feature_store_api::wire::{EntityColumn, ReadRequest};
use ondol_ingest_api::wire::{PushRecord, PushRequest};
use ondol_pipelines_api::wire::{AsOf, TrainingSetOptions, TrainingSetRequest};
use ondol_testkit::unique_name;
use ondol_vocabulary::{DefinitionFile, EventTime, FeatureRef, FeatureStatus, Value};
use serde_json::value::RawValue;
use std::sync::Arc;

/// 2026-01-01T00:00:00Z.
const START: EventTime = EventTime::from_micros(1_767_225_600_000_000);

pub(crate) fn definitions() -> DefinitionFile {
    let (orders, customers) = (unique_name("orders"), unique_name("customers"));
    let text = format!(
        r#"
        [source.orders]
        kafka = "{orders}"
        time = "at"
        late = "10m"
        arrival = "event-time"
        unnest = "order.items"
        [source.orders.schema]
        tenant = {{ type = "string", header = "tenant" }}
        order = {{ type = "string", key = true }}
        sku = {{ type = "string", path = "order.items.sku" }}
        quantity = {{ type = "i64", path = "order.items.quantity" }}
        at = {{ type = "timestamp", path = "order.at", unit = "ms" }}

        [source.customers]
        kafka = "{customers}"
        changes = "debezium"
        time = "at"
        arrival = "event-time"
        schema = {{ id = "i64", tier = "string", at = {{ type = "timestamp", envelope = "source.ts_ms", unit = "ms" }} }}

        [view.sku]
        from = "orders"
        key = ["tenant", "sku"]
        features.sold = "sum(quantity) over 24h"
        features.last_order = "last(order)"

        [view.customer]
        from = "customers"
        key = "id"
        features.tier = "tier"

        [model.messages]
        inputs = {{ tenant = "string", sku = "string", id = "i64" }}
        features = ["sku.*", "customer.tier"]
        "#
    );
    DefinitionFile {
        path: "messages.toml".to_owned(),
        text,
    }
}

fn minute(minutes: i64) -> EventTime {
    START.plus_micros(minutes * 60_000_000)
}

fn millis(minutes: i64) -> i64 {
    minute(minutes).micros() / 1_000
}

fn record(key: &str, headers: &[(&str, &str)], written: i64, value: Option<String>) -> PushRecord {
    PushRecord {
        key: Some(key.to_owned()),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        timestamp: Some(minute(written)),
        value: value.map(|value| RawValue::from_string(value).unwrap()),
    }
}

fn order(name: &str, tenant: &str, at: i64, written: i64, items: &[(&str, i64)]) -> PushRecord {
    let items: Vec<String> = items
        .iter()
        .map(|(sku, quantity)| format!(r#"{{"sku":"{sku}","quantity":{quantity}}}"#))
        .collect();
    let value = format!(r#"{{"order":{{"at":{},"items":[{}]}}}}"#, millis(at), items.join(","));
    record(name, &[("tenant", tenant)], written, Some(value))
}

fn change(id: i64, op: &str, at: i64, before: Option<&str>, after: Option<&str>) -> PushRecord {
    let row = |tier: Option<&str>| match tier {
        Some(tier) => format!(r#"{{"id":{id},"tier":"{tier}"}}"#),
        None => "null".to_owned(),
    };
    let value = format!(
        r#"{{"schema":{{}},"payload":{{"before":{},"after":{},"op":"{op}","source":{{"ts_ms":{}}}}}}}"#,
        row(before),
        row(after),
        millis(at)
    );
    record(&format!(r#"{{"id":{id}}}"#), &[], at, Some(value))
}

/// Sends everything; the topics' partitions keep the order of each key.
pub(crate) async fn stream(platform: &Platform) {
    let orders = vec![
        order("o1", "t1", 1, 2, &[("a", 2), ("b", 3), ("a", 4)]),
        order("o2", "t1", 5, 30, &[("a", 100)]),
        order("o3", "t2", 61, 61, &[("a", 7)]),
        order("o4", "t1", 62, 62, &[]),
    ];
    let customers = vec![
        change(1, "c", 10, None, Some("gold")),
        change(2, "r", 15, None, Some("gold")),
        change(1, "u", 20, Some("gold"), Some("iron")),
        change(1, "d", 30, Some("iron"), None),
        record(r#"{"id":1}"#, &[], 30, None),
    ];
    for (source, records) in [("orders", orders), ("customers", customers)] {
        let request = PushRequest {
            records,
            ..PushRequest::default()
        };
        platform.ingest().push(source, request).await.unwrap();
    }
    wait_for_events(platform, "orders", 5).await;
    wait_for_events(platform, "customers", 4).await;
}

/// Tenant, sku, customer, minute, and what is known then: sold, last order, tier.
type Case = (&'static str, &'static str, i64, i64, [Value; 3]);

fn cases() -> Vec<Case> {
    let text = |text: &str| Value::String(text.to_owned());
    let nothing = || [Value::Null, Value::Null];
    let case = |tenant, sku, id, at, [sold, order]: [Value; 2], tier| (tenant, sku, id, at, [sold, order, tier]);
    let o1 = |sold| [Value::I64(sold), text("o1")];
    vec![
        // The late order of 100 counts nowhere, and every item counts once.
        case("t1", "a", 1, 90, o1(6), Value::Null),
        case("t1", "b", 2, 90, o1(3), text("gold")),
        case("t2", "a", 2, 90, [Value::I64(7), text("o3")], text("gold")),
        case("t1", "a", 1, 40, o1(6), Value::Null),
        case("t1", "a", 1, 25, o1(6), text("iron")),
        case("t1", "a", 1, 15, o1(6), text("gold")),
        case("t1", "a", 1, 5, o1(6), Value::Null),
        case("t2", "a", 2, 60, nothing(), text("gold")),
    ]
}

const FEATURES: [(&str, &str); 3] = [("sku", "sold"), ("sku", "last_order"), ("customer", "tier")];

/// The cases of minute 90, which no row is past.
pub(crate) async fn are_right_online(platform: &Platform) {
    for (tenant, sku, id, at, expected) in cases().into_iter().filter(|case| case.3 == 90) {
        let column = |name: &str, value| EntityColumn {
            name: name.to_owned(),
            values: vec![value],
        };
        let text = |text: &str| Value::String(text.to_owned());
        let request = ReadRequest {
            features: FEATURES.map(|(view, name)| FeatureRef::new(view, name)).into(),
            entities: vec![
                column("tenant", text(tenant)),
                column("sku", text(sku)),
                column("id", Value::I64(id)),
            ],
            as_of: Some(minute(at)),
        };
        let batch = platform.feature_store().read(request).await.unwrap();
        let values: Vec<Value> = batch.columns.iter().map(|column| value_at(&column.values, 0)).collect();
        assert_eq!(values, expected, "{tenant} {sku} {id}");
        if id == 1 {
            let tier = &batch.columns[2];
            assert_eq!(*tier.status, [FeatureStatus::Missing], "the customer was deleted");
            assert_eq!(*tier.event_time, [Some(minute(30))], "and it is told when");
        }
    }
}

/// Every case, as rows of one training set.
pub(crate) async fn are_right_in_training(platform: &Platform) {
    let cases = cases();
    let moment = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let schema = Arc::new(Schema::new(vec![
        Field::new("tenant", DataType::Utf8, true),
        Field::new("sku", DataType::Utf8, true),
        Field::new("id", DataType::Int64, true),
        Field::new("time", moment, true),
    ]));
    let times = TimestampMicrosecondArray::from_iter_values(cases.iter().map(|case| minute(case.3).micros()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(cases.iter().map(|case| case.0))),
        Arc::new(StringArray::from_iter_values(cases.iter().map(|case| case.1))),
        Arc::new(Int64Array::from_iter_values(cases.iter().map(|case| case.2))),
        Arc::new(times.with_timezone("UTC")),
    ];
    let request = TrainingSetRequest {
        options: TrainingSetOptions {
            model: "messages".to_owned(),
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
    let rows = arrow::compute::concat_batches(&result.schema, &result.batches).unwrap();
    for (row, (tenant, sku, id, at, expected)) in cases.into_iter().enumerate() {
        let values: Vec<Value> = FEATURES
            .iter()
            .map(|(view, name)| value_at(rows.column_by_name(&format!("{view}.{name}")).unwrap(), row))
            .collect();
        assert_eq!(values, expected, "{tenant} {sku} {id} at minute {at}");
    }
}
