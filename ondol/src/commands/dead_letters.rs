//! `dead-letters …`: what could not be taken of a stream, why, and what is done about it.

use crate::cli::{
    DeadLettersCommand, DiscardArgs, FixLetterArgs, LetterChoice, LetterFilter, LetterSourceArgs, ListLettersArgs,
    Output, ReplayArgs, ShowLetterArgs,
};
use crate::commands::correction;
use crate::print;
use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ondol_ingest_api::wire::{
    DeadLetterEntry, DeadLetterQuery, DeadLetterSummary, DiscardRequest, FixRequest, HandledReceipt, LetterPosition,
    LetterRefusal, ReplayRequest,
};
use ondol_ingest_api::{Ingest, IngestError};
use serde_json::json;
use std::collections::BTreeMap;

/// Letters listed or handled in one request.
const PAGE: u32 = 500;
/// Refusals that are told one by one.
const TOLD: usize = 20;

/// `ondol dead-letters`.
pub(crate) async fn run(command: &DeadLettersCommand, output: Output) -> Result<()> {
    match command {
        DeadLettersCommand::List(args) => list(args, output).await,
        DeadLettersCommand::Summary(args) => summary(args, output).await,
        DeadLettersCommand::Show(args) => show(args, output).await,
        DeadLettersCommand::Fix(args) => fix(args, output).await,
        DeadLettersCommand::Replay(args) => replay(args, output).await,
        DeadLettersCommand::Discard(args) => discard(args, output).await,
    }
}

fn query(filter: &LetterFilter, all: bool) -> DeadLetterQuery {
    DeadLetterQuery {
        limit: PAGE,
        reason: filter.reason.clone(),
        partition: filter.partition,
        since: filter.since,
        all,
        ..DeadLetterQuery::default()
    }
}

async fn list(args: &ListLettersArgs, output: Output) -> Result<()> {
    let ingest = args.connect.ingest()?;
    let wanted = if args.limit == 0 { u64::MAX } else { args.limit };
    let mut query = query(&args.filter, args.all);
    let mut letters: Vec<DeadLetterEntry> = Vec::new();
    loop {
        let left = wanted.saturating_sub(letters.len() as u64);
        query.limit = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let page = ingest.dead_letters(&args.source, query.clone()).await?;
        letters.extend(page.letters);
        query.after = page.next;
        if query.after.is_none() || letters.len() as u64 >= wanted {
            break;
        }
    }
    let more = query.after.is_some();
    print::result(output, &letters, |letters: &Vec<DeadLetterEntry>| {
        if letters.is_empty() {
            let which = if args.all { "" } else { " that waits to be handled" };
            return format!("`{}` has no dead letter{which}", args.source);
        }
        let mut text = table(letters);
        if more {
            text.push_str(&format!(
                "\nthere are more: --limit 0 lists all, `ondol dead-letters summary {}` counts them",
                args.source
            ));
        }
        text
    })
}

fn table(letters: &[DeadLetterEntry]) -> String {
    let rows = letters.iter().map(|entry| {
        let letter = &entry.letter;
        [
            LetterPosition(letter.position).to_string(),
            letter.at.to_string(),
            entry.state.name().to_owned(),
            letter.reason.clone(),
            letter.detail.clone(),
        ]
    });
    print::table(["letter", "given up", "state", "reason", "detail"], rows)
}

async fn summary(args: &LetterSourceArgs, output: Output) -> Result<()> {
    let summary = args.connect.ingest()?.dead_letter_summary(&args.source).await?;
    print::result(output, &summary, |summary: &DeadLetterSummary| {
        let count = |counts: &BTreeMap<String, u64>| {
            let parts = counts.iter().map(|(name, count)| format!("{count} {name}"));
            parts.collect::<Vec<_>>().join(", ")
        };
        let mut lines = Vec::new();
        if summary.states.is_empty() {
            lines.push(format!("`{}` has no dead letters", summary.source));
        } else {
            lines.push(format!(
                "dead letters of `{}`: {}",
                summary.source,
                count(&summary.states)
            ));
        }
        if !summary.open.is_empty() {
            lines.push(format!("to be handled: {}", count(&summary.open)));
        }
        if summary.not_counted > 0 {
            lines.push(format!("{} older ones are not counted", summary.not_counted));
        }
        if !summary.skipped.is_empty() {
            let rows = summary.skipped.iter().map(|range| {
                [
                    range.partition.to_string(),
                    range.from.to_string(),
                    range.to.to_string(),
                    range.at.to_string(),
                    range.reason.clone(),
                ]
            });
            lines.push(format!(
                "skipped on purpose:\n{}",
                print::table(["partition", "from", "to", "asked for", "reason"], rows)
            ));
        }
        lines.join("\n")
    })
}

