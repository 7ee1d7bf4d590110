use super::*;
use crate::decode::value::Half;
use crate::schema_registry::Reference;
use proptest::prelude::*;
use protox::prost::Message as _;
use protox::prost_reflect::{DynamicMessage, MapKey, ReflectMessage, Value as Dynamic};

const SCHEMA: &str = r#"
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";

message Order {
  string id = 1;
  int32 i32 = 2;
  int64 i64 = 3;
  uint32 u32 = 4;
  uint64 u64 = 5;
  sint32 s32 = 6;
  sint64 s64 = 7;
  fixed32 x32 = 8;
  fixed64 x64 = 9;
  sfixed32 y32 = 10;
  sfixed64 y64 = 11;
  float f32 = 12;
  double f64 = 13;
  bool truth = 14;
  bytes raw = 15;
  Kind kind = 16;
  optional int64 maybe = 17;
  Card card = 18;
  repeated int64 numbers = 19;
  repeated Card cards = 20;
  map<string, double> scores = 21;
  map<int32, Card> by_number = 22;
  google.protobuf.Timestamp at = 23;
  google.protobuf.Duration took = 24;
  google.protobuf.Int64Value wrapped = 25;
  oneof way { string cash = 26; int64 transfer = 27; }
  repeated string words = 1000;

  enum Kind { NONE = 0; SALE = 1; RETURN = 2; }
  message Card { string number = 1; int32 cvv = 2; Card next = 3; }
}
message Second { int32 x = 1; message Inner { string y = 1; } }
"#;

fn format(schema: &str) -> ProtobufFormat {
    ProtobufFormat::new(Some(schema), None, Framing::None, None).unwrap()
}

fn wanted(paths: &[&str]) -> Wanted {
    let mut wanted = Wanted::default();
    for path in paths {
        let _place = match path.strip_suffix("[]") {
            Some(path) => wanted.add(path.split('.')).each(),
            None => wanted.add(path.split('.')),
        };
    }
    wanted
}

fn read(format: &ProtobufFormat, bytes: &[u8], wanted: &Wanted) -> Result<String, Fault> {
    let encoded = Encoded {
        half: Half::Value,
        schema: None,
        bytes,
    };
    format.read(encoded, wanted).map(|value| shown(&value))
}

fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Array(elements) => format!("[{}]", elements.iter().map(shown).collect::<Vec<_>>().join(",")),
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}={}", shown(value)))
                .collect();
            format!("{{{}}}", fields.join(" "))
        }
        other => other.shown(),
    }
}

fn message(schema: &str, name: &str) -> DynamicMessage {
    DynamicMessage::new(Schema::compile(schema, &[]).unwrap().message(Some(name), &[]).unwrap())
}

fn order() -> DynamicMessage {
    message(SCHEMA, "shop.Order")
}

fn part(whole: &DynamicMessage, field: &str) -> DynamicMessage {
    let kind = whole.descriptor().get_field_by_name(field).unwrap().kind();
    DynamicMessage::new(kind.as_message().unwrap().clone())
}

#[test]
fn absent_fields_are_null_where_the_schema_can_tell_and_else_their_default() {
    let names = [
        "id", "i64", "f64", "truth", "kind", "maybe", "card", "numbers", "scores", "at", "wrapped", "cash",
    ];
    assert_eq!(
        read(&format(SCHEMA), &[], &wanted(&names)).unwrap(),
        "{id=\"\" i64=0 f64=0 truth=false kind=\"NONE\" maybe=null card=null numbers=[] scores={} at=null \
         wrapped=null cash=null}"
    );
    let proto2 = r#"syntax = "proto2"; message M {
        optional int32 a = 1; optional int32 b = 2 [default = 5]; required string c = 3; }"#;
    assert_eq!(
        read(&format(proto2), &[], &wanted(&["a", "b", "c"])).unwrap(),
        "{a=null b=5 c=null}"
    );
}

#[test]
fn moments_wrappers_and_durations_are_what_they_stand_for() {
    let mut order = order();
    let mut at = part(&order, "at");
    at.set_field_by_name("seconds", Dynamic::I64(-1));
    at.set_field_by_name("nanos", Dynamic::I32(500_000_999));
    order.set_field_by_name("at", Dynamic::Message(at));
    let mut took = part(&order, "took");
    took.set_field_by_name("seconds", Dynamic::I64(2));
    took.set_field_by_name("nanos", Dynamic::I32(500_000_000));
    order.set_field_by_name("took", Dynamic::Message(took));
    order.set_field_by_name("wrapped", Dynamic::Message(part(&order, "wrapped")));
    assert_eq!(
        read(
            &format(SCHEMA),
            &order.encode_to_vec(),
            &wanted(&["at", "took", "wrapped"])
        )
        .unwrap(),
        "{at=the moment 1969-12-31T23:59:59.500Z took=2.5 wrapped=0}"
    );
}

