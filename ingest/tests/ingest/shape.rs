//! What a record has beyond its value, through both streams: keys, headers, timestamps, tombstones; and topics that are
//! compressed with each of Kafka's codecs.

use crate::setup::{NOON_US, embedded, field, kafka, kafka_config, keyed, topic};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_ingest::batch::{Decoded, decode};
use ondol_ingest::decode::formats::Formats;
use ondol_ingest::plan::SourcePlan;
use ondol_ingest::source::{Header, NewRecord, ReaderEvent, Records, Stream};
use ondol_vocabulary::{
    Arrival, ColumnOrigin, ColumnReading, DataType, EventTime, MessageShape, Snapshot, SourceDefinition, SourceOrigin,
    SourceVersion, StreamFormat, Tombstones,
};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use std::path::Path;
use std::time::Duration;

/// Runs of the first `count` records of `topic`.
async fn read(stream: &dyn Stream, topic: &str, count: usize) -> Vec<Records> {
    let mut reader = stream.reader(topic, "shape").await.unwrap();
    let mut runs: Vec<Records> = Vec::new();
    while runs.iter().map(Records::len).sum::<usize>() < count {
        let event = tokio::time::timeout(Duration::from_secs(60), reader.next()).await;
        match event.expect("something happens").unwrap() {
            ReaderEvent::Assigned { partitions, .. } => {
                let starts = partitions.into_iter().map(|partition| PartitionPosition {
                    partition,
                    next_offset: 0,
                });
                reader.begin(starts.collect()).await.unwrap();
            }
            ReaderEvent::Records(run) => runs.push(run),
            _ => {}
        }
    }
    runs
}

fn plan(topic: &str, shape: MessageShape, late_us: i64) -> SourcePlan {
    let definition = SourceDefinition {
        name: "s".to_owned(),
        origin: SourceOrigin::Stream {
            topic: topic.to_owned(),
            format: StreamFormat::Json,
            shape,
        },
        time: "at".to_owned(),
        late_us,
        arrival: Arrival::Ingest,
        schema: vec![
            field("id", DataType::String),
            field("tenant", DataType::String),
            field("n", DataType::I64),
            field("at", DataType::Timestamp),
        ],
    };
    let source = SourceVersion { version: 1, definition };
    let plan = SourcePlan::compile(&Snapshot::default(), &source, &Formats::default());
    plan.unwrap().unwrap()
}

/// `id` is the key, `tenant` a header, `at` the record's timestamp; `n` a field.
fn whole_record() -> MessageShape {
    let reading = ColumnReading::of;
    let columns = [
        ("id", ColumnOrigin::Key(Vec::new())),
        ("tenant", ColumnOrigin::Header("tenant".to_owned())),
        ("at", ColumnOrigin::Timestamp),
    ];
    let columns = columns.map(|(name, origin)| (name.to_owned(), reading(origin)));
    MessageShape {
        columns: columns.into(),
        tombstones: Tombstones::Delete,
        ..MessageShape::default()
    }
}

fn decoded(plan: &SourcePlan, runs: &[Records]) -> Decoded {
    decode(plan, "g", runs, EventTime::from_micros(NOON_US), 1 << 20).unwrap()
}

fn texts(events: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let column = events.column_by_name(column).unwrap().as_string::<i32>();
    column.iter().map(|text| text.map(str::to_owned)).collect()
}

