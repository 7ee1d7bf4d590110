use super::*;
use crate::decode::json_tree::JsonFormat;
use crate::source::Records;
use ondol_vocabulary::{
    ChangeFormat, ColumnOrigin, ColumnReading, DataType, EventTime, Field, MessageShape, StreamFormat, TimestampUnit,
};
use std::sync::Arc;

#[path = "decoder_json_tests.rs"]
mod json_columns;

type Row = Vec<Cell<'static>>;

/// The decoder of some columns.
struct Source {
    shape: MessageShape,
    fields: Vec<Field>,
}

/// A record's parts.
#[derive(Clone, Copy, Default)]
struct Parts<'a> {
    key: Option<&'a [u8]>,
    headers: &'a [(&'a str, Option<&'a [u8]>)],
    value: Option<&'a str>,
}

fn path(text: &str) -> Vec<String> {
    text.split('.').map(str::to_owned).collect()
}

fn field(text: &str) -> ColumnOrigin {
    ColumnOrigin::Field(path(text))
}

fn value(text: &str) -> Parts<'_> {
    Parts {
        value: Some(text),
        ..Parts::default()
    }
}

fn text(text: &str) -> Cell<'static> {
    Cell::Text(text.to_owned().into())
}

impl Source {
    /// Whose event time is the record's timestamp.
    fn new(columns: &[(&str, DataType, Option<ColumnOrigin>)]) -> Self {
        let mut source = Self {
            shape: MessageShape::default(),
            fields: Vec::new(),
        };
        for (name, data_type, origin) in columns {
            source.add(name, *data_type, origin.clone(), TimestampUnit::default());
        }
        source.add(
            "at",
            DataType::Timestamp,
            Some(ColumnOrigin::Timestamp),
            TimestampUnit::default(),
        );
        source
    }

    fn add(&mut self, name: &str, data_type: DataType, origin: Option<ColumnOrigin>, unit: TimestampUnit) {
        self.fields.push(Field {
            name: name.to_owned(),
            data_type,
        });
        if let Some(origin) = origin {
            self.shape.columns.insert(
                name.to_owned(),
                ColumnReading {
                    unit,
                    ..ColumnReading::of(origin)
                },
            );
        }
    }

    /// Adds a column behind the time.
    fn put(&mut self, name: &str, data_type: DataType, reading: Option<ColumnReading>) {
        self.add(name, data_type, None, TimestampUnit::default());
        self.shape
            .columns
            .extend(reading.map(|reading| (name.to_owned(), reading)));
    }

    fn unnest(mut self, array: &str) -> Self {
        self.shape.unnest = Some(path(array));
        self
    }

    fn debezium(mut self) -> Self {
        self.shape.changes = Some(ChangeFormat::Debezium);
        self
    }

    fn tombstones(mut self, tombstones: Tombstones) -> Self {
        self.shape.tombstones = tombstones;
        self
    }

    /// The rows of a record at offset 7 of partition 3, and whether they are deletions.
    fn read(&self, parts: Parts<'_>) -> Result<(Vec<Row>, bool), Rejection> {
        let mut run = Records::starting(3, 7);
        let value = parts.value.map(str::as_bytes);
        run.push_with(7, EventTime::from_micros(1_000), parts.key, value, |sink| {
            parts.headers.iter().for_each(|(name, value)| sink.add(name, *value));
        });
        let reading = Reading::new(&StreamFormat::Json, &self.shape, &self.fields, Arc::new(JsonFormat));
        let time = self.fields.iter().position(|field| field.name == "at").unwrap();
        let mut decoder = Decoder::new(&reading, time);
        let record = run.iter().next().unwrap();
        match decoder.decode(&record) {
            Ok(rows) => Ok((
                rows.iter().map(|row| row.iter().map(owned).collect()).collect(),
                rows.deleted,
            )),
            Err(Fault::Rejected(rejection)) => Err(rejection),
            Err(Fault::Unavailable(detail)) => panic!("{detail}"),
        }
    }

    /// The rows' cells without their time.
    fn rows(&self, parts: Parts<'_>) -> Vec<Row> {
        let (mut rows, _) = self.read(parts).unwrap();
        rows.iter_mut().for_each(|row| drop(row.pop()));
        rows
    }

    fn detail(&self, parts: Parts<'_>) -> String {
        self.read(parts).unwrap_err().detail
    }
}

/// The cells of the one row of `message`, its time among them.
fn cells(source: &Source, message: &str) -> Row {
    source.read(value(message)).unwrap().0.remove(0)
}

