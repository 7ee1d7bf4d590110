//! `ingest status|pause|resume|seek`: where streams stand, and what operators ask of them.

use crate::cli::{IngestCommand, IngestStatusArgs, Output, PauseArgs, ResumeArgs, SeekArgs};
use crate::print;
use anyhow::{Context as _, Result, bail};
use ondol_ingest_api::wire::{
    PartitionStatus, PauseRequest, SeekReceipt, SeekRequest, SeekTarget, SkippedEvents, SourceStatus,
};
use ondol_ingest_api::{Ingest, IngestError};
use ondol_vocabulary::{EventTime, PartitionRange};
use serde_json::json;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// How long `pause` waits until what was taken in is durable.
const DRAIN: Duration = Duration::from_secs(60);

/// `ondol ingest`.
pub(crate) async fn run(command: &IngestCommand, output: Output) -> Result<()> {
    match command {
        IngestCommand::Status(args) => status(args, output).await,
        IngestCommand::Pause(args) => pause(args, output).await,
        IngestCommand::Resume(args) => resume(args, output).await,
        IngestCommand::Seek(args) => seek(args, output).await,
    }
}

/// `ondol ingest status`, and `ondol status`.
pub(crate) async fn status(args: &IngestStatusArgs, output: Output) -> Result<()> {
    let ingest = args.connect.ingest()?;
    if args.watch {
        if output == Output::Json || !std::io::stdout().is_terminal() {
            bail!("--watch needs a terminal: leave it out, or ask again from time to time");
        }
        loop {
            let statuses = chosen(ingest.as_ref(), &args.sources).await?;
            print::screen(&text(&statuses));
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }
    let statuses = chosen(ingest.as_ref(), &args.sources).await?;
    let wrong: Vec<String> = statuses.iter().flat_map(|status| wrong(status, args.max_lag)).collect();
    if args.check && !wrong.is_empty() {
        if output == Output::Text {
            print::line(text(&statuses));
        }
        bail!("{}", wrong.join("; "));
    }
    print::result(output, &statuses, |statuses| text(statuses.as_slice()))
}

async fn chosen(ingest: &dyn Ingest, sources: &[String]) -> Result<Vec<SourceStatus>> {
    let mut statuses = ingest.status().await?;
    for name in sources {
        if statuses.iter().all(|status| status.source != *name) {
            return Err(IngestError::UnknownSource {
                name: name.clone(),
                suggestion: None,
            }
            .into());
        }
    }
    statuses.retain(|status| sources.is_empty() || sources.contains(&status.source));
    Ok(statuses)
}

/// What an operator should be woken for.
fn wrong(status: &SourceStatus, max_lag: Option<f64>) -> Vec<String> {
    let name = &status.source;
    let mut wrong = Vec::new();
    if let Some(error) = &status.error {
        wrong.push(format!("`{name}`: {error}"));
    }
    let unread = status.partitions.iter().filter(|partition| partition.owner.is_none());
    for partition in unread {
        wrong.push(format!("`{name}`: nobody reads partition {}", partition.partition));
    }
    if let (Some(lag), Some(limit)) = (status.lag_seconds, max_lag)
        && lag > limit
    {
        wrong.push(format!("`{name}` is {lag:.1} s behind, more than {limit} s"));
    }
    wrong
}

fn text(statuses: &[SourceStatus]) -> String {
    if statuses.is_empty() {
        return "no stream source is read: apply definitions with one".to_owned();
    }
    let blocks: Vec<String> = statuses.iter().map(block).collect();
    blocks.join("\n\n")
}

fn block(status: &SourceStatus) -> String {
    let mut lines = Vec::new();
    let state = match &status.paused {
        None => "reading".to_owned(),
        Some(pause) => {
            let reason = pause
                .reason
                .as_ref()
                .map(|reason| format!(": {reason}"))
                .unwrap_or_default();
            format!("paused since {}{reason}", pause.since)
        }
    };
    lines.push(format!("{}  (topic {})  {state}", status.source, status.topic));
    let lag = match status.lag_events {
        None => "lag unknown".to_owned(),
        Some(0) => "caught up".to_owned(),
        Some(events) => format!("{events} events behind, {}", seconds(status.lag_seconds)),
    };
    let watermark = status
        .watermark
        .map_or_else(|| "none".to_owned(), |time| time.to_string());
    lines.push(format!(
        "  {lag}; {:.0}/s (10 s), {:.0}/s (1 min); watermark {watermark}",
        status.events_per_second_10s, status.events_per_second_60s
    ));
    lines.push(format!(
        "  {} events, {} dead letters ({} in the last minute), {} late, {} skipped since the workers started",
        status.events, status.dead_letters, status.dead_letters_60s, status.late_events, status.skipped_events
    ));
    if let Some(error) = &status.error {
        lines.push(format!("  held up: {error}"));
    }
    if !status.partitions.is_empty() {
        lines.push(partitions(&status.partitions));
    }
    lines.join("\n")
}

fn partitions(partitions: &[PartitionStatus]) -> String {
    let rows = partitions.iter().map(|partition| {
        [
            partition.partition.to_string(),
            partition.delivered.to_string(),
            partition.durable.to_string(),
            partition.end.map(|end| end.to_string()).unwrap_or_default(),
            partition
                .lag_events
                .map(|events| events.to_string())
                .unwrap_or_default(),
            seconds(partition.lag_seconds),
            format!("{:.0}", partition.events_per_second_10s),
            partition.watermark.map(|time| time.to_string()).unwrap_or_default(),
            partition.dead_letters.to_string(),
            partition.owner.clone().unwrap_or_else(|| "nobody".to_owned()),
        ]
    });
    let header = [
        "partition",
        "delivered",
        "durable",
        "end",
        "lag",
        "waits",
        "events/s",
        "watermark",
        "dead",
        "worker",
    ];
    print::table(header, rows)
}

fn seconds(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "?".to_owned(), |seconds| format!("{seconds:.1} s"))
}

