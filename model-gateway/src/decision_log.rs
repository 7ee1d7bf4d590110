//! The decision log: what was served and predicted, sent to source `decisions` aside from the request.
//!
//! A request hands its whole batch over by reference; the one task of the log turns rows into events and pushes them
//! in batches. The queue is bounded in decisions: when it is full, further ones are dropped, counted and reported, and
//! requests never wait. Each decision is one JSON object of exactly these fields (structured ones are texts that hold
//! JSON, so that the source's schema is flat): `request_id`, `model`, `model_version`, `definition_version`, `at`,
//! `as_of`, `latency_us`, `features_us`, `model_us`, `inputs`, `vector`, `statuses`, `ages_ms`, `views`, `prediction`.
//! Floats round-trip exactly; NaN and the infinities are the texts `NaN`, `Infinity` and `-Infinity`.

use crate::config::DecisionLogConfig;
use crate::predict::{Bounds, Scored};
use ondol_ingest_api::wire::PushRequest;
use ondol_ingest_api::{Ingest, IngestError};
use ondol_runtime::Shutdown;
use ondol_vocabulary::{EventTime, FeatureStatus, Value, VersionedName};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

/// The stream source that takes decisions.
pub const SOURCE: &str = "decisions";

/// Pauses between attempts while ingest is down: from the first, doubled up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long the queue must be empty at the shutdown before it is looked whether requests are under way.
const IDLE: Duration = Duration::from_millis(50);
/// How often drops are reported at most.
const REPORT_EVERY_US: i64 = 10_000_000;

/// The gateway's end of the decision log. Clones share the queue.
#[derive(Clone, Debug)]
pub struct DecisionLog {
    queue: Option<mpsc::UnboundedSender<Waiting>>,
    room: Arc<Semaphore>,
    dropped: Arc<Dropped>,
}

/// A scored batch that waits to be pushed. Its permit is its room in the queue.
#[derive(Debug)]
struct Waiting {
    scored: Arc<Scored>,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct Dropped {
    total: AtomicU64,
    unreported: AtomicU64,
    reported_at: AtomicI64,
}

/// A decision as it is written to the topic.
#[derive(Debug, Serialize)]
struct Decision<'a> {
    request_id: &'a str,
    model: &'a str,
    model_version: i64,
    definition_version: i64,
    at: EventTime,
    as_of: EventTime,
    latency_us: i64,
    features_us: i64,
    model_us: i64,
    inputs: String,
    vector: String,
    statuses: String,
    ages_ms: String,
    views: String,
    prediction: String,
}

