//! `[source.NAME]`: where events or rows come from.

use super::column::{self, Columns};
use super::decisions::is_built_in;
use super::report::{Reports, choose};
use super::tree::{Node, Section, Text, Word};
use super::{duration, message, name};
use ondol_vocabulary::{Arrival, DataType, Field, SourceDefinition, SourceOrigin, TableFormat};
use std::collections::BTreeMap;

const KEYS: [&str; 16] = [
    "kafka",
    "parquet",
    "delta",
    "time",
    "late",
    "format",
    "framing",
    "schema-text",
    "schema-file",
    "message",
    "unnest",
    "changes",
    "tombstones",
    "arrival",
    "delay",
    "schema",
];
const ORIGINS: [&str; 3] = ["kafka", "parquet", "delta"];

/// Compiles a source. `None` when it is too broken for views to be checked against it.
pub(super) fn compile(name: &Word<'_>, section: &Section<'_>, reports: &mut Reports<'_>) -> Option<SourceDefinition> {
    name::check("source", name, reports);
    if is_built_in(name.text) {
        let help = "the platform writes there what it predicts and what becomes of it: choose another name; views may read it as it is";
        reports.add(
            &name.place,
            "reserved-name",
            format!("`{}` is a built-in source", name.text),
            Some(help.to_owned()),
        );
        return None;
    }
    section.only(&KEYS, reports);
    let origin = origin(section, reports);
    // Without an origin nothing is said of options that only some have.
    let is_stream = origin.is_none_or(|(word, _)| word.text == "kafka");
    let location = origin.and_then(|origin| location(origin, reports));
    let late_us = late(section, is_stream, reports);
    let arrival = arrival(section, is_stream, reports);
    let columns = columns(section, is_stream, reports);
    let time = time(
        section,
        columns.as_ref().map(|columns| columns.fields.as_slice()),
        reports,
    );
    let (fields, readings) = match columns {
        Some(Columns { fields, readings }) => (Some(fields), readings),
        None => (None, BTreeMap::new()),
    };
    let origin = match origin?.0.text {
        "kafka" => {
            let message = message::compile(section, readings, reports);
            let topic = location.and_then(|location| topic(location, reports));
            let (format, shape) = message?;
            SourceOrigin::Stream {
                topic: topic?,
                format,
                shape,
            }
        }
        kind => {
            message::refuse(section, kind, reports);
            SourceOrigin::Table {
                location: location?.value.to_owned(),
                format: match kind {
                    "parquet" => TableFormat::Parquet,
                    _ => TableFormat::Delta,
                },
            }
        }
    };
    Some(SourceDefinition {
        name: name.text.to_owned(),
        origin,
        time: time?,
        late_us,
        arrival,
        schema: fields?,
    })
}

/// The key that says where the data is, and its value.
fn origin<'s, 'a>(section: &'s Section<'a>, reports: &mut Reports<'_>) -> Option<&'s (Word<'a>, Node<'a>)> {
    let mut given = section
        .entries()
        .iter()
        .filter(|(word, _)| ORIGINS.contains(&word.text));
    let first = given.next();
    let Some((word, _)) = first else {
        let help = "add kafka = \"topic\", parquet = \"path or url\" or delta = \"path or url\"";
        let message = format!("`{}` does not say where its data is", section.title);
        reports.add(&section.place, "missing-origin", message, Some(help.to_owned()));
        return None;
    };
    for (second, _) in given {
        let message = format!("`{}` is already read from `{}`", section.title, word.text);
        reports.add(
            &second.place,
            "two-origins",
            message,
            Some("keep one of them".to_owned()),
        );
    }
    first
}

fn location<'a>(origin: &(Word<'a>, Node<'a>), reports: &mut Reports<'_>) -> Option<Text<'a>> {
    let (word, node) = origin;
    let location = node.string(&format!("`{}`", word.text), reports)?;
    if location.value.is_empty() {
        let message = format!("`{}` is empty", word.text);
        reports.add(&location.place(), "empty-value", message, None);
        return None;
    }
    Some(location)
}

/// Kafka's own rule for topic names.
fn topic(text: Text<'_>, reports: &mut Reports<'_>) -> Option<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.value.len() <= 249 && text.value.chars().all(legal) {
        return Some(text.value.to_owned());
    }
    let help = "a topic has at most 249 letters, digits, `.`, `_` and `-`";
    reports.add(
        &text.place(),
        "invalid-topic",
        format!("`{}` is no topic name", text.value),
        Some(help.to_owned()),
    );
    None
}

