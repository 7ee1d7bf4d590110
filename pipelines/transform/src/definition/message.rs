//! What a message of a stream is: its encoding, what stands before it, and what it stands for.

use super::column::path;
use super::report::{Reports, choose};
use super::tree::{Section, Text, Word};
use ondol_vocabulary::{ChangeFormat, ColumnOrigin, ColumnReading, Framing, MessageShape, StreamFormat, Tombstones};
use std::collections::BTreeMap;

const FORMATS: [&str; 3] = ["json", "avro", "protobuf"];
/// Keys of this module; what they say of a table is refused.
const KEYS: [&str; 8] = [
    "format",
    "framing",
    "schema-text",
    "schema-file",
    "message",
    "unnest",
    "changes",
    "tombstones",
];

/// Compiles what a stream's messages are. `None` when something is wrong.
pub(super) fn compile(
    section: &Section<'_>,
    columns: BTreeMap<String, ColumnReading>,
    reports: &mut Reports<'_>,
) -> Option<(StreamFormat, MessageShape)> {
    let encoding = encoding(section, reports);
    let unnest = match section.get("unnest") {
        None => Some(None),
        Some((_, node)) => path("`unnest`", *node, reports).map(Some),
    };
    let changes = changes(section, reports);
    let tombstones = tombstones(section, reports);
    let (format, framing) = encoding?;
    let shape = MessageShape {
        framing,
        columns,
        unnest: unnest?,
        changes: changes?,
        tombstones: tombstones?,
    };
    check(section, &shape, reports)?;
    check_json(section, &format, &shape, reports)?;
    Some((format, shape))
}

/// Reports every key of messages: a table of kind `origin` has none.
pub(super) fn refuse(section: &Section<'_>, origin: &str, reports: &mut Reports<'_>) {
    for (word, _) in section.entries() {
        if KEYS.contains(&word.text) {
            let reason = match word.text {
                "format" => format!("`{origin}` is a format of its own"),
                _ => "a table has no messages".to_owned(),
            };
            let message = format!("`{}` is for streams: {reason}", word.text);
            reports.add(&word.place, "misplaced-key", message, Some("remove it".to_owned()));
        }
    }
}

fn encoding(section: &Section<'_>, reports: &mut Reports<'_>) -> Option<(StreamFormat, Framing)> {
    let name = match section.get("format") {
        None => "json",
        Some(_) => {
            let text = section.text("format", reports)?;
            if !FORMATS.contains(&text.value) {
                let help = choose(text.value, "known formats", FORMATS.into_iter());
                let message = format!("there is no format `{}`", text.value);
                reports.add(&text.place(), "unknown-format", message, help);
                return None;
            }
            text.value
        }
    };
    let schema = schema(section, name, reports)?;
    let message = match (section.get("message"), name) {
        (None, _) => None,
        (Some(_), "protobuf") => Some(section.text("message", reports)?.value.to_owned()),
        (Some((word, _)), _) => {
            misplaced(word, "names a Protobuf message", name, reports);
            return None;
        }
    };
    let framing = framing(section, name, schema.is_some(), reports)?;
    let format = match name {
        "json" => StreamFormat::Json,
        "avro" => StreamFormat::Avro { schema },
        _ => StreamFormat::Protobuf { schema, message },
    };
    Some((format, framing))
}

/// The schema given with the source. The outer `None`: it is wrong.
fn schema(section: &Section<'_>, format: &str, reports: &mut Reports<'_>) -> Option<Option<String>> {
    let given = ["schema-text", "schema-file"].map(|key| section.get(key));
    let (word, text) = match given {
        [None, None] => return Some(None),
        [Some((word, _)), None] => (word, section.text("schema-text", reports)?),
        [None, Some((word, _))] => (word, section.text("schema-file", reports)?),
        [Some(_), Some((word, _))] => {
            let message = "the message's schema is already given by `schema-text`";
            reports.add(
                &word.place,
                "duplicate-name",
                message,
                Some("keep one of them".to_owned()),
            );
            return None;
        }
    };
    if format == "json" {
        misplaced(word, "is a schema of Avro or Protobuf messages", format, reports);
        return None;
    }
    let content = match word.text {
        "schema-text" => text.value.to_owned(),
        _ => file(text, reports)?,
    };
    if content.trim().is_empty() {
        reports.add(&text.place(), "empty-value", "the message's schema is empty", None);
        return None;
    }
    Some(Some(content))
}

/// The content of a file that was sent along.
fn file(name: Text<'_>, reports: &mut Reports<'_>) -> Option<String> {
    let content = reports.beside(&name.place(), name.value);
    if content.is_none() {
        let message = format!("the schema file `{}` was not sent along", name.value);
        let help = "`schema-file` is relative to the definition file, and ends in .avsc, .proto or .json: `ondol` reads \
            it; another client sends it among the files, or gives its text as `schema-text`";
        reports.add(&name.place(), "missing-file", message, Some(help.to_owned()));
    }
    content
}