/// The letter at `position`.
async fn letter(ingest: &dyn Ingest, source: &str, position: LetterPosition) -> Result<DeadLetterEntry> {
    let query = DeadLetterQuery {
        position: Some(position),
        ..DeadLetterQuery::default()
    };
    let page = ingest.dead_letters(source, query).await?;
    let unknown = || IngestError::UnknownLetter {
        source_name: source.to_owned(),
        position: position.to_string(),
    };
    Ok(page.letters.into_iter().next().ok_or_else(unknown)?)
}

async fn show(args: &ShowLetterArgs, output: Output) -> Result<()> {
    let entry = letter(args.connect.ingest()?.as_ref(), &args.source, args.position).await?;
    print::result(output, &entry, |entry| {
        let letter = &entry.letter;
        let mut lines = vec![
            format!("letter     {} of `{}`", LetterPosition(letter.position), letter.source),
            format!("reason     {}: {}", letter.reason, letter.detail),
            format!("given up   {}", letter.at),
        ];
        if let Some(timestamp) = letter.timestamp {
            lines.push(format!("written    {timestamp}"));
        }
        let since = entry
            .state_since
            .map(|since| format!(" since {since}"))
            .unwrap_or_default();
        lines.push(format!("state      {}{since}", entry.state.name()));
        if let Some(origin) = letter.replay_of {
            lines.push(format!("replay of  {}", LetterPosition(origin)));
        }
        if let Some(key) = &letter.key_base64 {
            lines.push(format!("key        {}", readable(key)));
        }
        for header in &letter.headers {
            lines.push(format!(
                "header     {}: {}",
                header.name,
                readable(&header.value_base64)
            ));
        }
        lines.push(format!("message\n{}", readable(&letter.payload_base64)));
        if let Some(fixed) = &entry.fixed_base64 {
            lines.push(format!("corrected\n{}", readable(fixed)));
        }
        lines.join("\n")
    })
}

/// Text as it is, JSON laid out, anything else as base64.
fn readable(base64: &str) -> String {
    let Ok(bytes) = STANDARD.decode(base64) else {
        return base64.to_owned();
    };
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes)
        && (value.is_object() || value.is_array())
        && let Ok(pretty) = serde_json::to_string_pretty(&value)
    {
        return pretty;
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => text,
        _ => format!("base64 {base64}"),
    }
}

async fn fix(args: &FixLetterArgs, output: Output) -> Result<()> {
    let ingest = args.connect.ingest()?;
    let entry = letter(ingest.as_ref(), &args.source, args.position).await?;
    let before = entry.fixed_base64.as_ref().unwrap_or(&entry.letter.payload_base64);
    let before = STANDARD.decode(before).context("the letter's message can't be read")?;
    if entry.letter.truncated && entry.fixed_base64.is_none() && args.payload_file.is_none() {
        bail!("only the start of the message was kept: give the whole with --payload-file");
    }
    let payload = match &args.payload_file {
        Some(file) => std::fs::read(file).with_context(|| format!("can't read `{}`", file.display()))?,
        None if args.edit => correction::edit(&before)?,
        None => correction::set(&before, &args.set)?,
    };
    let request = FixRequest {
        position: args.position,
        payload_base64: STANDARD.encode(payload),
    };
    let receipt = ingest.fix(&args.source, request).await?;
    let mut replayed = false;
    if args.replay && receipt.still_bad.is_none() {
        let request = ReplayRequest {
            positions: vec![args.position],
            ..ReplayRequest::default()
        };
        let handled = ingest.replay(&args.source, request).await?;
        if let Some(refusal) = handled.refused.first() {
            bail!("the letter is corrected, and was not replayed: {}", refusal.detail);
        }
        replayed = true;
    }
    let summary =
        json!({"source": args.source, "position": args.position, "still_bad": receipt.still_bad, "replayed": replayed});
    print::result(output, &summary, |_| match (&receipt.still_bad, replayed) {
        (Some(refusal), _) => format!(
            "{} is corrected, and would still be refused: {}: {}",
            args.position, refusal.code, refusal.detail
        ),
        (None, true) => format!("{} is corrected and replayed", args.position),
        (None, false) => format!(
            "{} is corrected and would be taken now: `ondol dead-letters replay {} {}`",
            args.position, args.source, args.position
        ),
    })
}