#[test]
fn pieces_of_a_message_are_merged_and_of_a_oneof_the_last_counts() {
    let mut first = order();
    let mut card = part(&first, "card");
    card.set_field_by_name("number", Dynamic::String("42".to_owned()));
    first.set_field_by_name("card", Dynamic::Message(card));
    first.set_field_by_name("cash", Dynamic::String("yes".to_owned()));
    first.set_field_by_name("i32", Dynamic::I32(1));
    let mut second = order();
    let mut card = part(&second, "card");
    card.set_field_by_name("cvv", Dynamic::I32(7));
    second.set_field_by_name("card", Dynamic::Message(card));
    second.set_field_by_name("transfer", Dynamic::I64(9));
    second.set_field_by_name("i32", Dynamic::I32(2));
    let bytes = [first.encode_to_vec(), second.encode_to_vec()].concat();
    let paths = ["card.number", "card.cvv", "i32", "cash"];
    assert_eq!(
        read(&format(SCHEMA), &bytes, &wanted(&paths)).unwrap(),
        "{i32=2 card={number=\"42\" cvv=7} cash=null}"
    );
}

#[test]
fn a_writers_newer_fields_are_passed_over_and_numbers_may_widen() {
    let newer =
        r#"syntax = "proto3"; message M { int64 a = 1; string b = 2; map<string, int32> c = 3; fixed64 d = 4; }"#;
    let older = r#"syntax = "proto3"; message M { int32 a = 1; string d = 4; }"#;
    let mut written = message(newer, "M");
    written.set_field_by_name("a", Dynamic::I64(5));
    written.set_field_by_name("b", Dynamic::String("new".to_owned()));
    written.set_field_by_name(
        "c",
        Dynamic::Map([(MapKey::String("k".to_owned()), Dynamic::I32(1))].into()),
    );
    written.set_field_by_name("d", Dynamic::U64(1));
    // A field of another wire type is an unknown one.
    assert_eq!(
        read(&format(older), &written.encode_to_vec(), &wanted(&["a", "d", "gone"])).unwrap(),
        "{a=5 d=\"\"}"
    );
}

#[test]
fn an_enums_value_that_the_schema_lacks_is_its_number() {
    let mut order = order();
    order.set_field_by_name("kind", Dynamic::EnumNumber(9));
    assert_eq!(
        read(&format(SCHEMA), &order.encode_to_vec(), &wanted(&["kind"])).unwrap(),
        "{kind=9}"
    );
}

#[test]
fn groups_are_messages_and_unknown_ones_are_passed_over() {
    let schema =
        r#"syntax = "proto2"; message M { optional group Part = 1 { optional int32 x = 1; } optional int32 y = 2; }"#;
    let bytes = [0x0b, 0x08, 5, 0x0c, 0x1b, 0x23, 0x24, 0x1c, 0x10, 6];
    assert_eq!(
        read(&format(schema), &bytes, &wanted(&["part.x", "y"])).unwrap(),
        "{part={x=5} y=6}"
    );
    let unknown = r#"syntax = "proto3"; message M { int32 y = 2; }"#;
    assert_eq!(read(&format(unknown), &bytes, &wanted(&["y"])).unwrap(), "{y=6}");
}

#[test]
fn a_frame_names_the_message_type() {
    let framed = |bytes: &[u8], name: &str| {
        let format = ProtobufFormat::new(Some(SCHEMA), None, Framing::Confluent, None).unwrap();
        let encoded = Encoded {
            half: Half::Value,
            schema: Some(7),
            bytes,
        };
        format.read(encoded, &wanted(&[name])).map(|value| shown(&value))
    };
    assert_eq!(framed(&[0, 0x0a, 1, b'a'], "id").unwrap(), "{id=\"a\"}");
    assert_eq!(framed(&[2, 2, 0x08, 5], "x").unwrap(), "{x=5}");
    assert_eq!(framed(&[4, 2, 0, 0x0a, 1, b'z'], "y").unwrap(), "{y=\"z\"}");
    let Err(Fault::Rejected(rejection)) = framed(&[2, 10, 0x08, 5], "x") else {
        panic!()
    };
    assert_eq!(rejection.reason, Reason::IncompatibleSchema);
    assert!(framed(&[0xff, 0xff, 0xff, 0x7f], "x").is_err());
}

