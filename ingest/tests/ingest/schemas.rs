//! Messages by schemas of a real registry, written by Confluent's own clients as they come.

use crate::setup::{Boxed, NOON_US, field, kafka, record, snapshot, topic, until};
use crate::store::FakeStore;
use bytes::Bytes;
use ondol_ingest::config::{IngestConfig, SchemaRegistryConfig};
use ondol_ingest_api::Ingest;
use ondol_ingest_api::wire::DeadLetterQuery;
use ondol_testkit::services;
use ondol_vocabulary::{
    ChangeFormat, ColumnOrigin, ColumnReading, DataType, Framing, MessageShape, Snapshot, SourceOrigin, StreamFormat,
    TimestampUnit,
};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

fn read_as(topic: &str, format: StreamFormat, shape: MessageShape) -> Snapshot {
    let mut snapshot = snapshot(topic);
    let SourceOrigin::Stream {
        format: its_format,
        shape: its_shape,
        ..
    } = &mut snapshot.sources[0].definition.origin
    else {
        panic!("a stream")
    };
    (*its_format, *its_shape) = (format, shape);
    snapshot
}

fn framed() -> MessageShape {
    MessageShape {
        framing: Framing::Confluent,
        ..MessageShape::default()
    }
}

const AVRO: StreamFormat = StreamFormat::Avro { schema: None };

fn at(url: String) -> IngestConfig {
    IngestConfig {
        schema_registry: SchemaRegistryConfig {
            url,
            ..SchemaRegistryConfig::default()
        },
        ..IngestConfig::default()
    }
}

/// What Confluent's client says to `plan`.
async fn produce(topic: &str, mut plan: Json) -> Json {
    plan["topic"] = topic.into();
    plan["bootstrap"] = services::kafka().into();
    plan["registry"] = services::schema_registry().into();
    let work = move || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ingest/confluent_producer.py");
        let mut python = Command::new(services::python())
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        python
            .stdin
            .take()
            .unwrap()
            .write_all(plan.to_string().as_bytes())
            .unwrap();
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success(), "{plan}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// The id of `schema`, registered without a client.
async fn register(subject: &str, schema: &Json) -> u32 {
    let url = format!("{}/subjects/{subject}/versions", services::schema_registry());
    let answer = reqwest::Client::new().post(url).json(schema).send().await.unwrap();
    let answer: Json = answer.json().await.unwrap();
    u32::try_from(answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))).unwrap()
}

#[allow(clippy::needless_pass_by_value, reason = "so that a literal can be given")]
fn record_of(fields: Json) -> Json {
    json!({"type": "record", "name": "Event", "namespace": "ondol.test", "fields": fields})
}

/// `{"id", "n", "ts"}` of events `from` up to `to`, `n` under `name`.
fn values(from: i64, to: i64, name: &str, also: &Json) -> Json {
    let event = |n: i64| {
        let mut event = json!({"id": format!("e{}", n % 7), "ts": (NOON_US / 1000) - 5000});
        event[name] = n.into();
        for (key, value) in also.as_object().into_iter().flatten() {
            event[key] = value.clone();
        }
        event
    };
    (from..to).map(event).collect()
}

