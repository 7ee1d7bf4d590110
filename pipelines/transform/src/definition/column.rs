//! The columns of a source: `name = "type"`, or `name = { type = "type", … }` for one that is not the top-level field of
//! its own name.

use super::name;
use super::report::{Reports, choose};
use super::tree::{Node, Section, Text, Word};
use ondol_vocabulary::{ColumnOrigin, ColumnReading, DataType, Field, TimestampUnit};
use std::collections::BTreeMap;

const KEYS: [&str; 8] = ["type", "path", "key", "header", "meta", "envelope", "unit", "json"];
/// Those that say where the value is.
const PLACES: [&str; 5] = ["path", "key", "header", "meta", "envelope"];
const METAS: [&str; 3] = ["timestamp", "partition", "offset"];
const UNITS: [(&str, TimestampUnit); 4] = [
    ("s", TimestampUnit::Seconds),
    ("ms", TimestampUnit::Milliseconds),
    ("us", TimestampUnit::Microseconds),
    ("ns", TimestampUnit::Nanoseconds),
];

/// A source's columns.
#[derive(Default)]
pub(super) struct Columns {
    pub(super) fields: Vec<Field>,
    /// Of those that are written as a table.
    pub(super) readings: BTreeMap<String, ColumnReading>,
}

/// Compiles the columns of a source. `None` if any is wrong.
pub(super) fn compile(section: &Section<'_>, is_stream: bool, reports: &mut Reports<'_>) -> Option<Columns> {
    let mut columns = Some(Columns::default());
    for (word, node) in section.entries() {
        name::check_column("column", word, reports);
        match (column(word, *node, is_stream, reports), columns.as_mut()) {
            (Some((data_type, reading)), Some(columns)) => {
                columns.fields.push(Field {
                    name: word.text.to_owned(),
                    data_type,
                });
                columns
                    .readings
                    .extend(reading.map(|reading| (word.text.to_owned(), reading)));
            }
            _ => columns = None,
        }
    }
    columns
}

/// `name = "type"` entries of a model. `None` if any is wrong.
pub(super) fn fields(noun: &str, section: &Section<'_>, reports: &mut Reports<'_>) -> Option<Vec<Field>> {
    let mut fields = Some(Vec::with_capacity(section.entries().len()));
    for (word, node) in section.entries() {
        name::check_column(noun, word, reports);
        match (data_type(noun, word, *node, reports), fields.as_mut()) {
            (Some(data_type), Some(fields)) => fields.push(Field {
                name: word.text.to_owned(),
                data_type,
            }),
            _ => fields = None,
        }
    }
    fields
}

fn column(
    word: &Word<'_>,
    node: Node<'_>,
    is_stream: bool,
    reports: &mut Reports<'_>,
) -> Option<(DataType, Option<ColumnReading>)> {
    let Some(table) = node.as_section(format!("column {}", word.text), word.place.clone()) else {
        return data_type("column", word, node, reports).map(|data_type| (data_type, None));
    };
    table.only(&KEYS, reports);
    let type_node = table.require("type", "type = \"string\"", reports);
    let data_type = type_node.and_then(|node| data_type("column", word, node, reports));
    if !is_stream {
        return no_place(&table, reports).and(Some((data_type?, None)));
    }
    let place = place(word, &table, data_type, reports);
    let unit = unit(word, &table, data_type, reports);
    let json = json(word, &table, data_type, reports);
    let reading = ColumnReading {
        origin: place?,
        unit: unit?,
        json: json?,
    };
    let is_plain = !reading.json
        && reading.unit == TimestampUnit::default()
        && matches!(&reading.origin, ColumnOrigin::Field(path) if *path == [word.text]);
    Some((data_type?, (!is_plain).then_some(reading)))
}

fn no_place(table: &Section<'_>, reports: &mut Reports<'_>) -> Option<()> {
    let (word, _) = table.entries().iter().find(|(word, _)| word.text != "type")?;
    if !KEYS.contains(&word.text) {
        return None;
    }
    let message = format!(
        "`{}` is for columns of streams: a table's columns have names",
        word.text
    );
    let help = "remove it: the column is the table's of the same name".to_owned();
    reports.add(&word.place, "misplaced-key", message, Some(help));
    None
}

