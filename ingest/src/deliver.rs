//! The end of a batch: its dead letters to their topic, then the delivery to the feature store, tried until taken.
//!
//! The future owns its batch. Dropping it abandons the batch; whoever drops it reads the batch anew.

use crate::batch::Decoded;
use crate::config::Limits;
use crate::dead_letter;
use crate::meter;
use crate::progress::{Part, Progress};
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
    /// Tells when an event is accepted.
    pub clock: Arc<dyn Clock>,
    /// Bounds and waits.
    pub limits: Limits,
    /// Where progress is reported.
    pub progress: Arc<Progress>,
}

/// How a delivery ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Taken.
    Written {
        ranges: Vec<PartitionRange>,
        receipt: WriteReceipt,
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

/// Writes dead letters, then the delivery; tries again for ever.
pub(crate) async fn deliver(around: Arc<Surroundings>, decoded: Decoded) -> Outcome {
    let started = Instant::now();
    send_dead_letters(&around, &decoded).await;
    let events = decoded.delivery.events.num_rows();
    let DeliveryHeader { ranges, .. } = decoded.delivery.header.clone();
    let mut backoff = Backoff::new();
    loop {
        match around.store.write(decoded.delivery.clone()).await {
            Ok(receipt) => {
                around.progress.well(Part::Store);
                around
                    .progress
                    .delivered(events, decoded.dead_letters.len(), decoded.newest);
                meter::delivered(&around.source, events, decoded.size_bytes, started.elapsed());
                if let Some(watermark) = around.progress.watermark() {
                    meter::watermark(&around.source, watermark.micros());
                }
                return Outcome::Written { ranges, receipt };
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

async fn send_dead_letters(around: &Surroundings, decoded: &Decoded) {
    if decoded.dead_letters.is_empty() {
        return;
    }
    let records: Result<Vec<NewRecord>, StreamError> = decoded.dead_letters.iter().map(dead_letter::record).collect();
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
    for letter in &decoded.dead_letters {
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
    let flushed = around.store.flush(&around.source).await;
    match &flushed {
        Ok(_) => around.progress.well(Part::Store),
        Err(error) => around.progress.trouble(Part::Store, error.to_string()),
    }
    Outcome::Flushed(flushed)
}
