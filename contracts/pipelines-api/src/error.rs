//! What can go wrong in the pipelines.

use http::StatusCode;
use ondol_wire::ContractError;
use serde::{Deserialize, Serialize};

/// An error of the pipelines, the same on both ends of the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum PipelinesError {
    /// The request is not of the contract's form.
    #[error("{detail}")]
    InvalidRequest {
        /// The field, the value and the remedy.
        detail: String,
    },
    /// The spine lacks a column, or a column has a type the model can't use.
    #[error("the spine does not fit model `{model}`:\n{}", problems.join("\n"))]
    InvalidSpine {
        /// The model.
        model: String,
        /// A line per column that is wrong, with the remedy.
        problems: Vec<String>,
    },
    /// A name in the request is not in the registry, or no such job.
    #[error("unknown {kind} `{name}`{}", suggestion.as_ref().map(|s| format!(": did you mean `{s}`?")).unwrap_or_default())]
    Unknown {
        /// `model`, `source`, `job` or `schedule`.
        kind: String,
        /// The name as given.
        name: String,
        /// The nearest valid name.
        suggestion: Option<String>,
    },
    /// The job has no result (yet).
    #[error("job `{id}` has no result: it is {state}")]
    NoResult {
        /// The job.
        id: String,
        /// Its state.
        state: String,
    },
    /// The job can't be repeated, or not yet.
    #[error("job `{id}` can't be repeated: {reason}")]
    NotRepeatable {
        /// The job.
        id: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The idempotency key belongs to another request.
    #[error(
        "idempotency key `{key}` belongs to job `{job}`, whose request was another one: \
         send that request again as it was, or choose a new key"
    )]
    KeyReused {
        /// The key.
        key: String,
        /// The job it named first.
        job: String,
    },
    /// The name of the schedule is taken.
    #[error("schedule `{name}` exists already: remove it first, or choose another name")]
    ScheduleExists {
        /// The name.
        name: String,
    },
    /// The query can't be understood, names what is not there, or does more than read.
    #[error("{detail}")]
    InvalidQuery {
        /// What is wrong with it and what to do.
        detail: String,
    },
    /// The query reached a bound: of time, memory or rows.
    #[error("{detail}")]
    QueryLimit {
        /// Which bound, and what to do.
        detail: String,
    },
    /// More jobs are waiting than the configured bound.
    #[error("the pipelines are overloaded: {detail}")]
    Overloaded {
        /// Which bound was hit.
        detail: String,
    },
    /// The pipelines, or something they need, can't answer now.
    #[error("the pipelines are unavailable: {detail}")]
    Unavailable {
        /// What failed.
        detail: String,
    },
    /// A fault of the pipelines' own.
    #[error("the pipelines failed: {detail}")]
    Internal {
        /// What failed.
        detail: String,
    },
}

impl ContractError for PipelinesError {
    fn status(&self) -> StatusCode {
        match self {
            Self::InvalidRequest { .. } => StatusCode::BAD_REQUEST,
            Self::InvalidSpine { .. } | Self::KeyReused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unknown { .. } => StatusCode::NOT_FOUND,
            Self::NoResult { .. } | Self::NotRepeatable { .. } | Self::ScheduleExists { .. } => StatusCode::CONFLICT,
            Self::InvalidQuery { .. } | Self::QueryLimit { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest { .. } => "invalid-request",
            Self::InvalidSpine { .. } => "invalid-spine",
            Self::Unknown { .. } => "unknown",
            Self::NoResult { .. } => "no-result",
            Self::NotRepeatable { .. } => "not-repeatable",
            Self::KeyReused { .. } => "key-reused",
            Self::ScheduleExists { .. } => "schedule-exists",
            Self::InvalidQuery { .. } => "invalid-query",
            Self::QueryLimit { .. } => "query-limit",
            Self::Overloaded { .. } => "overloaded",
            Self::Unavailable { .. } => "unavailable",
            Self::Internal { .. } => "internal",
        }
    }

    fn retryable(&self) -> bool {
        matches!(self, Self::Overloaded { .. } | Self::Unavailable { .. })
    }

    fn retry_after_seconds(&self) -> Option<u64> {
        // A place in the queue comes free when a job ends.
        match self {
            Self::Overloaded { .. } => Some(5),
            Self::Unavailable { .. } => Some(1),
            _ => None,
        }
    }

    fn unavailable(detail: String) -> Self {
        Self::Unavailable { detail }
    }

    fn invalid(detail: String) -> Self {
        Self::InvalidRequest { detail }
    }
}
