//! The end of a batch: its dead letters to their topic, then the delivery to the feature store, tried until taken.
//!
//! The future owns its batch. Dropping it abandons the batch; whoever drops it reads the batch anew.

use crate::batch::Decoded;
use crate::config::{Limits, StartAt};
use crate::control::Control;
use crate::dead_letter::{self, Mark};
use crate::meter::{self, Stage};
use crate::progress::{self, Part, Progress};
use crate::source::{NewRecord, Stream, StreamError};
use ondol_feature_store_api::wire::{DeliveryHeader, PartitionPosition, WriteReceipt};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_runtime::Clock;
use ondol_vocabulary::{EventTime, PartitionRange};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a source's pipeline works with.
#[derive(Clone)]
pub struct Surroundings {
    /// The source's name.
    pub source: String,
    /// Its topic.
    pub topic: String,
    /// Where events go.
    pub store: Arc<dyn FeatureStore>,
    /// Where they come from, and dead letters go.
    pub stream: Arc<dyn Stream>,
    /// Operators' orders.
    pub control: Arc<Control>,
    /// Where reading starts when the store holds nothing of the source.
    pub start: StartAt,
    /// Tells when an event is accepted.
    pub clock: Arc<dyn Clock>,
    /// Bounds and waits.
    pub limits: Limits,
    /// Where progress is reported.
    pub progress: Arc<Progress>,
}

/// A batch that is ready to be written.
pub(crate) struct Batch {
    /// Its events and dead letters.
    pub(crate) contents: Decoded,
    /// The skips among its ranges.
    pub(crate) marks: Vec<Mark>,
    /// When it was decoded.
    pub(crate) decoded: tokio::time::Instant,
}

/// How a delivery ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Taken.
    Written {
        ranges: Vec<PartitionRange>,
        receipt: WriteReceipt,
        size_bytes: usize,
    },
    /// The store holds less than was thought, for example after it lost writes that were not durable.
    Gap { partition: i32, expected: i64 },
    /// A flush was tried.
    Flushed(Result<WriteReceipt, FeatureStoreError>),
}

/// Waits between attempts: doubling, bounded.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self(Duration::from_millis(50))
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(5));
    }
}

impl Surroundings {
    /// The present.
    pub(crate) fn now(&self) -> EventTime {
        EventTime::from_micros(self.clock.now_micros())
    }
}

/// Writes dead letters and skips, then the delivery; tries again for ever. Event times stand in the column at `time`.
pub(crate) async fn deliver(around: Arc<Surroundings>, batch: Batch, time: usize) -> Outcome {
    let started = Instant::now();
    send_dead_letters(&around, &batch).await;
    let Batch { contents, marks, .. } = batch;
    let DeliveryHeader { ranges, .. } = contents.delivery.header.clone();
    let mut backoff = Backoff::new();
    loop {
        match around.store.write(contents.delivery.clone()).await {
            Ok(receipt) => {
                around.progress.well(Part::Store);
                taken(&around, &contents, &marks, time);
                meter::stage(&around.source, Stage::Write, started.elapsed());
                let size_bytes = contents.size_bytes;
                return Outcome::Written {
                    ranges,
                    receipt,
                    size_bytes,
                };
            }
            Err(FeatureStoreError::Gap {
                partition, expected, ..
            }) => {
                meter::gap(&around.source);
                return Outcome::Gap { partition, expected };
            }
            // Even an error that no retry mends by itself (a registry that lags, a version that is rolled back) is
            // tried again: giving up would lose the events, and the status says what is wrong.
            Err(error) => {
                around.progress.trouble(Part::Store, error.to_string());
                meter::retried(&around.source);
                backoff.wait().await;
            }
        }
    }
}

/// Counts a batch that the store has taken.
fn taken(around: &Surroundings, contents: &Decoded, marks: &[Mark], time: usize) {
    let late = contents.late as u64;
    around.progress.delivered(&progress::tally(contents, time), late);
    meter::delivered(&around.source, contents.delivery.events.num_rows(), contents.size_bytes);
    meter::late(&around.source, late);
    meter::passed_over(&around.source, contents.passed_over as u64);
    if let Some(watermark) = around.progress.watermark() {
        meter::watermark(&around.source, watermark.micros());
    }
    for mark in marks {
        let events = mark.to.unwrap_or_default().saturating_sub(mark.position.offset);
        let events = u64::try_from(events).unwrap_or_default();
        around.progress.skipped(events);
        meter::skipped(&around.source, events);
    }
}

async fn send_dead_letters(around: &Surroundings, batch: &Batch) {
    let letters = &batch.contents.dead_letters;
    if letters.is_empty() && batch.marks.is_empty() {
        return;
    }
    let records = letters.iter().map(dead_letter::record);
    let records: Result<Vec<NewRecord>, StreamError> = records.chain(batch.marks.iter().map(Mark::record)).collect();
    let topic = dead_letter::topic_of(&around.topic);
    let mut backoff = Backoff::new();
    loop {
        let appended = match &records {
            Ok(records) => around.stream.append(&topic, records.clone()).await,
            Err(error) => Err(error.clone()),
        };
        match appended {
            Ok(_) => break,
            Err(error) => {
                around.progress.trouble(
                    Part::Stream,
                    format!("dead letters can't be written to `{topic}`: {error}"),
                );
                meter::retried(&around.source);
                backoff.wait().await;
            }
        }
    }
    around.progress.well(Part::Stream);
    for letter in letters {
        meter::dead_letter(&around.source, &letter.reason);
    }
}

/// Where the store wants each partition resumed, asked until it answers.
pub(crate) async fn resume(around: Arc<Surroundings>, generation: Arc<str>) -> Vec<PartitionPosition> {
    let mut backoff = Backoff::new();
    loop {
        match around.store.resume(&around.source, &generation).await {
            Ok(positions) => {
                around.progress.well(Part::Store);
                return positions;
            }
            Err(error) => {
                around.progress.trouble(Part::Store, error.to_string());
                meter::retried(&around.source);
                backoff.wait().await;
            }
        }
    }
}

/// Asks the store to make what it holds durable.
pub(crate) async fn flush(around: Arc<Surroundings>) -> Outcome {
    let started = Instant::now();
    let flushed = around.store.flush(&around.source).await;
    meter::stage(&around.source, Stage::Flush, started.elapsed());
    match &flushed {
        Ok(_) => around.progress.well(Part::Store),
        Err(error) => around.progress.trouble(Part::Store, error.to_string()),
    }
    Outcome::Flushed(flushed)
}
