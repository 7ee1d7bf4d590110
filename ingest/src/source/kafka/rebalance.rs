//! What librdkafka calls back: rebalances are noted for the poller's thread, and answered here only while closing.

use crate::source::Fetching;
use rdkafka::Statistics;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Notes rebalances for the thread.
#[derive(Debug, Default)]
pub(super) struct Context {
    rebalances: Mutex<VecDeque<Rebalance>>,
    closing: AtomicBool,
    fetching: Arc<Fetching>,
}

#[derive(Debug)]
pub(super) enum Rebalance {
    Assign(Vec<i32>),
    Revoke { partitions: Vec<i32>, lost: bool },
}

impl Context {
    pub(super) fn new(fetching: Arc<Fetching>) -> Self {
        Self {
            fetching,
            ..Self::default()
        }
    }

    /// The oldest rebalance that is not answered yet.
    pub(super) fn next(&self) -> Option<Rebalance> {
        self.rebalances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// From here on the callback answers rebalances itself.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::debug!(facility, message, "librdkafka");
            }
            _ => tracing::warn!(facility, message, "librdkafka"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        let partitions = statistics.topics.values().flat_map(|topic| topic.partitions.values());
        self.fetching
            .set_queued_bytes(partitions.map(|partition| partition.fetchq_size).sum());
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let assigned = err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            answer_at_closing(consumer, assigned, list);
            return;
        }
        let partitions = list.elements().iter().map(|element| element.partition()).collect();
        let rebalance = if assigned {
            Rebalance::Assign(partitions)
        } else {
            Rebalance::Revoke {
                partitions,
                lost: consumer.assignment_lost(),
            }
        };
        self.rebalances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(rebalance);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(%error, "committed offsets do not follow now; nothing is resumed from them");
        }
    }
}

/// Takes no partition any more and gives back those it has: until each rebalance is answered, closing waits.
pub(super) fn answer_at_closing(consumer: &BaseConsumer<Context>, assigned: bool, list: &TopicPartitionList) {
    let answered = if assigned {
        consumer.incremental_assign(&TopicPartitionList::new())
    } else {
        consumer.incremental_unassign(list)
    };
    if let Err(error) = answered.or_else(|_| consumer.unassign()) {
        tracing::debug!(%error, "a rebalance at closing");
    }
}
