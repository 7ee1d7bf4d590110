//! A record to the rows it stands for: none (a deletion marker that is passed over), one, or one per element of an
//! array. All of a record's rows are taken or none.

use super::changes::{self, change};
use super::convert::{convert, convert_text, wrong_type};
use super::json::Parser;
use super::place::{Column, Place, Reading};
use super::value::{Half, Value, framed, unframe};
use super::{Cell, Fault, Reason, Rejection, json_tree};
use crate::source::Record;
use ondol_vocabulary::{Framing, Tombstones};

/// Most events of one message: a small message must not become a large batch.
const MAX_ELEMENTS: usize = 65_536;

/// Decodes records of one source. Keeps its scratch rows between them.
#[derive(Debug)]
pub struct Decoder<'a> {
    reading: &'a Reading,
    time: usize,
    parser: Option<Parser<'a, 'a>>,
    rows: Rows<'a>,
}

/// The rows of one record.
#[derive(Debug, Default)]
pub struct Rows<'a> {
    width: usize,
    cells: Vec<Cell<'a>>,
    /// Whether they are deletions.
    pub deleted: bool,
}

impl<'a> Rows<'a> {
    /// The cells of each row, in the order of the columns.
    pub fn iter(&self) -> impl Iterator<Item = &[Cell<'a>]> {
        // Every source has a column: its time.
        self.cells.chunks_exact(self.width.max(1))
    }
}

/// What a row is read from: the record and its decoded halves.
#[derive(Clone, Copy)]
struct Sight<'v, 'a> {
    record: Record<'a>,
    /// The value, or the row of a change.
    row: &'v Value<'a>,
    envelope: &'v Value<'a>,
    key: &'v Key<'a>,
    element: &'v Value<'a>,
}

impl<'a> Decoder<'a> {
    /// For records read as `reading` says, whose column `time` is the event time.
    pub fn new(reading: &'a Reading, time: usize) -> Self {
        let rows = Rows {
            width: reading.columns.len(),
            ..Rows::default()
        };
        Self {
            parser: reading.flat.then(|| Parser::new(&reading.columns)),
            reading,
            time,
            rows,
        }
    }

