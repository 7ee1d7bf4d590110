//! Where the columns of a source are, compiled: the place and type of each, and what of a message they need.

use super::value::{Format, Value};
use super::wanted::Wanted;
use super::{Reason, Rejection};
use ondol_vocabulary::{
    ChangeFormat, ColumnOrigin, DataType, Field, Framing, MessageShape, StreamFormat, TimestampUnit, Tombstones,
};
use std::fmt;
use std::sync::Arc;

/// How the messages of one source are read.
#[derive(Debug)]
pub struct Reading {
    encoding: StreamFormat,
    shape: MessageShape,
    /// Its columns in declared order.
    pub(super) columns: Vec<Column>,
    pub(super) format: Arc<dyn Format>,
    /// What is wanted of values, and of keys.
    pub(super) wanted: Wanted,
    pub(super) key_wanted: Wanted,
    /// The array that is unnested.
    pub(super) unnest: Option<Path>,
    /// Whether a column is the key or of it, and whether one is a field of it.
    pub(super) reads_key: bool,
    pub(super) reads_key_fields: bool,
    /// Whether JSON can go straight into cells: every column that is a field is one of the top, and none twice.
    pub(super) flat: bool,
}

/// One column: where its value is, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub(super) place: Place,
    pub(super) data_type: DataType,
    pub(super) unit: TimestampUnit,
    /// Whether it is the JSON text of what stands there.
    pub(super) json: bool,
}

/// Where a column's value is. Shown as rejections name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A field of the value, from its top.
    Field(Path),
    /// What stands behind `skip` names of the path within the current element of the unnested array.
    Element { path: Path, skip: usize },
    /// The key as text, or as the format's scalar.
    Key,
    /// A field of the key.
    KeyField(Path),
    /// The last header of a name.
    Header(String),
    /// A field of a change's envelope.
    Envelope(Path),
    /// The record's timestamp.
    Timestamp,
    /// The record's partition.
    Partition,
    /// The record's offset.
    Offset,
}

/// Names from the top down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<String>);

impl Reading {
    /// How a source with `fields` reads messages of `encoding` and `shape`, decoded by `format`.
    pub fn new(encoding: &StreamFormat, shape: &MessageShape, fields: &[Field], format: Arc<dyn Format>) -> Self {
        let columns: Vec<Column> = fields.iter().map(|field| Column::new(field, shape)).collect();
        Self {
            flat: is_flat(encoding, shape, &columns),
            wanted: wanted(shape, &columns),
            key_wanted: key_wanted(shape, &columns),
            reads_key: has(&columns, |place| matches!(place, Place::Key | Place::KeyField(_))),
            reads_key_fields: has(&columns, |place| matches!(place, Place::KeyField(_))),
            encoding: encoding.clone(),
            shape: shape.clone(),
            columns,
            format,
            unnest: shape.unnest.clone().map(Path),
        }
    }

    /// Where the column at `column` is, in words.
    pub fn place(&self, column: usize) -> String {
        self.columns
            .get(column)
            .map_or(String::new(), |column| column.place.to_string())
    }

    pub(super) const fn framing(&self) -> Framing {
        self.shape.framing
    }

    pub(super) const fn changes(&self) -> Option<ChangeFormat> {
        self.shape.changes
    }

    /// What a record without a value is. The marker that follows a deletion among changes says nothing new.
    pub(super) const fn tombstones(&self) -> Tombstones {
        match self.shape.changes {
            Some(ChangeFormat::Debezium) => Tombstones::Ignore,
            None => self.shape.tombstones,
        }
    }
}

/// What was compiled follows from the definition; the format is compared by what it was made of.
impl PartialEq for Reading {
    fn eq(&self, other: &Self) -> bool {
        (&self.encoding, &self.shape, &self.columns) == (&other.encoding, &other.shape, &other.columns)
    }
}

impl Column {
    fn new(field: &Field, shape: &MessageShape) -> Self {
        let reading = shape.columns.get(&field.name);
        let place = match reading.map(|reading| &reading.origin) {
            None => Place::field(vec![field.name.clone()], shape),
            Some(ColumnOrigin::Field(path)) => Place::field(path.clone(), shape),
            Some(ColumnOrigin::Key(path)) if path.is_empty() => Place::Key,
            Some(ColumnOrigin::Key(path)) => Place::KeyField(Path(path.clone())),
            Some(ColumnOrigin::Header(name)) => Place::Header(name.clone()),
            Some(ColumnOrigin::Envelope(path)) => Place::Envelope(Path(path.clone())),
            Some(ColumnOrigin::Timestamp) => Place::Timestamp,
            Some(ColumnOrigin::Partition) => Place::Partition,
            Some(ColumnOrigin::Offset) => Place::Offset,
        };
        Self {
            place,
            data_type: field.data_type,
            unit: reading.map(|reading| reading.unit).unwrap_or_default(),
            json: reading.is_some_and(|reading| reading.json),
        }
    }