/// Where the column's value is; by default the top-level field of its own name.
fn place(
    name: &Word<'_>,
    table: &Section<'_>,
    data_type: Option<DataType>,
    reports: &mut Reports<'_>,
) -> Option<ColumnOrigin> {
    let mut given = table.entries().iter().filter(|(word, _)| PLACES.contains(&word.text));
    let Some((word, node)) = given.next() else {
        return Some(ColumnOrigin::Field(vec![name.text.to_owned()]));
    };
    if let Some((second, _)) = given.next() {
        let message = format!("column `{}` is already read from `{}`", name.text, word.text);
        let help = "keep one of them: a column has one place".to_owned();
        reports.add(&second.place, "two-places", message, Some(help));
        return None;
    }
    match word.text {
        "path" => path("`path`", *node, reports).map(ColumnOrigin::Field),
        "key" => key(*node, reports).map(ColumnOrigin::Key),
        "header" => {
            let header = node.string("`header`", reports)?;
            not_empty("`header`", header, reports)?;
            Some(ColumnOrigin::Header(header.value.to_owned()))
        }
        "envelope" => path("`envelope`", *node, reports).map(ColumnOrigin::Envelope),
        _ => meta(name, *node, data_type, reports),
    }
}

fn key(node: Node<'_>, reports: &mut Reports<'_>) -> Option<Vec<String>> {
    match node.as_bool() {
        Some(true) => Some(Vec::new()),
        Some(false) => {
            let help =
                "write key = true for the whole key, key = \"field\" for a field of it, or remove `key`".to_owned();
            reports.add(&node.place(), "invalid-path", "`key` is false", Some(help));
            None
        }
        None => path("`key`", node, reports),
    }
}

fn meta(
    name: &Word<'_>,
    node: Node<'_>,
    data_type: Option<DataType>,
    reports: &mut Reports<'_>,
) -> Option<ColumnOrigin> {
    let text = node.string("`meta`", reports)?;
    let (origin, types): (_, &[DataType]) = match text.value {
        "timestamp" => (ColumnOrigin::Timestamp, &[DataType::Timestamp]),
        "partition" => (ColumnOrigin::Partition, &[DataType::I32, DataType::I64]),
        "offset" => (ColumnOrigin::Offset, &[DataType::I64]),
        other => {
            let help = choose(other, "a record has", METAS.into_iter());
            reports.add(
                &text.place(),
                "unknown-meta",
                format!("a record has no `{other}`"),
                help,
            );
            return None;
        }
    };
    let data_type = data_type?;
    if !types.contains(&data_type) {
        let expected: Vec<_> = types.iter().map(|fits| format!("\"{fits}\"")).collect();
        let message = format!(
            "column `{}` is {data_type}, but a record's {} is not",
            name.text, text.value
        );
        let help = format!("use type = {}", expected.join(" or "));
        reports.add(&text.place(), "column-type", message, Some(help));
        return None;
    }
    Some(origin)
}

fn unit(
    name: &Word<'_>,
    table: &Section<'_>,
    data_type: Option<DataType>,
    reports: &mut Reports<'_>,
) -> Option<TimestampUnit> {
    let Some((word, node)) = table.get("unit") else {
        return Some(TimestampUnit::default());
    };
    if data_type.is_some_and(|data_type| data_type != DataType::Timestamp) || table.get("meta").is_some() {
        let message = format!(
            "`unit` is for timestamps that a message has as numbers: column `{}` is none",
            name.text
        );
        reports.add(&word.place, "misplaced-key", message, Some("remove it".to_owned()));
        return None;
    }
    let text = node.string("`unit`", reports)?;
    let found = UNITS.iter().find(|(unit, _)| *unit == text.value);
    if found.is_none() {
        let help = format!("units: {}", UNITS.map(|(unit, _)| unit).join(", "));
        let message = format!("there is no unit `{}`", text.value);
        reports.add(&text.place(), "unknown-unit", message, Some(help));
    }
    found.map(|(_, unit)| *unit)
}

