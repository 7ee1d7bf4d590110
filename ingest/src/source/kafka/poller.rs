//! The thread that owns a Kafka consumer: polls it, answers rebalances, obeys the reader's orders.
//!
//! It never stops polling for longer than a broker's answer takes, so the group keeps it as a member even while the
//! feature store is down: when nobody takes runs, it pauses its partitions and goes on polling for rebalances.
//!
//! A rebalance is answered in two steps. The callback only notes it; the thread asks its reader for positions (assign)
//! or to finish what is in flight (revoke), and calls the incremental (un)assign when the answer comes. librdkafka
//! waits for that call. A cooperative assignment may be empty: that is answered at once and resets nothing.

use super::lane::{Lane, take};
use super::rebalance::{Context, Rebalance, answer_at_closing};
use super::{failed, partitions, watermarks};
use crate::source::{Fetching, Records, StreamError};
use ondol_feature_store_api::wire::PartitionPosition;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, mpsc as blocking};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// A poll without messages returns after this, to look for orders.
const IDLE_POLL: Duration = Duration::from_millis(20);
/// Runs are handed over once they hold this many records or bytes together, or nothing more is waiting.
const RUN_ROWS: usize = 2048;
const RUN_BYTES: usize = 512 << 10;
/// How long a full channel is waited for before partitions are paused, which costs their prefetched records.
const BEFORE_PAUSE: Duration = Duration::from_millis(200);
/// How long the reader may take to finish revoked partitions; it gives up earlier by itself.
const REVOKE_WAIT: Duration = Duration::from_secs(60);
/// Between two looks for a topic that does not exist.
const TOPIC_WAIT: Duration = Duration::from_secs(1);

/// What the thread tells its reader.
#[derive(Debug)]
pub(super) enum Notice {
    Assigned { partitions: Vec<i32>, generation: Arc<str> },
    Revoking { partitions: Vec<i32> },
    Lost { partitions: Vec<i32> },
    Trouble { detail: String },
    Failed { error: StreamError },
}

/// What the reader tells its thread.
#[derive(Debug)]
pub(super) enum Order {
    Begin {
        starts: Vec<Start>,
    },
    Seek {
        start: Start,
    },
    Hold {
        held: bool,
    },
    Release {
        partitions: Vec<i32>,
        durable: Vec<PartitionPosition>,
    },
    Commit {
        durable: Vec<PartitionPosition>,
    },
    Close {
        durable: Vec<PartitionPosition>,
        done: oneshot::Sender<()>,
    },
}

/// Where a partition starts, and the epoch that its runs carry from there on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) epoch: u64,
}

/// The thread's ends of the channels.
pub(super) struct Channels {
    pub(super) runs: mpsc::Sender<Records>,
    pub(super) notices: mpsc::Sender<Notice>,
    pub(super) orders: blocking::Receiver<Order>,
    pub(super) fetching: Arc<Fetching>,
    pub(super) runtime: tokio::runtime::Handle,
}

/// Runs until the reader closes or is dropped.
pub(super) fn run(config: &ClientConfig, topic: &str, lookup: &BaseConsumer, channels: Channels) {
    let notices = channels.notices.clone();
    let Some(generation) = find_topic(topic, lookup, &channels) else {
        return;
    };
    let opened = Poller::open(config, topic, generation, channels);
    let ended = opened.and_then(Poller::poll_until_closed);
    if let Err(error) = ended {
        // The reader may have gone: then nobody needs to know.
        let _gone = notices.blocking_send(Notice::Failed { error });
    }
}

/// Waits until the topic exists: its generation; none when the reader has gone.
fn find_topic(topic: &str, lookup: &BaseConsumer, channels: &Channels) -> Option<Arc<str>> {
    loop {
        let detail = match partitions(lookup, topic) {
            Ok(found) if !found.is_empty() => match super::scan::generation(lookup, topic) {
                Ok(generation) => return Some(generation),
                Err(error) => error.to_string(),
            },
            Ok(_) => format!("topic `{topic}` does not exist: create it, or push an event to the source"),
            Err(error) => error.to_string(),
        };
        if let Err(mpsc::error::TrySendError::Closed(_)) = channels.notices.try_send(Notice::Trouble { detail }) {
            return None;
        }
        match channels.orders.recv_timeout(TOPIC_WAIT) {
            Err(blocking::RecvTimeoutError::Timeout) => {}
            Err(blocking::RecvTimeoutError::Disconnected) => return None,
            Ok(Order::Close { done, .. }) => {
                let _gone = done.send(());
                return None;
            }
            Ok(order) => tracing::debug!(?order, "an order before any partition"),
        }
    }
}

