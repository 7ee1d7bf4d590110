//! Events of streams: any bytes become rows or dead letters, and the delivery of them survives the wire.

use arrow::array::{Array, RecordBatch};
use ondol_feature_store_api::wire::Delivery;
use ondol_ingest::batch::{Decoded, decode};
use ondol_ingest::decode::formats::Formats;
use ondol_ingest::fuzzing;
use ondol_ingest::plan::SourcePlan;
use ondol_ingest::schema_registry::{Reference, Registered};
use ondol_ingest::source::Records;
use ondol_vocabulary::{
    Arrival, ChangeFormat, ColumnOrigin, ColumnReading, DataType, EventTime, Field, Framing, MessageShape, Snapshot,
    SourceDefinition, SourceOrigin, SourceVersion, StreamFormat, TimestampUnit, Tombstones, batch,
};
use std::sync::LazyLock;

/// 2026-11-21T12:00:00Z.
const NOW: EventTime = EventTime::from_micros(1_795_262_400_000_000);
/// Larger messages are refused before they are looked at.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// The schema of the Avro messages.
pub(crate) const AVRO: &str = r#"{"type":"record","name":"E","fields":[
    {"name":"id","type":"string"},
    {"name":"n","type":["null","long"],"default":null},
    {"name":"x","type":["null","double","float","int"]},
    {"name":"flag","type":"boolean","default":false},
    {"name":"ts","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"kind","type":{"type":"enum","name":"K","symbols":["A","B"]}},
    {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}},
    {"name":"tags","type":{"type":"map","values":"string"}},
    {"name":"items","type":{"type":"array","items":{"type":"record","name":"I","fields":[
        {"name":"id","type":"string"},{"name":"n","type":"int"},{"name":"next","type":["null","I"]}]}}}]}"#;

/// As [`AVRO`], by an earlier writer.
const OLDER_AVRO: &str = r#"{"type":"record","name":"E","fields":[
    {"name":"n","type":"int"},
    {"name":"gone","type":{"type":"fixed","name":"F","size":3}},
    {"name":"id","type":"string"},
    {"name":"ts","type":"long"}]}"#;

/// The schema of the Protobuf messages.
pub(crate) const PROTOBUF: &str = r#"
    syntax = "proto3";
    package shop;
    message E {
        string id = 1;
        optional int64 n = 2;
        double x = 3;
        bool flag = 4;
        int64 ts = 5;
        enum K { A = 0; B = 1; }
        K kind = 6;
        repeated Item items = 7;
        map<string, sint32> tags = 8;
        oneof either { float left = 9; fixed64 right = 10; }
        message Item { string id = 1; int32 n = 2; Item next = 3; repeated sfixed32 many = 4; }
    }
    message Other { bytes raw = 1; E inner = 2; }
"#;

const JSON: StreamFormat = StreamFormat::Json;

/// A source's plan, and one that differs only by being read the long way.
struct Plans {
    plan: SourcePlan,
    other: Option<SourcePlan>,
}

fn columns() -> Vec<Field> {
    let columns = [
        ("id", DataType::String),
        ("n", DataType::I64),
        ("x", DataType::F64),
        ("f", DataType::F32),
        ("small", DataType::I32),
        ("flag", DataType::Bool),
        ("ts", DataType::Timestamp),
    ];
    let field = |(name, data_type): (&str, DataType)| Field {
        name: name.to_owned(),
        data_type,
    };
    columns.map(field).to_vec()
}

fn plan(format: StreamFormat, shape: MessageShape, schema: Vec<Field>) -> SourcePlan {
    let definition = SourceDefinition {
        name: "s".to_owned(),
        origin: SourceOrigin::Stream {
            topic: "s".to_owned(),
            format,
            shape,
        },
        time: "ts".to_owned(),
        late_us: 0,
        arrival: Arrival::Ingest,
        schema,
    };
    let source = SourceVersion { version: 1, definition };
    let snapshot = Snapshot {
        version: 1,
        sources: vec![source.clone()],
        views: Vec::new(),
        models: Vec::new(),
    };
    SourcePlan::compile(&snapshot, &source, formats()).unwrap().unwrap()
}