    /// The name of the top-level field that the column is, if it is one.
    pub(super) fn top_field(&self) -> Option<&str> {
        match &self.place {
            Place::Field(Path(path)) => match path.as_slice() {
                [name] => Some(name),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Place {
    fn field(path: Vec<String>, shape: &MessageShape) -> Self {
        match &shape.unnest {
            Some(array) if path.starts_with(array) => Self::Element {
                path: Path(path),
                skip: array.len(),
            },
            _ => Self::Field(Path(path)),
        }
    }
}

impl Path {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// What stands in `top` behind the names after the first `skip`; none where something on the way is null or absent.
    ///
    /// # Errors
    /// [`Reason::WrongType`] when something on the way is no object.
    pub(super) fn find<'v, 'a>(&self, top: &'v Value<'a>, skip: usize) -> Result<Option<&'v Value<'a>>, Rejection> {
        let mut place = top;
        for (depth, name) in self.names().enumerate().skip(skip) {
            match place.bare() {
                Value::Object(_) => match place.field(name) {
                    Some(field) => place = field,
                    None => return Ok(None),
                },
                Value::Null => return Ok(None),
                other => return Err(self.blocked(depth, other)),
            }
        }
        Ok(Some(place))
    }

    fn blocked(&self, depth: usize, by: &Value<'_>) -> Rejection {
        let way = Self(self.0.iter().take(depth).cloned().collect());
        let remedy = match by {
            Value::Array(_) => format!(": to make each element an event, set unnest = \"{way}\" in the source"),
            _ => String::new(),
        };
        let detail = format!(
            "field `{way}` is {}, expected an object with `{self}` in it{remedy}",
            by.shown()
        );
        Rejection::new(Reason::WrongType, detail)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.names().enumerate() {
            let dot = if at > 0 { "." } else { "" };
            write!(f, "{dot}{name}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(path) | Self::Element { path, .. } => write!(f, "field `{path}`"),
            Self::Key => f.write_str("the record's key"),
            Self::KeyField(path) => write!(f, "field `{path}` of the record's key"),
            Self::Header(name) => write!(f, "header `{name}`"),
            Self::Envelope(path) => write!(f, "field `{path}` of the change"),
            Self::Timestamp => f.write_str("the record's timestamp"),
            Self::Partition => f.write_str("the record's partition"),
            Self::Offset => f.write_str("the record's offset"),
        }
    }
}

fn has(columns: &[Column], wanted: impl Fn(&Place) -> bool) -> bool {
    columns.iter().any(|column| wanted(&column.place))
}

fn is_flat(encoding: &StreamFormat, shape: &MessageShape, columns: &[Column]) -> bool {
    let mut names: Vec<&str> = columns.iter().filter_map(Column::top_field).collect();
    let deep = columns
        .iter()
        .any(|column| matches!(column.place, Place::Field(_)) && column.top_field().is_none());
    let fields = names.len();
    names.sort_unstable();
    names.dedup();
    let plain = shape.unnest.is_none() && shape.changes.is_none() && matches!(encoding, StreamFormat::Json);
    plain && !deep && names.len() == fields
}

/// A change's row stands at `before` or `after`, and the whole may stand within `payload`.
fn wanted(shape: &MessageShape, columns: &[Column]) -> Wanted {
    let mut top = Wanted::default();
    let roots: &[&[&str]] = match shape.changes {
        None => &[&[]],
        Some(ChangeFormat::Debezium) => &[&[], &["payload"]],
    };
    let rows: &[&[&str]] = match shape.changes {
        None => &[&[]],
        Some(ChangeFormat::Debezium) => &[&["before"], &["after"]],
    };
    for root in roots {
        let root = root.iter().copied();
        if shape.changes.is_some() {
            top.add(root.clone().chain(["op"]));
            for row in rows {
                top.add(root.clone().chain(row.iter().copied())).value();
            }
        }
        if let Some(array) = &shape.unnest {
            top.add(root.clone().chain(array.iter().map(String::as_str))).each();
        }
        for column in columns {
            match &column.place {
                Place::Field(path) | Place::Element { path, .. } => {
                    for row in rows {
                        let place = top.add(root.clone().chain(row.iter().copied()).chain(path.names()));
                        mark(place, column);
                    }
                }
                Place::Envelope(path) => mark(top.add(root.clone().chain(path.names())), column),
                _ => {}
            }
        }
    }
    top
}

/// Marks a column's place as what the column takes of it.
fn mark(place: &mut Wanted, column: &Column) {
    match column.json {
        true => place.text(),
        false => place.value(),
    }
}

/// Of a key: its own columns and, as the row of a deletion that tells nothing else, the row's fields.
fn key_wanted(shape: &MessageShape, columns: &[Column]) -> Wanted {
    let mut top = Wanted::default();
    for column in columns {
        let path = match &column.place {
            Place::KeyField(path) => path,
            Place::Field(path) if shape.changes.is_some() => path,
            _ => continue,
        };
        mark(top.add(path.names()), column);
        if shape.changes.is_some() {
            mark(top.add(["payload"].into_iter().chain(path.names())), column);
        }
    }
    top
}