impl DecisionLog {
    /// Starts the log's task, which at the shutdown drains the queue once the requests of `bounds` have ended.
    pub fn start(config: &DecisionLogConfig, ingest: Arc<dyn Ingest>, bounds: Bounds, shutdown: &Shutdown) -> Self {
        let room = Arc::new(Semaphore::new(config.queue.max(1)));
        let dropped = Arc::default();
        if !config.enabled {
            return Self {
                queue: None,
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
            room,
            dropped,
        }
    }

    /// Queues a scored batch, or drops it when there is no room.
    pub fn record(&self, scored: &Arc<Scored>) {
        let Some(queue) = &self.queue else { return };
        let rows = u32::try_from(scored.rows()).unwrap_or(u32::MAX);
        let sent = Arc::clone(&self.room)
            .try_acquire_many_owned(rows)
            .ok()
            .is_some_and(|room| {
                queue
                    .send(Waiting {
                        scored: Arc::clone(scored),
                        _room: room,
                    })
                    .is_ok()
            });
        if !sent {
            self.dropped.add(u64::from(rows), "the queue is full", scored.at());
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

/// The log's task.
struct Pusher {
    ingest: Arc<dyn Ingest>,
    config: DecisionLogConfig,
    waiting: mpsc::UnboundedReceiver<Waiting>,
    room: Arc<Semaphore>,
    bounds: Bounds,
    dropped: Arc<Dropped>,
    shutdown: Shutdown,
}

impl Pusher {
    async fn run(mut self) {
        let token = self.shutdown.token();
        while let Some(first) = token.run_until_cancelled(self.waiting.recv()).await {
            let Some(first) = first else { return };
            let batch = self.collect(first).await;
            self.push_all(&batch).await;
        }
        self.drain().await;
    }

    /// Waits a little for others to go with `first`.
    async fn collect(&mut self, first: Waiting) -> Vec<Waiting> {
        let token = self.shutdown.token();
        let until = Instant::now() + Duration::from_millis(self.config.linger_ms);
        let mut rows = first.scored.rows();
        let mut batch = vec![first];
        while rows < self.config.batch {
            let next = tokio::select! {
                () = token.cancelled() => break,
                next = tokio::time::timeout_at(until, self.waiting.recv()) => next,
            };
            let Ok(Some(next)) = next else { break };
            rows += next.scored.rows();
            batch.push(next);
        }
        batch
    }

    /// Pushes what is queued, and what requests that are still under way queue, for a bounded time.
    async fn drain(&mut self) {
        let limit = Duration::from_millis(self.config.drain_ms);
        let rest = async {
            loop {
                // The senders live as long as the service: the queue is done when it is empty and nobody is about to
                // fill it.
                match tokio::time::timeout(IDLE, self.waiting.recv()).await {
                    Ok(Some(first)) => {
                        let mut batch = vec![first];
                        while let Ok(next) = self.waiting.try_recv() {
                            batch.push(next);
                        }
                        push(&self.ingest, &self.dropped, self.config.batch, &batch).await;
                    }
                    Ok(None) => break,
                    Err(_) if self.bounds.is_idle() => break,
                    Err(_) => {}
                }
            }
        };
        if tokio::time::timeout(limit, rest).await.is_err() {
            let left = self.config.queue.max(1).saturating_sub(self.room.available_permits());
            metrics::counter!("ondol_gateway_decisions_dropped_total").increment(left as u64);
            tracing::error!(
                left,
                limit_ms = self.config.drain_ms,
                "decisions were not logged before the shutdown"
            );
        }
    }

    /// Pushes `batch`; a shutdown that comes while ingest is down bounds the attempts.
    async fn push_all(&self, batch: &[Waiting]) {
        let token = self.shutdown.token();
        let limit = Duration::from_millis(self.config.drain_ms);
        let bounded = async {
            token.cancelled().await;
            tokio::time::sleep(limit).await;
        };
        tokio::select! {
            () = push(&self.ingest, &self.dropped, self.config.batch, batch) => {}
            () = bounded => {
                let rows: usize = batch.iter().map(|waiting| waiting.scored.rows()).sum();
                self.dropped.add(rows as u64, "ingest did not take them before the shutdown", EventTime::now());
            }
        }
    }
}

/// Pushes every row of `batch`, at most `size` events a call, until ingest has taken them or refuses them for good.
async fn push(ingest: &Arc<dyn Ingest>, dropped: &Dropped, size: usize, batch: &[Waiting]) {
    let mut events = Vec::new();
    for waiting in batch {
        for row in 0..waiting.scored.rows() {
            match event(&waiting.scored, row) {
                Ok(event) => events.push(event),
                Err(error) => {
                    tracing::error!(%error, "a decision can't be written as JSON");
                    dropped.add(1, "a decision can't be written as JSON", waiting.scored.at());
                }
            }
        }
    }
    for events in events.chunks(size.max(1)) {
        push_events(ingest, dropped, events).await;
    }
}

async fn push_events(ingest: &Arc<dyn Ingest>, dropped: &Dropped, events: &[Box<RawValue>]) {
    let mut pause = BACKOFF.0;
    loop {
        match ingest.push(SOURCE, PushRequest::from(events.to_vec())).await {
            Ok(_) => {
                metrics::counter!("ondol_gateway_decisions_logged_total").increment(events.len() as u64);
                return;
            }
            Err(error) if is_transient(&error) => {
                tracing::warn!(%error, pause_ms = pause.as_millis(), "decisions can't be pushed: trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACKOFF.1);
            }
            Err(error) => {
                tracing::error!(%error, decisions = events.len(), "ingest refuses the decisions");
                dropped.add(events.len() as u64, "ingest refuses them", EventTime::now());
                return;
            }
        }
    }
}

/// Whether the same push may succeed later.
fn is_transient(error: &IngestError) -> bool {
    matches!(
        error,
        IngestError::Overloaded { .. } | IngestError::Unavailable { .. } | IngestError::Internal { .. }
    )
}

/// Row `row` of a scored batch as an event of source `decisions`.
fn event(scored: &Scored, row: usize) -> Result<Box<RawValue>, serde_json::Error> {
    let mut vector: BTreeMap<&str, Value> = BTreeMap::new();
    let mut statuses: BTreeMap<&str, FeatureStatus> = BTreeMap::new();
    let mut ages_ms: BTreeMap<&str, i64> = BTreeMap::new();
    let mut views: BTreeMap<String, u32> = BTreeMap::new();
    for (name, feature) in scored.entries(row) {
        vector.insert(name, feature.value);
        statuses.insert(name, feature.status);
        if let Some(age_ms) = feature.age_ms {
            ages_ms.insert(name, age_ms);
        }
        if let Some(VersionedName { name, version }) = feature.view {
            views.insert(name, version);
        }
    }
    let registered = &scored.version().record.registered;
    to_raw_value(&Decision {
        request_id: scored.request_id(row),
        model: &registered.model.name,
        model_version: i64::from(registered.model.version),
        definition_version: i64::from(registered.definition_version),
        at: scored.at(),
        as_of: scored.as_of(),
        latency_us: scored.timing().latency_us,
        features_us: scored.timing().features_us,
        model_us: scored.timing().model_us,
        inputs: serde_json::to_string(&scored.inputs(row))?,
        vector: serde_json::to_string(&vector)?,
        statuses: serde_json::to_string(&statuses)?,
        ages_ms: serde_json::to_string(&ages_ms)?,
        views: serde_json::to_string(&views)?,
        prediction: serde_json::to_string(&scored.prediction(row))?,
    })
}
