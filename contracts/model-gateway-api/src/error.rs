//! What can go wrong in the model gateway.

use crate::wire::Trouble;
use http::StatusCode;
use ondol_wire::ContractError;
use serde::{Deserialize, Serialize};

/// An error of the model gateway, the same on both ends of the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum ModelGatewayError {
    /// The request is not of the contract's form or not of the model's inputs.
    #[error("{detail}")]
    InvalidRequest {
        /// The field, the value and the remedy.
        detail: String,
    },
    /// No such model, or no such version.
    #[error("unknown model `{name}`{}", suggestion.as_ref().map(|s| format!(": did you mean `{s}`?")).unwrap_or_default())]
    UnknownModel {
        /// The name as given.
        name: String,
        /// The nearest valid name.
        suggestion: Option<String>,
    },
    /// The model is defined, but nothing that scores it has been registered.
    #[error("model `{name}` has no registered version: `ondol model register {name} model.onnx`")]
    NothingRegistered {
        /// The model's name.
        name: String,
    },
    /// The artifact does not fit the model's feature vector.
    #[error("the artifact does not fit the feature vector of `{model}`:\n{}", differences.join("\n"))]
    Mismatch {
        /// The model's name.
        model: String,
        /// What differs, a line each.
        differences: Vec<String>,
    },
    /// The routing was changed by someone else since it was read.
    #[error("the routing of `{model}` is at revision {current}, not {expected}: read it again and repeat the change")]
    RevisionConflict {
        /// The model's name.
        model: String,
        /// The revision the change was made from.
        expected: u64,
        /// The revision in force.
        current: u64,
    },
    /// The version does not keep the limits it must keep to be promoted.
    #[error("`{version}` is not promoted:\n{}", unmet.join("\n"))]
    LimitsNotMet {
        /// The version.
        version: String,
        /// Which limits are not met, a line each.
        unmet: Vec<String>,
    },
    /// The model's policy refuses to score what the features are.
    #[error("the policy of `{model}` refuses features that are {trouble}: {detail}")]
    FeaturesRejected {
        /// The model's name.
        model: String,
        /// What is wrong with them.
        trouble: Trouble,
        /// Which features, or the reason.
        detail: String,
    },
    /// The models that must stay loaded leave no room for another.
    #[error("{detail}")]
    ModelMemory {
        /// The models, their sizes and the remedy.
        detail: String,
    },
    /// More requests are under way than the configured bound.
    #[error("the gateway is overloaded: {detail}")]
    Overloaded {
        /// Which bound was hit.
        detail: String,
    },
    /// The deadline passed.
    #[error("deadline of {deadline_ms} ms exceeded during {stage}")]
    DeadlineExceeded {
        /// The request's deadline.
        deadline_ms: u64,
        /// `features` or `model`.
        stage: String,
    },
    /// A model on another server was not asked successfully.
    #[error("upstream `{upstream}`: {detail}")]
    Upstream {
        /// Its host and model.
        upstream: String,
        /// How it failed.
        failure: UpstreamFailure,
        /// What happened.
        detail: String,
    },
    /// The gateway, or something it needs, can't answer now.
    #[error("the model gateway is unavailable: {detail}")]
    Unavailable {
        /// What failed.
        detail: String,
    },
    /// A fault of the gateway's own, or of the model.
    #[error("the model gateway failed: {detail}")]
    Internal {
        /// What failed.
        detail: String,
    },
}

/// How a model on another server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum UpstreamFailure {
    /// No whole answer in time.
    TimedOut,
    /// It has failed so often that it is not called for now.
    Unavailable {
        /// When it is tried again.
        retry_after_s: u64,
    },
    /// It can't be reached, broke off, or answered wrongly.
    Failed,
}

impl ContractError for ModelGatewayError {
    fn status(&self) -> StatusCode {
        match self {
            Self::InvalidRequest { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownModel { .. } | Self::NothingRegistered { .. } => StatusCode::NOT_FOUND,
            Self::Mismatch { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RevisionConflict { .. } | Self::LimitsNotMet { .. } => StatusCode::CONFLICT,
            // Nothing that the platform could mend: the entity is unknown.
            Self::FeaturesRejected {
                trouble: Trouble::Missing,
                ..
            } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::FeaturesRejected { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::ModelMemory { .. } => StatusCode::INSUFFICIENT_STORAGE,
            Self::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::DeadlineExceeded { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream { failure, .. } => match failure {
                UpstreamFailure::TimedOut => StatusCode::GATEWAY_TIMEOUT,
                UpstreamFailure::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
                UpstreamFailure::Failed => StatusCode::BAD_GATEWAY,
            },
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest { .. } => "invalid-request",
            Self::UnknownModel { .. } => "unknown-model",
            Self::NothingRegistered { .. } => "nothing-registered",
            Self::Mismatch { .. } => "mismatch",
            Self::RevisionConflict { .. } => "revision-conflict",
            Self::LimitsNotMet { .. } => "limits-not-met",
            Self::FeaturesRejected { .. } => "features-rejected",
            Self::ModelMemory { .. } => "model-memory",
            Self::Overloaded { .. } => "overloaded",
            Self::DeadlineExceeded { .. } => "deadline-exceeded",
            Self::Upstream { failure, .. } => match failure {
                UpstreamFailure::TimedOut => "upstream-timed-out",
                UpstreamFailure::Unavailable { .. } => "upstream-unavailable",
                UpstreamFailure::Failed => "upstream-failed",
            },
            Self::Unavailable { .. } => "unavailable",
            Self::Internal { .. } => "internal",
        }
    }

    fn retryable(&self) -> bool {
        matches!(
            self,
            Self::Overloaded { .. }
                | Self::DeadlineExceeded { .. }
                | Self::Unavailable { .. }
                | Self::Upstream { .. }
                | Self::FeaturesRejected {
                    trouble: Trouble::Stale | Trouble::Unavailable,
                    ..
                }
        )
    }

    fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::Overloaded { .. } => Some(1),
            Self::Unavailable { .. } => Some(2),
            Self::Upstream {
                failure: UpstreamFailure::Unavailable { retry_after_s },
                ..
            } => Some(*retry_after_s),
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
