//! Jobs: what is asked for, and where it stands.

use super::{BackfillRequest, Manifest, MaterializeRequest, RecurringTrainingSetRequest, StatisticsRequest};
use ondol_vocabulary::EventTime;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// What a job is to do. A training set whose spine is sent is asked for in a request of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum JobRequest {
    /// Bring a batch source's latest rows online.
    Materialize(MaterializeRequest),
    /// Merge the small files of a stream's log into large ones.
    Compact(CompactRequest),
    /// Delete what the retention of a stream's log no longer needs.
    Vacuum(VacuumRequest),
    /// Bring the statistics of a source up to date.
    Statistics(StatisticsRequest),
    /// Let the online rows of a view version be built, and follow that.
    Backfill(BackfillRequest),
    /// Build a training set from a spine that the job reads, and keep it.
    RecurringTrainingSet(RecurringTrainingSetRequest),
}

impl JobRequest {
    /// The kind as [`Job::kind`] names it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Materialize(_) => "materialize",
            Self::Compact(_) => "compact",
            Self::Vacuum(_) => "vacuum",
            Self::Statistics(_) => "statistics",
            Self::Backfill(_) => "backfill",
            Self::RecurringTrainingSet(_) => "recurring-training-set",
        }
    }
}

/// A log to compact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CompactRequest {
    /// The stream source.
    pub source: String,
}

/// A log to vacuum.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VacuumRequest {
    /// The stream source.
    pub source: String,
    /// How long what no version needs any more is kept, in milliseconds; also how far back versions stay readable.
    /// Absent: as the feature store is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<u64>,
    /// Drop event dates that lie wholly before this long ago, in milliseconds, first. Absent: as the feature store is
    /// configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_ms: Option<u64>,
    /// Only say what would be deleted.
    #[serde(default)]
    pub dry_run: bool,
}

/// A job and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Unique; sorts by creation.
    pub id: String,
    /// `training-set`, or a kind of [`JobRequest`].
    pub kind: String,
    /// The model, the source or the view version (`card@2`) that it works on.
    pub subject: String,
    /// Where it stands.
    pub state: JobState,
    /// Rises with every change of state or progress.
    pub revision: u64,
    /// Times it was started. More than one when the process at work on it ended before it did.
    #[serde(default)]
    pub attempt: u32,
    /// What it does now, in a few words.
    pub stage: String,
    /// Rows done, of the present stage.
    pub rows_done: u64,
    /// Rows to do, of the present stage; absent while unknown.
    pub rows_total: Option<u64>,
    /// Rows a second of the present stage, lately; of a job that has ended, absent.
    #[serde(default)]
    pub rows_per_second: Option<u64>,
    /// Seconds until the present stage ends, at that rate; absent while unknown.
    #[serde(default)]
    pub eta_seconds: Option<u64>,
    /// When it was submitted.
    pub created_at: EventTime,
    /// When it was first started.
    #[serde(default)]
    pub started_at: Option<EventTime>,
    /// When it ended.
    pub ended_at: Option<EventTime>,
    /// Why it failed.
    pub error: Option<String>,
    /// The job whose request this one repeats.
    #[serde(default)]
    pub retry_of: Option<String>,
    /// The schedule that submitted it.
    #[serde(default)]
    pub schedule: Option<String>,
    /// What it came to, in the terms of its kind; absent for kinds that have nothing to tell.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub outcome: Option<serde_json::Value>,
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
    const NAMES: [(Self, &'static str); 5] = [
        (Self::Queued, "queued"),
        (Self::Running, "running"),
        (Self::Succeeded, "succeeded"),
        (Self::Failed, "failed"),
        (Self::Cancelled, "cancelled"),
    ];

    /// Whether the job has ended.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Its name on the wire and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl FromStr for JobState {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::NAMES.iter().find(|(_, known)| *known == name);
        known.map(|(state, _)| *state).ok_or_else(|| {
            let names = Self::NAMES.map(|(_, name)| name).join(", ");
            format!("`{name}` is no state of a job: use one of {names}")
        })
    }
}

/// Which jobs to list. Each condition that is given must hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct JobQuery {
    /// At most this many (default 100, at most 1,000).
    #[serde(default = "default_limit")]
    pub limit: u32,
    /// The page after the one whose `next` this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only those of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub state: Option<JobState>,
    /// Only those that work on this model, source or view version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Only those that this schedule submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
}

const fn default_limit() -> u32 {
    100
}

impl JobQuery {
    /// The most jobs of one page.
    pub const MAX_LIMIT: u32 = 1_000;
}

impl Default for JobQuery {
    fn default() -> Self {
        Self {
            limit: default_limit(),
            after: None,
            kind: None,
            state: None,
            subject: None,
            schedule: None,
        }
    }
}

/// Jobs, newest first.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// What to give as `after` for the page that follows; none on the last page.
    pub next: Option<String>,
}

/// Names a submission, so that sending it again (after a timeout, say) does not start a second job: 1 to 255 visible
/// ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The header that carries it.
    pub const HEADER: &str = "idempotency-key";
    const LONGEST: usize = 255;

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for IdempotencyKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > Self::LONGEST || !visible {
            return Err(format!(
                "idempotency key `{}` is not 1 to {} visible ASCII characters: a UUID will do",
                text.escape_debug(),
                Self::LONGEST
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotency_key_is_visible_ascii() {
        for good in ["a", "5f0c1e1a-8f3b-4b46-9d7e-000000000000", &"x".repeat(255)] {
            assert_eq!(good.parse::<IdempotencyKey>().unwrap().as_str(), good);
        }
        for bad in ["", " ", "a b", "키", "a\n", &"x".repeat(256)] {
            assert!(bad.parse::<IdempotencyKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_state_is_parsed_from_its_name_on_the_wire() {
        for (state, name) in JobState::NAMES {
            assert_eq!((state.name(), name.parse()), (name, Ok(state)));
            assert_eq!(serde_json::to_value(state).unwrap(), name);
        }
        assert!("done".parse::<JobState>().unwrap_err().contains("succeeded"));
    }
}
