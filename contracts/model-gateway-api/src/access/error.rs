//! Why a caller is turned away, or a key can't be kept.

use http::StatusCode;
use ondol_wire::ContractError;
use serde::{Deserialize, Serialize};

/// An error of access, the same on both ends of the wire. None says more than the caller may know: not whether a key
/// exists, nor why a signature failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum AccessError {
    /// Who calls is not known.
    #[error("{detail}")]
    Unauthenticated {
        /// What was missing or refused, and what to send.
        detail: String,
    },
    /// Who calls may not do this.
    #[error("{detail}")]
    Forbidden {
        /// Which scope is missing.
        detail: String,
    },
    /// The tenant's rate is used up.
    #[error("{detail}")]
    RateLimited {
        /// Which limit.
        detail: String,
        /// When to try again, in seconds.
        retry_after_s: u64,
    },
    /// The request's body is larger than its route takes.
    #[error("{detail}")]
    TooLarge {
        /// The size and the limit.
        detail: String,
    },
    /// No such key.
    #[error("no key has the id `{id}`: `ondol key list` shows them")]
    UnknownKey {
        /// The id as given.
        id: String,
    },
    /// The request is not of the contract's form.
    #[error("{detail}")]
    InvalidRequest {
        /// The field, the value and the remedy.
        detail: String,
    },
    /// Keys or the audit log can't be read or written now.
    #[error("access can't be decided: {detail}")]
    Unavailable {
        /// What failed.
        detail: String,
    },
}

impl ContractError for AccessError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnknownKey { .. } => StatusCode::NOT_FOUND,
            Self::InvalidRequest { .. } => StatusCode::BAD_REQUEST,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unauthenticated { .. } => "unauthenticated",
            Self::Forbidden { .. } => "forbidden",
            Self::RateLimited { .. } => "rate-limited",
            Self::TooLarge { .. } => "too-large",
            Self::UnknownKey { .. } => "unknown-key",
            Self::InvalidRequest { .. } => "invalid-request",
            Self::Unavailable { .. } => "unavailable",
        }
    }

    fn retryable(&self) -> bool {
        matches!(self, Self::RateLimited { .. } | Self::Unavailable { .. })
    }

    fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::RateLimited { retry_after_s, .. } => Some(*retry_after_s),
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