fn late(section: &Section<'_>, is_stream: bool, reports: &mut Reports<'_>) -> i64 {
    let Some((word, node)) = section.get("late") else {
        return 0;
    };
    if !is_stream {
        let help = "remove it: every row of a table counts";
        reports.add(
            &word.place,
            "misplaced-key",
            "`late` is for streams",
            Some(help.to_owned()),
        );
        return 0;
    }
    micros("late", *node, reports).unwrap_or(0)
}

fn arrival(section: &Section<'_>, is_stream: bool, reports: &mut Reports<'_>) -> Arrival {
    let is_table = !is_stream;
    let mut by_event_time = is_table;
    if let Some(text) = section.text("arrival", reports) {
        match text.value {
            "ingest" if is_table => {
                let help = "use \"event-time\", with a `delay` if rows are known later than their time";
                let message = "a table's rows do not arrive, so `arrival` can't be \"ingest\"";
                reports.add(&text.place(), "invalid-arrival", message, Some(help.to_owned()));
            }
            "ingest" => by_event_time = false,
            "event-time" => by_event_time = true,
            other => {
                let help = choose(other, "known values", ["ingest", "event-time"].into_iter());
                reports.add(
                    &text.place(),
                    "invalid-arrival",
                    format!("there is no arrival `{other}`"),
                    help,
                );
                by_event_time = true;
            }
        }
    }
    let delay = section.get("delay");
    match delay {
        Some((word, _)) if !by_event_time => {
            let help = "add arrival = \"event-time\", or remove `delay`";
            let message = "`delay` needs events that are known by their event time";
            reports.add(&word.place, "misplaced-key", message, Some(help.to_owned()));
            Arrival::Ingest
        }
        None if !by_event_time => Arrival::Ingest,
        _ => Arrival::EventTime {
            delay_us: delay.and_then(|(_, node)| micros("delay", *node, reports)).unwrap_or(0),
        },
    }
}

fn columns(section: &Section<'_>, is_stream: bool, reports: &mut Reports<'_>) -> Option<Columns> {
    let node = section.require("schema", "schema = { column = \"type\", … }", reports)?;
    let (word, _) = section.get("schema")?;
    let columns = node.section(word, &format!("{}.schema", section.title), reports)?;
    if columns.entries().is_empty() {
        let help = "name each column and its type: { card_id = \"string\", ts = \"timestamp\" }";
        reports.add(
            &node.place(),
            "empty-value",
            "the schema has no columns",
            Some(help.to_owned()),
        );
        return None;
    }
    column::compile(&columns, is_stream, reports)
}

fn time(section: &Section<'_>, schema: Option<&[Field]>, reports: &mut Reports<'_>) -> Option<String> {
    let node = section.require("time", "time = \"column\", the column that holds event time", reports)?;
    let text = node.string("`time`", reports)?;
    // With a broken schema nothing can be said of the column.
    let schema = schema?;
    match schema.iter().find(|field| field.name == text.value) {
        Some(field) if field.data_type == DataType::Timestamp => Some(text.value.to_owned()),
        Some(field) => {
            let message = format!(
                "the time column `{}` is {}, but must be timestamp",
                field.name, field.data_type
            );
            reports.add(&text.place(), "invalid-time", message, None);
            None
        }
        None => {
            let times = schema.iter().filter(|field| field.data_type == DataType::Timestamp);
            let help = choose(text.value, "timestamp columns", times.map(|field| field.name.as_str()));
            reports.add(
                &text.place(),
                "unknown-column",
                format!("there is no column `{}`", text.value),
                help,
            );
            None
        }
    }
}

/// The microseconds of a duration; anything else is reported.
pub(super) fn micros(key: &str, node: Node<'_>, reports: &mut Reports<'_>) -> Option<i64> {
    let text = node.string(&format!("`{key}`"), reports)?;
    match duration::parse(text.value) {
        Ok(micros) => Some(micros),
        Err(help) => {
            let message = format!("`{key}` is `{}`, which is no duration", text.value);
            reports.add(&text.place(), "invalid-duration", message, Some(help));
            None
        }
    }
}
