//! What the pipelines promise.

use crate::error::PipelinesError;
use crate::wire::{Job, JobResult, MaterializeRequest, TrainingSetRequest};
use async_trait::async_trait;
use std::time::Duration;

/// The pipelines: jobs over history.
#[async_trait]
pub trait Pipelines: Send + Sync + 'static {
    /// Starts a training set. What can be checked beforehand (columns, types, time zone, the model) is checked before
    /// this returns.
    async fn training_set(&self, request: TrainingSetRequest) -> Result<Job, PipelinesError>;

    /// Starts bringing a batch source's latest rows online.
    async fn materialize(&self, request: MaterializeRequest) -> Result<Job, PipelinesError>;

    /// Jobs, newest first.
    async fn jobs(&self) -> Result<Vec<Job>, PipelinesError>;

    /// One job. With `wait`, returns when the job's state or progress has changed since `seen_revision`, at latest
    /// after `wait`.
    async fn job(&self, id: &str, seen_revision: Option<u64>, wait: Duration) -> Result<Job, PipelinesError>;

    /// The result of a training-set job that succeeded. Kept for an hour after the job's end.
    async fn result(&self, id: &str) -> Result<JobResult, PipelinesError>;

    /// Asks a job to stop; it ends as `cancelled` at its next batch.
    async fn cancel(&self, id: &str) -> Result<Job, PipelinesError>;
}
