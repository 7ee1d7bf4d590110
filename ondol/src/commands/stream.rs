//! `push`: events into a stream, and waiting until they are visible.

use crate::cli::{Output, PushArgs};
use crate::print;
use anyhow::{Context as _, Result, bail};
use ondol_ingest_api::Ingest;
use ondol_ingest_api::wire::PushRequest;
use ondol_vocabulary::SourcePosition;
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

/// Events sent in one request.
const BATCH: usize = 1_000;

/// `ondol push`.
pub(crate) async fn push(args: &PushArgs, output: Output) -> Result<()> {
    let ingest = args.connect.ingest()?;
    let reader: Box<dyn BufRead> = if args.file.as_os_str() == "-" {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        let file = std::fs::File::open(&args.file).with_context(|| format!("can't open `{}`", args.file.display()))?;
        Box::new(BufReader::new(file))
    };
    let before = dead_letters(ingest.as_ref(), &args.source).await?;
    let mut sent = Sent::default();
    send_lines(reader, args, ingest.as_ref(), &mut sent)
        .await
        .map_err(|error| match sent.events {
            0 => error,
            events => error.context(format!(
                "stopped after {events} events, which were appended to `{}`",
                args.source
            )),
        })?;
    let mut dead = 0;
    if !args.no_wait {
        wait_until_delivered(ingest.as_ref(), &args.source, &sent.positions).await?;
        dead = dead_letters(ingest.as_ref(), &args.source)
            .await?
            .saturating_sub(before);
    }
    let summary = json!({"source": args.source, "events": sent.events, "visible": !args.no_wait, "dead_letters": dead});
    print::result(output, &summary, |_| {
        let appended = format!("{} events appended to `{}`", sent.events, args.source);
        match (args.no_wait, dead) {
            (true, _) => appended,
            (false, 0) => format!("{appended}, all visible to online reads"),
            (false, dead) => format!(
                "{appended}; meanwhile {dead} of the source's became dead letters: `ondol dead-letters list {}` says why",
                args.source
            ),
        }
    })
}

/// How many dead letters the source has had since its worker started.
async fn dead_letters(ingest: &dyn Ingest, source: &str) -> Result<u64> {
    let status = ingest.status().await?;
    Ok(status
        .iter()
        .find(|status| status.source == source)
        .map_or(0, |status| status.dead_letters))
}

async fn send_lines(reader: Box<dyn BufRead>, args: &PushArgs, ingest: &dyn Ingest, sent: &mut Sent) -> Result<()> {
    let bar = print::progress(None, "events");
    let mut batch = PushRequest::default();
    for (index, line) in reader.lines().enumerate() {
        let place = || format!("line {} of `{}`", index + 1, args.file.display());
        let line = line.with_context(|| format!("can't read {}", place()))?;
        if line.trim().is_empty() {
            continue;
        }
        if args.records {
            let record = serde_json::from_str(&line);
            batch
                .records
                .push(record.with_context(|| format!("{} is no record", place()))?);
        } else {
            let event = RawValue::from_string(line);
            batch
                .events
                .push(event.with_context(|| format!("{} is not JSON", place()))?);
        }
        if batch.events.len() + batch.records.len() == BATCH {
            sent.send(ingest, &args.source, std::mem::take(&mut batch)).await?;
            bar.set_position(sent.events);
        }
    }
    sent.send(ingest, &args.source, batch).await?;
    bar.finish_and_clear();
    Ok(())
}

/// What has been appended.
#[derive(Default)]
struct Sent {
    events: u64,
    positions: Vec<SourcePosition>,
}

impl Sent {
    async fn send(&mut self, ingest: &dyn Ingest, source: &str, batch: PushRequest) -> Result<()> {
        let count = batch.events.len() + batch.records.len();
        if count == 0 {
            return Ok(());
        }
        let receipt = ingest.push(source, batch).await?;
        self.events += count as u64;
        self.positions.extend(receipt.positions);
        Ok(())
    }
}

/// Waits until ingest has delivered past every one of `positions`.
pub(crate) async fn wait_until_delivered(
    ingest: &dyn Ingest,
    source: &str,
    positions: &[SourcePosition],
) -> Result<()> {
    let mut wanted: BTreeMap<i32, i64> = BTreeMap::new();
    for position in positions {
        let last = wanted.entry(position.partition).or_insert(position.offset);
        *last = position.offset.max(*last);
    }
    let started = Instant::now();
    loop {
        let status = ingest.status().await?;
        let source_status = status.iter().find(|status| status.source == source);
        let delivered = |partition: i32| {
            source_status
                .and_then(|status| {
                    status
                        .partitions
                        .iter()
                        .find(|candidate| candidate.partition == partition)
                })
                .map_or(i64::MIN, |partition| partition.delivered)
        };
        if wanted.iter().all(|(partition, offset)| delivered(*partition) > *offset) {
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(120) {
            let reason = source_status
                .and_then(|status| status.error.clone())
                .unwrap_or_else(|| "it is slow".to_owned());
            bail!(
                "`{source}` has not delivered the events after 2 minutes: {reason}. `ondol ingest status` shows how it stands"
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
