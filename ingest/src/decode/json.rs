//! One JSON object a message, straight into cells: one pass, no value tree, strings borrowed from the message.
//!
//! What counts as a value of a column:
//!
//! | type | JSON |
//! |---|---|
//! | `string` | a string |
//! | `bool` | `true`, `false` |
//! | `i32`, `i64` | a number without a fraction, in range; `5.0` and `1e3` count, up to 2^53 |
//! | `f32`, `f64` | a number in range, or one of the strings `NaN`, `Infinity`, `-Infinity` |
//! | `timestamp` | RFC 3339 text with a zone, or whole microseconds since the epoch; years 1 to 9999 |
//!
//! `null` and an absent field are null. Fields without a column are skipped, however deeply nested. When a field
//! stands twice, the last one counts, as in the JSON parsers of other languages. Anything after the object is an error.

use super::{Cell, Reason, Rejection, excerpt};
use hashbrown::HashMap;
use ondol_vocabulary::{DataType, EventTime, Field};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// Parses events of one schema. Keeps its scratch row between events.
#[derive(Debug)]
pub struct Parser<'f, 'a> {
    fields: &'f [Field],
    places: HashMap<&'f str, usize>,
    scalars: Vec<Scalar<'a>>,
    cells: Vec<Cell<'a>>,
}

/// A JSON value as it stands, before a column gives it a meaning.
#[derive(Clone, Debug, Default)]
enum Scalar<'a> {
    #[default]
    Null,
    Bool(bool),
    I64(i64),
    U64(u64),
    F64(f64),
    Text(Cow<'a, str>),
    Array,
    Object,
}

/// Largest magnitude up to which every whole number is an exact `f64`.
const EXACT: f64 = 9_007_199_254_740_992.0;
/// 0001-01-01T00:00:00Z.
const FIRST_MICROS: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z.
const LAST_MICROS: i64 = 253_402_300_799_999_999;

impl<'f, 'a> Parser<'f, 'a> {
    /// For events of `fields`.
    pub fn new(fields: &'f [Field]) -> Self {
        let places = fields
            .iter()
            .enumerate()
            .map(|(place, field)| (field.name.as_str(), place))
            .collect();
        let empty = || vec![Cell::Null; fields.len()];
        Self {
            fields,
            places,
            scalars: vec![Scalar::Null; fields.len()],
            cells: empty(),
        }
    }

    /// The cells of one event, in the order of the fields.
    ///
    /// # Errors
    /// [`Reason::Tombstone`], [`Reason::Malformed`] or [`Reason::WrongType`].
    pub fn parse(&mut self, message: &'a [u8]) -> Result<&[Cell<'a>], Rejection> {
        if message.is_empty() {
            return Err(Rejection::new(
                Reason::Tombstone,
                "the message is empty: send one JSON object",
            ));
        }
        let text = std::str::from_utf8(message).map_err(|error| {
            let detail = format!("the message is not UTF-8 from byte {} on", error.valid_up_to());
            Rejection::new(Reason::Malformed, detail)
        })?;
        self.scalars.fill(Scalar::Null);
        let mut json = serde_json::Deserializer::from_str(text);
        let row = Row {
            places: &self.places,
            fields: self.fields,
            scalars: &mut self.scalars,
        };
        row.deserialize(&mut json)
            .and_then(|()| json.end())
            .map_err(|error| malformed(&error))?;
        for ((field, scalar), cell) in self.fields.iter().zip(&mut self.scalars).zip(&mut self.cells) {
            *cell = convert(std::mem::take(scalar), field)?;
        }
        Ok(&self.cells)
    }
}

fn malformed(error: &serde_json::Error) -> Rejection {
    // Outside of strings of unbounded length, serde_json's messages say where and why.
    let text = error.to_string();
    Rejection::new(
        Reason::Malformed,
        format!("the message is not one JSON object: {}", excerpt_long(&text)),
    )
}

fn excerpt_long(text: &str) -> String {
    text.chars().take(200).collect()
}

struct Row<'s, 'f, 'a> {
    places: &'s HashMap<&'f str, usize>,
    fields: &'f [Field],
    scalars: &'s mut [Scalar<'a>],
}

