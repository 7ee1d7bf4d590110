//! Schedules: requests that are submitted again and again.

use super::JobRequest;
use ondol_vocabulary::EventTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A schedule to keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleRequest {
    /// Its name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// When it is due, in cron's five fields: minute, hour, day of the month, month, day of the week.
    pub cron: String,
    /// The time zone the fields are read in, as the IANA database names it. Absent: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What is submitted.
    pub request: JobRequest,
    /// Whether it starts paused.
    #[serde(default)]
    pub paused: bool,
}

/// A schedule and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// When it is due, in cron's five fields.
    pub cron: String,
    /// The time zone the fields are read in.
    pub zone: String,
    /// What is submitted.
    pub request: JobRequest,
    /// Whether it rests.
    pub paused: bool,
    /// When it was made.
    pub created_at: EventTime,
    /// Its next runs, soonest first; none while it is paused. The first may lie in the past: it is due, and waits for the
    /// job before it to end.
    pub next_runs: Vec<EventTime>,
    /// When it last submitted a job.
    pub last_run_at: Option<EventTime>,
    /// The job it last submitted.
    pub last_job: Option<String>,
    /// Why the last run could not be submitted; absent when it could.
    pub last_error: Option<String>,
}