pub(crate) async fn a_record_is_read_with_its_key_its_headers_and_its_time(stream: &dyn Stream) {
    let topic = topic();
    let header = |name: &str, value: &'static str| Header {
        name: name.to_owned(),
        value: Some(Bytes::from_static(value.as_bytes())),
    };
    let time = EventTime::from_micros(NOON_US - 5_000_000);
    let full = NewRecord {
        headers: vec![header("tenant", "a"), header("trace", "x"), header("tenant", "b")],
        timestamp: time,
        ..keyed("k", r#"{"n":1}"#)
    };
    let tombstone = NewRecord {
        value: None,
        ..full.clone()
    };
    stream.append(&topic, vec![full, tombstone]).await.unwrap();
    let runs = read(stream, &topic, 2).await;
    let decoded = decoded(&plan(&topic, whole_record(), 0), &runs);
    assert!(decoded.dead_letters.is_empty(), "{:?}", decoded.dead_letters);
    let events = &decoded.delivery.events;
    assert_eq!(texts(events, "id"), [Some("k".to_owned()), Some("k".to_owned())]);
    assert_eq!(texts(events, "tenant"), [Some("b".to_owned()), Some("b".to_owned())]);
    let at = events.column_by_name("at").unwrap();
    let at = at.as_primitive::<TimestampMicrosecondType>();
    assert_eq!(at.values(), &[time.micros(), time.micros()]);
    let deleted = events.column_by_name("_deleted").unwrap().as_boolean();
    assert_eq!([deleted.value(0), deleted.value(1)], [false, true]);
    assert!(
        events.column_by_name("n").unwrap().is_null(1),
        "a tombstone has no value"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_read_with_its_key_its_headers_and_its_time_on_the_embedded_stream() {
    let dir = tempfile::tempdir().unwrap();
    a_record_is_read_with_its_key_its_headers_and_its_time(embedded(dir.path()).as_ref()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_read_with_its_key_its_headers_and_its_time_on_kafka() {
    a_record_is_read_with_its_key_its_headers_and_its_time(kafka().as_ref()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_survive_a_restart_of_the_embedded_stream() {
    let dir = tempfile::tempdir().unwrap();
    let append = async |path: &Path, n: i64| {
        let record = NewRecord {
            headers: vec![Header {
                name: "tenant".to_owned(),
                value: Some(Bytes::from(n.to_string())),
            }],
            ..keyed("k", format!("{{\"n\":{n}}}"))
        };
        embedded(path).append("t", vec![record]).await.unwrap();
    };
    append(dir.path(), 1).await;
    append(dir.path(), 2).await;
    let runs = read(embedded(dir.path()).as_ref(), "t", 2).await;
    let decoded = decoded(&plan("t", whole_record(), 0), &runs);
    let tenants = texts(&decoded.delivery.events, "tenant");
    assert_eq!(tenants, [Some("1".to_owned()), Some("2".to_owned())]);
}

#[test]
fn events_of_one_message_are_delivered_together_and_share_its_position() {
    let column = |path: &str| ColumnReading::of(ColumnOrigin::Field(path.split('.').map(str::to_owned).collect()));
    let shape = MessageShape {
        columns: [
            ("n".to_owned(), column("items.n")),
            ("id".to_owned(), column("items.id")),
        ]
        .into(),
        unnest: Some(vec!["items".to_owned()]),
        ..MessageShape::default()
    };
    let mut run = Records::starting(0, 0);
    let now = EventTime::from_micros(NOON_US);
    let at = r#""at":"2013-01-01T05:17:00Z""#;
    run.push(
        0,
        now,
        Some(format!(r#"{{{at},"items":[{{"n":1}},{{"n":2}}]}}"#).as_bytes()),
    );
    run.push(1, now, Some(format!(r#"{{{at},"items":[]}}"#).as_bytes()));
    run.push(
        2,
        now,
        Some(format!(r#"{{{at},"items":[{{"n":3}},{{"n":"x"}}]}}"#).as_bytes()),
    );
    run.push(3, now, Some(format!(r#"{{{at},"items":[{{"n":4}}]}}"#).as_bytes()));
    let decoded = decoded(&plan("t", shape, 0), &[run]);
    let numbers = |name: &str| {
        let column = decoded.delivery.events.column_by_name(name).unwrap();
        column.as_primitive::<Int64Type>().values().to_vec()
    };
    assert_eq!((numbers("n"), numbers("_offset")), (vec![1, 2, 4], vec![0, 0, 3]));
    assert_eq!(decoded.passed_over, 1, "an empty array gives no events");
    let refused: Vec<_> = decoded
        .dead_letters
        .iter()
        .map(|letter| letter.position.offset)
        .collect();
    assert_eq!(refused, [2], "a message with one bad element is taken not at all");
    let range = decoded.delivery.header.ranges[0];
    assert_eq!((range.from, range.to), (0, 4));
}

#[test]
fn late_events_are_delivered_marked_and_counted() {
    let mut run = Records::starting(0, 0);
    let event = br#"{"id":"a","at":"2013-01-01T11:00:00Z"}"#;
    run.push(0, EventTime::from_micros(NOON_US - 3_600_000_000), Some(event));
    run.push(1, EventTime::from_micros(NOON_US), Some(event));
    let decoded = decoded(&plan("t", MessageShape::default(), 600_000_000), &[run]);
    let late = decoded.delivery.events.column_by_name("_late").unwrap().as_boolean();
    assert_eq!(([late.value(0), late.value(1)], decoded.late), ([false, true], 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_read_whatever_codec_their_producers_compress_with() {
    let (config, topic, stream) = (kafka_config(), topic(), kafka());
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    stream
        .create_own(&topic, ondol_ingest::source::scan::Keep::For(Duration::from_secs(3600)))
        .await
        .unwrap();
    for codec in codecs {
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &config.bootstrap)
            .set("compression.type", codec)
            // One batch of them, so that there is something to compress.
            .set("linger.ms", "50")
            .create()
            .unwrap();
        let payload = format!(
            "{{\"id\":\"{codec}\",\"at\":\"2013-01-01T05:17:00Z\",\"pad\":\"{}\"}}",
            "x".repeat(500)
        );
        let sends = (0..50).map(|_| {
            let record = FutureRecord::<str, str>::to(&topic).payload(&payload);
            producer.send(record, Duration::from_secs(30))
        });
        for sent in futures::future::join_all(sends).await {
            sent.unwrap();
        }
    }
    let runs = read(stream.as_ref(), &topic, 50 * codecs.len()).await;
    let decoded = decoded(&plan(&topic, MessageShape::default(), 0), &runs);
    let ids = texts(&decoded.delivery.events, "id");
    for codec in codecs {
        assert_eq!(
            ids.iter().filter(|id| id.as_deref() == Some(codec)).count(),
            50,
            "{codec}"
        );
    }
}
