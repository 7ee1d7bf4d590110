//! One JSON object a message whose columns are top-level fields, straight into cells: one pass, no value tree, strings
//! borrowed from the message. What is deeper is read by [`super::json_tree`].
//!
//! `null` and an absent field are null. Fields without a column are skipped, however deeply nested. When a field
//! stands twice, the last one counts, as in the JSON parsers of other languages. Anything after the object is an error.
//! A column that is its field's JSON text costs what a skipped field does: the text is a piece of the message.

use super::convert::convert;
use super::json_tree::{Tree, text_of};
use super::place::Column;
use super::value::Value;
use super::wanted::Wanted;
use super::{Cell, Reason, Rejection};
use hashbrown::HashMap;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;

/// A column's field: a tree of which nothing below is wanted.
static SCALAR: Wanted = Wanted::nothing();

/// Parses events of one source. Keeps its scratch row between events.
#[derive(Debug)]
pub(super) struct Parser<'f, 'a> {
    columns: &'f [Column],
    /// The field of each column, if it is one.
    names: Vec<Option<&'f str>>,
    /// Whether each is its field's text.
    texts: Vec<bool>,
    places: HashMap<&'f str, usize>,
    values: Vec<Value<'a>>,
}

impl<'f, 'a> Parser<'f, 'a> {
    /// For events of `columns`; those that are no top-level field stay null.
    pub(super) fn new(columns: &'f [Column]) -> Self {
        let names: Vec<Option<&str>> = columns.iter().map(Column::top_field).collect();
        let place = |(place, name): (usize, &Option<&'f str>)| name.map(|name| (name, place));
        Self {
            places: names.iter().enumerate().filter_map(place).collect(),
            values: vec![Value::Null; columns.len()],
            texts: columns.iter().map(|column| column.json).collect(),
            columns,
            names,
        }
    }

    /// Whether every column is a field.
    pub(super) fn is_whole(&self) -> bool {
        self.places.len() == self.columns.len()
    }

    /// Adds the cells of one event, in the order of the columns. After an error some may have been added.
    ///
    /// # Errors
    /// [`Reason::Tombstone`], [`Reason::Malformed`] or [`Reason::WrongType`].
    pub(super) fn parse(&mut self, message: &'a [u8], cells: &mut Vec<Cell<'a>>) -> Result<(), Rejection> {
        let text = text(message)?;
        self.values.fill(Value::Null);
        let mut json = serde_json::Deserializer::from_str(text);
        let row = Row {
            places: &self.places,
            names: &self.names,
            texts: &self.texts,
            values: &mut self.values,
        };
        row.deserialize(&mut json)
            .and_then(|()| json.end())
            .map_err(|error| malformed("the message", &error))?;
        for (column, value) in self.columns.iter().zip(&mut self.values) {
            cells.push(convert(std::mem::take(value), column)?);
        }
        Ok(())
    }
}

/// The text of a JSON message.
pub(super) fn text(message: &[u8]) -> Result<&str, Rejection> {
    if message.is_empty() {
        let detail = "the message is empty: send one JSON object";
        return Err(Rejection::new(Reason::Tombstone, detail));
    }
    std::str::from_utf8(message).map_err(|error| {
        let detail = format!("the message is not UTF-8 from byte {} on", error.valid_up_to());
        Rejection::new(Reason::Malformed, detail)
    })
}

pub(super) fn malformed(what: &str, error: &serde_json::Error) -> Rejection {
    // Outside of strings of unbounded length, serde_json's messages say where and why.
    let text = error.to_string();
    Rejection::new(
        Reason::Malformed,
        format!("{what} is not one JSON object: {}", excerpt_long(&text)),
    )
}

fn excerpt_long(text: &str) -> String {
    text.chars().take(200).collect()
}

struct Row<'s, 'f, 'a> {
    places: &'s HashMap<&'f str, usize>,
    names: &'s [Option<&'f str>],
    texts: &'s [bool],
    values: &'s mut [Value<'a>],
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
            names: self.names,
            expected,
        })? {
            match place.and_then(|place| self.values.get_mut(place).map(|slot| (place, slot))) {
                Some((place, slot)) => {
                    *slot = if self.texts.get(place) == Some(&true) {
                        text_of(map.next_value()?)?
                    } else {
                        map.next_value_seed(Tree(&SCALAR))?
                    };
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
    names: &'s [Option<&'f str>],
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
        if self
            .names
            .get(self.expected)
            .is_some_and(|expected| *expected == Some(name))
        {
            return Ok(Some(self.expected));
        }
        Ok(self.places.get(name).copied())
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
