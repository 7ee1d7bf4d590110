//! The control topic: operators' [`Directive`]s in the stream itself, so that they outlive every worker and reach all
//! of them without another store. Each worker reads the whole topic at its start and follows it; Kafka keeps the newest
//! message of each key (compaction).
//!
//! Until a worker has read the topic once, its sources rest: one of them may have been paused.

use crate::deliver::Backoff;
use crate::directive::{Directive, Directives};
use crate::source::scan::{Keep, StoredRecord};
use crate::source::{NewRecord, Stream, StreamError};
use bytes::Bytes;
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_vocabulary::EventTime;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long one look for new directives waits.
const WAIT: Duration = Duration::from_secs(1);
/// Between two looks for a topic that does not exist yet.
const ABSENT_WAIT: Duration = Duration::from_secs(1);
/// How long an order may take to come back from the topic.
const RETURN: Duration = Duration::from_secs(15);

/// Reads and writes the control topic.
pub struct Control {
    stream: Arc<dyn Stream>,
    topic: String,
    directives: watch::Sender<Arc<Directives>>,
    /// First offset of each partition that was not folded.
    read: watch::Sender<BTreeMap<i32, i64>>,
    /// Wakes the follower when this process has created the topic.
    written: Notify,
    trouble: Mutex<Option<String>>,
}

impl Control {
    /// Of the workers that share `stream`.
    pub fn new(stream: Arc<dyn Stream>) -> Arc<Self> {
        let topic = format!("{}.control", stream.namespace());
        Arc::new(Self {
            stream,
            topic,
            directives: watch::Sender::default(),
            read: watch::Sender::default(),
            written: Notify::new(),
            trouble: Mutex::default(),
        })
    }

    /// What is in force, now and from now on.
    pub fn directives(&self) -> watch::Receiver<Arc<Directives>> {
        self.directives.subscribe()
    }

    /// Why the topic can't be read, if so.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows the topic for ever.
    pub async fn follow(&self) {
        let mut backoff = Backoff::new();
        loop {
            match self.follow_until_error(&mut backoff).await {
                Ok(()) => {
                    self.set_trouble(None);
                    let written = tokio::time::timeout(ABSENT_WAIT, self.written.notified());
                    // Either way the next turn looks again.
                    let _waited = written.await;
                }
                Err(error) => {
                    let detail = format!("operators' orders can't be read from topic `{}`: {error}", self.topic);
                    tracing::warn!(topic = self.topic, %error, "operators' orders can't be read");
                    self.set_trouble(Some(detail));
                    backoff.wait().await;
                }
            }
        }
    }

    /// Returns when there is no such topic yet.
    async fn follow_until_error(&self, backoff: &mut Backoff) -> Result<(), StreamError> {
        let Some(description) = self.stream.describe(&self.topic).await? else {
            self.directives
                .send_modify(|directives| Arc::make_mut(directives).known = true);
            return Ok(());
        };
        let read = self.read.borrow().clone();
        let from = description.partitions.iter().map(|extent| PartitionPosition {
            partition: extent.partition,
            next_offset: read.get(&extent.partition).copied().unwrap_or(0).max(extent.begin),
        });
        let mut scan = self.stream.scan(&self.topic, from.collect()).await?;
        loop {
            let chunk = scan.next(WAIT).await?;
            self.take(&chunk.records, chunk.at_end);
            self.set_trouble(None);
            *backoff = Backoff::new();
        }
    }

    fn take(&self, records: &[StoredRecord], at_end: bool) {
        let became_known = at_end && !self.directives.borrow().known;
        if records.is_empty() && !became_known {
            return;
        }
        self.directives.send_modify(|directives| {
            let directives = Arc::make_mut(directives);
            for record in records {
                let Some(value) = &record.value else { continue };
                match serde_json::from_slice::<Directive>(value) {
                    Ok(directive) => {
                        tracing::info!(key = directive.key(), "an operator's order");
                        directives.fold(directive);
                    }
                    Err(error) => {
                        let offset = record.position.offset;
                        tracing::warn!(topic = self.topic, offset, %error, "an operator's order can't be read");
                    }
                }
            }
            directives.known |= at_end;
        });
        self.read.send_modify(|read| {
            for record in records {
                read.insert(record.position.partition, record.position.offset.saturating_add(1));
            }
        });
    }

    /// Makes `directives` durable; returns once this worker has them in force.
    ///
    /// # Errors
    /// When the stream does not take them, or they do not come back in time (they may come into force later).
    pub async fn issue(&self, directives: &[Directive], at: EventTime) -> Result<(), StreamError> {
        let mut records = Vec::with_capacity(directives.len());
        for directive in directives {
            let value = serde_json::to_vec(directive)
                .map_err(|error| StreamError::Unavailable(format!("an order can't be written as JSON: {error}")))?;
            records.push(NewRecord {
                key: Some(Bytes::from(directive.key())),
                timestamp: at,
                value: Some(Bytes::from(value)),
                ..NewRecord::default()
            });
        }
        self.stream.create_own(&self.topic, Keep::NewestOfEachKey).await?;
        let last = self.stream.append(&self.topic, records).await?;
        self.written.notify_one();
        let mut read = self.read.subscribe();
        let back = read.wait_for(|read| {
            let passed = |partition: i32, offset: i64| read.get(&partition).is_some_and(|next| *next > offset);
            last.iter().all(|position| passed(position.partition, position.offset))
        });
        let returned = tokio::time::timeout(RETURN, back).await;
        let waited = || {
            format!(
                "the order was written, but did not come back from topic `{}` in time",
                self.topic
            )
        };
        returned.map(drop).map_err(|_| StreamError::Unavailable(waited()))
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}
