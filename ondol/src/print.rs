//! What the command line prints: tables for people, JSON for programs, a bar while something takes long.

#![allow(clippy::print_stdout, reason = "this is where the command line prints")]

use crate::cli::Output;
use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::Serialize;
use std::fmt::Write;
use std::io::IsTerminal as _;
use std::time::Duration;

/// Prints `value` as JSON, or what `text` makes of it.
pub(crate) fn result<T: Serialize>(output: Output, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(value)?),
        Output::Text => println!("{}", text(value).trim_end()),
    }
    Ok(())
}

/// A line of a story told on standard output.
pub(crate) fn line(line: impl AsRef<str>) {
    println!("{}", line.as_ref());
}

/// Fills a terminal with `text`, from its top.
pub(crate) fn screen(text: &str) {
    // Home, then clear what stands below each line and below the last one: no flicker.
    let lines: Vec<String> = text.lines().map(|line| format!("{line}\u{1b}[K")).collect();
    println!("\u{1b}[H{}\u{1b}[J", lines.join("\n"));
}

/// A table with a header and no clutter.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// As [`table`], of as many columns as there are, none of them wrapped.
pub(crate) fn wide_table(header: Vec<String>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// A bar on a terminal, nothing elsewhere. `total` may be unknown.
pub(crate) fn progress(total: Option<u64>, unit: &str) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::no_length(),
    };
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.set_style(bar_style(total.is_some(), unit));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// How a bar looks while its end is known, or is not.
pub(crate) fn bar_style(known: bool, unit: &str) -> ProgressStyle {
    let template = if known {
        format!("{{msg:24}} {{bar:32}} {{human_pos}}/{{human_len}} {unit} {{rate}} {{eta}}")
    } else {
        format!("{{msg:24}} {{spinner}} {{human_pos}} {unit} {{rate}}")
    };
    let rate = |state: &ProgressState, text: &mut dyn Write| {
        // Writing to a string can't fail.
        let _ = write!(text, "{:.0}/s", state.per_sec());
    };
    ProgressStyle::with_template(&template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", rate)
}
