//! Ingest's metrics, each with its name and meaning; docs/metrics.md lists them.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use ondol_ingest_api::wire::{PartitionStatus, SourceStatus};
use std::time::Duration;

const EVENTS: &str = "ondol_ingest_events_total";
const BYTES: &str = "ondol_ingest_bytes_total";
const DEAD_LETTERS: &str = "ondol_ingest_dead_letters_total";
const LATE: &str = "ondol_ingest_late_events_total";
const PASSED_OVER: &str = "ondol_ingest_passed_over_total";
const SKIPPED: &str = "ondol_ingest_skipped_events_total";
const HANDLED: &str = "ondol_ingest_dead_letters_handled_total";
const STAGE: &str = "ondol_ingest_stage_seconds";
const BATCH_EVENTS: &str = "ondol_ingest_batch_events";
const BATCH_BYTES: &str = "ondol_ingest_batch_bytes";
const RETRIES: &str = "ondol_ingest_retries_total";
const GAPS: &str = "ondol_ingest_gaps_total";
const REREADS: &str = "ondol_ingest_rereads_total";
const LAG: &str = "ondol_ingest_lag_events";
const LAG_SECONDS: &str = "ondol_ingest_lag_seconds";
const WATERMARK: &str = "ondol_ingest_watermark_seconds";
const PARTITIONS: &str = "ondol_ingest_partitions";
const PAUSED: &str = "ondol_ingest_paused";
const FETCH_STOPPED: &str = "ondol_ingest_fetch_stopped";
const FETCH_QUEUE: &str = "ondol_ingest_fetch_queue_bytes";
const IN_FLIGHT: &str = "ondol_ingest_in_flight_bytes";

/// A stage of a batch's way, by the name of its time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    /// From its first record until it is closed.
    Collect,
    /// Decoding, tries included.
    Decode,
    /// Waiting for the batch before it.
    Queue,
    /// Dead letters and the delivery, tries included.
    Write,
    /// Making what was delivered durable when nothing more comes.
    Flush,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Collect => "collect",
            Self::Decode => "decode",
            Self::Queue => "queue",
            Self::Write => "write",
            Self::Flush => "flush",
        }
    }
}

/// Tells the recorder what each metric means. Repeating it changes nothing.
pub fn describe() {
    let count = Unit::Count;
    describe_counter!(EVENTS, count, "Events delivered to the feature store.");
    describe_counter!(
        BYTES,
        Unit::Bytes,
        "Bytes of the messages behind them, dead letters included."
    );
    describe_counter!(DEAD_LETTERS, count, "Events that could not be taken.");
    describe_counter!(
        LATE,
        count,
        "Events delivered that came later than their source allows: no view counts them."
    );
    describe_counter!(
        PASSED_OVER,
        count,
        "Records without an event: ignored deletion markers, empty arrays."
    );
    describe_counter!(SKIPPED, count, "Events left out because an operator asked for it.");
    describe_counter!(HANDLED, count, "Dead letters replayed, discarded or corrected.");
    describe_histogram!(STAGE, Unit::Seconds, "Time of a batch in each stage.");
    describe_histogram!(BATCH_EVENTS, count, "Events of a delivery.");
    describe_histogram!(BATCH_BYTES, Unit::Bytes, "Bytes of the messages of a delivery.");
    describe_counter!(
        RETRIES,
        count,
        "Deliveries, dead letters, decodings and resumptions tried again."
    );
    describe_counter!(GAPS, count, "Times the feature store asked for earlier events again.");
    describe_counter!(
        REREADS,
        count,
        "Times everything in flight was given up and read again."
    );
    describe_gauge!(LAG, count, "Events of a partition not delivered yet.");
    describe_gauge!(
        LAG_SECONDS,
        Unit::Seconds,
        "How long a partition's first undelivered record has waited."
    );
    describe_gauge!(
        WATERMARK,
        Unit::Seconds,
        "Newest event time delivered, seconds since 1970."
    );
    describe_gauge!(PARTITIONS, count, "Partitions that this worker reads.");
    describe_gauge!(PAUSED, count, "1 while the source is paused, else 0.");
    describe_gauge!(FETCH_STOPPED, count, "1 while nothing is fetched, else 0.");
    describe_gauge!(FETCH_QUEUE, Unit::Bytes, "Bytes fetched ahead by the stream's client.");
    describe_gauge!(
        IN_FLIGHT,
        Unit::Bytes,
        "Bytes of messages between the stream and the store."
    );
}

pub(crate) fn delivered(source: &str, events: usize, size_bytes: usize) {
    counter!(EVENTS, "source" => source.to_owned()).increment(events as u64);
    counter!(BYTES, "source" => source.to_owned()).increment(size_bytes as u64);
    histogram!(BATCH_EVENTS, "source" => source.to_owned()).record(events as f64);
    histogram!(BATCH_BYTES, "source" => source.to_owned()).record(size_bytes as f64);
}

pub(crate) fn dead_letter(source: &str, reason: &str) {
    counter!(DEAD_LETTERS, "source" => source.to_owned(), "reason" => reason.to_owned()).increment(1);
}

pub(crate) fn late(source: &str, events: u64) {
    counter!(LATE, "source" => source.to_owned()).increment(events);
}

pub(crate) fn passed_over(source: &str, records: u64) {
    counter!(PASSED_OVER, "source" => source.to_owned()).increment(records);
}

pub(crate) fn skipped(source: &str, events: u64) {
    counter!(SKIPPED, "source" => source.to_owned()).increment(events);
}

pub(crate) fn handled(source: &str, deed: &'static str, letters: usize) {
    counter!(HANDLED, "source" => source.to_owned(), "deed" => deed).increment(letters as u64);
}

pub(crate) fn stage(source: &str, stage: Stage, took: Duration) {
    histogram!(STAGE, "source" => source.to_owned(), "stage" => stage.name()).record(took);
}

pub(crate) fn retried(source: &str) {
    counter!(RETRIES, "source" => source.to_owned()).increment(1);
}

pub(crate) fn gap(source: &str) {
    counter!(GAPS, "source" => source.to_owned()).increment(1);
}

pub(crate) fn reread(source: &str, cause: &'static str) {
    counter!(REREADS, "source" => source.to_owned(), "cause" => cause).increment(1);
}

pub(crate) fn watermark(source: &str, micros: i64) {
    gauge!(WATERMARK, "source" => source.to_owned()).set(micros as f64 / 1e6);
}

/// What a worker's own status tells.
pub(crate) fn status(status: &SourceStatus) {
    let source = || status.source.clone();
    gauge!(PARTITIONS, "source" => source()).set(status.partitions.len() as f64);
    gauge!(PAUSED, "source" => source()).set(f64::from(u8::from(status.paused.is_some())));
    gauge!(FETCH_STOPPED, "source" => source()).set(f64::from(u8::from(status.fetch.stopped)));
    gauge!(FETCH_QUEUE, "source" => source()).set(status.fetch.queued_bytes as f64);
    gauge!(IN_FLIGHT, "source" => source()).set(status.fetch.in_flight_bytes as f64);
    for partition in &status.partitions {
        lag(&status.source, partition);
    }
}

fn lag(source: &str, status: &PartitionStatus) {
    let partition = || status.partition.to_string();
    if let Some(events) = status.lag_events {
        gauge!(LAG, "source" => source.to_owned(), "partition" => partition()).set(events as f64);
    }
    if let Some(seconds) = status.lag_seconds {
        gauge!(LAG_SECONDS, "source" => source.to_owned(), "partition" => partition()).set(seconds);
    }
}
