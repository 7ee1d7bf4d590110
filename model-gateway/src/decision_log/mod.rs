//! The decision log: what was served and predicted, sent to source `decisions`.
//!
//! A request hands its whole batch over by reference; [`record`] turns rows into events ([`raw`] those of calls that sent the
//! vector themselves), and tasks push them in batches.
//! What a model's definition says of its decisions decides the way:
//! - *best effort* ([`pusher`]): aside from the request. The queue is bounded in decisions: when it is full, further ones
//!   are dropped, counted and reported, and requests never wait.
//! - *audit required* ([`audit`]): the answer waits until the stream has its decisions durably, and is an error when it
//!   can't have them. So nobody has an answer whose decision is lost; a decision may be recorded of an answer that nobody
//!   got.
//! - *sampled* ([`sample`]): chosen by request id, so that every replica and every reader chooses alike.

mod audit;
mod pusher;
pub(crate) mod raw;
mod record;
mod sample;

pub(crate) use pusher::is_transient;
pub use sample::is_sampled;

use crate::config::DecisionLogConfig;
use crate::predict::{Bounds, Deadline, Scored};
use audit::AuditLog;
use ondol_ingest_api::Ingest;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_runtime::Shutdown;
use ondol_vocabulary::{Audit, DecisionPolicy, EventTime};
use pusher::Pusher;
use serde_json::value::RawValue;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The stream source that takes decisions.
pub const SOURCE: &str = "decisions";

/// How often drops are reported at most.
const REPORT_EVERY_US: i64 = 10_000_000;

/// Decisions of one request that are written as it ends: some ten microseconds each.
const WRITTEN_AT_ONCE: usize = 4;

/// The gateway's end of the decision log. Clones share the queues.
#[derive(Clone, Debug)]
pub struct DecisionLog {
    queue: Option<mpsc::UnboundedSender<Waiting>>,
    audit: AuditLog,
    room: Arc<Semaphore>,
    dropped: Arc<Dropped>,
    max_raw_bytes: usize,
}

/// A scored batch as the log takes it.
pub(crate) trait Decisions: Debug + Send + Sync {
    /// How many requests it has.
    fn rows(&self) -> usize;
    /// The id of request `row`.
    fn request_id(&self, row: usize) -> &str;
    /// What is kept of it.
    fn policy(&self) -> &DecisionPolicy;
    /// When it was scored.
    fn at(&self) -> EventTime;
    /// Request `row` as an event of source `decisions`.
    fn event(&self, row: usize) -> Result<Box<RawValue>, serde_json::Error>;
}

impl Decisions for Scored {
    fn rows(&self) -> usize {
        Self::rows(self)
    }

    fn request_id(&self, row: usize) -> &str {
        Self::request_id(self, row)
    }

    fn policy(&self) -> &DecisionPolicy {
        self.decisions()
    }

    fn at(&self) -> EventTime {
        Self::at(self)
    }

    fn event(&self, row: usize) -> Result<Box<RawValue>, serde_json::Error> {
        record::event(self, row)
    }
}

/// Decisions that wait to be pushed. Their permit is their room in the queue.
#[derive(Debug)]
struct Waiting {
    what: Recorded,
    room: OwnedSemaphorePermit,
}

impl Waiting {
    /// How many they are.
    fn decisions(&self) -> usize {
        self.room.num_permits()
    }
}

/// Decisions on their way to the stream.
#[derive(Debug)]
enum Recorded {
    /// Those of a small batch, written as its request ended: what was scored can go at once, from memory that is still
    /// at hand, where it would wait and go from another thread, cold.
    Written(Vec<Box<RawValue>>),
    /// Those of a large batch, whose request does not wait for the writing.
    Held(Arc<dyn Decisions>),
}

/// The rows of `scored` that are recorded.
fn sampled(scored: &dyn Decisions) -> impl Iterator<Item = usize> {
    let ppm = scored.policy().sample_ppm;
    (0..scored.rows()).filter(move |row| is_sampled(scored.request_id(*row), ppm))
}

/// The decisions of `scored` that are recorded, as events. What can't be written is dropped and counted.
fn written(scored: &dyn Decisions, dropped: &Dropped) -> Vec<Box<RawValue>> {
    let event = |row| match scored.event(row) {
        Ok(event) => Some(event),
        Err(error) => {
            tracing::error!(%error, "a decision can't be written as JSON");
            dropped.add(1, "a decision can't be written as JSON", scored.at());
            None
        }
    };
    sampled(scored).filter_map(event).collect()
}