/// By default there is a frame where nothing else says which schema a message has.
fn framing(section: &Section<'_>, format: &str, has_schema: bool, reports: &mut Reports<'_>) -> Option<Framing> {
    let needed = format != "json" && !has_schema;
    if section.get("framing").is_none() {
        return Some(if needed { Framing::Confluent } else { Framing::None });
    }
    let text = section.text("framing", reports)?;
    match text.value {
        "none" if needed => {
            let message = format!("without a frame, nothing tells the schema of the {format} messages");
            let help = "add schema-text = \"…\" or schema-file = \"…\", or set framing = \"confluent\"".to_owned();
            reports.add(&text.place(), "missing-schema", message, Some(help));
            None
        }
        "none" => Some(Framing::None),
        "confluent" => Some(Framing::Confluent),
        other => {
            let help = choose(other, "known framings", ["none", "confluent"].into_iter());
            reports.add(
                &text.place(),
                "unknown-framing",
                format!("there is no framing `{other}`"),
                help,
            );
            None
        }
    }
}

/// The outer `None`: it is wrong.
fn changes(section: &Section<'_>, reports: &mut Reports<'_>) -> Option<Option<ChangeFormat>> {
    if section.get("changes").is_none() {
        return Some(None);
    }
    let text = section.text("changes", reports)?;
    match text.value {
        "debezium" => Some(Some(ChangeFormat::Debezium)),
        other => {
            let help = choose(other, "known formats of changes", ["debezium"].into_iter());
            let message = format!("there is no format of changes `{other}`");
            reports.add(&text.place(), "unknown-changes", message, help);
            None
        }
    }
}

fn tombstones(section: &Section<'_>, reports: &mut Reports<'_>) -> Option<Tombstones> {
    if section.get("tombstones").is_none() {
        return Some(Tombstones::default());
    }
    let text = section.text("tombstones", reports)?;
    match text.value {
        "dead-letter" => Some(Tombstones::DeadLetter),
        "ignore" => Some(Tombstones::Ignore),
        "delete" => Some(Tombstones::Delete),
        other => {
            let known = ["dead-letter", "ignore", "delete"];
            let help = choose(other, "known values", known.into_iter());
            let message = format!("tombstones can't be `{other}`");
            reports.add(&text.place(), "invalid-tombstones", message, help);
            None
        }
    }
}

/// What is right by itself and contradicts something else.
fn check(section: &Section<'_>, shape: &MessageShape, reports: &mut Reports<'_>) -> Option<()> {
    let mut fine = Some(());
    let mut refuse = |key: &str, code: &str, message: &str, help: &str| {
        if let Some((word, _)) = section.get(key) {
            reports.add(&word.place, code, message, Some(help.to_owned()));
        }
        fine = None;
    };
    if shape.changes.is_some() && shape.unnest.is_some() {
        let help = "a change is of one row: remove `unnest`, and read the array's column as it is elsewhere";
        refuse(
            "unnest",
            "conflicting-keys",
            "`unnest` and `changes` exclude each other",
            help,
        );
    }
    if shape.changes.is_some() && section.get("tombstones").is_some() {
        let help = "remove it: the marker that follows a deletion is ignored, since the change before it tells it";
        refuse(
            "tombstones",
            "conflicting-keys",
            "`changes` says what tombstones are",
            help,
        );
    }
    if matches!(shape.tombstones, Tombstones::Delete) && shape.changes.is_none() {
        if shape.unnest.is_some() {
            let help =
                "a marker deletes the row that the record's key names, not elements of its value: remove `unnest`";
            let message = "`unnest` and tombstones = \"delete\" exclude each other";
            refuse("unnest", "conflicting-keys", message, help);
        }
        let has_key = |reading: &ColumnReading| matches!(reading.origin, ColumnOrigin::Key(_));
        if !shape.columns.values().any(has_key) {
            let help = "a marker has nothing but its key: read the key columns of its views from there, such as \
                id = { type = \"string\", key = true }";
            let message = "tombstones delete rows by the record's key, but no column is read from it";
            refuse("tombstones", "missing-key-column", message, help);
        }
    }
    if shape.changes.is_none() {
        let of_envelope =
            |(_, reading): &(&String, &ColumnReading)| matches!(reading.origin, ColumnOrigin::Envelope(_));
        if let Some((name, _)) = shape.columns.iter().find(of_envelope) {
            let message = format!("column `{name}` is read from a change's envelope, but the messages are no changes");
            let help = "add changes = \"debezium\", or use `path`";
            refuse("schema", "misplaced-key", &message, help);
        }
    }
    fine
}

/// Only a JSON message has a JSON text to take.
fn check_json(
    section: &Section<'_>,
    format: &StreamFormat,
    shape: &MessageShape,
    reports: &mut Reports<'_>,
) -> Option<()> {
    let column = shape.columns.iter().find(|(_, reading)| reading.json);
    let (Some((name, _)), false) = (column, matches!(format, StreamFormat::Json)) else {
        return Some(());
    };
    let (word, _) = section.get("schema")?;
    let message = format!(
        "column `{name}` is JSON as it stands in a message, but the messages are {}",
        format.name()
    );
    let help =
        "remove `json`, and name the fields that count: { type = \"string\", path = \"payload.field\" }".to_owned();
    reports.add(&word.place, "misplaced-key", message, Some(help));
    None
}

fn misplaced(word: &Word<'_>, what: &str, format: &str, reports: &mut Reports<'_>) {
    let message = format!("`{}` {what}, but the format is {format}", word.text);
    let help = "remove it, or set `format`".to_owned();
    reports.add(&word.place, "misplaced-key", message, Some(help));
}