fn formats() -> &'static Formats {
    static FORMATS: LazyLock<Formats> = LazyLock::new(registered);
    &FORMATS
}

/// Formats over a registry of four schemas.
fn registered() -> Formats {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());
    let avro = |text: &str| Registered {
        kind: Registered::AVRO.to_owned(),
        text: text.to_owned(),
        references: Vec::new(),
    };
    let protobuf = Registered {
        kind: Registered::PROTOBUF.to_owned(),
        text: PROTOBUF.to_owned(),
        references: vec![Reference {
            name: "unused.proto".to_owned(),
            text: "syntax = \"proto3\"; message Unused {}".to_owned(),
        }],
    };
    let json = Registered {
        kind: "JSON".to_owned(),
        text: "{}".to_owned(),
        references: Vec::new(),
    };
    let schemas = [(0, avro(AVRO)), (1, avro(OLDER_AVRO)), (2, protobuf), (3, json)];
    fuzzing::formats(RUNTIME.handle().clone(), schemas)
}

fn reading(origin: ColumnOrigin) -> ColumnReading {
    ColumnReading {
        unit: TimestampUnit::Milliseconds,
        ..ColumnReading::of(origin)
    }
}

fn path(path: &str) -> Vec<String> {
    path.split('.').map(str::to_owned).collect()
}

/// Columns from everywhere in a record: fields, nested ones, the key, headers and what the stream tells.
fn scattered() -> MessageShape {
    let columns = [
        ("id", ColumnOrigin::Field(path("items.id"))),
        ("n", ColumnOrigin::Field(path("items.next.n"))),
        ("x", ColumnOrigin::Key(path("x"))),
        ("f", ColumnOrigin::Header("f".to_owned())),
        ("small", ColumnOrigin::Partition),
        ("flag", ColumnOrigin::Field(path("tags.flag"))),
        ("ts", ColumnOrigin::Timestamp),
    ];
    MessageShape {
        columns: columns
            .into_iter()
            .map(|(name, origin)| (name.to_owned(), reading(origin)))
            .collect(),
        unnest: Some(path("items")),
        tombstones: Tombstones::Delete,
        ..MessageShape::default()
    }
}

fn framed_shape(shape: MessageShape) -> MessageShape {
    MessageShape {
        framing: Framing::Confluent,
        ..shape
    }
}

fn changed() -> MessageShape {
    let moment = reading(ColumnOrigin::Envelope(path("source.ts_ms")));
    MessageShape {
        changes: Some(ChangeFormat::Debezium),
        columns: [("ts".to_owned(), moment)].into(),
        tombstones: Tombstones::Delete,
        ..MessageShape::default()
    }
}

/// A record of any bytes: 1 byte says which of the plans and what is null, 2 how long the key and the headers' value
/// are, then these and the value follow.
struct Input<'a> {
    choice: usize,
    key: Option<&'a [u8]>,
    header: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

impl<'a> Input<'a> {
    fn of(data: &'a [u8]) -> Option<Self> {
        let ([choice, key, header], rest) = data.split_first_chunk::<3>()?;
        let (key_bytes, rest) = rest.split_at_checked(usize::from(key & 0x7f))?;
        let (header_bytes, rest) = rest.split_at_checked(usize::from(header & 0x7f))?;
        Some(Self {
            choice: usize::from(choice & 0x7f),
            key: (key & 0x80 == 0).then_some(key_bytes),
            header: (header & 0x80 == 0).then_some(header_bytes),
            value: (choice & 0x80 == 0).then_some(rest),
        })
    }

