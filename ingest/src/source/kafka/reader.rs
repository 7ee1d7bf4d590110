//! The asynchronous face of a Kafka reader: events come from the poller's thread through bounded channels, orders go
//! to it. Runs of records carry the epoch of the assignment or seek they belong to; those of an older one are dropped
//! here, which is how a seek voids what was already on its way.

use super::poller::{self, Notice, Order};
use crate::source::{Fetching, Reader, ReaderEvent, Records, StreamError};
use async_trait::async_trait;
use ondol_feature_store_api::wire::PartitionPosition;
use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use std::collections::BTreeMap;
use std::sync::{Arc, mpsc as blocking};
use tokio::sync::{mpsc, oneshot};

/// Runs on their way from the poller: a run has at most about 2,000 records or 512 KiB.
const RUNS: usize = 4;
/// Notices and orders on their way; there are a few per rebalance.
const NOTICES: usize = 64;

pub(super) struct KafkaReader {
    runs: mpsc::Receiver<Records>,
    notices: mpsc::Receiver<Notice>,
    orders: blocking::SyncSender<Order>,
    epochs: BTreeMap<i32, u64>,
    epoch: u64,
    held: bool,
    fetching: Arc<Fetching>,
}

impl KafkaReader {
    pub(super) fn start(config: ClientConfig, topic: &str, lookup: Arc<BaseConsumer>) -> Result<Self, StreamError> {
        let (runs_in, runs) = mpsc::channel(RUNS);
        let (notices_in, notices) = mpsc::channel(NOTICES);
        let (orders, orders_out) = blocking::sync_channel(NOTICES);
        let fetching = Arc::<Fetching>::default();
        let channels = poller::Channels {
            runs: runs_in,
            notices: notices_in,
            orders: orders_out,
            fetching: Arc::clone(&fetching),
            runtime: tokio::runtime::Handle::current(),
        };
        let topic = topic.to_owned();
        std::thread::Builder::new()
            .name("ondol-kafka".to_owned())
            .spawn(move || poller::run(&config, &topic, &lookup, channels))
            .map_err(|error| StreamError::Unavailable(format!("the Kafka thread can't start: {error}")))?;
        Ok(Self {
            runs,
            notices,
            orders,
            epochs: BTreeMap::new(),
            epoch: 0,
            held: false,
            fetching,
        })
    }

    fn order(&self, order: Order) -> Result<(), StreamError> {
        let stuck = |_| StreamError::Unavailable("the Kafka thread does not answer".to_owned());
        self.orders.try_send(order).map_err(stuck)
    }

    fn next_epoch(&mut self, partition: i32) -> u64 {
        self.epoch += 1;
        self.epochs.insert(partition, self.epoch);
        self.epoch
    }

    fn heed(&mut self, notice: Option<Notice>) -> Result<ReaderEvent, StreamError> {
        let stopped = || StreamError::Unavailable("the Kafka thread has stopped".to_owned());
        Ok(match notice.ok_or_else(stopped)? {
            Notice::Assigned { partitions, generation } => ReaderEvent::Assigned { partitions, generation },
            Notice::Revoking { partitions } => {
                self.epochs.retain(|partition, _| !partitions.contains(partition));
                ReaderEvent::Revoking { partitions }
            }
            Notice::Lost { partitions } => {
                self.epochs.retain(|partition, _| !partitions.contains(partition));
                ReaderEvent::Lost { partitions }
            }
            Notice::Trouble { detail } => ReaderEvent::Trouble { detail },
            Notice::Failed { error } => return Err(error),
        })
    }
}

#[async_trait]
impl Reader for KafkaReader {
    async fn next(&mut self) -> Result<ReaderEvent, StreamError> {
        loop {
            tokio::select! {
                biased;
                notice = self.notices.recv() => return self.heed(notice),
                Some(run) = self.runs.recv(), if !self.held => {
                    if self.epochs.get(&run.partition) == Some(&run.epoch) {
                        return Ok(ReaderEvent::Records(run));
                    }
                }
            }
        }
    }

    async fn notice(&mut self) -> Result<ReaderEvent, StreamError> {
        let notice = self.notices.recv().await;
        self.heed(notice)
    }

    async fn begin(&mut self, positions: Vec<PartitionPosition>) -> Result<(), StreamError> {
        let starts = positions.into_iter().map(|position| poller::Start {
            partition: position.partition,
            offset: position.next_offset,
            epoch: self.next_epoch(position.partition),
        });
        let starts = starts.collect();
        self.order(Order::Begin { starts })
    }

    async fn hold(&mut self, held: bool) -> Result<(), StreamError> {
        self.held = held;
        self.order(Order::Hold { held })
    }

    fn fetching(&self) -> Arc<Fetching> {
        Arc::clone(&self.fetching)
    }

    async fn seek(&mut self, partition: i32, offset: i64) -> Result<(), StreamError> {
        let epoch = self.next_epoch(partition);
        self.order(Order::Seek {
            start: poller::Start {
                partition,
                offset,
                epoch,
            },
        })
    }

    async fn release(&mut self, partitions: Vec<i32>, durable: Vec<PartitionPosition>) -> Result<(), StreamError> {
        self.order(Order::Release { partitions, durable })
    }

    fn commit(&mut self, durable: &[PartitionPosition]) {
        // A commit that finds no room is made up for by the next one.
        let _full = self.order(Order::Commit {
            durable: durable.to_vec(),
        });
    }

    async fn close(self: Box<Self>, durable: Vec<PartitionPosition>) {
        let (done, closed) = oneshot::channel();
        if self.order(Order::Close { durable, done }).is_ok() {
            let _thread_gone = closed.await;
        }
    }
}
