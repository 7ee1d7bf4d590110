//! The task that pushes decisions aside from the requests: what it can't bring away it drops and counts.

use super::{Decisions, Dropped, Recorded, SOURCE, Waiting, sampled, written};
use crate::config::DecisionLogConfig;
use crate::predict::Bounds;
use ondol_ingest_api::wire::PushRequest;
use ondol_ingest_api::{Ingest, IngestError};
use ondol_runtime::Shutdown;
use ondol_vocabulary::EventTime;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// Pauses between attempts while ingest is down: from the first, doubled up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long the queue must be empty at the shutdown before it is looked whether requests are under way.
const IDLE: Duration = Duration::from_millis(50);

/// The log's task.
pub(super) struct Pusher {
    pub(super) ingest: Arc<dyn Ingest>,
    pub(super) config: DecisionLogConfig,
    pub(super) waiting: mpsc::UnboundedReceiver<Waiting>,
    pub(super) room: Arc<Semaphore>,
    pub(super) bounds: Bounds,
    pub(super) dropped: Arc<Dropped>,
    pub(super) shutdown: Shutdown,
    /// Decisions of the batch in hand of which it is not settled yet what becomes of them.
    pub(super) unsettled: AtomicUsize,
}

impl Pusher {
    pub(super) async fn run(mut self) {
        let token = self.shutdown.token();
        while let Some(first) = token.run_until_cancelled(self.waiting.recv()).await {
            let Some(first) = first else { return };
            self.linger().await;
            let batch = self.with_others(first);
            self.push_all(batch).await;
        }
        self.drain().await;
    }

    /// Waits a little for others. Nobody listens at the queue meanwhile: a listener would be woken, thread and all, for
    /// every request.
    async fn linger(&self) {
        if self.waiting.len() < self.config.batch {
            let linger = tokio::time::sleep(Duration::from_millis(self.config.linger_ms));
            self.shutdown.token().run_until_cancelled(linger).await;
        }
    }

    /// `first` and what waits behind it, up to what is pushed together. Never all of it: after an ingest that hung that is
    /// the whole queue, which would keep one thread from requests until it is taken and copied, and its room from new
    /// decisions until the last of it is pushed.
    fn with_others(&mut self, first: Waiting) -> Vec<Waiting> {
        let mut decisions = first.decisions();
        let mut batch = vec![first];
        while decisions < self.config.batch
            && let Ok(next) = self.waiting.try_recv()
        {
            decisions += next.decisions();
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
                        let batch = self.with_others(first);
                        self.push(batch).await;
                    }
                    Ok(None) => break,
                    Err(_) if self.bounds.is_idle() => break,
                    Err(_) => {}
                }
            }
        };
        if tokio::time::timeout(limit, rest).await.is_err() {
            // The batch in hand is gone, and its room free again: it is counted by itself.
            let queued = self.config.queue.max(1).saturating_sub(self.room.available_permits());
            let left = queued + self.unsettled.swap(0, Ordering::Relaxed);
            self.dropped
                .add(left as u64, "the shutdown could not wait for them", EventTime::now());
            tracing::error!(
                left,
                limit_ms = self.config.drain_ms,
                "decisions were not logged before the shutdown"
            );
        }
    }

    /// Pushes `batch`; a shutdown that comes while ingest is down bounds the attempts.
    async fn push_all(&self, batch: Vec<Waiting>) {
        let token = self.shutdown.token();
        let limit = Duration::from_millis(self.config.drain_ms);
        let bounded = async {
            token.cancelled().await;
            tokio::time::sleep(limit).await;
        };
        tokio::select! {
            () = self.push(batch) => {}
            () = bounded => {
                let left = self.unsettled.swap(0, Ordering::Relaxed);
                self.dropped.add(left as u64, "ingest did not take them before the shutdown", EventTime::now());
            }
        }
    }

    /// Pushes every decision of `batch`, as many events a call as are pushed together, until ingest has taken them or
    /// refuses them for good.
    async fn push(&self, batch: Vec<Waiting>) {
        let decisions = batch.iter().map(Waiting::decisions).sum();
        self.unsettled.store(decisions, Ordering::Relaxed);
        let mut events = Vec::with_capacity(decisions);
        // Their room, until all of them are settled.
        let mut rooms = Vec::with_capacity(batch.len());
        for Waiting { what, room } in batch {
            match what {
                Recorded::Written(written) => events.extend(written),
                Recorded::Held(scored) => events.extend(self.write(scored).await),
            }
            rooms.push(room);
        }
        self.unsettled.store(events.len(), Ordering::Relaxed);
        for events in events.chunks(self.config.batch.max(1)) {
            push_events(&self.ingest, &self.dropped, events).await;
            self.unsettled.fetch_sub(events.len(), Ordering::Relaxed);
        }
    }

    /// Writes a large batch's decisions, on a thread that serves no requests: some ten microseconds each.
    async fn write(&self, scored: Arc<dyn Decisions>) -> Vec<Box<RawValue>> {
        let (dropped, at, decisions) = (Arc::clone(&self.dropped), scored.at(), sampled(&*scored).count());
        let task = tokio::task::spawn_blocking(move || written(&*scored, &dropped));
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, decisions, "decisions could not be written");
            self.dropped.add(decisions as u64, "they could not be written", at);
            Vec::new()
        })
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
pub(crate) fn is_transient(error: &IngestError) -> bool {
    matches!(
        error,
        IngestError::Overloaded { .. } | IngestError::Unavailable { .. } | IngestError::Internal { .. }
    )
}