struct Poller {
    consumer: BaseConsumer<Context>,
    topic: String,
    generation: Arc<str>,
    channels: Channels,
    lanes: BTreeMap<i32, Lane>,
    rows: usize,
    size_bytes: usize,
    outbox: VecDeque<Records>,
    assigning: bool,
    revoking: Option<(Vec<i32>, Instant)>,
    /// The partitions that Kafka was told not to send.
    paused: BTreeSet<i32>,
    /// Whether the reader wants nothing.
    held: bool,
}

/// Whether the thread goes on.
enum Flow {
    Continue,
    Close(Option<oneshot::Sender<()>>),
}

impl Poller {
    fn open(config: &ClientConfig, topic: &str, generation: Arc<str>, channels: Channels) -> Result<Self, StreamError> {
        let invalid = |error: KafkaError| StreamError::Config(format!("kafka settings are not valid: {error}"));
        let context = Context::new(Arc::clone(&channels.fetching));
        let consumer: BaseConsumer<Context> = config.create_with_context(context).map_err(invalid)?;
        consumer.subscribe(&[topic]).map_err(|error| failed(&error))?;
        Ok(Self {
            consumer,
            topic: topic.to_owned(),
            generation,
            channels,
            lanes: BTreeMap::new(),
            rows: 0,
            size_bytes: 0,
            outbox: VecDeque::new(),
            assigning: false,
            revoking: None,
            paused: BTreeSet::new(),
            held: false,
        })
    }

    fn poll_until_closed(mut self) -> Result<(), StreamError> {
        let done = loop {
            if let Flow::Close(done) = self.obey()? {
                break done;
            }
            self.heed_rebalances()?;
            self.send();
            self.poll()?;
        };
        drop(self);
        if let Some(done) = done {
            let _gone = done.send(());
        }
        Ok(())
    }

    fn obey(&mut self) -> Result<Flow, StreamError> {
        loop {
            match self.channels.orders.try_recv() {
                Ok(Order::Begin { starts }) => self.begin(&starts)?,
                Ok(Order::Seek { start }) => self.seek(start)?,
                Ok(Order::Hold { held }) => self.held = held,
                Ok(Order::Release { partitions, durable }) => self.release(&partitions, &durable)?,
                Ok(Order::Commit { durable }) => self.commit(&durable, CommitMode::Async),
                Ok(Order::Close { durable, done }) => {
                    self.commit(&durable, CommitMode::Sync);
                    return Ok(Flow::Close(Some(done)));
                }
                Err(blocking::TryRecvError::Empty) => return Ok(Flow::Continue),
                Err(blocking::TryRecvError::Disconnected) => return Ok(Flow::Close(None)),
            }
        }
    }