    /// The rows of `record`.
    ///
    /// # Errors
    /// [`Fault::Rejected`] when the record has none, [`Fault::Unavailable`] when it can't be told now.
    pub fn decode(&mut self, record: &Record<'a>) -> Result<&Rows<'a>, Fault> {
        self.rows.cells.clear();
        self.rows.deleted = false;
        let decoded = match record.value {
            None => self.tombstone(record),
            Some(message) => match self.parser.is_some() {
                true => self.flat(record, message),
                false => self.shaped(record, message),
            },
        };
        match decoded {
            Ok(()) => {
                self.date_deletions(record);
                Ok(&self.rows)
            }
            Err(fault) => Err(self.with_schema(fault, record)),
        }
    }

    /// What is left of a deleted row may not tell a time: then it is the record's.
    fn date_deletions(&mut self, record: &Record<'a>) {
        if self.rows.deleted {
            for cells in self.rows.cells.chunks_exact_mut(self.rows.width.max(1)) {
                if let Some(time @ Cell::Null) = cells.get_mut(self.time) {
                    *time = Cell::Micros(record.timestamp.micros());
                }
            }
        }
    }

    /// A rejection that names the schema which the message was written with.
    fn with_schema(&self, fault: Fault, record: &Record<'a>) -> Fault {
        let schema = match (self.reading.framing(), record.value) {
            (Framing::Confluent, Some(message)) => framed(Half::Value, message).and_then(|encoded| encoded.schema),
            _ => None,
        };
        match (fault, schema) {
            (Fault::Rejected(mut rejection), Some(id)) => {
                rejection
                    .detail
                    .push_str(&format!(" (written with schema {id} of the registry)"));
                Fault::Rejected(rejection)
            }
            (fault, _) => fault,
        }
    }

    fn tombstone(&mut self, record: &Record<'a>) -> Result<(), Fault> {
        match self.reading.tombstones() {
            Tombstones::Ignore => return Ok(()),
            Tombstones::Delete => {}
            Tombstones::DeadLetter => {
                let detail = "the message is a deletion marker: set tombstones = \"ignore\" or \"delete\" in the \
                    source, or send a value";
                return Err(Rejection::new(Reason::Tombstone, detail).into());
            }
        }
        self.rows.deleted = true;
        let key = self.key(record, false)?;
        self.row(Sight::of(record, &Value::Null, &key))
    }

    fn flat(&mut self, record: &Record<'a>, message: &'a [u8]) -> Result<(), Fault> {
        let Some(parser) = &mut self.parser else {
            return Ok(());
        };
        let encoded = unframe(self.reading.framing(), message)?;
        parser.parse(encoded.bytes, &mut self.rows.cells)?;
        if parser.is_whole() {
            return Ok(());
        }
        let key = self.key(record, false)?;
        let sight = Sight::of(record, &Value::Null, &key);
        for (cell, column) in self.rows.cells.iter_mut().zip(&self.reading.columns) {
            if column.top_field().is_none() {
                *cell = sight.cell(column, self.reading)?;
            }
        }
        Ok(())
    }

    fn shaped(&mut self, record: &Record<'a>, message: &'a [u8]) -> Result<(), Fault> {
        let encoded = unframe(self.reading.framing(), message)?;
        let value = self.reading.format.read(encoded, &self.reading.wanted)?;
        if self.reading.changes().is_none() {
            let key = self.key(record, false)?;
            return self.rows_of(Sight::of(record, &value, &key));
        }
        let change = change(&value)?;
        let mut key = self.key(record, change.row.is_none())?;
        key.unwrap_payload();
        self.rows.deleted = change.deleted;
        let sight = Sight::of(record, &value, &key);
        self.rows_of(Sight {
            envelope: change.envelope,
            row: change.row.unwrap_or(&key.value),
            ..sight
        })
    }

    fn rows_of(&mut self, sight: Sight<'_, 'a>) -> Result<(), Fault> {
        let reading = self.reading;
        let Some(array) = &reading.unnest else {
            return self.row(sight);
        };
        match array.find(sight.row, 0)?.map(Value::bare) {
            None | Some(Value::Null) => Ok(()),
            Some(Value::Array(elements)) if elements.len() > MAX_ELEMENTS => {
                let detail = format!(
                    "field `{array}` has {} elements, the limit is {MAX_ELEMENTS}: send fewer in a message",
                    elements.len()
                );
                Err(Rejection::new(Reason::TooLarge, detail).into())
            }
            Some(Value::Array(elements)) => elements
                .iter()
                .try_for_each(|element| self.row(Sight { element, ..sight })),
            Some(other) => {
                let detail = format!(
                    "field `{array}` is {}, expected an array: the source unnests it",
                    other.shown()
                );
                Err(Rejection::new(Reason::WrongType, detail).into())
            }
        }
    }

    fn row(&mut self, sight: Sight<'_, 'a>) -> Result<(), Fault> {
        for column in &self.reading.columns {
            self.rows.cells.push(sight.cell(column, self.reading)?);
        }
        Ok(())
    }

    /// The record's key, as far as a column needs it or it is `needed` as a row.
    fn key(&self, record: &Record<'a>, needed: bool) -> Result<Key<'a>, Fault> {
        let (reading, mut key) = (self.reading, Key::default());
        let Some(bytes) = record.key else {
            return Ok(key);
        };
        // No text begins with a zero byte: a key may have another serializer than the value.
        let framed = match reading.framing() {
            Framing::Confluent => framed(Half::Key, bytes),
            Framing::None => None,
        };
        match framed {
            Some(encoded) if needed || reading.reads_key => {
                key.value = reading.format.read(encoded, &reading.key_wanted)?;
                key.framed = true;
            }
            None if needed || reading.reads_key_fields => {
                key.value = json_tree::object(bytes, &reading.key_wanted, "the record's key")?;
            }
            _ => {}
        }
        Ok(key)
    }
}

/// A record's key, decoded.
#[derive(Default)]
struct Key<'a> {
    value: Value<'a>,
    /// Whether the whole key is an encoded value, rather than text.
    framed: bool,
}

impl Key<'_> {
    /// Takes off the schema that the JSON converter adds. No column of a key is an object.
    fn unwrap_payload(&mut self) {
        if let Value::Object(fields) = &mut self.value
            && let Some((_, payload)) = fields.iter_mut().find(|(name, _)| name == "payload")
            && matches!(payload.bare(), Value::Object(_))
        {
            self.value = std::mem::take(payload);
        }
    }
}

impl<'v, 'a> Sight<'v, 'a> {
    fn of(record: &Record<'a>, value: &'v Value<'a>, key: &'v Key<'a>) -> Self {
        Self {
            record: *record,
            row: value,
            envelope: value,
            key,
            element: &Value::Null,
        }
    }

    fn cell(&self, column: &Column, reading: &Reading) -> Result<Cell<'a>, Rejection> {
        let found = match &column.place {
            Place::Field(path) => path.find(self.row, 0)?,
            Place::Element { path, skip } => path.find(self.element, *skip)?,
            Place::Envelope(path) => path.find(self.envelope, 0)?,
            Place::KeyField(path) => path.find(&self.key.value, 0)?,
            Place::Key if self.key.framed => Some(&self.key.value),
            Place::Key => return self.text(self.record.key, column),
            Place::Header(name) => return self.text(self.record.headers.last(name), column),
            Place::Timestamp => return convert(Value::Micros(self.record.timestamp.micros()), column),
            Place::Partition => return convert(Value::I64(self.record.partition.into()), column),
            Place::Offset => return convert(Value::I64(self.record.offset), column),
        };
        let Some(value) = found else {
            return Ok(Cell::Null);
        };
        if reading.changes().is_some() {
            changes::check_sent(value, &column.place)?;
        }
        convert(value.clone(), column)
    }

    fn text(&self, bytes: Option<&'a [u8]>, column: &Column) -> Result<Cell<'a>, Rejection> {
        let Some(bytes) = bytes else {
            return Ok(Cell::Null);
        };
        match std::str::from_utf8(bytes) {
            Ok(text) => convert_text(text, column),
            Err(_) => Err(wrong_type(column, &Value::Bytes, "send UTF-8 text")),
        }
    }
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
