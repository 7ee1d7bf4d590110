//! What can go wrong in ingest.

use http::StatusCode;
use ondol_wire::ContractError;
use serde::{Deserialize, Serialize};

/// An error of ingest, the same on both ends of the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum IngestError {
    /// The request is not of the contract's form.
    #[error("{detail}")]
    InvalidRequest {
        /// The field, the value and the remedy.
        detail: String,
    },
    /// No stream source has this name.
    #[error("unknown stream source `{name}`{}", suggestion.as_ref().map(|s| format!(": did you mean `{s}`?")).unwrap_or_default())]
    UnknownSource {
        /// The name as given.
        name: String,
        /// The nearest valid name.
        suggestion: Option<String>,
    },
    /// More is waiting than the configured bound.
    #[error("ingest is overloaded: {detail}")]
    Overloaded {
        /// Which bound was hit.
        detail: String,
    },
    /// Ingest, or the stream behind it, can't answer now.
    #[error("ingest is unavailable: {detail}")]
    Unavailable {
        /// What failed.
        detail: String,
    },
    /// A fault of ingest's own.
    #[error("ingest failed: {detail}")]
    Internal {
        /// What failed.
        detail: String,
    },
}

impl ContractError for IngestError {
    fn status(&self) -> StatusCode {
        match self {
            Self::InvalidRequest { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownSource { .. } => StatusCode::NOT_FOUND,
            Self::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest { .. } => "invalid-request",
            Self::UnknownSource { .. } => "unknown-source",
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
