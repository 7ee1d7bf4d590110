//! The decoding of a batch, tried until it is done: a schema registry that does not answer holds the source, and loses
//! nothing.

use crate::batch::{self, DecodeError, Decoded};
use crate::deliver::{Backoff, Surroundings};
use crate::meter;
use crate::plan::SourcePlan;
use crate::progress::Part;
use crate::source::{Records, StreamError};
use futures::future::BoxFuture;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A batch to decode.
struct Batch {
    around: Arc<Surroundings>,
    plan: watch::Receiver<Arc<SourcePlan>>,
    generation: Arc<str>,
    runs: Vec<Records>,
}

type Attempt = JoinHandle<Result<Decoded, DecodeError>>;

/// Starts decoding `runs` by the newest of `plan`. Dropping the future abandons the batch.
pub(crate) fn decode(
    around: Arc<Surroundings>,
    plan: watch::Receiver<Arc<SourcePlan>>,
    generation: Arc<str>,
    runs: Vec<Records>,
) -> BoxFuture<'static, Result<Decoded, StreamError>> {
    let batch = Arc::new(Batch {
        around,
        plan,
        generation,
        runs,
    });
    // Begun at once, whoever waits for it and when.
    let first = batch.attempt();
    Box::pin(async move { batch.finish(first).await })
}

impl Batch {
    fn attempt(self: &Arc<Self>) -> Attempt {
        let batch = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let (plan, limits) = (Arc::clone(&batch.plan.borrow()), &batch.around.limits);
            let now = batch.around.now();
            batch::decode(&plan, &batch.generation, &batch.runs, now, limits.max_event_bytes)
        })
    }

    async fn finish(self: &Arc<Self>, first: Attempt) -> Result<Decoded, StreamError> {
        let (mut attempt, mut backoff) = (first, Backoff::new());
        loop {
            let outcome = attempt.await;
            match outcome.map_err(|error| StreamError::Unavailable(format!("decoding was stopped: {error}")))? {
                Ok(decoded) => {
                    self.around.progress.well(Part::Decoding);
                    return Ok(decoded);
                }
                Err(DecodeError::Unavailable(detail)) => {
                    self.around.progress.trouble(Part::Decoding, detail);
                    meter::retried(&self.around.source);
                    backoff.wait().await;
                    attempt = self.attempt();
                }
                Err(error @ DecodeError::Arrow(_)) => return Err(StreamError::Unavailable(error.to_string())),
            }
        }
    }
}