    fn records(&self) -> Records {
        let mut records = Records::starting(3, 7);
        records.push_with(7, NOW, self.key, self.value, |sink| {
            if let Some(header) = self.header {
                sink.add("f", Some(header));
                sink.add("null", None);
            }
        });
        records
    }
}

/// What a record's bytes and the schemas it may name become.
fn check(plans: &Plans, records: &Records) {
    let found = decoded(&plans.plan, records);
    if let Some(other) = &plans.other {
        let other = decoded(other, records);
        assert_same(&found, &other);
    }
    let arrow = found.delivery.to_arrow().unwrap();
    let sent = batch::encode(&arrow.schema(), &[arrow]).unwrap();
    let arrived = Delivery::from_arrow(batch::decode_one(&sent).unwrap()).unwrap();
    assert_eq!(arrived.header, found.delivery.header);
    assert_eq!(arrived.events.num_rows(), found.delivery.events.num_rows());
}

fn decoded(plan: &SourcePlan, records: &Records) -> Decoded {
    let decoded = decode(plan, "generation", std::slice::from_ref(records), NOW, MAX_EVENT_BYTES).unwrap();
    let events = decoded.delivery.events.num_rows();
    assert!(
        events > 0 || decoded.dead_letters.len() + decoded.passed_over == 1,
        "a record is an event, a dead letter or passed over"
    );
    assert!(
        events == 0 || decoded.dead_letters.is_empty(),
        "all of a record is taken or none"
    );
    decoded
}

/// The short way and the long way of reading take the same, and the same of it.
fn assert_same(found: &Decoded, other: &Decoded) {
    let letters = |decoded: &Decoded| -> Vec<String> {
        decoded
            .dead_letters
            .iter()
            .map(|letter| letter.reason.clone())
            .collect()
    };
    assert_eq!(
        letters(found),
        letters(other),
        "{:?} {:?}",
        found.dead_letters,
        other.dead_letters
    );
    let column = |batch: &RecordBatch, field: &Field| batch.column_by_name(&field.name).unwrap().to_data();
    for field in columns() {
        let (short, long) = (
            column(&found.delivery.events, &field),
            column(&other.delivery.events, &field),
        );
        assert_eq!(short, long, "{}", field.name);
    }
}

fn run(plans: &[Plans], data: &[u8]) {
    if let Some(input) = Input::of(data)
        && let Some(plans) = plans.get(input.choice % plans.len())
    {
        check(plans, &input.records());
    }
}

/// Plain JSON by its short way and by its long way, and JSON in every shape.
pub fn json(data: &[u8]) {
    static PLANS: LazyLock<[Plans; 3]> = LazyLock::new(|| {
        // A column beyond those compared takes the short way away.
        let mut more = columns();
        more.push(Field {
            name: "nested".to_owned(),
            data_type: DataType::String,
        });
        let nested = reading(ColumnOrigin::Field(path("never.there")));
        let long = MessageShape {
            columns: [("nested".to_owned(), nested)].into(),
            ..MessageShape::default()
        };
        // A column that is whatever stands in its field.
        let with_text = |mut shape: MessageShape| {
            let text = ColumnReading::json(ColumnOrigin::Field(path("id")));
            shape.columns.insert("id".to_owned(), text);
            shape
        };
        [
            Plans {
                plan: plan(JSON, with_text(MessageShape::default()), columns()),
                other: Some(plan(JSON, with_text(long.clone()), more.clone())),
            },
            Plans {
                plan: plan(JSON, MessageShape::default(), columns()),
                other: Some(plan(JSON, long, more)),
            },
            Plans {
                plan: plan(JSON, scattered(), columns()),
                other: None,
            },
        ]
    });
    run(&*PLANS, data);
}

fn of_encoding(encoding: &StreamFormat) -> Vec<Plans> {
    let shapes = [MessageShape::default(), scattered(), changed()];
    let plans = shapes.map(|shape| Plans {
        plan: plan(encoding.clone(), shape, columns()),
        other: None,
    });
    plans.into()
}

