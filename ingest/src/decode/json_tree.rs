//! JSON as a tree of values, of which only what is wanted is kept: for columns that are not top-level fields.

use super::json::{malformed, text};
use super::value::{Encoded, Format, Half, Value};
use super::wanted::Wanted;
use super::{Fault, Reason, Rejection};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// One JSON object a message.
#[derive(Debug)]
pub(crate) struct JsonFormat;

impl Format for JsonFormat {
    fn read<'a>(&self, encoded: Encoded<'a>, wanted: &'a Wanted) -> Result<Value<'a>, Fault> {
        let what = match encoded.half {
            Half::Key => "the record's key",
            Half::Value => "the message",
        };
        Ok(object(encoded.bytes, wanted, what)?)
    }
}

/// The object that `bytes` are; `what` names them.
///
/// # Errors
/// [`Reason::Tombstone`] or [`Reason::Malformed`].
pub(super) fn object<'a>(bytes: &'a [u8], wanted: &Wanted, what: &str) -> Result<Value<'a>, Rejection> {
    let mut json = serde_json::Deserializer::from_str(text(bytes)?);
    let value = Tree(wanted)
        .deserialize(&mut json)
        .and_then(|value| json.end().map(|()| value))
        .map_err(|error| malformed(what, &error))?;
    match value.into_bare() {
        value @ Value::Object(_) => Ok(value),
        other => {
            let detail = format!("{what} is not one JSON object, but {}", other.shown());
            Err(Rejection::new(Reason::Malformed, detail))
        }
    }
}

/// Reads a value as far as it is wanted, with its text where that is.
pub(super) struct Tree<'w>(pub(super) &'w Wanted);

/// As [`Tree`], without the value's own text.
struct Bare<'w>(&'w Wanted);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        if !self.0.is_text() {
            return Bare(self.0).deserialize(deserializer);
        }
        let json = <&RawValue>::deserialize(deserializer)?;
        if self.0.is_text_alone() {
            return text_of(json);
        }
        let text = json.get();
        let value = Bare(self.0).deserialize(&mut serde_json::Deserializer::from_str(text));
        // Where it stands in the text is not where it stands in the message.
        let value = value.map_err(|error| D::Error::custom(format!("within a value: {error}")))?;
        Ok(Value::Json(text, Box::new(value)))
    }
}

impl<'de> DeserializeSeed<'de> for Bare<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bare<'_> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value<'de>, E> {
        Ok(Value::I64(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value<'de>, E> {
        Ok(i64::try_from(number).map_or(Value::U64(number), Value::I64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value<'de>, E> {
        Ok(Value::F64(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value<'de>, A::Error> {
        let mut elements = Vec::new();
        if self.0.elements() {
            while let Some(element) = items.next_element_seed(Tree(self.0))? {
                elements.push(element);
            }
        } else {
            while items.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = map.next_key_seed(Name)? {
            match self.0.field(&name) {
                Some(wanted) => fields.push((name, map.next_value_seed(Tree(wanted))?)),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(fields))
    }
}

/// What a column that is a JSON text takes of `json`, alone: nothing below is looked at. A text stands for the JSON that it
/// holds.
pub(super) fn text_of<'de, E: serde::de::Error>(json: &'de RawValue) -> Result<Value<'de>, E> {
    match json.get().as_bytes().first() {
        Some(b'"') => {
            let text = Name.deserialize(&mut serde_json::Deserializer::from_str(json.get()));
            text.map(Value::Text).map_err(E::custom)
        }
        Some(b'n') => Ok(Value::Null),
        _ => Ok(Value::Text(Cow::Borrowed(json.get()))),
    }
}

/// A field's name, borrowed unless it has escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}
