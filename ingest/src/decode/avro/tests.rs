use super::*;
use crate::decode::value::Half;
use apache_avro::types::Value as Reference;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::borrow::Cow;

/// What the messages of these tests are made of.
#[derive(Clone, Debug)]
enum Shape {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Text,
    Bytes,
    Millis,
    Micros,
    Nanos,
    Date,
    Decimal,
    Fixed,
    Enum,
    Optional(Box<Shape>),
    Array(Box<Shape>),
    Map(Box<Shape>),
    Record(Vec<Shape>),
}

const SYMBOLS: [&str; 3] = ["RED", "GREEN", "BLUE"];

impl Shape {
    /// Its schema. Named types are numbered: a name may be defined once.
    fn schema(&self, names: &mut usize) -> Json {
        *names += 1;
        let name = format!("T{names}");
        match self {
            Self::Null => json!("null"),
            Self::Boolean => json!("boolean"),
            Self::Int => json!("int"),
            Self::Long => json!("long"),
            Self::Float => json!("float"),
            Self::Double => json!("double"),
            Self::Text => json!("string"),
            Self::Bytes => json!("bytes"),
            Self::Millis => json!({"type": "long", "logicalType": "timestamp-millis"}),
            Self::Micros => json!({"type": "long", "logicalType": "timestamp-micros"}),
            Self::Nanos => json!({"type": "long", "logicalType": "timestamp-nanos"}),
            Self::Date => json!({"type": "int", "logicalType": "date"}),
            Self::Decimal => json!({"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 4}),
            Self::Fixed => json!({"type": "fixed", "name": name, "size": 3}),
            Self::Enum => json!({"type": "enum", "name": name, "symbols": SYMBOLS}),
            Self::Optional(inner) => json!(["null", inner.schema(names)]),
            Self::Array(inner) => json!({"type": "array", "items": inner.schema(names)}),
            Self::Map(inner) => json!({"type": "map", "values": inner.schema(names)}),
            Self::Record(fields) => {
                let fields: Vec<Json> = fields
                    .iter()
                    .enumerate()
                    .map(|(place, field)| json!({"name": format!("f{place}"), "type": field.schema(names)}))
                    .collect();
                json!({"type": "record", "name": name, "fields": fields})
            }
        }
    }

    /// A value of it, as the reference library and as ours have it.
    fn value(&self, seeds: &mut impl Iterator<Item = i64>) -> (Reference, Value<'static>) {
        let seed = seeds.next().unwrap();
        match self {
            Self::Null => (Reference::Null, Value::Null),
            Self::Boolean => (Reference::Boolean(seed % 2 == 0), Value::Bool(seed % 2 == 0)),
            Self::Int => (Reference::Int(seed as i32), Value::I64((seed as i32).into())),
            Self::Long => (Reference::Long(seed), Value::I64(seed)),
            Self::Float => (Reference::Float(seed as f32), Value::F64((seed as f32).into())),
            Self::Double => (Reference::Double(seed as f64), Value::F64(seed as f64)),
            Self::Text => (
                Reference::String(format!("é{seed}")),
                Value::Text(format!("é{seed}").into()),
            ),
            Self::Bytes => (
                Reference::Bytes(vec![7; (seed % 5).unsigned_abs() as usize]),
                Value::Bytes,
            ),
            Self::Millis => {
                let seed = seed / 1000;
                (Reference::TimestampMillis(seed), Value::Micros(seed * 1000))
            }
            Self::Micros => (Reference::TimestampMicros(seed), Value::Micros(seed)),
            Self::Nanos => (Reference::TimestampNanos(seed), Value::Micros(seed.div_euclid(1000))),
            Self::Date => {
                let day = (seed % 1_000_000) as i32;
                (Reference::Date(day), Value::Micros(i64::from(day) * 86_400_000_000))
            }
            Self::Decimal => {
                // The points of a decimal's digits are checked apart.
                let value = Value::Decimal(read::digits(seed.into(), 4));
                (Reference::Decimal(seed.to_be_bytes().to_vec().into()), value)
            }
            Self::Fixed => (Reference::Fixed(3, vec![1, 2, 3]), Value::Bytes),
            Self::Enum => {
                let place = (seed % 3).unsigned_abs() as usize;
                let symbol = SYMBOLS[place];
                (
                    Reference::Enum(place as u32, symbol.to_owned()),
                    Value::Text(symbol.into()),
                )
            }
            Self::Optional(inner) if seed % 3 != 0 => {
                let (reference, value) = inner.value(seeds);
                (Reference::Union(1, Box::new(reference)), value)
            }
            Self::Optional(_) => (Reference::Union(0, Box::new(Reference::Null)), Value::Null),
            Self::Array(inner) => {
                let (references, values) = (0..(seed % 4).abs()).map(|_| inner.value(seeds)).unzip();
                (Reference::Array(references), Value::Array(values))
            }
            Self::Map(inner) => {
                // One entry: the reference writes several in no order.
                let (reference, value) = inner.value(seeds);
                let map = [("k".to_owned(), reference)].into_iter().collect();
                (Reference::Map(map), Value::Object(vec![("k".into(), value)]))
            }
            Self::Record(fields) => {
                let (references, values) = fields
                    .iter()
                    .enumerate()
                    .map(|(place, field)| {
                        let (reference, value) = field.value(seeds);
                        let name = format!("f{place}");
                        ((name.clone(), reference), (Cow::Owned(name), value))
                    })
                    .unzip();
                (Reference::Record(references), Value::Object(values))
            }
        }
    }

    /// Everything in it.
    fn want(&self, wanted: &mut Wanted) {
        match self {
            Self::Optional(inner) => inner.want(wanted),
            Self::Array(inner) => inner.want(wanted.each()),
            Self::Map(inner) => inner.want(wanted.add(["k"])),
            Self::Record(fields) => {
                for (place, field) in fields.iter().enumerate() {
                    field.want(wanted.add([format!("f{place}").as_str()]));
                }
            }
            _ => {}
        }
    }
}

fn any_shape() -> impl Strategy<Value = Shape> {
    use Shape::*;
    let leaf = prop::sample::select(vec![
        Null, Boolean, Int, Long, Float, Double, Text, Bytes, Millis, Micros, Nanos, Date, Decimal, Fixed, Enum,
    ]);
    let inner = leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            // A union holds neither another union nor null twice.
            inner
                .clone()
                .prop_filter("a union", |inner| !matches!(inner, Optional(_) | Null))
                .prop_map(|inner| Optional(Box::new(inner))),
            inner.clone().prop_map(|inner| Array(Box::new(inner))),
            inner.clone().prop_map(|inner| Map(Box::new(inner))),
            prop::collection::vec(inner, 1..5).prop_map(Record),
        ]
    });
    prop::collection::vec(inner, 1..6).prop_map(Record)
}