fn ts() -> Json {
    json!({"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}})
}

async fn arrived(store: &FakeStore, count: i64) {
    until(&format!("{count} events are delivered"), async || {
        store.count() as i64 >= count
    })
    .await;
    assert_eq!(store.numbers(), (0..count).collect::<Vec<_>>());
    assert!(
        store
            .rows()
            .iter()
            .all(|row| row.ts == NOON_US - 5_000_000 && row.id.is_some())
    );
}

async fn letters(ingest: &Boxed) -> Vec<(String, String)> {
    let page = ingest
        .service
        .dead_letters("s", DeadLetterQuery::default())
        .await
        .unwrap();
    let shown = page
        .letters
        .into_iter()
        .map(|entry| (entry.letter.reason, entry.letter.detail));
    shown.collect()
}

async fn avro_evolves(own: Option<Json>) {
    let (topic, stream) = (topic(), kafka());
    let format = StreamFormat::Avro {
        schema: own.map(|schema| schema.to_string()),
    };
    let store = FakeStore::new(read_as(&topic, format, framed()));
    let ingest = Boxed::start_with(Arc::clone(&stream), &store, at(services::schema_registry()));
    let id = json!({"name": "id", "type": "string"});
    let first = record_of(
        json!([id, {"name": "n", "type": "int"}, ts(), {"name": "old", "type": ["null", "string"], "default": null}]),
    );
    let plan = json!({"format": "avro", "schema": first, "compatibility": "BACKWARD",
        "values": values(0, 20, "n", &json!({"old": "x"}))});
    assert_eq!(produce(&topic, plan).await["written"], 20);
    arrived(&store, 20).await;
    // A field goes, one comes with a default, one is promoted.
    let second =
        record_of(json!([id, {"name": "n", "type": "long"}, ts(), {"name": "new", "type": "double", "default": 0.5}]));
    let plan = json!({"format": "avro", "schema": second, "values": values(20, 40, "n", &json!({"new": 1.5})), "compression": "zstd"});
    assert_eq!(produce(&topic, plan).await["written"], 20);
    // One is renamed and says so.
    let third = record_of(
        json!([{"name": "id", "type": ["null", "string"], "default": null}, ts(),
        {"name": "number", "aliases": ["n"], "type": "long"}]),
    );
    let plan = json!({"format": "avro", "schema": third, "compatibility": "NONE", "values": values(40, 60, "number", &Json::Null), "compression": "lz4"});
    assert_eq!(produce(&topic, plan).await["written"], 20);
    arrived(&store, 60).await;
    assert_eq!(letters(&ingest).await, []);
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn avro_of_the_writers_schema_keeps_its_columns_while_it_evolves() {
    avro_evolves(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn avro_of_the_sources_own_schema_keeps_its_columns_while_the_writers_evolves() {
    let fields = json!([{"name": "id", "type": ["null", "string"]}, {"name": "n", "type": "double", "aliases": ["number"]}, ts()]);
    avro_evolves(Some(record_of(fields))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incompatible_schema_is_refused_by_the_registry() {
    let topic = topic();
    let schema = |data_type: &str| record_of(json!([{"name": "n", "type": data_type}]));
    let plan = json!({"format": "avro", "schema": schema("long"), "values": [{"n": 1}], "compatibility": "BACKWARD"});
    assert_eq!(produce(&topic, plan).await["written"], 1);
    let plan = json!({"format": "avro", "schema": schema("string"), "values": [{"n": "one"}]});
    assert_eq!(produce(&topic, plan).await["refused"], 409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_longer_fits_becomes_a_dead_letter_that_names_the_schema() {
    let (topic, stream) = (topic(), kafka());
    let store = FakeStore::new(read_as(&topic, AVRO, framed()));
    let ingest = Boxed::start_with(Arc::clone(&stream), &store, at(services::schema_registry()));
    let id = json!({"name": "id", "type": "string"});
    let good = record_of(json!([id, {"name": "n", "type": "long"}, ts()]));
    let plan = json!({"format": "avro", "schema": good, "values": values(0, 5, "n", &Json::Null)});
    assert_eq!(produce(&topic, plan).await["written"], 5);
    let bad = record_of(json!([id, {"name": "n", "type": "string"}, ts()]));
    let text = json!([{"id": "x", "n": "many", "ts": NOON_US / 1000}]);
    let plan = json!({"format": "avro", "schema": bad, "values": text, "compatibility": "NONE"});
    assert_eq!(produce(&topic, plan).await["written"], 1);
    let unknown = record(Bytes::from_static(&[0, 0x7f, 0xff, 0xff, 0xff, 2, 2]));
    let unframed = record("{}");
    let text = "syntax = \"proto3\"; message Other { int32 x = 1; }";
    let protobuf = json!({"schemaType": "PROTOBUF", "schema": text});
    let other = register(&format!("{topic}-other"), &protobuf).await;
    let other = record([&[0], other.to_be_bytes().as_slice(), b"{}"].concat());
    stream.append(&topic, vec![unknown, unframed, other]).await.unwrap();
    let mut shown = Vec::new();
    until("four dead letters are there", async || {
        shown = letters(&ingest).await;
        shown.len() >= 4
    })
    .await;
    shown.sort();
    let reasons: Vec<&str> = shown.iter().map(|(reason, _)| reason.as_str()).collect();
    assert_eq!(
        reasons,
        ["incompatible-schema", "malformed", "unknown-schema", "wrong-type"]
    );
    let details: Vec<&str> = shown.iter().map(|(_, detail)| detail.as_str()).collect();
    let expected = [
        "is PROTOBUF, but the source's format is AVRO",
        "a zero byte and 4 bytes of the schema's id must stand first",
        "schema 2147483647 is not in the registry",
        "field `n` is \"many\", expected i64: send a whole number",
    ];
    for (detail, expected) in details.iter().zip(expected) {
        assert!(detail.contains(expected), "{detail}");
    }
    assert!(details[3].contains("(written with schema "), "{}", details[3]);
    arrived(&store, 5).await;
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_behind_a_frame_is_read_as_json() {
    let (topic, stream) = (topic(), kafka());
    let store = FakeStore::new(read_as(&topic, StreamFormat::Json, framed()));
    // It needs no registry: the frame is taken off.
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    let schema = json!({"title": "Event", "type": "object", "properties": {"n": {"type": "integer"}}});
    let events: Json = (0..20)
        .map(|n| json!({"id": "a", "n": n, "ts": "2013-01-01T11:59:55Z"}))
        .collect();
    produce(
        &topic,
        json!({"format": "json", "schema": schema, "values": events, "compression": "snappy"}),
    )
    .await;
    arrived(&store, 20).await;
    ingest.stop().await;
}

fn protobuf(fields: &[(&str, i32, &str)]) -> Json {
    let fields: Vec<Json> = fields
        .iter()
        .map(|(name, number, kind)| match *kind {
            "TIMESTAMP" => json!({"name": name, "number": number, "label": "LABEL_OPTIONAL", "type": "TYPE_MESSAGE",
                "typeName": ".google.protobuf.Timestamp"}),
            kind => json!({"name": name, "number": number, "label": "LABEL_OPTIONAL", "type": format!("TYPE_{kind}")}),
        })
        .collect();
    json!({"message": "ondol.test.Event", "file": {
        "name": "event.proto", "package": "ondol.test", "syntax": "proto3",
        "dependency": ["google/protobuf/timestamp.proto"],
        "messageType": [
            {"name": "Other", "field": [{"name": "x", "number": 1, "label": "LABEL_OPTIONAL", "type": "TYPE_INT32"}]},
            {"name": "Event", "field": fields}]}})
}

async fn protobuf_evolves(format: StreamFormat) {
    let (topic, stream) = (topic(), kafka());
    let store = FakeStore::new(read_as(&topic, format, framed()));
    let ingest = Boxed::start_with(Arc::clone(&stream), &store, at(services::schema_registry()));
    let events = |from: i64, to: i64, also: &[(&str, Json)]| -> Json {
        let event = |n: i64| {
            // Numbers of 64 bits are texts in Protobuf's JSON.
            let mut event = json!({"id": "a", "n": n, "ts": "2013-01-01T11:59:55Z"});
            also.iter().for_each(|(name, value)| event[*name] = value.clone());
            event
        };
        (from..to).map(event).collect()
    };
    let first = [
        ("id", 1, "STRING"),
        ("n", 2, "INT32"),
        ("ts", 3, "TIMESTAMP"),
        ("old", 4, "BYTES"),
    ];
    let plan =
        json!({"format": "protobuf", "schema": protobuf(&first), "values": events(0, 20, &[("old", "AAAA".into())])});
    assert_eq!(produce(&topic, plan).await["written"], 20);
    arrived(&store, 20).await;
    let second = [
        ("id", 1, "STRING"),
        ("n", 2, "INT64"),
        ("ts", 3, "TIMESTAMP"),
        ("new", 5, "DOUBLE"),
    ];
    let plan = json!({"format": "protobuf", "schema": protobuf(&second), "values": events(20, 40, &[("new", 1.5.into())]),
        "compression": "gzip"});
    assert_eq!(produce(&topic, plan).await["written"], 20);
    arrived(&store, 40).await;
    assert_eq!(letters(&ingest).await, []);
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protobuf_of_the_writers_schema_keeps_its_columns_while_it_evolves() {
    let format = StreamFormat::Protobuf {
        schema: None,
        message: None,
    };
    protobuf_evolves(format).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protobuf_of_the_sources_own_schema_reads_what_newer_writers_wrote() {
    let text = r#"syntax = "proto3"; package mine; import "google/protobuf/timestamp.proto";
        message Event { string id = 1; int64 n = 2; google.protobuf.Timestamp ts = 3; }"#;
    let format = StreamFormat::Protobuf {
        schema: Some(text.to_owned()),
        message: Some("mine.Event".to_owned()),
    };
    protobuf_evolves(format).await;
}

fn reading(origin: ColumnOrigin, unit: TimestampUnit) -> ColumnReading {
    ColumnReading {
        unit,
        ..ColumnReading::of(origin)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_record_is_read_by_its_own_schema() {
    let (topic, stream) = (topic(), kafka());
    let mut shape = framed();
    let key = reading(ColumnOrigin::Key(vec!["id".to_owned()]), TimestampUnit::default());
    shape.columns = BTreeMap::from([("id".to_owned(), key)]);
    let store = FakeStore::new(read_as(&topic, AVRO, shape));
    let ingest = Boxed::start_with(Arc::clone(&stream), &store, at(services::schema_registry()));
    let plan = json!({
        "format": "avro",
        "schema": record_of(json!([{"name": "n", "type": "long"}, ts()])),
        "key_schema": {"type": "record", "name": "Key", "fields": [{"name": "id", "type": "string"}]},
        "keys": (0..10).map(|n| json!({"id": format!("k{n}")})).collect::<Vec<_>>(),
        "values": (0..10).map(|n| json!({"n": n, "ts": NOON_US / 1000 - 5000})).collect::<Vec<_>>(),
    });
    assert_eq!(produce(&topic, plan).await["written"], 10);
    arrived(&store, 10).await;
    let mut keys: Vec<_> = store
        .rows()
        .into_iter()
        .map(|row| (row.n.unwrap(), row.id.unwrap()))
        .collect();
    keys.sort();
    assert_eq!(keys, (0..10).map(|n| (n, format!("k{n}"))).collect::<Vec<_>>());
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_a_database_come_as_avro_too() {
    let (topic, stream) = (topic(), kafka());
    let mut shape = framed();
    shape.changes = Some(ChangeFormat::Debezium);
    let moment = reading(
        ColumnOrigin::Envelope(vec!["source".to_owned(), "ts_ms".to_owned()]),
        TimestampUnit::Milliseconds,
    );
    shape.columns = BTreeMap::from([("ts".to_owned(), moment)]);
    let mut snapshot = read_as(&topic, AVRO, shape);
    snapshot.sources[0]
        .definition
        .schema
        .push(field("note", DataType::String));
    let store = FakeStore::new(snapshot);
    let ingest = Boxed::start_with(Arc::clone(&stream), &store, at(services::schema_registry()));
    // As Debezium's connector for PostgreSQL registers it, shortened.
    let row = json!({"type": "record", "name": "Value", "fields": [
        {"name": "id", "type": "string"}, {"name": "n", "type": "long"},
        {"name": "note", "type": ["null", "string"], "default": null}]});
    let source = json!({"type": "record", "name": "Source", "fields": [
        {"name": "ts_ms", "type": "long"}, {"name": "lsn", "type": ["null", "long"], "default": null}]});
    let envelope = json!({"type": "record", "name": "Envelope", "namespace": "shop.public.cards", "fields": [
        {"name": "before", "type": ["null", row], "default": null},
        {"name": "after", "type": ["null", "Value"], "default": null},
        {"name": "source", "type": source},
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "type": ["null", "long"], "default": null}]});
    let told = json!({"ts_ms": NOON_US / 1000 - 5000, "lsn": 7});
    let change = |n: i64| {
        let row = json!({"id": format!("c{n}"), "n": n, "note": null});
        match n {
            0 => json!({"before": null, "after": row, "source": told, "op": "c", "ts_ms": 1}),
            1 => json!({"before": row, "after": row, "source": told, "op": "u", "ts_ms": 1}),
            _ => json!({"before": row, "after": null, "source": told, "op": "d", "ts_ms": 1}),
        }
    };
    let plan = json!({"format": "avro", "schema": envelope, "values": (0..3).map(change).collect::<Vec<_>>()});
    produce(&topic, plan).await;
    arrived(&store, 3).await;
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_registry_is_down_the_source_waits_and_loses_nothing() {
    let (topic, stream) = (topic(), kafka());
    let store = FakeStore::new(read_as(&topic, AVRO, framed()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let real = services::schema_registry();
    let behind = real.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let url = real.replace(&behind, &address.to_string());
    let ingest = Boxed::start_with(Arc::clone(&stream), &store, at(url));
    let schema = record_of(json!([{"name": "id", "type": "string"}, {"name": "n", "type": "long"}, ts()]));
    let plan = json!({"format": "avro", "schema": schema, "values": values(0, 20, "n", &Json::Null)});
    produce(&topic, plan).await;
    until("the status says that the registry is away", async || {
        let status = ingest.service.status().await.unwrap();
        let error = status
            .iter()
            .find_map(|status| status.error.clone())
            .unwrap_or_default();
        error.contains("schema registry does not answer")
    })
    .await;
    assert_eq!((store.count(), letters(&ingest).await), (0, Vec::new()));
    let listener = TcpListener::bind(address).await.unwrap();
    let proxy = tokio::spawn(async move {
        while let Ok((mut inner, _)) = listener.accept().await {
            let mut outer = TcpStream::connect(&behind).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut inner, &mut outer).await });
        }
    });
    arrived(&store, 20).await;
    assert_eq!(letters(&ingest).await, []);
    ingest.stop().await;
    proxy.abort();
}
