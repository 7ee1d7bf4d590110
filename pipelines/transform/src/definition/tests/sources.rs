//! Sources: options, where columns are, schemas, changes.

use super::*;

#[test]
fn the_built_in_source_is_known_and_not_returned() {
    let text = r#"
[view.scores]
from = "decisions"
key = "model"
features.n = "count() over 1h"
features.slow = "max(latency_us) over 5m"
"#;
    let definitions = compiled(text);
    assert!(definitions.sources.is_empty());
    assert_eq!(definitions.views[0].source, DECISIONS);
    let source = decisions_source();
    assert_eq!(source.field(&source.time).unwrap().data_type, DataType::Timestamp);
}

#[test]
fn options_are_read() {
    let text = r#"
[source.flights]
kafka = "flights"
format = "json"
time = "at"
arrival = "event-time"
delay = "1h"
schema = { tail = "string", origin = "string", delay_min = "i32", at = "timestamp" }

[view.pair]
from = "flights"
key = ["tail", "origin"]
where = "delay_min is not null"
[view.pair.features]
mean_3h = { expr = "avg(delay_min) over 3h", hop = "15m" }
late_now = "delay_min > 15"
short = "count() over 30s"
ever = "first(delay_min) filter (where delay_min > 0)"
"#;
    let definitions = compiled(text);
    assert_eq!(
        definitions.sources[0].arrival,
        Arrival::EventTime {
            delay_us: 3_600_000_000
        }
    );
    let view = &definitions.views[0];
    assert_eq!(view.filter.as_deref(), Some("delay_min is not null"));
    assert_eq!(view.key.len(), 2);
    let window = |index: usize| match &view.features[index].kind {
        FeatureKind::Aggregate { window, .. } => *window,
        FeatureKind::LatestRow { .. } => None,
    };
    assert_eq!(
        window(0),
        Some(Window {
            width_us: 10_800_000_000,
            hop_us: 900_000_000
        })
    );
    assert_eq!(
        window(2),
        Some(Window {
            width_us: 30_000_000,
            hop_us: 2_500_000
        })
    );
    assert_eq!(window(3), None);
    assert_eq!(view.features[0].data_type, DataType::F64);
    assert_eq!(view.features[1].data_type, DataType::Bool);
    assert_eq!(view.features[3].data_type, DataType::I32);
}

#[test]
fn a_column_may_stand_anywhere_in_a_record() {
    let text = r#"
[source.orders]
kafka = "orders"
time = "at"
unnest = "payload.items"
schema = { sku = { type = "string", path = "payload.items.sku" }, price = { type = "f64", path = ["payload", "price.net"] }, plain = { type = "i64", path = "plain" }, id = { type = "string", key = true }, shop = { type = "i64", key = "shop.id" }, tenant = { type = "string", header = "tenant" }, at = { type = "timestamp", meta = "timestamp" }, sent = { type = "timestamp", unit = "ms" }, n = { type = "i64", meta = "offset" } }
"#;
    let path = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let SourceOrigin::Stream { shape, format, .. } = &compiled(text).sources[0].origin else {
        panic!()
    };
    assert_eq!((format, shape.framing), (&StreamFormat::Json, Framing::None));
    assert_eq!(shape.unnest, Some(path(&["payload", "items"])));
    let read = |column: &str| shape.columns.get(column).map(|reading| reading.origin.clone());
    assert_eq!(
        read("sku"),
        Some(ColumnOrigin::Field(path(&["payload", "items", "sku"])))
    );
    assert_eq!(
        read("price"),
        Some(ColumnOrigin::Field(path(&["payload", "price.net"])))
    );
    assert_eq!(read("plain"), None, "the long spelling of a plain column is plain");
    assert_eq!(read("id"), Some(ColumnOrigin::Key(Vec::new())));
    assert_eq!(read("shop"), Some(ColumnOrigin::Key(path(&["shop", "id"]))));
    assert_eq!(read("tenant"), Some(ColumnOrigin::Header("tenant".into())));
    assert_eq!(read("at"), Some(ColumnOrigin::Timestamp));
    assert_eq!(read("n"), Some(ColumnOrigin::Offset));
    assert_eq!(shape.columns["sent"].unit, TimestampUnit::Milliseconds);
}