#[derive(Debug, Default)]
struct Dropped {
    total: AtomicU64,
    unreported: AtomicU64,
    reported_at: AtomicI64,
}

impl DecisionLog {
    /// Starts the log's tasks, which at the shutdown drain their queues once the requests of `bounds` have ended.
    pub fn start(config: &DecisionLogConfig, ingest: Arc<dyn Ingest>, bounds: Bounds, shutdown: &Shutdown) -> Self {
        let room = Arc::new(Semaphore::new(config.queue.max(1)));
        let dropped = Arc::default();
        let audit = AuditLog::start(config, Arc::clone(&ingest), bounds.clone(), shutdown);
        if !config.enabled {
            return Self {
                queue: None,
                audit,
                room,
                dropped,
                max_raw_bytes: config.max_raw_bytes,
            };
        }
        // Unbounded by itself: the semaphore bounds what is in it.
        let (queue, waiting) = mpsc::unbounded_channel();
        let pusher = Pusher {
            ingest,
            config: config.clone(),
            waiting,
            room: Arc::clone(&room),
            bounds,
            dropped: Arc::clone(&dropped),
            shutdown: shutdown.clone(),
            unsettled: AtomicUsize::new(0),
        };
        shutdown.spawn("gateway-decision-log", pusher.run());
        Self {
            queue: Some(queue),
            audit,
            room,
            dropped,
            max_raw_bytes: config.max_raw_bytes,
        }
    }

    /// Records a scored batch as its model's definition says: by the time it returns where an audit is required (or an
    /// error says that it can't be), otherwise whenever, or not at all when there is no room.
    pub(crate) async fn record<D: Decisions + 'static>(
        &self,
        scored: &Arc<D>,
        deadline: Deadline,
    ) -> Result<(), ModelGatewayError> {
        if scored.policy().audit == Audit::Required {
            return self.audit.record(scored.as_ref(), deadline).await;
        }
        self.queue(scored);
        Ok(())
    }

    /// Whether any of the requests will be recorded.
    pub(crate) fn keeps(&self, policy: &DecisionPolicy, request_ids: &[String]) -> bool {
        let is_kept = |id: &String| is_sampled(id, policy.sample_ppm);
        policy.audit == Audit::Required || (self.queue.is_some() && request_ids.iter().any(is_kept))
    }

    /// How many bytes of a row that was sent raw are kept at most.
    pub(crate) fn max_raw_bytes(&self) -> usize {
        self.max_raw_bytes
    }

    fn queue<D: Decisions + 'static>(&self, scored: &Arc<D>) {
        let Some(queue) = &self.queue else { return };
        let recorded = sampled(scored.as_ref()).count();
        if recorded == 0 {
            return;
        }
        let permits = u32::try_from(recorded).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(permits).ok();
        let sent = room.is_some_and(|room| {
            let what = if recorded <= WRITTEN_AT_ONCE {
                Recorded::Written(written(scored.as_ref(), &self.dropped))
            } else {
                Recorded::Held(Arc::clone(scored) as Arc<dyn Decisions>)
            };
            queue.send(Waiting { what, room }).is_ok()
        });
        if !sent {
            self.dropped.add(u64::from(permits), "the queue is full", scored.at());
        }
    }

    /// Decisions dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.total.load(Ordering::Relaxed)
    }
}

impl Dropped {
    fn add(&self, rows: u64, reason: &'static str, at: EventTime) {
        metrics::counter!("ondol_gateway_decisions_dropped_total").increment(rows);
        self.total.fetch_add(rows, Ordering::Relaxed);
        self.unreported.fetch_add(rows, Ordering::Relaxed);
        let last = self.reported_at.load(Ordering::Relaxed);
        let due = last == 0 || at.micros().saturating_sub(last) >= REPORT_EVERY_US;
        if due
            && self
                .reported_at
                .compare_exchange(last, at.micros(), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            let dropped = self.unreported.swap(0, Ordering::Relaxed);
            tracing::warn!(dropped, reason, "decisions were not logged");
        }
    }
}
