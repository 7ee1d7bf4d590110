//! `[source.NAME]`: where events or rows come from.

use super::decisions::DECISIONS;
use super::duration;
use super::name;
use super::report::{Reports, choose};
use super::tree::{Node, Section, Text, Word};
use ondol_vocabulary::{
    Arrival, DataType, Field, MessageShape, SourceDefinition, SourceOrigin, StreamFormat, TableFormat,
};

const KEYS: [&str; 9] = [
    "kafka", "parquet", "delta", "time", "late", "format", "arrival", "delay", "schema",
];
const ORIGINS: [&str; 3] = ["kafka", "parquet", "delta"];

/// Compiles a source. `None` when it is too broken for views to be checked against it.
pub(super) fn compile(name: &Word<'_>, section: &Section<'_>, reports: &mut Reports<'_>) -> Option<SourceDefinition> {
    name::check("source", name, reports);
    if name.text == DECISIONS {
        let help = "the platform writes its predictions there: choose another name; views may read it as it is";
        reports.add(
            &name.place,
            "reserved-name",
            "`decisions` is a built-in source",
            Some(help.to_owned()),
        );
        return None;
    }
    section.only(&KEYS, reports);
    let origin = origin(section, reports);
    let late_us = late(section, origin.as_ref(), reports);
    let arrival = arrival(section, origin.as_ref(), reports);
    let schema = schema(section, reports);
    let time = time(section, schema.as_deref(), reports);
    Some(SourceDefinition {
        name: name.text.to_owned(),
        origin: origin?,
        time: time?,
        late_us,
        arrival,
        schema: schema?,
    })
}

fn origin(section: &Section<'_>, reports: &mut Reports<'_>) -> Option<SourceOrigin> {
    let mut given = section
        .entries()
        .iter()
        .filter(|(word, _)| ORIGINS.contains(&word.text));
    let Some((word, node)) = given.next() else {
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
    let format = stream_format(section, word.text, reports);
    let location = node.string(&format!("`{}`", word.text), reports)?;
    if location.value.is_empty() {
        reports.add(
            &location.place(),
            "empty-value",
            format!("`{}` is empty", word.text),
            None,
        );
        return None;
    }
    let owned = location.value.to_owned();
    Some(match word.text {
        "kafka" => SourceOrigin::Stream {
            topic: topic(location, reports)?,
            format,
            shape: MessageShape::default(),
        },
        "parquet" => SourceOrigin::Table {
            location: owned,
            format: TableFormat::Parquet,
        },
        _ => SourceOrigin::Table {
            location: owned,
            format: TableFormat::Delta,
        },
    })
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

fn stream_format(section: &Section<'_>, origin: &str, reports: &mut Reports<'_>) -> StreamFormat {
    let Some((word, _)) = section.get("format") else {
        return StreamFormat::Json;
    };
    if origin != "kafka" {
        let message = format!("`format` is for streams: `{origin}` is a format of its own");
        reports.add(&word.place, "misplaced-key", message, Some("remove it".to_owned()));
        return StreamFormat::Json;
    }
    let Some(text) = section.text("format", reports) else {
        return StreamFormat::Json;
    };
    match text.value {
        "json" => {}
        "avro" | "protobuf" => {
            let message = format!("format `{}` is not supported yet", text.value);
            reports.add(
                &text.place(),
                "unsupported-format",
                message,
                Some("use json".to_owned()),
            );
        }
        other => {
            let help = choose(other, "known formats", ["json"].into_iter());
            reports.add(
                &text.place(),
                "unknown-format",
                format!("there is no format `{other}`"),
                help,
            );
        }
    }
    StreamFormat::Json
}

fn late(section: &Section<'_>, origin: Option<&SourceOrigin>, reports: &mut Reports<'_>) -> i64 {
    let Some((word, node)) = section.get("late") else {
        return 0;
    };
    if matches!(origin, Some(SourceOrigin::Table { .. })) {
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

fn arrival(section: &Section<'_>, origin: Option<&SourceOrigin>, reports: &mut Reports<'_>) -> Arrival {
    let is_table = matches!(origin, Some(SourceOrigin::Table { .. }));
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

fn schema(section: &Section<'_>, reports: &mut Reports<'_>) -> Option<Vec<Field>> {
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
    fields("column", &columns, reports)
}

/// `name = "type"` entries. `None` if any is wrong.
pub(super) fn fields(noun: &str, section: &Section<'_>, reports: &mut Reports<'_>) -> Option<Vec<Field>> {
    let mut fields = Some(Vec::with_capacity(section.entries().len()));
    for (word, node) in section.entries() {
        name::check_column(noun, word, reports);
        let data_type = data_type(word, *node, reports);
        match (data_type, fields.as_mut()) {
            (Some(data_type), Some(fields)) => fields.push(Field {
                name: word.text.to_owned(),
                data_type,
            }),
            _ => fields = None,
        }
    }
    fields
}

fn data_type(word: &Word<'_>, node: Node<'_>, reports: &mut Reports<'_>) -> Option<DataType> {
    let text = node.string(&format!("the type of `{}`", word.text), reports)?;
    let found = text.value.parse().ok();
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
