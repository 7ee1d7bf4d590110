//! What the pipelines promise.

use crate::error::PipelinesError;
use crate::rows::Rows;
use crate::wire::{
    ColumnStatistics, IdempotencyKey, Job, JobPage, JobQuery, JobRequest, JobResult, MaterializeRequest, Schedule,
    ScheduleRequest, SourceStatistics, StatisticsQuery, TrainingSetRequest,
};
use async_trait::async_trait;
use std::time::Duration;

/// The pipelines: jobs over history.
///
/// A job that was accepted is durable: it is kept with all that its request holds, and restarted when the process at
/// work on it ends before it does. A submission with an idempotency key can be repeated: the same key and request name
/// the same job for as long as keys are kept (24 hours unless configured otherwise).
#[async_trait]
pub trait Pipelines: Send + Sync + 'static {
    /// Starts a training set. What can be checked beforehand (columns, types, time zone, the model) is checked before
    /// this returns.
    async fn submit_training_set(
        &self,
        request: TrainingSetRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Job, PipelinesError>;

    /// Starts a job of any other kind. Names are checked before this returns.
    async fn submit(&self, request: JobRequest, key: Option<IdempotencyKey>) -> Result<Job, PipelinesError>;

    /// [`Self::submit_training_set`] without a key.
    async fn training_set(&self, request: TrainingSetRequest) -> Result<Job, PipelinesError> {
        self.submit_training_set(request, None).await
    }

    /// Starts bringing a batch source's latest rows online.
    async fn materialize(&self, request: MaterializeRequest) -> Result<Job, PipelinesError> {
        self.submit(JobRequest::Materialize(request), None).await
    }

    /// Jobs, newest first.
    async fn jobs(&self, query: JobQuery) -> Result<JobPage, PipelinesError>;

    /// One job. With `wait`, returns when the job's state or progress has changed since `seen_revision`, at latest
    /// after `wait`.
    async fn job(&self, id: &str, seen_revision: Option<u64>, wait: Duration) -> Result<Job, PipelinesError>;

    /// The rows of a training-set job that succeeded, as they are read. Kept for an hour after the job's end.
    async fn rows(&self, id: &str) -> Result<Rows, PipelinesError>;

    /// [`Self::rows`], all of them in memory.
    async fn result(&self, id: &str) -> Result<JobResult, PipelinesError> {
        self.rows(id).await?.collect().await
    }

    /// Asks a job to stop; it ends as `cancelled` at its next batch. One that has ended stays as it is.
    async fn cancel(&self, id: &str) -> Result<Job, PipelinesError>;

    /// Submits the request of a job that has ended once more, as a new job that names its origin.
    async fn retry(&self, id: &str, key: Option<IdempotencyKey>) -> Result<Job, PipelinesError>;

    /// Keeps a schedule. Refused when its name is taken.
    async fn create_schedule(&self, request: ScheduleRequest) -> Result<Schedule, PipelinesError>;

    /// Every schedule, by name.
    async fn schedules(&self) -> Result<Vec<Schedule>, PipelinesError>;

    /// One schedule.
    async fn schedule(&self, name: &str) -> Result<Schedule, PipelinesError>;

    /// Lets a schedule rest, or go on. What fell due while it rested is not made up for.
    async fn pause_schedule(&self, name: &str, paused: bool) -> Result<Schedule, PipelinesError>;

    /// Removes a schedule. Its jobs stay.
    async fn remove_schedule(&self, name: &str) -> Result<Schedule, PipelinesError>;

    /// The statistics of a source over a range of event dates, as a `statistics` job last computed them.
    async fn statistics(&self, source: &str, query: StatisticsQuery) -> Result<SourceStatistics, PipelinesError>;

    /// What the columns of a finished training set come to. Kept as long as its rows are.
    async fn result_statistics(&self, id: &str) -> Result<Vec<ColumnStatistics>, PipelinesError>;
}
