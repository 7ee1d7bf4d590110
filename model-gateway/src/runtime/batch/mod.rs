//! Dynamic batching: requests of one model that arrive together run together.
//!
//! A request waits for others at most [`BatchLimits::max_delay_ms`], and not at all once [`BatchLimits::max_rows`] rows
//! are there; while every run that may go on at once is under way, waiting costs nothing, so batches grow with load. The
//! order of arrival is kept, and a request never waits behind one that came later. Who has given up, or whose deadline
//! has passed, is left out before the run. Requests whose tensors differ in more than their rows, and models that do not
//! answer a row for a row, run alone; a run that fails is repeated request by request, so that nobody gets another's
//! error.

mod merge;

use crate::runtime::signature::Signature;
use crate::runtime::tensor::NamedTensor;
use crate::runtime::{Runtime, RuntimeError};
use async_trait::async_trait;
use merge::{Shape, concatenated, divided};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Requests that wait for a batch at most; more are refused.
const QUEUE: usize = 4_096;

/// How requests of a model are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchLimits {
    /// Rows of a merged run at most. 0: requests are not merged.
    pub max_rows: usize,
    /// How long a request waits for others to be merged with, in milliseconds, which is as fine as timers are. 0: only
    /// those that wait already.
    pub max_delay_ms: u64,
}

/// A runtime whose requests are merged.
#[derive(Debug)]
pub struct Batched {
    inner: Arc<dyn Runtime>,
    max_rows: usize,
    queue: mpsc::Sender<Waiting>,
    worker: JoinHandle<()>,
}

/// A request that waits to be merged.
#[derive(Debug)]
struct Waiting {
    rows: usize,
    inputs: Vec<NamedTensor>,
    since: Instant,
    deadline: Instant,
    answer: oneshot::Sender<Result<Vec<NamedTensor>, RuntimeError>>,
}

impl Batched {
    /// Merges the requests of `inner`, of which `parallel` runs may go on at once. Must be called on a Tokio runtime; the
    /// task that merges ends with the value.
    pub fn new(inner: Arc<dyn Runtime>, limits: BatchLimits, parallel: usize) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let worker = Worker {
            inner: Arc::clone(&inner),
            limits,
            parallel: Arc::new(Semaphore::new(parallel.max(1))),
            waiting,
            next: None,
        };
        Self {
            inner,
            max_rows: limits.max_rows,
            queue,
            worker: tokio::spawn(worker.work()),
        }
    }
}

impl Drop for Batched {
    fn drop(&mut self) {
        // Nobody waits any more: a caller holds the value while it does.
        self.worker.abort();
    }
}

#[async_trait]
impl Runtime for Batched {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn memory_bytes(&self) -> usize {
        self.inner.memory_bytes()
    }

    async fn run(
        &self,
        rows: usize,
        inputs: Vec<NamedTensor>,
        deadline: Instant,
    ) -> Result<Vec<NamedTensor>, RuntimeError> {
        if rows >= self.max_rows {
            return self.inner.run(rows, inputs, deadline).await;
        }
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            rows,
            inputs,
            since: Instant::now(),
            deadline,
            answer,
        };
        self.queue
            .try_send(waiting)
            .map_err(|_| RuntimeError::Overloaded(format!("{QUEUE} requests wait to be batched")))?;
        answered
            .await
            .unwrap_or_else(|_| Err(RuntimeError::Run("the batch was abandoned".to_owned())))
    }
}

/// Takes requests from the queue and runs them together.
struct Worker {
    inner: Arc<dyn Runtime>,
    limits: BatchLimits,
    parallel: Arc<Semaphore>,
    waiting: mpsc::Receiver<Waiting>,
    /// Taken from the queue, but too large for the batch before.
    next: Option<Waiting>,
}

impl Worker {
    async fn work(mut self) {
        let mut runs = JoinSet::new();
        loop {
            let first = match self.next.take() {
                Some(first) => first,
                None => match self.waiting.recv().await {
                    Some(first) => first,
                    None => break,
                },
            };
            // The permits are never closed.
            let Ok(permit) = Arc::clone(&self.parallel).acquire_owned().await else {
                break;
            };
            let batch = self.gather(first).await;
            let inner = Arc::clone(&self.inner);
            runs.spawn(async move {
                run_together(inner.as_ref(), batch).await;
                drop(permit);
            });
            while let Some(ended) = runs.try_join_next() {
                if let Err(error) = ended {
                    tracing::error!(%error, "a batched run did not end as it should");
                }
            }
        }
    }

    /// `first` and what may run with it.
    async fn gather(&mut self, first: Waiting) -> Vec<Waiting> {
        let until = first.since + Duration::from_millis(self.limits.max_delay_ms);
        let mut rows = first.rows;
        let mut batch = vec![first];
        while rows < self.limits.max_rows {
            // What waits already is taken even when the delay has passed.
            let next = match self.waiting.try_recv() {
                Ok(next) => next,
                Err(_) if Instant::now() >= until => break,
                Err(_) => match tokio::time::timeout_at(until, self.waiting.recv()).await {
                    Ok(Some(next)) => next,
                    Ok(None) | Err(_) => break,
                },
            };
            if rows + next.rows > self.limits.max_rows {
                self.next = Some(next);
                break;
            }
            rows += next.rows;
            batch.push(next);
        }
        batch
    }
}

/// Runs what is still wanted of `batch`, merged as far as it can be.
async fn run_together(inner: &dyn Runtime, batch: Vec<Waiting>) {
    let now = Instant::now();
    let mut groups: Vec<(Shape, Vec<Waiting>)> = Vec::new();
    for waiting in batch {
        if waiting.answer.is_closed() || waiting.deadline <= now {
            continue;
        }
        match Shape::of(waiting.rows, &waiting.inputs) {
            None => run_alone(inner, waiting).await,
            Some(shape) => match groups.iter_mut().find(|(other, _)| *other == shape) {
                Some((_, group)) => group.push(waiting),
                None => groups.push((shape, vec![waiting])),
            },
        }
    }
    for (_, group) in groups {
        run_group(inner, group).await;
    }
}

async fn run_alone(inner: &dyn Runtime, waiting: Waiting) {
    let result = inner.run(waiting.rows, waiting.inputs, waiting.deadline).await;
    // Who gave up does not want to know.
    let _ = waiting.answer.send(result);
}

async fn run_group(inner: &dyn Runtime, mut group: Vec<Waiting>) {
    if group.len() < 2 {
        if let Some(waiting) = group.pop() {
            run_alone(inner, waiting).await;
        }
        return;
    }
    let rows: Vec<usize> = group.iter().map(|waiting| waiting.rows).collect();
    let total = rows.iter().sum();
    let latest = group.iter().map(|waiting| waiting.deadline).max();
    let merged = concatenated(group.iter().map(|waiting| waiting.inputs.as_slice()));
    metrics::histogram!("ondol_gateway_batch_rows").record(f64::from(u32::try_from(total).unwrap_or(u32::MAX)));
    let outputs = inner.run(total, merged, latest.unwrap_or_else(Instant::now)).await;
    let parts = outputs.ok().and_then(|outputs| divided(outputs, &rows));
    match parts {
        Some(parts) => {
            for (waiting, part) in group.into_iter().zip(parts) {
                let _ = waiting.answer.send(Ok(part));
            }
        }
        // One of them failed, or the outputs can't be told apart.
        None => {
            for waiting in group {
                if !waiting.answer.is_closed() {
                    run_alone(inner, waiting).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