/// The letters that `choice` names, newest first.
async fn choose(ingest: &dyn Ingest, source: &str, choice: &LetterChoice) -> Result<Vec<LetterPosition>> {
    if !choice.positions.is_empty() {
        return Ok(choice.positions.clone());
    }
    let mut query = query(&choice.filter, false);
    let mut positions = Vec::new();
    loop {
        let page = ingest.dead_letters(source, query.clone()).await?;
        positions.extend(page.letters.iter().map(|entry| LetterPosition(entry.letter.position)));
        query.after = page.next;
        if query.after.is_none() {
            return Ok(positions);
        }
    }
}

async fn replay(args: &ReplayArgs, output: Output) -> Result<()> {
    let ingest = args.connect.ingest()?;
    // Oldest first, as they came.
    let mut positions = choose(ingest.as_ref(), &args.source, &args.choice).await?;
    positions.reverse();
    let bar = print::progress(Some(positions.len() as u64), "letters");
    let mut receipt = HandledReceipt::default();
    for positions in positions.chunks(PAGE as usize) {
        let request = ReplayRequest {
            positions: positions.to_vec(),
            again: args.again,
            unchecked: args.unchecked,
            dry_run: args.dry_run,
        };
        let done = ingest.replay(&args.source, request).await.map_err(|error| {
            let handled = receipt.handled.len();
            anyhow::Error::from(error).context(format!("stopped after {handled} letters were replayed"))
        })?;
        receipt.handled.extend(done.handled);
        receipt.refused.extend(done.refused);
        bar.inc(positions.len() as u64);
    }
    bar.finish_and_clear();
    let done = if args.dry_run { "would be replayed" } else { "replayed" };
    report(output, &receipt, done)
}

async fn discard(args: &DiscardArgs, output: Output) -> Result<()> {
    let ingest = args.connect.ingest()?;
    let positions = choose(ingest.as_ref(), &args.source, &args.choice).await?;
    let mut receipt = HandledReceipt::default();
    for positions in positions.chunks(PAGE as usize) {
        let request = DiscardRequest {
            positions: positions.to_vec(),
            reason: args.note.clone(),
        };
        let done = ingest.discard(&args.source, request).await?;
        receipt.handled.extend(done.handled);
        receipt.refused.extend(done.refused);
    }
    report(output, &receipt, "discarded")
}

/// Prints what became of the letters; it is an error when none of those that were named was handled.
fn report(output: Output, receipt: &HandledReceipt, done: &str) -> Result<()> {
    let refused = refusals(&receipt.refused);
    if receipt.handled.is_empty() && !receipt.refused.is_empty() {
        bail!("no letter {done}:\n{refused}");
    }
    print::result(output, receipt, |receipt| {
        let handled = match receipt.handled.len() {
            0 => return "there is no such letter to be handled".to_owned(),
            1 => format!("1 letter {done}"),
            count => format!("{count} letters {done}"),
        };
        match receipt.refused.len() {
            0 => handled,
            count => format!("{handled}; {count} not:\n{refused}"),
        }
    })
}

fn refusals(refused: &[LetterRefusal]) -> String {
    let told = refused.iter().take(TOLD);
    let mut lines: Vec<String> = told
        .map(|refusal| format!("  {}  {}: {}", refusal.position, refusal.code, refusal.detail))
        .collect();
    if refused.len() > TOLD {
        lines.push(format!("  and {} more", refused.len() - TOLD));
    }
    lines.join("\n")
}