/// Bare Avro.
pub fn avro(data: &[u8]) {
    static PLANS: LazyLock<Vec<Plans>> = LazyLock::new(|| {
        of_encoding(&StreamFormat::Avro {
            schema: Some(AVRO.to_owned()),
        })
    });
    run(&PLANS, data);
}

/// Bare Protobuf.
pub fn protobuf(data: &[u8]) {
    static PLANS: LazyLock<Vec<Plans>> = LazyLock::new(|| {
        let schema = Some(PROTOBUF.to_owned());
        ["shop.E", "shop.E.Item", "shop.Other"]
            .into_iter()
            .flat_map(|message| {
                of_encoding(&StreamFormat::Protobuf {
                    schema: schema.clone(),
                    message: Some(message.to_owned()),
                })
            })
            .collect()
    });
    run(&PLANS, data);
}

/// Values behind the frame of a schema registry that has four schemas.
pub fn framed(data: &[u8]) {
    static PLANS: LazyLock<Vec<Plans>> = LazyLock::new(|| {
        let encodings = [
            JSON,
            StreamFormat::Avro { schema: None },
            StreamFormat::Avro {
                schema: Some(AVRO.to_owned()),
            },
            StreamFormat::Protobuf {
                schema: None,
                message: None,
            },
            StreamFormat::Protobuf {
                schema: Some(PROTOBUF.to_owned()),
                message: None,
            },
        ];
        let shapes = [MessageShape::default(), scattered(), changed()];
        let plans = encodings.iter().flat_map(|encoding| {
            shapes.iter().map(|shape| Plans {
                plan: plan(encoding.clone(), framed_shape(shape.clone()), columns()),
                other: None,
            })
        });
        plans.collect()
    });
    let Some(input) = Input::of(data) else { return };
    // Of an id that it does not know, the registry would be asked.
    let known = |bytes: Option<&[u8]>| -> Option<Vec<u8>> {
        let mut bytes = bytes?.to_vec();
        if let Some(id) = bytes.get_mut(1..5) {
            let last = id[3] % 4;
            id.copy_from_slice(&[0, 0, 0, last]);
        }
        Some(bytes)
    };
    let (key, value) = (known(input.key), known(input.value));
    let input = Input {
        key: key.as_deref(),
        value: value.as_deref(),
        ..input
    };
    if let Some(plans) = PLANS.get(input.choice % PLANS.len()) {
        check(plans, &input.records());
    }
}

/// Changes of databases, in JSON.
pub fn changes(data: &[u8]) {
    static PLANS: LazyLock<[Plans; 1]> = LazyLock::new(|| {
        [Plans {
            plan: plan(JSON, changed(), columns()),
            other: None,
        }]
    });
    run(&*PLANS, data);
}

/// A schema of any text, and a message of any bytes read by it: 1 byte for the language, 2 for the schema's length.
pub fn schemas(data: &[u8]) {
    let Some(([language, low, high], rest)) = data.split_first_chunk::<3>() else {
        return;
    };
    let Some((schema, message)) = rest.split_at_checked(usize::from(u16::from_le_bytes([*low, *high]))) else {
        return;
    };
    let Ok(schema) = std::str::from_utf8(schema) else {
        return;
    };
    let schema = Some(schema.to_owned());
    let format = match language % 2 {
        0 => StreamFormat::Avro { schema },
        _ => StreamFormat::Protobuf { schema, message: None },
    };
    let plan = plan(format, MessageShape::default(), columns());
    let mut records = Records::starting(0, 0);
    records.push(0, NOW, Some(message));
    // A schema that can't be used holds the source; it is no fault of the message.
    if let Ok(decoded) = decode(&plan, "generation", &[records], NOW, MAX_EVENT_BYTES) {
        assert!(decoded.delivery.events.num_rows() + decoded.dead_letters.len() + decoded.passed_over > 0);
    }
}