fn owned(cell: &Cell<'_>) -> Cell<'static> {
    match cell {
        Cell::Text(text) => Cell::Text(text.clone().into_owned().into()),
        Cell::Null => Cell::Null,
        Cell::Bool(truth) => Cell::Bool(*truth),
        Cell::Int(number) => Cell::Int(*number),
        Cell::Float(number) => Cell::Float(*number),
        Cell::Micros(micros) => Cell::Micros(*micros),
    }
}

#[test]
fn a_nested_field_is_found_by_its_path() {
    let source = Source::new(&[
        ("card", DataType::String, Some(field("payload.card.id"))),
        ("plain", DataType::I64, None),
    ]);
    let found = source.rows(value(r#"{"payload":{"x":[{}],"card":{"id":"c1","more":1}},"plain":5}"#));
    assert_eq!(found, [[text("c1"), Cell::Int(5)]]);
    for absent in [
        r"{}",
        r#"{"payload":null}"#,
        r#"{"payload":{"card":{}}}"#,
        r#"{"payload":{"card":{"id":null}}}"#,
    ] {
        assert_eq!(source.rows(value(absent)), [[Cell::Null, Cell::Null]], "{absent}");
    }
}

#[test]
fn a_wrong_value_is_named_by_its_path() {
    let source = Source::new(&[("card", DataType::String, Some(field("payload.card.id")))]);
    assert_eq!(
        source.detail(value(r#"{"payload":{"card":{"id":5}}}"#)),
        "field `payload.card.id` is 5, expected string: send a string"
    );
    assert_eq!(
        source.detail(value(r#"{"payload":{"card":"c1"}}"#)),
        "field `payload.card` is \"c1\", expected an object with `payload.card.id` in it"
    );
    assert_eq!(
        source.detail(value(r#"{"payload":[{"card":{"id":"c1"}}]}"#)),
        "field `payload` is an array, expected an object with `payload.card.id` in it: to make each element an event, \
         set unnest = \"payload\" in the source"
    );
}

#[test]
fn every_element_of_an_unnested_array_is_an_event() {
    let source = Source::new(&[
        ("order", DataType::I64, None),
        ("sku", DataType::String, Some(field("items.sku"))),
        ("n", DataType::I64, Some(field("items.count.n"))),
    ])
    .unnest("items");
    let found = source.rows(value(
        r#"{"order":9,"items":[{"sku":"a","count":{"n":1}},{"sku":"b"},{"sku":"a","count":{"n":1}}]}"#,
    ));
    let row = |sku: &str, n| vec![Cell::Int(9), text(sku), n];
    assert_eq!(
        found,
        [row("a", Cell::Int(1)), row("b", Cell::Null), row("a", Cell::Int(1))]
    );
}

#[test]
fn an_array_of_scalars_is_unnested_by_its_own_path() {
    let source = Source::new(&[("tag", DataType::String, Some(field("doc.tags")))]).unnest("doc.tags");
    assert_eq!(
        source.rows(value(r#"{"doc":{"tags":["a","b"]}}"#)),
        [[text("a")], [text("b")]]
    );
}

#[test]
fn an_empty_or_absent_array_gives_no_events() {
    let source = Source::new(&[("sku", DataType::String, Some(field("items.sku")))]).unnest("items");
    for none in [r#"{"items":[]}"#, r#"{"items":null}"#, "{}"] {
        assert!(source.rows(value(none)).is_empty(), "{none}");
    }
    assert_eq!(
        source.detail(value(r#"{"items":{"sku":"a"}}"#)),
        "field `items` is an object, expected an array: the source unnests it"
    );
}

#[test]
fn a_message_of_too_many_elements_is_refused() {
    let source = Source::new(&[("n", DataType::I64, Some(field("items")))]).unnest("items");
    let message = |count: usize| format!("{{\"items\":[{}0]}}", "0,".repeat(count - 1));
    assert_eq!(source.rows(value(&message(MAX_ELEMENTS))).len(), MAX_ELEMENTS);
    let refused = source.read(value(&message(MAX_ELEMENTS + 1))).unwrap_err();
    assert_eq!(refused.reason, Reason::TooLarge);
}

#[test]
fn one_bad_element_refuses_the_whole_message() {
    let source = Source::new(&[("sku", DataType::String, Some(field("items.sku")))]).unnest("items");
    let detail = source.detail(value(r#"{"items":[{"sku":"a"},{"sku":1}]}"#));
    assert_eq!(detail, "field `items.sku` is 1, expected string: send a string");
}

#[test]
fn keys_headers_and_the_record_itself_are_columns() {
    let source = Source::new(&[
        ("id", DataType::String, Some(ColumnOrigin::Key(Vec::new()))),
        ("tenant", DataType::String, Some(ColumnOrigin::Header("tenant".into()))),
        ("retry", DataType::I64, Some(ColumnOrigin::Header("retry".into()))),
        ("p", DataType::I32, Some(ColumnOrigin::Partition)),
        ("o", DataType::I64, Some(ColumnOrigin::Offset)),
    ]);
    let parts = Parts {
        key: Some(b"42"),
        headers: &[("tenant", Some(b"x")), ("retry", Some(b"3")), ("tenant", Some(b"y"))],
        value: Some("{}"),
    };
    let (rows, deleted) = source.read(parts).unwrap();
    let expected = [
        text("42"),
        text("y"),
        Cell::Int(3),
        Cell::Int(3),
        Cell::Int(7),
        Cell::Micros(1_000),
    ];
    assert_eq!((rows[0].as_slice(), deleted), (expected.as_slice(), false));
    assert_eq!(source.rows(value("{}"))[0][0], Cell::Null, "a record without a key");
    let bad = Parts {
        headers: &[("retry", Some(b"many"))],
        ..value("{}")
    };
    assert!(
        source
            .detail(bad)
            .starts_with("header `retry` is \"many\", expected i64")
    );
}

#[test]
fn a_field_of_a_json_key_is_a_column() {
    let source = Source::new(&[
        ("id", DataType::I64, Some(ColumnOrigin::Key(path("shop.id")))),
        ("whole", DataType::String, Some(ColumnOrigin::Key(Vec::new()))),
    ]);
    let parts = |key| Parts {
        key: Some(key),
        ..value("{}")
    };
    assert_eq!(
        source.rows(parts(br#"{"shop":{"id":5}}"#))[0],
        [Cell::Int(5), text(r#"{"shop":{"id":5}}"#)]
    );
    assert!(
        source
            .detail(parts(b"plain"))
            .starts_with("the record's key is not one JSON object")
    );
}

#[test]
fn integers_count_the_unit_of_their_column() {
    for (unit, number) in [
        (TimestampUnit::Seconds, "1357017420"),
        (TimestampUnit::Milliseconds, "1357017420000"),
        (TimestampUnit::Microseconds, "1357017420000000"),
        (TimestampUnit::Nanoseconds, "1357017420000000999"),
    ] {
        let mut source = Source::new(&[]);
        source.add("sent", DataType::Timestamp, Some(field("sent")), unit);
        let (rows, _) = source.read(value(&format!("{{\"sent\":{number}}}"))).unwrap();
        assert_eq!(rows[0][1], Cell::Micros(1_357_017_420_000_000), "{unit:?}");
    }
    let mut source = Source::new(&[]);
    source.add("sent", DataType::Timestamp, Some(field("sent")), TimestampUnit::Seconds);
    let detail = source.detail(value(r#"{"sent":1357017420000}"#));
    assert!(detail.ends_with("numbers count seconds since 1970"), "{detail}");
}

fn customers() -> Source {
    let mut source = Source::new(&[("id", DataType::I64, None), ("tier", DataType::String, None)]).debezium();
    let envelope = ColumnOrigin::Envelope(path("source.ts_ms"));
    source.fields.retain(|field| field.name != "at");
    source.add("at", DataType::Timestamp, Some(envelope), TimestampUnit::Milliseconds);
    source
}

#[test]
fn a_change_is_the_row_after_it() {
    for op in ["c", "r", "u"] {
        let bare = format!(
            r#"{{"before":{{"id":1,"tier":"old"}},"after":{{"id":1,"tier":"gold"}},"op":"{op}","source":{{"ts_ms":5}}}}"#
        );
        let wrapped = format!(r#"{{"schema":{{"type":"struct"}},"payload":{bare}}}"#);
        for message in [bare, wrapped] {
            let (rows, deleted) = customers().read(value(&message)).unwrap();
            assert_eq!(rows, [[Cell::Int(1), text("gold"), Cell::Micros(5_000)]], "{message}");
            assert!(!deleted);
        }
    }
}

#[test]
fn a_deletion_is_the_row_before_it_or_the_one_that_its_key_names() {
    let message = r#"{"before":{"id":1,"tier":"gold"},"after":null,"op":"d","source":{"ts_ms":5}}"#;
    let (rows, deleted) = customers().read(value(message)).unwrap();
    assert_eq!(
        (rows, deleted),
        (vec![vec![Cell::Int(1), text("gold"), Cell::Micros(5_000)]], true)
    );
    for key in [r#"{"id":1}"#, r#"{"schema":{},"payload":{"id":1}}"#] {
        let parts = Parts {
            key: Some(key.as_bytes()),
            ..value(r#"{"before":null,"op":"d","source":{"ts_ms":5}}"#)
        };
        let (rows, deleted) = customers().read(parts).unwrap();
        assert_eq!(
            (rows, deleted),
            (vec![vec![Cell::Int(1), Cell::Null, Cell::Micros(5_000)]], true)
        );
    }
}

#[test]
fn a_deletion_that_tells_no_time_has_that_of_its_record() {
    let mut source = customers();
    source.shape.columns.clear();
    let message = r#"{"before":{"id":1,"tier":null},"op":"d","source":{"ts_ms":5}}"#;
    let (rows, _) = source.read(value(message)).unwrap();
    assert_eq!(rows, [[Cell::Int(1), Cell::Null, Cell::Micros(1_000)]]);
}

#[test]
fn the_marker_after_a_deletion_says_nothing_new() {
    let (rows, _) = customers().read(Parts::default()).unwrap();
    assert!(rows.is_empty());
}

#[test]
fn what_is_no_change_of_a_row_is_refused_and_said() {
    let reason = |message: &str| customers().read(value(message)).unwrap_err();
    let truncated = reason(r#"{"op":"t","source":{"ts_ms":5}}"#);
    assert_eq!(truncated.reason, Reason::UnsupportedChange);
    assert!(
        truncated.detail.starts_with("the table was emptied"),
        "{}",
        truncated.detail
    );
    assert_eq!(reason(r#"{"op":"m","message":{}}"#).reason, Reason::UnsupportedChange);
    assert_eq!(reason(r#"{"id":1,"tier":"gold"}"#).reason, Reason::Malformed);
    assert_eq!(reason(r#"{"op":"u","after":null}"#).reason, Reason::Malformed);
    let left_out = r#"{"op":"u","after":{"id":1,"tier":"__debezium_unavailable_value"},"source":{"ts_ms":5}}"#;
    assert!(reason(left_out).detail.contains("REPLICA IDENTITY FULL"));
}

#[test]
fn a_tombstone_is_what_its_source_says() {
    let columns = || {
        Source::new(&[
            ("id", DataType::String, Some(ColumnOrigin::Key(Vec::new()))),
            ("price", DataType::F64, None),
        ])
    };
    let tombstone = Parts {
        key: Some(b"k"),
        ..Parts::default()
    };
    assert_eq!(columns().read(tombstone).unwrap_err().reason, Reason::Tombstone);
    let ignored = columns().tombstones(Tombstones::Ignore).read(tombstone).unwrap();
    assert!(ignored.0.is_empty());
    let deleted = columns().tombstones(Tombstones::Delete).read(tombstone).unwrap();
    assert_eq!(deleted, (vec![vec![text("k"), Cell::Null, Cell::Micros(1_000)]], true));
}

proptest::proptest! {
    /// The short way for plain JSON and the tree say the same of every message.
    #[test]
    fn the_short_way_and_the_tree_agree(
        number in proptest::option::of(proptest::prelude::any::<i32>()),
        name in "[a-z\"\\\\é]{0,4}",
        twice: bool,
        cut in 0usize..60,
    ) {
        let again = if twice { ",\"n\":7" } else { "" };
        let name = serde_json::to_string(&name).unwrap();
        let mut message = format!("{{\"n\":{},\"s\":{name},\"x\":{{\"n\":1}}{again}}}", number.map_or("null".to_owned(), |n| n.to_string()));
        if cut < message.len() && cut > 40 && message.is_char_boundary(cut) {
            message.truncate(cut);
        }
        let flat = Source::new(&[("n", DataType::I64, None), ("s", DataType::String, None)]);
        let mut tree = Source::new(&[("n", DataType::I64, None), ("s", DataType::String, None), ("deep", DataType::I64, Some(field("y.z")))]);
        tree.fields.swap(2, 3);
        let flat = flat.read(value(&message)).map(|(rows, _)| rows).map_err(|rejection| rejection.reason);
        let tree = tree.read(value(&message)).map(|(mut rows, _)| {
            rows.iter_mut().for_each(|row| drop(row.pop()));
            rows
        }).map_err(|rejection| rejection.reason);
        proptest::prop_assert_eq!(flat, tree);
    }

    #[test]
    fn hostile_records_are_refused_without_a_panic(key: Option<Vec<u8>>, text in "\\PC{0,60}") {
        for source in [customers(), Source::new(&[("sku", DataType::String, Some(field("items.sku")))]).unnest("items")] {
            let parts = Parts { key: key.as_deref(), ..value(&text) };
            let _ = source.read(parts);
        }
    }
}
