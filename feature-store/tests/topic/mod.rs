//! A topic of payments, and what a store has made of it.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several tests, each of which uses its part"
)]

use crate::store::{HOUR, Payment, START, Store, payments};
use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use futures::TryStreamExt;
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::wire::Delivery;
use proptest::prelude::*;

pub const PARTITIONS: usize = 3;
pub const GENERATION: &str = "topic-1";

/// Events by partition; offsets leave gaps, as those of dead letters and compaction do.
#[derive(Clone, Debug)]
pub struct Topic {
    pub partitions: Vec<Vec<Payment>>,
}

pub fn topic() -> impl Strategy<Value = Topic> {
    let payment = (
        0u8..6,
        0i64..4,
        -100i64..100,
        0i64..40 * HOUR,
        0i64..2 * HOUR,
        1i64..4,
        any::<bool>(),
    );
    let partition = prop::collection::vec(payment, 0..25);
    prop::collection::vec(partition, PARTITIONS).prop_map(|partitions| {
        let payments = |(partition, events): (usize, Vec<_>)| {
            let mut offset = 0;
            let event = |(card, merchant, cents, time, delay, step, ahead): (u8, i64, i64, i64, i64, i64, bool)| {
                offset += step;
                let ts = START + time;
                Payment {
                    partition: partition as i32,
                    offset,
                    card: (card < 5).then(|| format!("card {card}")),
                    merchant,
                    amount: cents as f64 / 7.0,
                    ts,
                    // Some clocks run ahead of the platform's.
                    ingested_at: if ahead { ts - delay / 4 } else { ts + delay },
                }
            };
            events.into_iter().map(event).collect()
        };
        Topic {
            partitions: partitions.into_iter().enumerate().map(payments).collect(),
        }
    })
}

impl Topic {
    /// Events `from[p]..to[p]` of each partition by place, with the ranges that join up with their neighbours.
    pub fn delivery(&self, from: &[usize; PARTITIONS], to: &[usize; PARTITIONS]) -> Delivery {
        let mut events = Vec::new();
        let mut ranges = Vec::new();
        for (partition, all) in self.partitions.iter().enumerate() {
            let (from, to) = (from[partition], to[partition]);
            ranges.push((
                partition as i32,
                self.offset(partition, from),
                self.offset(partition, to),
            ));
            events.extend_from_slice(&all[from..to]);
        }
        payments(&events, GENERATION, &ranges)
    }

    /// Where a range that ends before event `place` ends: just after the event before it.
    pub fn offset(&self, partition: usize, place: usize) -> i64 {
        place
            .checked_sub(1)
            .map_or(0, |before| self.partitions[partition][before].offset + 1)
    }

    /// Events `from..to` of one partition.
    pub fn of_partition(&self, partition: usize, from: usize, to: usize) -> Delivery {
        let range = (
            partition as i32,
            self.offset(partition, from),
            self.offset(partition, to),
        );
        payments(&self.partitions[partition][from..to], GENERATION, &[range])
    }

    /// The first event of a partition at or past an offset.
    pub fn place(&self, partition: usize, next_offset: i64) -> usize {
        self.partitions[partition].partition_point(|event| event.offset < next_offset)
    }

    pub fn ends(&self) -> [usize; PARTITIONS] {
        std::array::from_fn(|partition| self.partitions[partition].len())
    }

    pub fn plus(&self, places: &[usize; PARTITIONS], counts: &[usize; PARTITIONS]) -> [usize; PARTITIONS] {
        std::array::from_fn(|partition| (places[partition] + counts[partition]).min(self.partitions[partition].len()))
    }
}

/// What must not depend on what happened on the way.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub card: Vec<(Vec<u8>, Vec<u8>)>,
    pub merchant: Vec<(Vec<u8>, Vec<u8>)>,
    pub log: Vec<(i32, i64)>,
}

pub async fn outcome(store: &Store) -> Outcome {
    store.service.flush("payments").await.unwrap();
    let columns = ["_partition".to_owned(), "_offset".to_owned()];
    let batches: Vec<_> = store
        .service
        .log()
        .read("payments", &columns)
        .await
        .unwrap()
        .try_collect::<Vec<_>>()
        .await
        .unwrap();
    let mut log = Vec::new();
    for batch in batches {
        let partitions = batch.column(0).as_primitive::<Int32Type>().values();
        let offsets = batch.column(1).as_primitive::<Int64Type>().values();
        log.extend(partitions.iter().copied().zip(offsets.iter().copied()));
    }
    log.sort_unstable();
    Outcome {
        card: store.rows("card").await,
        merchant: store.rows("merchant").await,
        log,
    }
}