/// An object without a word on empty arrays of nothing: what is not wanted may be missing.
fn read(format: &AvroFormat, bytes: &[u8], wanted: &Wanted) -> Result<String, Fault> {
    let encoded = Encoded {
        half: Half::Value,
        schema: None,
        bytes,
    };
    format.read(encoded, wanted).map(|value| format!("{value:?}"))
}

fn avro(schema: &Json) -> AvroFormat {
    AvroFormat::new(Some(&schema.to_string()), None).unwrap()
}

fn encode(schema: &Json, value: Reference) -> Vec<u8> {
    let schema = apache_avro::Schema::parse(schema).unwrap();
    apache_avro::to_avro_datum(&schema, value).unwrap()
}

/// Written by `writer`, read as `reader`, of which the top-level fields `names` are wanted.
fn resolve(writer: Json, value: Reference, reader: Json, names: &[&str]) -> Result<String, String> {
    let bytes = encode(&writer, value);
    let [writer, reader] = [writer, reader].map(|schema| Schema::parse(&schema.to_string(), &[]).unwrap());
    let mut wanted = Wanted::default();
    for name in names {
        wanted.add([*name]);
    }
    let node = program::compile(&writer, Some(&reader), &wanted);
    let mut bytes = Bytes::new(&bytes);
    let value = read::read(&mut bytes, &node, &writer, &wanted).map_err(|trouble| trouble.shown())?;
    assert_eq!(bytes.left(), 0);
    let Value::Object(fields) = value else {
        panic!("{value:?}")
    };
    let mut shown: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", value.shown()))
        .collect();
    shown.sort();
    Ok(shown.join(" "))
}

