use super::*;
use crate::decode::convert::{EXACT, FIRST_MICROS, LAST_MICROS};
use crate::decode::json_tree::JsonFormat;
use crate::decode::place::Reading;
use ondol_vocabulary::{DataType, EventTime, Field, MessageShape, StreamFormat};
use proptest::prelude::*;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::Arc;

fn field(name: &str, data_type: DataType) -> Field {
    Field {
        name: name.to_owned(),
        data_type,
    }
}

fn fields() -> Vec<Field> {
    DataType::ALL
        .into_iter()
        .map(|data_type| field(data_type.name(), data_type))
        .collect()
}

fn parse(message: &[u8]) -> Result<Vec<Cell<'static>>, Rejection> {
    let columns = columns();
    let cells = next(&mut Parser::new(&columns), message)?;
    Ok(cells.into_iter().map(owned).collect())
}

fn columns() -> Vec<Column> {
    let shape = MessageShape::default();
    let fields = fields();
    Reading::new(&StreamFormat::Json, &shape, &fields, Arc::new(JsonFormat)).columns
}

fn next<'a>(parser: &mut Parser<'_, 'a>, message: &'a [u8]) -> Result<Vec<Cell<'a>>, Rejection> {
    let mut cells = Vec::new();
    parser.parse(message, &mut cells)?;
    Ok(cells)
}

fn owned(cell: Cell<'_>) -> Cell<'static> {
    match cell {
        Cell::Text(text) => Cell::Text(Cow::Owned(text.into_owned())),
        Cell::Null => Cell::Null,
        Cell::Bool(truth) => Cell::Bool(truth),
        Cell::Int(number) => Cell::Int(number),
        Cell::Float(number) => Cell::Float(number),
        Cell::Micros(micros) => Cell::Micros(micros),
    }
}

/// The cell of the column of `data_type` after an event that has `json` in it alone.
fn cell(data_type: DataType, json: &str) -> Result<Cell<'static>, Rejection> {
    let place = DataType::ALL.iter().position(|known| *known == data_type).unwrap();
    parse(format!("{{\"{data_type}\":{json}}}").as_bytes()).map(|cells| cells[place].clone())
}

fn reason(message: &[u8]) -> Reason {
    parse(message).unwrap_err().reason
}

#[test]
fn every_type_has_its_json() {
    let text = br#" {"string":"a\nb","bool":true,"i32":-5,"i64":9223372036854775807,"f32":1.5,"f64":2,
        "timestamp":"2013-01-01T05:17:00+01:00"} "#;
    let expected = [
        Cell::Text("a\nb".into()),
        Cell::Bool(true),
        Cell::Int(-5),
        Cell::Int(i64::MAX),
        Cell::Float(1.5),
        Cell::Float(2.0),
        Cell::Micros(1_357_013_820_000_000),
    ];
    assert_eq!(parse(text).unwrap(), expected);
}

