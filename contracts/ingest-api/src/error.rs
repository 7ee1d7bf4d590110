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
    /// A seek leads back to events that were delivered.
    #[error(
        "`{source_name}` has delivered partition {partition} up to offset {delivered}, and {to} lies before it: events \
         that were absorbed stay absorbed, so reading them again would change nothing. To compute features anew from the \
         log of events: `ondol rebuild`"
    )]
    SeekBackward {
        /// The source.
        source_name: String,
        /// The partition.
        partition: i32,
        /// First offset not delivered.
        delivered: i64,
        /// Where the seek leads.
        to: i64,
    },
    /// No dead letter of the source stands at this position.
    #[error("`{source_name}` has no dead letter at {position}: `ondol dead-letters list {source_name}` lists them")]
    UnknownLetter {
        /// The source.
        source_name: String,
        /// The position asked for.
        position: String,
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
            Self::UnknownSource { .. } | Self::UnknownLetter { .. } => StatusCode::NOT_FOUND,
            Self::SeekBackward { .. } => StatusCode::CONFLICT,
            Self::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest { .. } => "invalid-request",
            Self::UnknownSource { .. } => "unknown-source",
            Self::SeekBackward { .. } => "seek-backward",
            Self::UnknownLetter { .. } => "unknown-letter",
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
