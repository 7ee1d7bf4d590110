//! Ingest's metrics, each with its name and meaning.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use std::time::Duration;

const EVENTS: &str = "ondol_ingest_events_total";
const BYTES: &str = "ondol_ingest_bytes_total";
const DEAD_LETTERS: &str = "ondol_ingest_dead_letters_total";
const DELIVERY: &str = "ondol_ingest_delivery_seconds";
const RETRIES: &str = "ondol_ingest_retries_total";
const GAPS: &str = "ondol_ingest_gaps_total";
const LAG: &str = "ondol_ingest_lag_events";
const WATERMARK: &str = "ondol_ingest_watermark_seconds";

/// Tells the recorder what each metric means. Repeating it changes nothing.
pub fn describe() {
    describe_counter!(EVENTS, Unit::Count, "Events delivered to the feature store, by source.");
    describe_counter!(
        BYTES,
        Unit::Bytes,
        "Bytes of the messages behind them, dead letters included, by source."
    );
    describe_counter!(
        DEAD_LETTERS,
        Unit::Count,
        "Events that could not be taken, by source and reason."
    );
    describe_histogram!(
        DELIVERY,
        Unit::Seconds,
        "Time from sending a batch to its receipt, retries included."
    );
    describe_counter!(
        RETRIES,
        Unit::Count,
        "Deliveries, dead letters and resumptions tried again, by source."
    );
    describe_counter!(
        GAPS,
        Unit::Count,
        "Times the feature store asked for earlier events again, by source."
    );
    describe_gauge!(
        LAG,
        Unit::Count,
        "Events of a partition not delivered yet, by source and partition."
    );
    describe_gauge!(
        WATERMARK,
        Unit::Seconds,
        "Newest event time delivered, seconds since 1970, by source."
    );
}

pub(crate) fn delivered(source: &str, events: usize, size_bytes: usize, took: Duration) {
    counter!(EVENTS, "source" => source.to_owned()).increment(events as u64);
    counter!(BYTES, "source" => source.to_owned()).increment(size_bytes as u64);
    histogram!(DELIVERY, "source" => source.to_owned()).record(took);
}

pub(crate) fn dead_letter(source: &str, reason: &str) {
    counter!(DEAD_LETTERS, "source" => source.to_owned(), "reason" => reason.to_owned()).increment(1);
}

pub(crate) fn retried(source: &str) {
    counter!(RETRIES, "source" => source.to_owned()).increment(1);
}

pub(crate) fn gap(source: &str) {
    counter!(GAPS, "source" => source.to_owned()).increment(1);
}

pub(crate) fn lag(source: &str, partition: i32, events: i64) {
    gauge!(LAG, "source" => source.to_owned(), "partition" => partition.to_string()).set(events as f64);
}

pub(crate) fn watermark(source: &str, micros: i64) {
    gauge!(WATERMARK, "source" => source.to_owned()).set(micros as f64 / 1e6);
}
