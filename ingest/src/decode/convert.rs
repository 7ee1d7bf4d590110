//! Values to cells: what counts as a value of a column's type, whatever the format.
//!
//! | type | value |
//! |---|---|
//! | `string` | text |
//! | `bool` | a truth value |
//! | `i32`, `i64` | a number without a fraction, in range; `5.0` and `1e3` count, up to 2^53 |
//! | `f32`, `f64` | a number in range, or one of the texts `NaN`, `Infinity`, `-Infinity` |
//! | `timestamp` | RFC 3339 text with a zone, a moment, or a whole number of the column's unit since the epoch; years 1 to 9999 |
//!
//! A column that is a JSON text (`json = true`) takes anything: what stands in the message, as it stands there. Of a text it
//! is the content, which is JSON already.
//!
//! Keys without fields and headers are text: a column that is no `string` takes what its text says (`42`, `true`).

use super::place::Column;
use super::value::Value;
use super::{Cell, Reason, Rejection};
use ondol_vocabulary::time::EventTimeError;
use ondol_vocabulary::{DataType, EventTime, TimestampUnit};
use std::borrow::Cow;

/// Largest magnitude up to which every whole number is an exact `f64`.
pub(super) const EXACT: f64 = 9_007_199_254_740_992.0;
/// 0001-01-01T00:00:00Z.
pub(super) const FIRST_MICROS: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z.
pub(super) const LAST_MICROS: i64 = 253_402_300_799_999_999;

/// The cell of `column` that `value` gives.
///
/// # Errors
/// [`Reason::WrongType`].
pub(crate) fn convert<'a>(value: Value<'a>, column: &Column) -> Result<Cell<'a>, Rejection> {
    let value = match value {
        Value::Json(text, value) if column.json => match value.into_bare() {
            value @ (Value::Null | Value::Text(_)) => value,
            _ => Value::Text(Cow::Borrowed(text)),
        },
        value => value.into_bare(),
    };
    let converted = match (column.data_type, value) {
        (_, Value::Null) => Ok(Cell::Null),
        (DataType::String, Value::Text(text)) => Ok(Cell::Text(text)),
        (DataType::String, Value::Decimal(digits)) => Ok(Cell::Text(digits.into())),
        (DataType::Bool, Value::Bool(truth)) => Ok(Cell::Bool(truth)),
        (DataType::I32, value) => whole(value, i64::from(i32::MIN), i64::from(i32::MAX)),
        (DataType::I64, value) => whole(value, i64::MIN, i64::MAX),
        (DataType::F64, value) => float(value, f64::MAX),
        (DataType::F32, value) => float(value, f64::from(f32::MAX)),
        (DataType::Timestamp, value) => return timestamp(&value, column),
        (_, value) => Err(value),
    };
    converted.map_err(|value| wrong_type(column, &value, remedy(column)))
}

/// The cell of `column` that a text without quotes gives, as keys and headers have it.
///
/// # Errors
/// [`Reason::WrongType`].
pub(crate) fn convert_text<'a>(text: &'a str, column: &Column) -> Result<Cell<'a>, Rejection> {
    let bare = match column.data_type {
        DataType::String => None,
        _ => serde_json::from_str::<serde_json::Value>(text).ok(),
    };
    let value = match bare {
        Some(serde_json::Value::Bool(truth)) => Value::Bool(truth),
        Some(serde_json::Value::Number(number)) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Value::I64(number),
            (None, Some(number), _) => Value::U64(number),
            (None, None, number) => Value::F64(number.unwrap_or(f64::NAN)),
        },
        _ => Value::Text(Cow::Borrowed(text)),
    };
    convert(value, column)
}

fn whole<'a>(value: Value<'a>, least: i64, greatest: i64) -> Result<Cell<'a>, Value<'a>> {
    let number = match value {
        Value::I64(number) => number,
        Value::F64(number) if number.fract() == 0.0 && number.abs() <= EXACT => number as i64,
        Value::Decimal(ref digits) => match whole_decimal(digits) {
            Some(number) => number,
            None => return Err(value),
        },
        other => return Err(other),
    };
    if (least..=greatest).contains(&number) {
        Ok(Cell::Int(number))
    } else {
        Err(value)
    }
}

/// A decimal number without a fraction.
fn whole_decimal(digits: &str) -> Option<i64> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    fraction
        .bytes()
        .all(|digit| digit == b'0')
        .then(|| whole.parse().ok())?
}

