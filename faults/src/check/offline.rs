//! The event log, read by strangers' programs: each good event once, with the right values, and nothing else; the
//! positions committed with the files at the topic's ends.

use super::{Findings, Truth};
use crate::estate::Estate;
use crate::oracle::Event;
use crate::producer::wall_us;
use crate::views::SOURCE;
use anyhow::{Context as _, Result, bail};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use arrow::ipc::reader::StreamReader;
use ondol_testkit::services;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const AREA: &str = "offline log";
const SCRIPT: &str = include_str!("../../readers/read_log.py");

/// What the script prints.
#[derive(Deserialize)]
struct Answer {
    positions: BTreeMap<String, Option<i64>>,
    version: i64,
    software: String,
}

/// What was read, for the report.
#[derive(Clone, Debug)]
pub(crate) struct LogRead {
    pub(crate) commits: i64,
    pub(crate) software: String,
}

/// A row of the log.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    event: Event,
    ingested_at: i64,
    generation: String,
    date: String,
}

/// Compares the log with the topic.
pub(crate) fn check(estate: &Estate, truth: &Truth, folder: &Path, findings: &mut Findings) -> Result<LogRead> {
    let out = folder.join("log.arrow");
    let applications: BTreeMap<String, i32> = truth
        .ends
        .keys()
        .map(|partition| (format!("ondol/{SOURCE}/{}/{partition}", estate.generation), *partition))
        .collect();
    let answer = read(&estate.table(), &out, applications.keys(), folder)?;
    for (application, partition) in &applications {
        let (found, wanted) = (
            answer.positions.get(application).copied().flatten(),
            truth.ends.get(partition),
        );
        if found.as_ref() != wanted {
            let what = format!("partition {partition} is committed up to {found:?}, its end is {wanted:?}");
            findings.differ("offline position", what, None);
        }
    }
    findings.compared("offline positions", applications.len());
    let rows = rows(&out)?;
    findings.compared("offline rows", rows.len());
    compare(truth, &rows, &estate.generation, findings);
    Ok(LogRead {
        commits: answer.version,
        software: answer.software,
    })
}