#[test]
fn a_schema_may_import_references_and_names_what_it_lacks() {
    let reference = |name: &str, text: &str| Reference {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let references = [reference(
        "a/card.proto",
        r#"syntax = "proto3"; package a; message Card { string number = 1; }"#,
    )];
    let text = r#"syntax = "proto3"; import "a/card.proto"; message M { a.Card card = 1; }"#;
    let schema = Schema::compile(text, &references).unwrap();
    assert_eq!(schema.message(None, &[]).unwrap().full_name(), "M");
    assert!(schema.message(Some("a.Card"), &[]).is_ok());
    let error = schema.message(Some("N"), &[]).unwrap_err();
    assert_eq!(error, "the Protobuf schema has no message `N`: it has M");
    assert!(Schema::compile(text, &[]).unwrap_err().contains("does not compile"));
}

#[test]
fn endless_nesting_ends() {
    let mut bytes = Vec::new();
    for _ in 0..400 {
        let mut outer = vec![0x1a];
        protox::prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
        outer.extend(bytes);
        bytes = outer;
    }
    let mut outer = vec![0x92, 0x01];
    protox::prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
    outer.extend(bytes);
    let deep = format!("card{}", ".next".repeat(300));
    assert!(read(&format(SCHEMA), &outer, &wanted(&[&deep])).is_err());
    assert!(read(&format(SCHEMA), &vec![0x0b; 100_000], &wanted(&["id"])).is_err());
}

/// As bytes: a message with its descriptor can't be shown.
fn any_order() -> impl Strategy<Value = Vec<u8>> {
    let numbers = prop::collection::vec(any::<i64>(), 0..6);
    let texts = prop::collection::vec(".{0,8}", 1..4);
    (numbers, texts, any::<f64>(), any::<[bool; 8]>()).prop_map(|(numbers, texts, float, set)| {
        let mut order = order();
        let first = numbers.first().copied().unwrap_or_default();
        let text = texts[0].clone();
        let mut card = part(&order, "card");
        card.set_field_by_name("number", Dynamic::String(text.clone()));
        card.set_field_by_name("cvv", Dynamic::I32(first as i32));
        if set[0] {
            let values = [
                ("id", Dynamic::String(text.clone())),
                ("i32", Dynamic::I32(first as i32)),
                ("i64", Dynamic::I64(first)),
                ("u32", Dynamic::U32(first as u32)),
                ("u64", Dynamic::U64(first as u64)),
                ("s32", Dynamic::I32(first as i32)),
                ("s64", Dynamic::I64(first)),
                ("x32", Dynamic::U32(first as u32)),
                ("x64", Dynamic::U64(first as u64)),
                ("y32", Dynamic::I32(first as i32)),
                ("y64", Dynamic::I64(first)),
            ];
            values
                .into_iter()
                .for_each(|(name, value)| order.set_field_by_name(name, value));
        }
        if set[1] {
            order.set_field_by_name("f32", Dynamic::F32(float as f32));
            order.set_field_by_name("f64", Dynamic::F64(float));
            order.set_field_by_name("truth", Dynamic::Bool(true));
            order.set_field_by_name("kind", Dynamic::EnumNumber((first % 3).abs() as i32));
        }
        if set[2] {
            order.set_field_by_name("maybe", Dynamic::I64(0));
            order.set_field_by_name("card", Dynamic::Message(card.clone()));
        }
        if set[3] {
            let list = numbers.iter().map(|number| Dynamic::I64(*number)).collect();
            order.set_field_by_name("numbers", Dynamic::List(list));
            let list = texts.iter().map(|text| Dynamic::String(text.clone())).collect();
            order.set_field_by_name("words", Dynamic::List(list));
        }
        if set[4] {
            order.set_field_by_name(
                "cards",
                Dynamic::List(vec![Dynamic::Message(card.clone()); numbers.len()]),
            );
        }
        if set[5] {
            order.set_field_by_name(
                "scores",
                Dynamic::Map([(MapKey::String("k".to_owned()), Dynamic::F64(float))].into()),
            );
            order.set_field_by_name(
                "by_number",
                Dynamic::Map([(MapKey::I32(-3), Dynamic::Message(card))].into()),
            );
        }
        if set[6] {
            order.set_field_by_name("transfer", Dynamic::I64(first));
        } else if set[7] {
            order.set_field_by_name("cash", Dynamic::String(text));
        }
        order.encode_to_vec()
    })
}

const ALL: [&str; 26] = [
    "id",
    "i32",
    "i64",
    "u32",
    "u64",
    "s32",
    "s64",
    "x32",
    "x64",
    "y32",
    "y64",
    "f32",
    "f64",
    "truth",
    "kind",
    "maybe",
    "card.number",
    "card.cvv",
    "numbers[]",
    "cards[]",
    "scores.k",
    "by_number.-3.number",
    "cash",
    "transfer",
    "words[]",
    "cards.number",
];

/// What the reference library has at the path.
fn oracle(order: &DynamicMessage, path: &str) -> String {
    let (name, below) = path
        .split_once('.')
        .map_or((path, None), |(name, below)| (name, Some(below)));
    let name = name.trim_end_matches("[]");
    let field = order.descriptor().get_field_by_name(name).unwrap();
    if field.supports_presence() && !order.has_field(&field) {
        return "null".to_owned();
    }
    let value = order.get_field(&field);
    match (value.as_ref(), below) {
        (Dynamic::Message(inner), Some(below)) => oracle(inner, below),
        (Dynamic::Map(map), Some(below)) => {
            let (key, below) = below
                .split_once('.')
                .map_or((below, None), |(key, below)| (key, Some(below)));
            let found = map.iter().find(|(known, _)| match known {
                MapKey::String(known) => known == key,
                MapKey::I32(known) => known.to_string() == key,
                _ => false,
            });
            match (found, below) {
                (None, _) => "nothing".to_owned(),
                (Some((_, Dynamic::Message(inner))), Some(below)) => oracle(inner, below),
                (Some((_, value)), _) => plainly(value, &field),
            }
        }
        (Dynamic::List(list), _) => {
            let items: Vec<String> = list
                .iter()
                .map(|item| match item {
                    Dynamic::Message(inner) => oracle(inner, "number"),
                    item => plainly(item, &field),
                })
                .collect();
            format!("[{}]", items.join(","))
        }
        (value, _) => plainly(value, &field),
    }
}

fn plainly(value: &Dynamic, field: &protox::prost_reflect::FieldDescriptor) -> String {
    match value {
        Dynamic::Bool(truth) => truth.to_string(),
        Dynamic::I32(number) => number.to_string(),
        Dynamic::I64(number) => number.to_string(),
        Dynamic::U32(number) => number.to_string(),
        Dynamic::U64(number) => number.to_string(),
        Dynamic::F32(number) => f64::from(*number).to_string(),
        Dynamic::F64(number) => number.to_string(),
        Dynamic::String(text) => format!("{text:?}"),
        Dynamic::EnumNumber(number) => {
            let kind = field.kind();
            format!("{:?}", kind.as_enum().unwrap().get_value(*number).unwrap().name())
        }
        other => panic!("{other:?}"),
    }
}

fn ours(value: &Value<'_>, path: &str) -> String {
    let (name, below) = path
        .split_once('.')
        .map_or((path, None), |(name, below)| (name, Some(below)));
    let name = name.trim_end_matches("[]");
    match (value.field(name), below) {
        (None, _) => "nothing".to_owned(),
        (Some(Value::Null), _) => "null".to_owned(),
        (Some(Value::Array(elements)), _) => {
            let items: Vec<String> = elements
                .iter()
                .map(|element| match element {
                    Value::Object(_) => ours(element, "number"),
                    element => element.shown(),
                })
                .collect();
            format!("[{}]", items.join(","))
        }
        (Some(inner), Some(below)) => ours(inner, below),
        (Some(value), None) => value.shown(),
    }
}

proptest! {
    #[test]
    fn any_message_reads_as_the_reference_wrote_it(bytes in any_order()) {
        let (format, wanted) = (format(SCHEMA), wanted(&ALL));
        let order = DynamicMessage::decode(order().descriptor(), bytes.as_slice()).unwrap();
        let encoded = Encoded { half: Half::Value, schema: None, bytes: &bytes };
        let value = format.read(encoded, &wanted).unwrap();
        for path in ALL {
            prop_assert_eq!(ours(&value, path), oracle(&order, path), "{}", path);
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_without_a_panic(mut bytes in any_order(), at in any::<prop::sample::Index>(), byte: u8) {
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _either = read(&format(SCHEMA), &bytes, &wanted(&ALL));
    }

    #[test]
    fn hostile_bytes_are_refused_without_a_panic(bytes: Vec<u8>) {
        let _either = read(&format(SCHEMA), &bytes, &wanted(&ALL));
    }
}