impl<'de> DeserializeSeed<'de> for Row<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Row<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // Producers repeat one order of fields: the one after the last is tried before the map.
        let mut expected = 0;
        while let Some(place) = map.next_key_seed(Key {
            places: self.places,
            fields: self.fields,
            expected,
        })? {
            match place.and_then(|place| self.scalars.get_mut(place).map(|slot| (place, slot))) {
                Some((place, slot)) => {
                    *slot = map.next_value_seed(ScalarSeed)?;
                    expected = place + 1;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Reads a key as its column's place, without keeping the text.
struct Key<'s, 'f> {
    places: &'s HashMap<&'f str, usize>,
    fields: &'f [Field],
    expected: usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_, '_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        if self.fields.get(self.expected).is_some_and(|field| field.name == name) {
            return Ok(Some(self.expected));
        }
        Ok(self.places.get(name).copied())
    }
}

struct ScalarSeed;

impl<'de> DeserializeSeed<'de> for ScalarSeed {
    type Value = Scalar<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Scalar<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScalarSeed {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::I64(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar<'de>, E> {
        Ok(i64::try_from(number).map_or(Scalar::U64(number), Scalar::I64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::F64(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Scalar<'de>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Scalar<'de>, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Object)
    }

    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Scalar<'de>, E> {
        Err(E::custom("JSON has no byte strings"))
    }
}

fn convert<'a>(scalar: Scalar<'a>, field: &Field) -> Result<Cell<'a>, Rejection> {
    let converted = match (field.data_type, scalar) {
        (_, Scalar::Null) => Ok(Cell::Null),
        (DataType::String, Scalar::Text(text)) => Ok(Cell::Text(text)),
        (DataType::Bool, Scalar::Bool(truth)) => Ok(Cell::Bool(truth)),
        (DataType::I32, scalar) => whole(scalar, i64::from(i32::MIN), i64::from(i32::MAX)),
        (DataType::I64, scalar) => whole(scalar, i64::MIN, i64::MAX),
        (DataType::F64, scalar) => float(scalar, f64::MAX),
        (DataType::F32, scalar) => float(scalar, f64::from(f32::MAX)),
        (DataType::Timestamp, scalar) => return timestamp(&scalar, field),
        (_, scalar) => Err(scalar),
    };
    converted.map_err(|scalar| wrong_type(field, &scalar.shown(), remedy(field.data_type)))
}

fn whole<'a>(scalar: Scalar<'a>, least: i64, greatest: i64) -> Result<Cell<'a>, Scalar<'a>> {
    let number = match scalar {
        Scalar::I64(number) => number,
        Scalar::F64(number) if number.fract() == 0.0 && number.abs() <= EXACT => number as i64,
        other => return Err(other),
    };
    if (least..=greatest).contains(&number) {
        Ok(Cell::Int(number))
    } else {
        Err(scalar)
    }
}

fn float<'a>(scalar: Scalar<'a>, greatest: f64) -> Result<Cell<'a>, Scalar<'a>> {
    let number = match &scalar {
        Scalar::F64(number) => *number,
        Scalar::I64(number) => *number as f64,
        Scalar::U64(number) => *number as f64,
        Scalar::Text(text) => match text.as_ref() {
            "NaN" => return Ok(Cell::Float(f64::NAN)),
            "Infinity" => return Ok(Cell::Float(f64::INFINITY)),
            "-Infinity" => return Ok(Cell::Float(f64::NEG_INFINITY)),
            _ => return Err(scalar),
        },
        _ => return Err(scalar),
    };
    if number.abs() <= greatest {
        Ok(Cell::Float(number))
    } else {
        Err(scalar)
    }
}

fn timestamp<'a>(scalar: &Scalar<'_>, field: &Field) -> Result<Cell<'a>, Rejection> {
    let micros = match scalar {
        Scalar::I64(micros) => *micros,
        Scalar::Text(text) => match EventTime::parse(text) {
            Ok(time) => time.micros(),
            Err(ondol_vocabulary::time::EventTimeError::Naive(_)) => {
                let remedy = "a timestamp needs a zone: add `Z` or an offset such as `+09:00`";
                return Err(wrong_type(field, &scalar.shown(), remedy));
            }
            Err(ondol_vocabulary::time::EventTimeError::Malformed(_)) => {
                return Err(wrong_type(field, &scalar.shown(), remedy(DataType::Timestamp)));
            }
        },
        other => return Err(wrong_type(field, &other.shown(), remedy(DataType::Timestamp))),
    };
    if !(FIRST_MICROS..=LAST_MICROS).contains(&micros) {
        let remedy = "it lies outside the years 1 to 9999: numbers count microseconds since 1970";
        return Err(wrong_type(field, &scalar.shown(), remedy));
    }
    Ok(Cell::Micros(micros))
}

fn wrong_type(field: &Field, shown: &str, remedy: &str) -> Rejection {
    let detail = format!(
        "field `{}` is {shown}, expected {}: {remedy}",
        field.name, field.data_type
    );
    Rejection::new(Reason::WrongType, detail)
}

const fn remedy(data_type: DataType) -> &'static str {
    match data_type {
        DataType::String => "send a string",
        DataType::List(_) => "declare a scalar column",
        DataType::Bool => "send true or false",
        DataType::I32 => "send a whole number from -2147483648 to 2147483647",
        DataType::I64 => "send a whole number of at most 64 bits, without a fraction beyond 2^53",
        DataType::F32 => "send a number within the range of single precision",
        DataType::F64 => "send a number",
        DataType::Timestamp => "send RFC 3339 text such as `2013-01-01T05:17:00Z`, or whole microseconds since 1970",
    }
}

impl Scalar<'_> {
    fn shown(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(truth) => truth.to_string(),
            Self::I64(number) => number.to_string(),
            Self::U64(number) => number.to_string(),
            Self::F64(number) => number.to_string(),
            Self::Text(text) => format!("{:?}", excerpt(text)),
            Self::Array => "an array".to_owned(),
            Self::Object => "an object".to_owned(),
        }
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
