//! What a benchmark found: a table for people, a JSON file to keep. Nothing of it names the machine or its paths.

use anyhow::{Context as _, Result};
use chrono::Utc;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::path::Path;

/// The outcome of one benchmark.
#[derive(Serialize)]
pub(crate) struct Report {
    benchmark: &'static str,
    date: String,
    machine: Machine,
    parameters: Row,
    rows: Vec<Row>,
    notes: Vec<String>,
}

/// What it ran on.
#[derive(Serialize)]
struct Machine {
    cores: usize,
    cpu: Option<String>,
    memory_gib: Option<f64>,
    /// One-minute load average when the benchmark began: above 0, others were at work too.
    load_at_start: Option<f64>,
    profile: &'static str,
}

/// Named values in the order they were given.
#[derive(Clone, Default)]
pub(crate) struct Row(Vec<(&'static str, Value)>);

impl Row {
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// With a measured number, kept to four significant digits: the rest is noise.
    pub(crate) fn figure(self, name: &'static str, value: f64) -> Self {
        let rounded: f64 = format!("{value:.3e}").parse().unwrap_or(value);
        self.with(name, rounded)
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Machine {
    fn here() -> Self {
        let line = |file: &str, prefix: &str| -> Option<String> {
            let text = std::fs::read_to_string(file).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(prefix))?;
            Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
        };
        let first_number = |text: String| text.split_whitespace().next()?.parse::<f64>().ok();
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cpu: line("/proc/cpuinfo", "model name"),
            memory_gib: line("/proc/meminfo", "MemTotal")
                .and_then(first_number)
                .map(|kib| (kib / 1_048_576.0).round()),
            load_at_start: std::fs::read_to_string("/proc/loadavg").ok().and_then(first_number),
            profile: if cfg!(debug_assertions) { "dev" } else { "release" },
        }
    }
}

impl Report {
    /// Made before measuring: it notes the machine's load.
    pub(crate) fn new(benchmark: &'static str, parameters: Row) -> Self {
        let date = Utc::now().format("%Y-%m-%d").to_string();
        Self {
            benchmark,
            date,
            machine: Machine::here(),
            parameters,
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Prints it as a table.
    pub(crate) fn print(&self) {
        println!("{}", self.text().trim_end());
    }

    /// As a table; a column stands where a row first names it.
    fn text(&self) -> String {
        let mut columns: Vec<&'static str> = Vec::new();
        for (name, _) in self.rows.iter().flat_map(|row| &row.0) {
            if !columns.contains(name) {
                columns.push(name);
            }
        }
        let header = columns.iter().map(|name| (*name).to_owned()).collect();
        let cells = self
            .rows
            .iter()
            .map(|row| columns.iter().map(|name| cell(row, name)).collect());
        let table: Vec<Vec<String>> = std::iter::once(header).chain(cells).collect();
        let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns.len()).map(width).collect();
        let Machine {
            cores, load_at_start, ..
        } = &self.machine;
        let load = load_at_start.unwrap_or(0.0);
        let mut lines = vec![format!(
            "{} ({}, {cores} cores, load {load} when it began)",
            self.benchmark, self.date
        )];
        lines.extend(table.iter().map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}"));
            format!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end())
        }));
        lines.extend(self.notes.iter().map(|note| format!("  {note}")));
        lines.join("\n") + "\n"
    }

    /// Writes it as `folder/<benchmark>.json`, and its table as `.txt`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("{}.json", self.benchmark));
        let json = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path.with_extension("txt"), self.text())?;
        std::fs::write(&path, json).with_context(|| format!("can't write `{}`", path.display()))
    }
}

fn cell(row: &Row, name: &str) -> String {
    match row.0.iter().find(|(own, _)| *own == name) {
        None => String::new(),
        Some((_, Value::String(text))) => text.clone(),
        Some((_, value)) => value.to_string(),
    }
}