async fn pause(args: &PauseArgs, output: Output) -> Result<()> {
    let ingest = args.connect.ingest()?;
    let reason = args.reason.clone();
    ingest.pause(&args.source, PauseRequest { reason }).await?;
    let drained = !args.no_wait && drained(ingest.as_ref(), &args.source).await?;
    let summary = json!({"source": args.source, "paused": true, "durable": drained});
    print::result(output, &summary, |_| {
        let rest = if drained {
            "what was taken in is delivered and durable"
        } else {
            "what was taken in is being delivered"
        };
        format!(
            "`{}` is paused; {rest}. `ondol ingest resume {}` ends it",
            args.source, args.source
        )
    })
}

/// Waits until everything taken in is durable; `false` when that takes too long.
async fn drained(ingest: &dyn Ingest, source: &str) -> Result<bool> {
    let started = Instant::now();
    while started.elapsed() < DRAIN {
        let statuses = ingest.status().await?;
        let status = statuses.iter().find(|status| status.source == source);
        let durable = |status: &SourceStatus| {
            let mut partitions = status.partitions.iter();
            status.paused.is_some()
                && status.fetch.in_flight_bytes == 0
                && partitions.all(|partition| partition.durable >= partition.delivered)
        };
        if status.is_none_or(durable) {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(false)
}

async fn resume(args: &ResumeArgs, output: Output) -> Result<()> {
    args.connect.ingest()?.resume(&args.source).await?;
    let summary = json!({"source": args.source, "paused": false});
    print::result(output, &summary, |_| format!("`{}` goes on", args.source))
}

async fn seek(args: &SeekArgs, output: Output) -> Result<()> {
    let ingest = args.connect.ingest()?;
    let request = SeekRequest {
        to: target(args)?,
        reason: args.reason.clone(),
        dry_run: true,
    };
    let mut receipt = ingest.seek(&args.source, request.clone()).await?;
    if !args.dry_run && !receipt.skipped.is_empty() {
        if !args.yes {
            confirm(&args.source, &receipt)?;
        }
        let request = SeekRequest {
            dry_run: false,
            ..request
        };
        receipt = ingest.seek(&args.source, request).await?;
    }
    print::result(output, &receipt, |receipt| skipped(&args.source, receipt))
}

fn events(receipt: &SeekReceipt) -> i64 {
    receipt.skipped.iter().map(SkippedEvents::events).sum()
}

fn skipped(source: &str, receipt: &SeekReceipt) -> String {
    if receipt.skipped.is_empty() {
        return format!("`{source}` stands there already: nothing is skipped");
    }
    let rows = receipt.skipped.iter().map(|range| {
        [
            range.partition.to_string(),
            range.from.to_string(),
            range.to.to_string(),
            range.events().to_string(),
        ]
    });
    let table = print::table(["partition", "from", "to", "events"], rows);
    let events = events(receipt);
    if receipt.dry_run {
        return format!("{table}\n{events} events of `{source}` would be skipped: they would count nowhere");
    }
    format!(
        "{table}\n{events} events of `{source}` are skipped; `ondol dead-letters summary {source}` keeps the record"
    )
}

/// Asks on a terminal; refuses elsewhere.
fn confirm(source: &str, receipt: &SeekReceipt) -> Result<()> {
    let events = events(receipt);
    if !std::io::stdin().is_terminal() {
        bail!("{events} events of `{source}` would be skipped and count nowhere: add --yes if that is meant");
    }
    let mut prompt = std::io::stderr().lock();
    write!(
        prompt,
        "{events} events of `{source}` will be skipped and count nowhere. Type `yes` to go on: "
    )?;
    prompt.flush()?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("no answer can be read")?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => bail!("nothing was skipped"),
    }
}

fn target(args: &SeekArgs) -> Result<SeekTarget> {
    if let Some(range) = &args.skip {
        return Ok(SeekTarget::Range {
            range: range_of(range)?,
        });
    }
    let words: Vec<&str> = args.to.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["beginning"] => Ok(SeekTarget::Beginning),
        ["end"] => Ok(SeekTarget::End),
        ["offset", place] => {
            let (partition, offset) = place
                .split_once(':')
                .and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)))
                .with_context(|| format!("`{place}` is no place: write PARTITION:OFFSET, for example 0:4711"))?;
            Ok(SeekTarget::Offset { partition, offset })
        }
        ["timestamp", time] => Ok(SeekTarget::Timestamp {
            at: EventTime::parse(time)?,
        }),
        _ => bail!(
            "`--to {}` names no place: write `end`, `beginning`, `offset PARTITION:OFFSET` or `timestamp TIME`",
            words.join(" ")
        ),
    }
}

/// `P:F..T`, or `P:O` for one event.
fn range_of(text: &str) -> Result<PartitionRange> {
    let parse = || {
        let (partition, offsets) = text.split_once(':')?;
        let partition = partition.parse().ok()?;
        let (from, to): (i64, i64) = match offsets.split_once("..") {
            Some((from, to)) => (from.parse().ok()?, to.parse().ok()?),
            None => {
                let offset: i64 = offsets.parse().ok()?;
                (offset, offset.checked_add(1)?)
            }
        };
        Some(PartitionRange { partition, from, to })
    };
    parse().with_context(|| format!("`{text}` is no range: write PARTITION:FROM..TO, for example 0:10..12"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_may_be_one_event() {
        let range = |partition, from, to| PartitionRange { partition, from, to };
        assert_eq!(range_of("0:10..12").unwrap(), range(0, 10, 12));
        assert_eq!(range_of("3:10").unwrap(), range(3, 10, 11));
        for wrong in ["", "10..12", "0:10..", "0:a", "x:1"] {
            assert!(range_of(wrong).is_err(), "{wrong}");
        }
    }
}