fn float<'a>(value: Value<'a>, greatest: f64) -> Result<Cell<'a>, Value<'a>> {
    let number = match &value {
        // Avro and Protobuf have them as numbers.
        Value::F64(number) if !number.is_finite() => return Ok(Cell::Float(*number)),
        Value::F64(number) => *number,
        Value::I64(number) => *number as f64,
        Value::U64(number) => *number as f64,
        Value::Decimal(digits) => match digits.parse() {
            Ok(number) => number,
            Err(_) => return Err(value),
        },
        Value::Text(text) => match text.as_ref() {
            "NaN" => return Ok(Cell::Float(f64::NAN)),
            "Infinity" => return Ok(Cell::Float(f64::INFINITY)),
            "-Infinity" => return Ok(Cell::Float(f64::NEG_INFINITY)),
            _ => return Err(value),
        },
        _ => return Err(value),
    };
    if number.abs() <= greatest {
        Ok(Cell::Float(number))
    } else {
        Err(value)
    }
}

fn timestamp<'a>(value: &Value<'_>, column: &Column) -> Result<Cell<'a>, Rejection> {
    let micros = match value {
        Value::Micros(micros) => Some(*micros),
        Value::I64(number) => in_micros(*number, column.unit),
        Value::Text(text) => match EventTime::parse(text) {
            Ok(time) => Some(time.micros()),
            Err(EventTimeError::Naive(_)) => {
                let remedy = "a timestamp needs a zone: add `Z` or an offset such as `+09:00`";
                return Err(wrong_type(column, value, remedy));
            }
            Err(EventTimeError::Malformed(_)) => return Err(wrong_type(column, value, remedy(column))),
        },
        other => return Err(wrong_type(column, other, remedy(column))),
    };
    match micros.filter(|micros| (FIRST_MICROS..=LAST_MICROS).contains(micros)) {
        Some(micros) => Ok(Cell::Micros(micros)),
        None => {
            let remedy = format!(
                "it lies outside the years 1 to 9999: numbers count {} since 1970",
                noun(column.unit)
            );
            Err(wrong_type(column, value, &remedy))
        }
    }
}

/// None on overflow.
fn in_micros(number: i64, unit: TimestampUnit) -> Option<i64> {
    match unit {
        TimestampUnit::Seconds => number.checked_mul(1_000_000),
        TimestampUnit::Milliseconds => number.checked_mul(1_000),
        TimestampUnit::Microseconds => Some(number),
        // Towards the past, also before 1970.
        TimestampUnit::Nanoseconds => Some(number.div_euclid(1_000)),
    }
}

const fn noun(unit: TimestampUnit) -> &'static str {
    match unit {
        TimestampUnit::Seconds => "seconds",
        TimestampUnit::Milliseconds => "milliseconds",
        TimestampUnit::Microseconds => "microseconds",
        TimestampUnit::Nanoseconds => "nanoseconds",
    }
}

/// The rejection of `value` as one of `column`.
pub(crate) fn wrong_type(column: &Column, value: &Value<'_>, remedy: &str) -> Rejection {
    let detail = format!(
        "{} is {}, expected {}: {remedy}",
        column.place,
        value.shown(),
        column.data_type
    );
    Rejection::new(Reason::WrongType, detail)
}

const fn remedy(column: &Column) -> &'static str {
    match column.data_type {
        DataType::String => "send a string",
        DataType::List(_) => "declare a scalar column",
        DataType::Bool => "send true or false",
        DataType::I32 => "send a whole number from -2147483648 to 2147483647",
        DataType::I64 => "send a whole number of at most 64 bits, without a fraction beyond 2^53",
        DataType::F32 => "send a number within the range of single precision",
        DataType::F64 => "send a number",
        DataType::Timestamp => match column.unit {
            TimestampUnit::Seconds => "send RFC 3339 text such as `2013-01-01T05:17:00Z`, or whole seconds since 1970",
            TimestampUnit::Milliseconds => {
                "send RFC 3339 text such as `2013-01-01T05:17:00Z`, or whole milliseconds since 1970"
            }
            TimestampUnit::Microseconds => {
                "send RFC 3339 text such as `2013-01-01T05:17:00Z`, or whole microseconds since 1970"
            }
            TimestampUnit::Nanoseconds => {
                "send RFC 3339 text such as `2013-01-01T05:17:00Z`, or whole nanoseconds since 1970"
            }
        },
    }
}
