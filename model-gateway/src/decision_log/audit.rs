//! Decisions that must be durable before their answer goes out.
//!
//! One task pushes what waits, together: while a push is under way the next batch gathers, so that the wait is one or two
//! round trips of ingest, however many requests there are. What can't be pushed is an error to whoever waits for it; it is
//! not tried again here, because the caller may have gone.

use super::{Decisions, SOURCE};
use crate::config::DecisionLogConfig;
use crate::fault::{internal, unavailable};
use crate::predict::{Bounds, Deadline};
use ondol_ingest_api::Ingest;
use ondol_ingest_api::wire::PushRequest;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_runtime::Shutdown;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long the queue must be empty at the shutdown before it is looked whether requests are under way.
const IDLE: Duration = Duration::from_millis(50);
/// How long a push may take: an ingest that hangs must not hold up those who come after.
const PATIENCE: Duration = Duration::from_secs(10);

/// The requests' end.
#[derive(Clone, Debug)]
pub(super) struct AuditLog {
    queue: mpsc::Sender<Waiting>,
}

/// A request's decisions, and who waits for them.
#[derive(Debug)]
struct Waiting {
    events: Vec<Box<RawValue>>,
    done: oneshot::Sender<Result<(), String>>,
}

impl AuditLog {
    /// Starts the task. It ends with the shutdown, once the requests of `bounds` have.
    pub(super) fn start(
        config: &DecisionLogConfig,
        ingest: Arc<dyn Ingest>,
        bounds: Bounds,
        shutdown: &Shutdown,
    ) -> Self {
        // A request waits in the queue with what it has, so the bound on requests bounds it too.
        let (queue, waiting) = mpsc::channel(bounds.max_in_flight.clamp(1, 1 << 20));
        let task = Task {
            ingest,
            batch: config.batch.max(1),
            waiting,
            bounds,
        };
        let token = shutdown.token();
        shutdown.spawn(
            "gateway-audit-log",
            async move { task.run(token.cancelled_owned()).await },
        );
        Self { queue }
    }

    /// Waits until the decisions of `scored` are durable.
    pub(super) async fn record(&self, scored: &dyn Decisions, deadline: Deadline) -> Result<(), ModelGatewayError> {
        let events = (0..scored.rows()).map(|row| scored.event(row));
        let events = events.collect::<Result<Vec<_>, _>>().map_err(internal)?;
        let rows = events.len() as u64;
        let (done, answer) = oneshot::channel();
        let waiting = async {
            self.queue
                .send(Waiting { events, done })
                .await
                .map_err(|_| refused("the gateway is stopping"))?;
            match answer.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(detail)) => Err(refused(&detail)),
                Err(_) => Err(refused("the gateway is stopping")),
            }
        };
        let recorded = deadline.audit(waiting).await;
        let outcome = if recorded.is_ok() { "recorded" } else { "failed" };
        metrics::counter!("ondol_gateway_audited_decisions_total", "outcome" => outcome).increment(rows);
        recorded
    }
}

fn refused(detail: &str) -> ModelGatewayError {
    unavailable(format!(
        "the model's decisions must be recorded (`audit = \"required\"`), which is not possible now: {detail}"
    ))
}

struct Task {
    ingest: Arc<dyn Ingest>,
    batch: usize,
    waiting: mpsc::Receiver<Waiting>,
    bounds: Bounds,
}

impl Task {
    async fn run(mut self, stopped: impl Future<Output = ()>) {
        tokio::pin!(stopped);
        let mut stopping = false;
        loop {
            let next = if stopping {
                match tokio::time::timeout(IDLE, self.waiting.recv()).await {
                    Ok(next) => next,
                    Err(_) if self.bounds.is_idle() => None,
                    Err(_) => continue,
                }
            } else {
                tokio::select! {
                    next = self.waiting.recv() => next,
                    () = &mut stopped => {
                        stopping = true;
                        continue;
                    }
                }
            };
            let Some(first) = next else { return };
            self.push(first).await;
        }
    }

    /// Pushes `first` and what waits with it, and tells all of them.
    async fn push(&mut self, first: Waiting) {
        let mut events = first.events;
        let mut waiting = vec![first.done];
        while events.len() < self.batch
            && let Ok(mut next) = self.waiting.try_recv()
        {
            events.append(&mut next.events);
            waiting.push(next.done);
        }
        let push = self.ingest.push(SOURCE, PushRequest::from(events));
        let outcome = match tokio::time::timeout(PATIENCE, push).await {
            Ok(pushed) => pushed.map(drop).map_err(|error| error.to_string()),
            Err(_) => Err(format!("ingest did not answer within {} s", PATIENCE.as_secs())),
        };
        for done in waiting {
            // Whose deadline has passed does not wait any more.
            let _ = done.send(outcome.clone());
        }
    }
}