    fn poll(&mut self) -> Result<(), StreamError> {
        // Borrowed apart, as the message borrows the consumer.
        let Self {
            consumer, lanes, topic, ..
        } = self;
        let wait = if self.rows > 0 { Duration::ZERO } else { IDLE_POLL };
        match consumer.poll(wait) {
            None => self.hand_over(),
            Some(Ok(message)) => {
                let size_bytes = take(lanes, topic, &message)?;
                drop(message);
                self.rows += 1;
                self.size_bytes += size_bytes;
                if self.rows >= RUN_ROWS || self.size_bytes >= RUN_BYTES {
                    self.hand_over();
                }
            }
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                return Err(StreamError::Unavailable(format!("Kafka: {code}")));
            }
            Some(Err(error)) => {
                let detail = format!("Kafka: {error}");
                self.notify(Notice::Trouble { detail });
            }
        }
        Ok(())
    }

    /// Moves what the lanes hold to the outbox.
    fn hand_over(&mut self) {
        for (partition, lane) in &mut self.lanes {
            if !lane.run.is_empty() {
                let next = Records::of_epoch(*partition, lane.run.to, lane.run.epoch);
                self.outbox.push_back(std::mem::replace(&mut lane.run, next));
            }
        }
        (self.rows, self.size_bytes) = (0, 0);
    }

    /// Sends the outbox as far as there is room; pauses the partitions while there is none.
    fn send(&mut self) {
        while let Some(run) = self.outbox.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(run)) = self.channels.runs.try_send(run) {
                self.outbox.push_front(run);
                break;
            }
        }
        if self.held {
            self.pause();
            return;
        }
        if self.outbox.is_empty() {
            self.resume(self.paused.iter().copied().collect());
            return;
        }
        let wait = if self.paused.is_empty() {
            BEFORE_PAUSE
        } else {
            IDLE_POLL
        };
        let runs = &self.channels.runs;
        // A timeout needs the runtime around it when it is made, hence the block.
        let room = self
            .channels
            .runtime
            .block_on(async { tokio::time::timeout(wait, runs.reserve()).await.is_ok() });
        // With room, or without a reader (which its orders' channel tells), the next turn goes on.
        if !room {
            self.pause();
        }
    }

    /// Holds every partition that is not held yet.
    fn pause(&mut self) {
        let partitions: Vec<i32> = self.lanes.keys().copied().collect();
        let partitions: Vec<i32> = partitions
            .into_iter()
            .filter(|held| !self.paused.contains(held))
            .collect();
        if partitions.is_empty() {
            return;
        }
        match self.consumer.pause(&self.list(partitions.iter().copied())) {
            Ok(()) => self.paused.extend(partitions),
            // Tried again in the next turn.
            Err(error) => tracing::debug!(%error, ?partitions, "partitions can't be paused"),
        }
        self.channels.fetching.set_stopped(!self.paused.is_empty());
    }

    /// Lets go of those of `partitions` that are held.
    fn resume(&mut self, mut partitions: Vec<i32>) {
        partitions.retain(|held| self.paused.contains(held));
        if partitions.is_empty() {
            return;
        }
        match self.consumer.resume(&self.list(partitions.iter().copied())) {
            Ok(()) => self.paused.retain(|held| !partitions.contains(held)),
            Err(error) => tracing::debug!(%error, ?partitions, "partitions can't be resumed"),
        }
        self.channels.fetching.set_stopped(!self.paused.is_empty());
    }

    fn heed_rebalances(&mut self) -> Result<(), StreamError> {
        if self
            .revoking
            .as_ref()
            .is_some_and(|(_, deadline)| Instant::now() > *deadline)
        {
            let partitions = self
                .revoking
                .take()
                .map(|(partitions, _)| partitions)
                .unwrap_or_default();
            tracing::warn!(?partitions, "partitions go although their reader has not answered");
            self.release(&partitions, &[])?;
        }
        let next = self.consumer.context().next();
        match next {
            None => {}
            Some(Rebalance::Assign(partitions)) if partitions.is_empty() => {
                self.consumer
                    .incremental_assign(&TopicPartitionList::new())
                    .map_err(|error| failed(&error))?;
            }
            Some(Rebalance::Assign(partitions)) => {
                self.assigning = true;
                self.notify(Notice::Assigned {
                    partitions,
                    generation: Arc::clone(&self.generation),
                });
            }
            Some(Rebalance::Revoke { partitions, lost }) => {
                for partition in &partitions {
                    self.lanes.remove(partition);
                }
                self.outbox.retain(|run| !partitions.contains(&run.partition));
                if lost {
                    self.assigning = false;
                    self.notify(Notice::Lost {
                        partitions: partitions.clone(),
                    });
                    self.unassign(&partitions);
                } else {
                    self.revoking = Some((partitions.clone(), Instant::now() + REVOKE_WAIT));
                    self.notify(Notice::Revoking { partitions });
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, starts: &[Start]) -> Result<(), StreamError> {
        if !std::mem::take(&mut self.assigning) {
            tracing::debug!("the partitions were lost before they began");
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for start in starts {
            let (low, high) = watermarks(&self.consumer, &self.topic, start.partition)?;
            self.check(start, high)?;
            if start.offset < low && start.offset > 0 {
                let (partition, position) = (start.partition, start.offset);
                tracing::warn!(
                    partition,
                    position,
                    low,
                    "records were deleted by retention before they were read"
                );
            }
            let from = Offset::Offset(start.offset.max(low));
            list.add_partition_offset(&self.topic, start.partition, from)
                .map_err(|error| failed(&error))?;
            self.lanes.insert(start.partition, Lane::starting(start));
        }
        self.consumer.incremental_assign(&list).map_err(|error| failed(&error))
    }

    fn seek(&mut self, start: Start) -> Result<(), StreamError> {
        let Some(lane) = self.lanes.get_mut(&start.partition) else {
            return Ok(());
        };
        *lane = Lane::starting(&start);
        self.outbox.retain(|run| run.partition != start.partition);
        let (low, high) = watermarks(&self.consumer, &self.topic, start.partition)?;
        self.check(&start, high)?;
        let mut list = TopicPartitionList::new();
        let from = Offset::Offset(start.offset.max(low));
        list.add_partition_offset(&self.topic, start.partition, from)
            .map_err(|error| failed(&error))?;
        let list = self
            .consumer
            .seek_partitions(list, super::REQUEST)
            .map_err(|error| failed(&error))?;
        list.elements()
            .iter()
            .try_for_each(|element| element.error())
            .map_err(|error| failed(&error))
    }

    fn check(&self, start: &Start, end: i64) -> Result<(), StreamError> {
        if start.offset <= end {
            return Ok(());
        }
        let (topic, partition, position) = (self.topic.clone(), start.partition, start.offset);
        Err(StreamError::Recreated {
            topic,
            partition,
            position,
            end,
        })
    }

    fn release(&mut self, partitions: &[i32], durable: &[PartitionPosition]) -> Result<(), StreamError> {
        if self.revoking.take().is_none() {
            tracing::debug!(?partitions, "an answer to a revocation that is over");
        }
        self.commit(durable, CommitMode::Sync);
        self.unassign(partitions);
        Ok(())
    }

    fn unassign(&mut self, partitions: &[i32]) {
        // librdkafka remembers a pause beyond the assignment: a partition that came back would stay silent for ever.
        self.resume(partitions.to_vec());
        self.paused.retain(|held| !partitions.contains(held));
        let list = self.list(partitions.iter().copied());
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            tracing::warn!(%error, ?partitions, "partitions can't be given back one by one: giving back all");
            if let Err(error) = self.consumer.unassign() {
                tracing::warn!(%error, "partitions can't be given back");
            }
        }
    }

    fn commit(&self, durable: &[PartitionPosition], mode: CommitMode) {
        if durable.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        for place in durable {
            // An offset is set on an entry that was just added: it can't fail.
            let _added = list.add_partition_offset(&self.topic, place.partition, Offset::Offset(place.next_offset));
        }
        if let Err(error) = self.consumer.commit(&list, mode) {
            tracing::debug!(%error, "committed offsets do not follow now; nothing is resumed from them");
        }
    }

    fn list(&self, partitions: impl IntoIterator<Item = i32>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, partition);
        }
        list
    }

    fn notify(&self, notice: Notice) {
        let refused = self.channels.notices.try_send(notice);
        let Err(mpsc::error::TrySendError::Full(notice)) = refused else {
            return;
        };
        if !matches!(notice, Notice::Trouble { .. }) {
            // Rebalances must be heard; the reader looks for notices first, so there will be room.
            let _gone = self.channels.notices.blocking_send(notice);
        }
    }
}

impl Drop for Poller {
    /// Answers every rebalance that is open, whatever ended the thread: the consumer, dropped next, would wait for it.
    fn drop(&mut self) {
        let context = Arc::clone(self.consumer.context());
        context.close();
        if self.assigning {
            answer_at_closing(&self.consumer, true, &TopicPartitionList::new());
        }
        if let Some((partitions, _)) = self.revoking.take() {
            answer_at_closing(&self.consumer, false, &self.list(partitions));
        }
        while let Some(rebalance) = context.next() {
            match rebalance {
                Rebalance::Assign(_) => answer_at_closing(&self.consumer, true, &TopicPartitionList::new()),
                Rebalance::Revoke { partitions, .. } => {
                    answer_at_closing(&self.consumer, false, &self.list(partitions));
                }
            }
        }
    }
}
