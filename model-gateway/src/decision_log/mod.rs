//! The decision log: what was served and predicted, sent to source `decisions`.
//!
//! A request hands its whole batch over by reference; [`record`] turns rows into events, and tasks push them in batches.
//! What a model's definition says of its decisions decides the way:
//! - *best effort* ([`pusher`]): aside from the request. The queue is bounded in decisions: when it is full, further ones
//!   are dropped, counted and reported, and requests never wait.
//! - *audit required* ([`audit`]): the answer waits until the stream has its decisions durably, and is an error when it
//!   can't have them. So nobody has an answer whose decision is lost; a decision may be recorded of an answer that nobody
//!   got.
//! - *sampled* ([`sample`]): chosen by request id, so that every replica and every reader chooses alike.

mod audit;
mod pusher;
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
use ondol_vocabulary::{Audit, EventTime};
use pusher::Pusher;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The stream source that takes decisions.
pub const SOURCE: &str = "decisions";

/// How often drops are reported at most.
const REPORT_EVERY_US: i64 = 10_000_000;

/// The gateway's end of the decision log. Clones share the queues.
#[derive(Clone, Debug)]
pub struct DecisionLog {
    queue: Option<mpsc::UnboundedSender<Waiting>>,
    audit: AuditLog,
    room: Arc<Semaphore>,
    dropped: Arc<Dropped>,
}

/// A scored batch that waits to be pushed. Its permit is its room in the queue.
#[derive(Debug)]
struct Waiting {
    scored: Arc<Scored>,
    /// How many of its rows are recorded.
    recorded: usize,
    _room: OwnedSemaphorePermit,
}

impl Waiting {
    /// The rows that are recorded.
    fn rows(&self) -> impl Iterator<Item = usize> {
        let ppm = self.scored.decisions().sample_ppm;
        (0..self.scored.rows()).filter(move |row| is_sampled(self.scored.request_id(*row), ppm))
    }
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
        };
        shutdown.spawn("gateway-decision-log", pusher.run());
        Self {
            queue: Some(queue),
            audit,
            room,
            dropped,
        }
    }

    /// Records a scored batch as its model's definition says: by the time it returns where an audit is required (or an
    /// error says that it can't be), otherwise whenever, or not at all when there is no room.
    pub async fn record(&self, scored: &Arc<Scored>, deadline: Deadline) -> Result<(), ModelGatewayError> {
        if scored.decisions().audit == Audit::Required {
            return self.audit.record(scored, deadline).await;
        }
        self.queue(scored);
        Ok(())
    }

    fn queue(&self, scored: &Arc<Scored>) {
        let Some(queue) = &self.queue else { return };
        let ppm = scored.decisions().sample_ppm;
        let recorded = (0..scored.rows())
            .filter(|row| is_sampled(scored.request_id(*row), ppm))
            .count();
        if recorded == 0 {
            return;
        }
        let permits = u32::try_from(recorded).unwrap_or(u32::MAX);
        let sent = Arc::clone(&self.room)
            .try_acquire_many_owned(permits)
            .ok()
            .is_some_and(|room| {
                queue
                    .send(Waiting {
                        scored: Arc::clone(scored),
                        recorded,
                        _room: room,
                    })
                    .is_ok()
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
