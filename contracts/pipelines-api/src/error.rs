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
        /// `model`, `source` or `job`.
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
            Self::InvalidSpine { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unknown { .. } => StatusCode::NOT_FOUND,
            Self::NoResult { .. } => StatusCode::CONFLICT,
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
            Self::Overloaded { .. } => "overloaded",
            Self::Unavailable { .. } => "unavailable",
            Self::Internal { .. } => "internal",
        }
    }

    fn retryable(&self) -> bool {
        matches!(self, Self::Overloaded { .. } | Self::Unavailable { .. })
    }

    fn unavailable(detail: String) -> Self {
        Self::Unavailable { detail }
    }

    fn invalid(detail: String) -> Self {
        Self::InvalidRequest { detail }
    }
}