/// Whether the column is the JSON text of what stands there.
fn json(name: &Word<'_>, table: &Section<'_>, data_type: Option<DataType>, reports: &mut Reports<'_>) -> Option<bool> {
    let Some((word, node)) = table.get("json") else {
        return Some(false);
    };
    let Some(json) = node.as_bool() else {
        node.wrong_type("`json`", "true or false", reports);
        return None;
    };
    if !json {
        return Some(false);
    }
    if data_type.is_some_and(|data_type| data_type != DataType::String) {
        let message = format!("column `{}` is the JSON text of a value, which is a string", name.text);
        let help = "use type = \"string\", or remove `json`".to_owned();
        reports.add(&word.place, "column-type", message, Some(help));
        return None;
    }
    let is_whole_key = table.get("key").is_some_and(|(_, node)| node.as_bool().is_some());
    let place = ["header", "meta"].into_iter().find(|place| table.get(place).is_some());
    if let Some(place) = place.or(is_whole_key.then_some("key")) {
        let message = format!(
            "`json` is for fields of a message: the {place} of column `{}` is none",
            name.text
        );
        reports.add(&word.place, "misplaced-key", message, Some("remove `json`".to_owned()));
        return None;
    }
    Some(true)
}

/// The names of `a.b.c`, or of a list of names, for those with dots in them.
pub(super) fn path(what: &str, node: Node<'_>, reports: &mut Reports<'_>) -> Option<Vec<String>> {
    if let Some(names) = node.as_array() {
        let names = names.iter().map(|name| {
            let name = name.string(&format!("a name of {what}"), reports)?;
            not_empty(&format!("a name of {what}"), name, reports)?;
            Some(name.value.to_owned())
        });
        let names = names.collect::<Option<Vec<_>>>()?;
        if names.is_empty() {
            let help = "write the names from the top down: \"payload.card.id\"".to_owned();
            reports.add(&node.place(), "empty-value", format!("{what} has no names"), Some(help));
            return None;
        }
        return Some(names);
    }
    let Some(text) = node.as_string() else {
        node.wrong_type(what, "a path such as \"payload.card.id\", or a list of names", reports);
        return None;
    };
    not_empty(what, text, reports)?;
    let names: Vec<String> = text.value.split('.').map(str::to_owned).collect();
    if names.iter().any(String::is_empty) {
        let help =
            "write the names from the top down with a dot between them; names with dots as a list of names".to_owned();
        let message = format!("`{}` is no path: a name in it is empty", text.value);
        reports.add(&text.place(), "invalid-path", message, Some(help));
        return None;
    }
    Some(names)
}

fn not_empty(what: &str, text: Text<'_>, reports: &mut Reports<'_>) -> Option<()> {
    if text.value.is_empty() {
        reports.add(&text.place(), "empty-value", format!("{what} is empty"), None);
        return None;
    }
    Some(())
}

/// A scalar type: lists are only ever made, by `last_n` and its kind.
fn data_type(noun: &str, word: &Word<'_>, node: Node<'_>, reports: &mut Reports<'_>) -> Option<DataType> {
    let text = node.string(&format!("the type of `{}`", word.text), reports)?;
    let found: Option<DataType> = text.value.parse().ok();
    if let Some(DataType::List(items)) = found {
        let remedy = match noun {
            "column" => "`unnest` makes an event of each element of an array",
            _ => "send each value as an input of its own",
        };
        let help = format!("use \"{}\": {remedy}", items.data_type());
        let message = format!(
            "{noun} `{}` can't be a list: lists are what last_n() and its kind give",
            word.text
        );
        reports.add(&text.place(), "list-type", message, Some(help));
        return None;
    }
    if found.is_none() {
        let names = DataType::ALL.into_iter().map(DataType::name);
        // The names that other systems use for the same thing.
        let alias = match text.value.to_lowercase().as_str() {
            "str" | "text" | "utf8" | "varchar" | "object" => Some("string"),
            "boolean" => Some("bool"),
            "int" | "integer" | "int32" => Some("i32"),
            "long" | "bigint" | "int64" => Some("i64"),
            "float" | "float32" | "real" => Some("f32"),
            "double" | "float64" | "number" => Some("f64"),
            "datetime" | "date" | "time" => Some("timestamp"),
            _ => None,
        };
        let help = match alias {
            Some(alias) => super::report::did_you_mean(Some(alias)),
            None => choose(text.value, "known types", names),
        };
        reports.add(
            &text.place(),
            "unknown-type",
            format!("there is no type `{}`", text.value),
            help,
        );
    }
    found
}