fn read<'a>(table: &Path, out: &Path, applications: impl Iterator<Item = &'a String>, folder: &Path) -> Result<Answer> {
    let script = folder.join("read_log.py");
    std::fs::write(&script, SCRIPT)?;
    let output = Command::new(services::python())
        .arg(&script)
        .args([table, out])
        .args(applications)
        .output()
        .context("Python can't be run")?;
    if !output.status.success() {
        bail!("the log can't be read: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("the script printed something else")
}

fn rows(path: &Path) -> Result<Vec<Row>> {
    let reader = StreamReader::try_new_buffered(std::fs::File::open(path)?, None)?;
    let mut rows = Vec::new();
    for batch in reader {
        of_batch(&batch?, &mut rows)?;
    }
    Ok(rows)
}

fn of_batch(batch: &RecordBatch, rows: &mut Vec<Row>) -> Result<()> {
    let column = |name: &str| {
        batch
            .column_by_name(name)
            .with_context(|| format!("no column `{name}`"))
    };
    let text = |name: &str, row: usize| -> Result<Option<String>> {
        let column = column(name)?
            .as_string_opt::<i32>()
            .with_context(|| format!("`{name}` is no text"))?;
        Ok(column.is_valid(row).then(|| column.value(row).to_owned()))
    };
    let long = |name: &str, row: usize| -> Result<i64> {
        let column = column(name)?
            .as_primitive_opt::<Int64Type>()
            .with_context(|| format!("`{name}` is no integer"))?;
        if column.is_null(row) {
            bail!("`{name}` is null in row {row}");
        }
        Ok(column.value(row))
    };
    let partitions = column("_partition")?
        .as_primitive_opt::<Int32Type>()
        .context("`_partition` is no integer")?;
    let amounts = column("amount")?
        .as_primitive_opt::<Float64Type>()
        .context("`amount` is no float")?;
    let declined = column("declined")?
        .as_boolean_opt()
        .context("`declined` is no truth value")?;
    let late = column("_late")?.as_boolean_opt().context("`_late` is no truth value")?;
    for row in 0..batch.num_rows() {
        let event = Event {
            time: long("ts", row)?,
            partition: partitions.value(row),
            offset: long("_offset", row)?,
            card: text("card_id", row)?.unwrap_or_default(),
            merchant: text("merchant_id", row)?.unwrap_or_default(),
            amount: amounts.is_valid(row).then(|| amounts.value(row)),
            cents: long("cents", row)?,
            declined: declined.value(row),
            country: text("country", row)?,
            number: long("number", row)?,
            late: late.is_valid(row) && late.value(row),
        };
        rows.push(Row {
            event,
            ingested_at: long("ingested_at", row)?,
            generation: text("_generation", row)?.unwrap_or_default(),
            date: text("event_date", row)?.unwrap_or_default(),
        });
    }
    Ok(())
}

fn compare(truth: &Truth, rows: &[Row], generation: &str, findings: &mut Findings) {
    let mut found: BTreeMap<(i32, i64), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        found
            .entry((row.event.partition, row.event.offset))
            .or_default()
            .push(row);
    }
    let now = wall_us();
    for event in &truth.events {
        let place = (event.partition, event.offset);
        let produced_ms = truth.produced_ms(place.0, place.1);
        let rows = found.remove(&place).unwrap_or_default();
        let what = match rows.as_slice() {
            [] => format!("{place:?} is missing"),
            [row] => match complaint(event, row, generation, produced_ms, now) {
                Some(complaint) => format!("{place:?}: {complaint}"),
                None => continue,
            },
            many => format!("{place:?} stands there {} times", many.len()),
        };
        findings.differ(AREA, what, produced_ms);
    }
    for (place, rows) in found {
        let what = format!("{place:?} stands there {} times and is no good event", rows.len());
        findings.differ(AREA, what, truth.produced_ms(place.0, place.1));
    }
}

fn complaint(event: &Event, row: &Row, generation: &str, produced_ms: Option<i64>, now: i64) -> Option<String> {
    if *event != row.event {
        return Some(format!("holds {:?}, the topic {event:?}", row.event));
    }
    if row.generation != generation {
        return Some(format!("is of generation `{}`, not `{generation}`", row.generation));
    }
    let date = chrono::DateTime::from_timestamp_micros(event.time).map(|time| time.format("%Y-%m-%d").to_string());
    if date.as_deref() != Some(&row.date) {
        return Some(format!("stands at {} in the partition of {}", event.time, row.date));
    }
    // Timestamps of the topic are whole milliseconds.
    let earliest = produced_ms.unwrap_or_default() * 1_000;
    if row.ingested_at < earliest || row.ingested_at > now {
        return Some(format!("was accepted at {}, produced at {earliest}", row.ingested_at));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Generator;
    use crate::topic::Record;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const GENERATION: &str = "cluster/topic";

    fn truth() -> Truth {
        let mut generator = Generator::new(StdRng::seed_from_u64(1));
        let wall_us = wall_us();
        let records = (0..200).map(|offset| {
            let message = generator.next(wall_us, wall_us);
            Record {
                partition: 0,
                offset,
                timestamp_ms: wall_us / 1_000 - 5_000,
                payload: message.payload,
                verdict: message.verdict.to_owned(),
                number: Some(message.number),
            }
        });
        Truth::of(records.collect()).unwrap()
    }

    fn log(truth: &Truth) -> Vec<Row> {
        let row = |event: &Event| Row {
            event: event.clone(),
            ingested_at: wall_us() - 1_000_000,
            generation: GENERATION.to_owned(),
            date: chrono::DateTime::from_timestamp_micros(event.time)
                .unwrap()
                .format("%Y-%m-%d")
                .to_string(),
        };
        truth.events.iter().map(row).collect()
    }

    fn differences(change: impl FnOnce(&mut Vec<Row>)) -> Vec<String> {
        let truth = truth();
        let mut rows = log(&truth);
        change(&mut rows);
        let mut findings = Findings::default();
        compare(&truth, &rows, GENERATION, &mut findings);
        findings.described.into_iter().map(|found| found.what).collect()
    }

    #[test]
    fn a_log_that_holds_each_good_event_once_has_no_differences() {
        assert!(differences(|_| {}).is_empty());
    }

    #[test]
    fn a_missing_a_repeated_a_changed_and_an_additional_row_are_found() {
        assert!(differences(|rows| drop(rows.remove(7)))[0].ends_with("is missing"));
        assert!(differences(|rows| rows.push(rows[7].clone()))[0].ends_with("stands there 2 times"));
        assert!(differences(|rows| rows[7].event.cents += 1)[0].contains("holds"));
        assert!(differences(|rows| rows[7].generation = "other".to_owned())[0].contains("generation"));
        assert!(differences(|rows| rows[7].ingested_at = 0)[0].contains("was accepted"));
        let added = differences(|rows| {
            let mut row = rows[7].clone();
            row.event.offset = 1_000;
            rows.push(row);
        });
        assert!(added[0].ends_with("is no good event"));
    }
}
