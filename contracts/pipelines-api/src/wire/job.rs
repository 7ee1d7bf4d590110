//! Jobs: what is asked for, and where it stands.

use super::Manifest;
use ondol_vocabulary::EventTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A batch source to bring online.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MaterializeRequest {
    /// The source's name.
    pub source: String,
}

/// A job and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Unique; sorts by creation.
    pub id: String,
    /// `training-set` or `materialize`.
    pub kind: String,
    /// The model or source it works on.
    pub subject: String,
    /// Where it stands.
    pub state: JobState,
    /// Rises with every change of state or progress.
    pub revision: u64,
    /// What it does now, in a few words.
    pub stage: String,
    /// Rows done, of the present stage.
    pub rows_done: u64,
    /// Rows to do, of the present stage; absent while unknown.
    pub rows_total: Option<u64>,
    /// When it was submitted.
    pub created_at: EventTime,
    /// When it ended.
    pub ended_at: Option<EventTime>,
    /// Why it failed.
    pub error: Option<String>,
    /// The manifest of a finished training set.
    pub manifest: Option<Manifest>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waiting for a place.
    Queued,
    /// At work.
    Running,
    /// Done.
    Succeeded,
    /// Ended by an error.
    Failed,
    /// Ended on request.
    Cancelled,
}

impl JobState {
    /// Whether the job has ended.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}