#[test]
fn absent_and_null_fields_are_null_even_after_a_full_row() {
    let columns = columns();
    let mut parser = Parser::new(&columns);
    assert_ne!(next(&mut parser, br#"{"string":"x"}"#).unwrap()[0], Cell::Null);
    let after = next(&mut parser, br#"{"bool":null}"#).unwrap();
    assert!(after.iter().all(|cell| *cell == Cell::Null));
}

#[test]
fn a_bad_event_leaves_nothing_for_the_next() {
    let columns = columns();
    let mut parser = Parser::new(&columns);
    assert!(next(&mut parser, br#"{"string":"x","bool":true,"i32":"no"}"#).is_err());
    let after = next(&mut parser, b"{}").unwrap();
    assert!(after.iter().all(|cell| *cell == Cell::Null));
}

#[test]
fn integers_must_be_whole_and_in_range() {
    for good in ["5", "5.0", "5e0", "-0.0"] {
        assert!(cell(DataType::I32, good).is_ok(), "{good}");
    }
    for bad in ["5.5", "2147483648", "1e300", "\"5\"", "true", "[5]", "{}"] {
        assert_eq!(cell(DataType::I32, bad).unwrap_err().reason, Reason::WrongType, "{bad}");
    }
    assert!(cell(DataType::I64, "9223372036854775808").is_err());
    assert!(
        cell(DataType::I64, "9007199254740993.0").is_ok(),
        "it rounds to 2^53, which is exact"
    );
    assert!(cell(DataType::I64, "9007199254740994.0").is_err());
}

#[test]
fn floats_take_whole_numbers_and_the_names_of_what_json_can_not_say() {
    assert_eq!(
        cell(DataType::F64, "18446744073709551615"),
        Ok(Cell::Float(18_446_744_073_709_551_615.0))
    );
    assert_eq!(cell(DataType::F64, "\"-Infinity\""), Ok(Cell::Float(f64::NEG_INFINITY)));
    assert!(matches!(cell(DataType::F32, "\"NaN\""), Ok(Cell::Float(number)) if number.is_nan()));
    assert!(cell(DataType::F32, "1e39").is_err());
    assert!(cell(DataType::F64, "\"1\"").is_err());
}

#[test]
fn a_naive_timestamp_is_refused_with_the_remedy() {
    let rejection = cell(DataType::Timestamp, "\"2013-01-01T05:17:00\"").unwrap_err();
    assert_eq!(rejection.reason, Reason::WrongType);
    assert_eq!(
        rejection.detail,
        "field `timestamp` is \"2013-01-01T05:17:00\", expected timestamp: a timestamp needs a zone: add `Z` or an \
         offset such as `+09:00`"
    );
}

#[test]
fn a_timestamp_is_whole_microseconds_within_the_calendar() {
    assert_eq!(
        cell(DataType::Timestamp, "1357017420000001"),
        Ok(Cell::Micros(1_357_017_420_000_001))
    );
    for bad in ["1.5", "9223372036854775807", "true", "\"yesterday\""] {
        assert!(cell(DataType::Timestamp, bad).is_err(), "{bad}");
    }
}

#[test]
fn a_rejection_quotes_no_more_than_64_characters() {
    let long = format!("\"{}\"", "가".repeat(500));
    let detail = cell(DataType::Bool, &long).unwrap_err().detail;
    assert_eq!(detail.matches('가').count(), 64);
}

#[test]
fn the_last_of_two_equal_fields_counts() {
    assert_eq!(parse(br#"{"i64":"bad","i64":7}"#).unwrap()[3], Cell::Int(7));
    assert_eq!(reason(br#"{"i64":7,"i64":"bad"}"#), Reason::WrongType);
}

#[test]
fn what_is_not_one_object_is_malformed() {
    let cases: [&[u8]; 12] = [
        b" ",
        b"null",
        b"[]",
        b"5",
        b"{",
        b"{}x",
        b"{}{}",
        b"{\"a\":}",
        b"{a:1}",
        b"{\"a\":1,}",
        b"\xff{}",
        b"{\"string\":\"\\ud800\"}",
    ];
    for case in cases {
        assert_eq!(reason(case), Reason::Malformed, "{}", String::from_utf8_lossy(case));
    }
    assert_eq!(reason(b""), Reason::Tombstone);
}

#[test]
fn a_malformed_event_is_malformed_whatever_else_is_wrong_with_it() {
    assert_eq!(reason(br#"{"i64":"bad""#), Reason::Malformed);
}

#[test]
fn nesting_in_skipped_and_declared_fields_can_not_overflow_the_stack() {
    for name in ["other", "string"] {
        let depth = 200_000;
        let message = format!("{{\"{name}\":{}{},\"i64\":1}}", "[".repeat(depth), "]".repeat(depth));
        let _either = parse(message.as_bytes());
        let open = format!("{{\"{name}\":{}", "{\"a\":".repeat(depth));
        assert_eq!(reason(open.as_bytes()), Reason::Malformed);
    }
}

/// What the module's table says, over a value tree.
fn oracle(message: &[u8]) -> Result<Vec<Cell<'static>>, Reason> {
    if message.is_empty() {
        return Err(Reason::Tombstone);
    }
    let tree: Value = serde_json::from_slice(message).map_err(|_| Reason::Malformed)?;
    let Value::Object(object) = tree else {
        return Err(Reason::Malformed);
    };
    let cells = fields().into_iter().map(|field| {
        let value = object.get(&field.name).cloned().unwrap_or_default();
        oracle_cell(field.data_type, &value).ok_or(Reason::WrongType)
    });
    cells.collect()
}

fn oracle_cell(data_type: DataType, value: &Value) -> Option<Cell<'static>> {
    let whole = |least: i64, greatest: i64| {
        let float = || {
            value
                .as_f64()
                .filter(|number| number.fract() == 0.0 && number.abs() <= EXACT && value.is_f64())
        };
        let number = value.as_i64().or_else(|| float().map(|number| number as i64))?;
        (least <= number && number <= greatest).then_some(Cell::Int(number))
    };
    let float = |greatest: f64| match value.as_str() {
        Some("NaN") => Some(Cell::Float(f64::NAN)),
        Some("Infinity") => Some(Cell::Float(f64::INFINITY)),
        Some("-Infinity") => Some(Cell::Float(f64::NEG_INFINITY)),
        _ => value
            .as_f64()
            .filter(|number| number.abs() <= greatest)
            .map(Cell::Float),
    };
    let calendar = |micros: &i64| (FIRST_MICROS..=LAST_MICROS).contains(micros);
    match data_type {
        _ if value.is_null() => Some(Cell::Null),
        DataType::List(_) => None,
        DataType::String => Some(Cell::Text(value.as_str()?.to_owned().into())),
        DataType::Bool => value.as_bool().map(Cell::Bool),
        DataType::I32 => whole(i32::MIN.into(), i32::MAX.into()),
        DataType::I64 => whole(i64::MIN, i64::MAX),
        DataType::F32 => float(f32::MAX.into()),
        DataType::F64 => float(f64::MAX),
        DataType::Timestamp => {
            let text = || EventTime::parse(value.as_str()?).ok().map(EventTime::micros);
            value.as_i64().or_else(text).filter(calendar).map(Cell::Micros)
        }
    }
}

fn check_against_oracle(message: &[u8]) -> Result<(), TestCaseError> {
    let fast = parse(message).map_err(|rejection| rejection.reason);
    let slow = oracle(message);
    // NaN differs from itself: compare the texts.
    prop_assert_eq!(
        format!("{:?}", fast),
        format!("{:?}", slow),
        "{}",
        String::from_utf8_lossy(message)
    );
    Ok(())
}

fn any_json() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|truth| truth.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<i32>().prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("JSON has no such number", |number| number.is_finite())
            .prop_map(|number| number.to_string()),
        any::<i16>().prop_map(|number| format!("{number}.0")),
        any::<i8>().prop_map(|number| format!("{number}e3")),
        ".{0,20}".prop_map(|text| Value::String(text).to_string()),
        Just("\"NaN\"".to_owned()),
        (1970..2100i32, 1..=12u8, 1..=31u8).prop_map(|(y, m, d)| format!("\"{y}-{m:02}-{d:02}T00:00:00.5+09:00\"")),
        Just("[1,{\"a\":[]}]".to_owned()),
        Just("{\"string\":1}".to_owned()),
    ]
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(DataType::ALL.to_vec()).prop_map(|data_type| data_type.name().to_owned()),
        1 => "[a-z\"\\\\]{0,6}",
    ]
}

proptest! {
    #[test]
    fn any_object_reads_as_the_value_tree_says(entries in prop::collection::vec((any_name(), any_json()), 0..10)) {
        let entries: Vec<_> =
            entries.iter().map(|(name, json)| format!("{} : {json}", Value::String(name.clone()))).collect();
        check_against_oracle(format!("{{{}}}", entries.join(" ,")).as_bytes())?;
    }

    #[test]
    fn any_damage_to_an_object_is_seen_as_the_value_tree_sees_it(
        json in any_json(), cut in any::<prop::sample::Index>(), byte in prop::option::of(0x20..0x7fu8),
    ) {
        let mut message = format!("{{\"x\":[{{\"f64\":1}}],\"f64\":{json}}}").into_bytes();
        let at = cut.index(message.len());
        match byte {
            Some(byte) => message[at] = byte,
            None => message.truncate(at),
        }
        check_against_oracle(&message)?;
    }

    #[test]
    fn hostile_bytes_are_refused_without_a_panic(message: Vec<u8>) {
        let _ = parse(&message);
    }
}