#[allow(clippy::needless_pass_by_value, reason = "so that a literal can be given")]
fn record(fields: Json) -> Json {
    json!({"type": "record", "name": "R", "fields": fields})
}

fn one(name: &str, value: Reference) -> Reference {
    Reference::Record(vec![(name.to_owned(), value)])
}

#[test]
fn numbers_are_promoted_and_text_and_bytes_are_read_as_each_other() {
    let cases = [
        ("int", Reference::Int(-5), "long", "x=-5"),
        ("int", Reference::Int(7), "double", "x=7"),
        ("long", Reference::Long(1 << 40), "float", "x=1099511627776"),
        ("float", Reference::Float(0.5), "double", "x=0.5"),
        ("bytes", Reference::Bytes(b"ab".to_vec()), "string", "x=\"ab\""),
    ];
    for (writer, value, reader, expected) in cases {
        let schema = |data_type: &str| record(json!([{"name": "x", "type": data_type}]));
        let read = resolve(schema(writer), one("x", value), schema(reader), &["x"]);
        assert_eq!(read.as_deref(), Ok(expected), "{writer} as {reader}");
    }
}

#[test]
fn a_field_that_was_added_has_its_default_and_one_that_was_removed_is_passed_over() {
    let writer =
        record(json!([{"name": "gone", "type": {"type": "array", "items": "string"}}, {"name": "x", "type": "int"}]));
    let reader = record(json!([
        {"name": "x", "type": "int"},
        {"name": "n", "type": ["null", "long"], "default": null},
        {"name": "s", "type": "string", "default": "new"},
        {"name": "t", "type": {"type": "long", "logicalType": "timestamp-millis"}, "default": 5},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A"]}, "default": "A"}]));
    let gone = Reference::Array(vec![Reference::String("a".to_owned())]);
    let value = Reference::Record(vec![("gone".to_owned(), gone), ("x".to_owned(), Reference::Int(1))]);
    let read = resolve(writer, value, reader, &["x", "n", "s", "t", "e", "other"]).unwrap();
    assert_eq!(
        read,
        "e=\"A\" n=null s=\"new\" t=the moment 1970-01-01T00:00:00.005Z x=1"
    );
}

#[test]
fn a_field_that_was_renamed_is_found_by_the_readers_alias() {
    let writer = record(json!([{"name": "old", "type": "int"}]));
    let reader = record(json!([{"name": "new", "type": "long", "aliases": ["old"]}]));
    let read = resolve(writer, one("old", Reference::Int(3)), reader, &["new"]);
    assert_eq!(read.as_deref(), Ok("new=3"));
}

#[test]
fn without_a_readers_schema_a_renamed_field_is_found_by_the_writers_alias() {
    let schema = record(json!([{"name": "new", "type": "int", "aliases": ["old"]}]));
    let bytes = encode(&schema, one("new", Reference::Int(3)));
    let mut wanted = Wanted::default();
    wanted.add(["old"]);
    assert_eq!(
        read(&avro(&schema), &bytes, &wanted).unwrap(),
        "Object([(\"old\", I64(3))])"
    );
}

#[test]
fn a_union_reads_as_what_fits_its_branch() {
    let writer = record(json!([{"name": "x", "type": ["null", "int", "string"]}]));
    let reader = record(json!([{"name": "x", "type": ["null", "double"]}]));
    let value = |branch, value| one("x", Reference::Union(branch, Box::new(value)));
    let number = resolve(writer.clone(), value(1, Reference::Int(2)), reader.clone(), &["x"]);
    assert_eq!(number.as_deref(), Ok("x=2"));
    let null = resolve(writer.clone(), value(0, Reference::Null), reader.clone(), &["x"]);
    assert_eq!(null.as_deref(), Ok("x=null"));
    let text = resolve(writer, value(2, Reference::String("a".to_owned())), reader, &["x"]);
    assert_eq!(
        text.unwrap_err(),
        "the reader's schema wants null or a double where the writer has a string"
    );
}

#[test]
fn a_field_without_a_default_that_is_not_there_is_named_only_when_it_is_wanted() {
    let writer = record(json!([{"name": "x", "type": "int"}]));
    let reader = record(json!([{"name": "x", "type": "int"}, {"name": "y", "type": "int"}]));
    let read = |names: &[&str]| resolve(writer.clone(), one("x", Reference::Int(1)), reader.clone(), names);
    assert_eq!(read(&["x"]).as_deref(), Ok("x=1"));
    assert!(read(&["x", "y"]).unwrap_err().contains("lacks the field `y`"));
}

#[test]
fn an_enums_new_symbol_reads_as_the_readers_default() {
    let schema = |symbols: Json| {
        record(json!([{"name": "x", "type": {"type": "enum", "name": "E", "symbols": symbols, "default": "OTHER"}}]))
    };
    let value = one("x", Reference::Enum(2, "NEW".to_owned()));
    let read = resolve(
        schema(json!(["OTHER", "A", "NEW"])),
        value,
        schema(json!(["OTHER", "A"])),
        &["x"],
    );
    assert_eq!(read.as_deref(), Ok("x=\"OTHER\""));
}

#[test]
fn a_timestamp_keeps_the_writers_unit() {
    let schema = |logical: &str| record(json!([{"name": "x", "type": {"type": "long", "logicalType": logical}}]));
    let value = one("x", Reference::TimestampMillis(1_000));
    let read = resolve(schema("timestamp-millis"), value, schema("timestamp-micros"), &["x"]);
    assert_eq!(read.as_deref(), Ok("x=the moment 1970-01-01T00:00:01Z"));
}

#[test]
fn a_uuid_and_a_local_time_are_texts() {
    let schema = record(json!([
        {"name": "u", "type": {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}},
        {"name": "t", "type": {"type": "long", "logicalType": "local-timestamp-millis"}}]));
    let uuid: Vec<u8> = (0..16).collect();
    let mut bytes = uuid;
    bytes.extend([0x88, 0x27]);
    let mut wanted = Wanted::default();
    wanted.add(["u"]);
    wanted.add(["t"]);
    assert_eq!(
        read(&avro(&schema), &bytes, &wanted).unwrap(),
        "Object([(\"u\", Text(\"00010203-0405-0607-0809-0a0b0c0d0e0f\")), (\"t\", Text(\"1970-01-01T00:00:02.500\"))])"
    );
}

#[test]
fn a_decimal_keeps_every_digit() {
    let cases = [
        (0, 0, "0"),
        (-5, 2, "-0.05"),
        (1250, 2, "12.50"),
        (i128::MIN, 38, "-1.70141183460469231731687303715884105728"),
    ];
    for (unscaled, scale, digits) in cases {
        assert_eq!(read::digits(unscaled, scale), digits);
    }
    let schema =
        record(json!([{"name": "x", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}}]));
    let mut wanted = Wanted::default();
    wanted.add(["x"]);
    let read = |bytes: &[u8]| read(&avro(&schema), bytes, &wanted).unwrap();
    assert_eq!(read(&[4, 0xfb, 0x1e]), "Object([(\"x\", Decimal(\"-12.50\"))])");
    assert_eq!(read(&[0]), "Object([(\"x\", Decimal(\"0.00\"))])");
    // Longer than 128 bits, but only in its sign.
    let mut long = vec![40];
    long.extend([0xff; 20]);
    assert_eq!(read(&long), "Object([(\"x\", Decimal(\"-0.01\"))])");
    long[1] = 1;
    assert_eq!(read(&long), "Object([(\"x\", Bytes)])");
}

#[test]
fn bytes_that_are_left_over_are_seen() {
    let schema = record(json!([{"name": "x", "type": "int"}]));
    let Err(Fault::Rejected(rejection)) = read(&avro(&schema), &[2, 4], &Wanted::default()) else {
        panic!()
    };
    assert_eq!(rejection.reason, Reason::Malformed);
    assert!(
        rejection.detail.contains("1 bytes are left over"),
        "{}",
        rejection.detail
    );
}

#[test]
fn claims_of_length_cost_nothing() {
    let schema = record(json!([
        {"name": "a", "type": {"type": "array", "items": "null"}},
        {"name": "s", "type": "string"}]));
    let mut wanted = Wanted::default();
    wanted.add(["a"]).each();
    wanted.add(["s"]);
    let huge = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    for bytes in [[huge.as_slice(), &[0, 0]].concat(), [&[0], huge.as_slice()].concat()] {
        let Err(Fault::Rejected(rejection)) = read(&avro(&schema), &bytes, &wanted) else {
            panic!("{bytes:?}")
        };
        assert_eq!(rejection.reason, Reason::Malformed);
    }
}

#[test]
fn endless_nesting_ends() {
    let schema = json!({"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]});
    let bytes = vec![2; 100_000];
    for name in ["next", "other"] {
        let mut wanted = Wanted::default();
        wanted.add([name]);
        assert!(read(&avro(&schema), &bytes, &wanted).is_err());
    }
    let itself = json!({"type": "record", "name": "Node", "fields": [{"name": "next", "type": "Node"}]});
    assert!(read(&avro(&itself), &[], &Wanted::default()).is_err());
}

proptest! {
    #[test]
    fn any_value_reads_as_the_reference_wrote_it(shape in any_shape(), seeds in prop::collection::vec(any::<i64>(), 64)) {
        let schema = shape.schema(&mut 0);
        let mut seeds = seeds.into_iter().map(|seed| seed / 4096).cycle();
        let (reference, expected) = shape.value(&mut seeds);
        let bytes = encode(&schema, reference);
        let format = avro(&schema);
        let mut wanted = Wanted::default();
        shape.want(&mut wanted);
        let whole = read(&format, &bytes, &wanted);
        prop_assert_eq!(whole, Ok(format!("{expected:?}")), "{}", schema);
        // What is not wanted is passed over exactly.
        let format = avro(&schema);
        prop_assert_eq!(read(&format, &bytes, &Wanted::default()), Ok("Object([])".to_owned()));
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_without_a_panic(
        shape in any_shape(), seeds in prop::collection::vec(any::<i64>(), 64),
        at in any::<prop::sample::Index>(), byte: u8, cut: bool,
    ) {
        let schema = shape.schema(&mut 0);
        let (reference, _) = shape.value(&mut seeds.into_iter().map(|seed| seed / 4096).cycle());
        let mut bytes = encode(&schema, reference);
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] = byte }
        }
        let mut wanted = Wanted::default();
        shape.want(&mut wanted);
        let _either = read(&avro(&schema), &bytes, &wanted);
        let _either = read(&avro(&schema), &bytes, &Wanted::default());
    }

    #[test]
    fn hostile_bytes_are_refused_without_a_panic(shape in any_shape(), bytes: Vec<u8>) {
        let mut wanted = Wanted::default();
        shape.want(&mut wanted);
        let _either = read(&avro(&shape.schema(&mut 0)), &bytes, &wanted);
    }
}