#[test]
fn a_schema_comes_with_the_source_from_a_file_beside_it_or_from_the_registry() {
    let text = |options: &str| {
        format!("[source.s]\nkafka = \"s\"\ntime = \"ts\"\nschema = {{ ts = \"timestamp\" }}\n{options}\n")
    };
    let origin = |text: &str, more: &[(&str, &str)]| {
        let mut files = files(&[text]);
        files.files[0].path = "defs/ondol.toml".to_owned();
        files.files.extend(more.iter().map(|(path, text)| DefinitionFile {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
        }));
        let definitions = compile(&files).unwrap_or_else(|found| panic!("{}", render(&files, &found, false)));
        match definitions.sources[0].origin.clone() {
            SourceOrigin::Stream { format, shape, .. } => (format, shape.framing),
            SourceOrigin::Table { .. } => panic!(),
        }
    };
    let avro = |schema: Option<&str>| StreamFormat::Avro {
        schema: schema.map(str::to_owned),
    };
    assert_eq!(
        origin(&text("format = \"avro\""), &[]),
        (avro(None), Framing::Confluent)
    );
    let inline = text("format = \"avro\"\nschema-text = '\"string\"'");
    assert_eq!(origin(&inline, &[]), (avro(Some("\"string\"")), Framing::None));
    let framed = format!("{inline}framing = \"confluent\"\n");
    assert_eq!(origin(&framed, &[]).1, Framing::Confluent);
    let beside = text("format = \"protobuf\"\nmessage = \"shop.Order\"\nschema-file = \"order.proto\"");
    let proto = StreamFormat::Protobuf {
        schema: Some("syntax".to_owned()),
        message: Some("shop.Order".to_owned()),
    };
    assert_eq!(
        origin(&beside, &[("defs/order.proto", "syntax")]),
        (proto, Framing::None)
    );
}

#[test]
fn changes_and_tombstones_are_read() {
    let text = r#"
[source.customers]
kafka = "db.public.customers"
changes = "debezium"
time = "at"
schema = { id = "i64", tier = "string", at = { type = "timestamp", envelope = "source.ts_ms", unit = "ms" } }
[source.prices]
kafka = "prices"
tombstones = "delete"
time = "at"
schema = { sku = { type = "string", key = true }, price = "f64", at = "timestamp" }
[view.customer]
from = "customers"
key = "id"
features.tier = "tier"
[view.price]
from = "prices"
key = "sku"
features.price = "price"
"#;
    let definitions = compiled(text);
    assert!(definitions.sources.iter().all(|source| source.origin.has_deletions()));
}

#[test]
fn a_column_may_be_the_json_text_of_a_field() {
    let source = |options: &str, schema: &str| {
        format!("[source.s]\nkafka = \"s\"\ntime = \"at\"\n{options}\nschema = {{ at = \"timestamp\", {schema} }}\n")
    };
    let text = source(
        "",
        r#"tags = { type = "string", json = true }, card = { type = "string", path = "payload.card", json = true }"#,
    );
    let SourceOrigin::Stream { shape, .. } = &compiled(&text).sources[0].origin else {
        panic!()
    };
    assert!(shape.columns["tags"].json && shape.columns["card"].json);
    let plain = source("", r#"tags = { type = "string", json = false }"#);
    let SourceOrigin::Stream { shape, .. } = &compiled(&plain).sources[0].origin else {
        panic!()
    };
    assert!(shape.is_plain());
    for (options, column, code) in [
        ("", r#"{ type = "i64", json = true }"#, "column-type"),
        ("", r#"{ type = "string", json = 1 }"#, "wrong-type"),
        ("", r#"{ type = "string", header = "h", json = true }"#, "misplaced-key"),
        ("", r#"{ type = "string", key = true, json = true }"#, "misplaced-key"),
        (
            "format = \"avro\"",
            r#"{ type = "string", json = true }"#,
            "misplaced-key",
        ),
        (
            "format = \"protobuf\"",
            r#"{ type = "string", json = true }"#,
            "misplaced-key",
        ),
    ] {
        let text = source(options, &format!("tags = {column}"));
        let found = compile(&files(&[&text])).unwrap_err();
        assert_eq!(
            found.iter().map(|found| found.code.as_str()).collect::<Vec<_>>(),
            [code],
            "{column}"
        );
    }
}
