//! How the failures of what the gateway leans on become errors of its contract.

use crate::runtime::{RuntimeError, UpstreamFault};
use ondol_feature_store_api::FeatureStoreError;
use ondol_model_gateway_api::{ModelGatewayError, UpstreamFailure};

/// The request itself is wrong.
pub(crate) fn invalid(detail: impl Into<String>) -> ModelGatewayError {
    ModelGatewayError::InvalidRequest { detail: detail.into() }
}

/// A fault of the gateway's own.
pub(crate) fn internal(detail: impl std::fmt::Display) -> ModelGatewayError {
    ModelGatewayError::Internal {
        detail: detail.to_string(),
    }
}

/// Something the gateway needs can't answer now.
pub(crate) fn unavailable(detail: impl std::fmt::Display) -> ModelGatewayError {
    ModelGatewayError::Unavailable {
        detail: detail.to_string(),
    }
}

/// A failed feature read.
pub(crate) fn of_store(error: &FeatureStoreError) -> ModelGatewayError {
    match error {
        FeatureStoreError::InvalidRequest { .. } | FeatureStoreError::AsOfInThePast { .. } => {
            invalid(error.to_string())
        }
        FeatureStoreError::Internal { .. } => internal(format!("features can't be read: {error}")),
        _ => unavailable(format!("features can't be read: {error}")),
    }
}

/// A model that can't be loaded or run. What a server says of a failure is left out: it may quote what it was sent.
pub(crate) fn of_runtime(error: &RuntimeError) -> ModelGatewayError {
    match error {
        RuntimeError::Library(_) => unavailable(error),
        RuntimeError::Overloaded(detail) => ModelGatewayError::Overloaded { detail: detail.clone() },
        RuntimeError::Upstream {
            upstream,
            fault,
            detail,
            words,
        } => ModelGatewayError::Upstream {
            upstream: upstream.clone(),
            failure: match fault {
                UpstreamFault::TimedOut => UpstreamFailure::TimedOut,
                UpstreamFault::Open { retry_after_s } => UpstreamFailure::Unavailable {
                    retry_after_s: *retry_after_s,
                },
                UpstreamFault::Failed => UpstreamFailure::Failed,
            },
            detail: match words {
                Some(_) => format!("{detail}: its own log says why"),
                None => detail.clone(),
            },
        },
        RuntimeError::Artifact(_) | RuntimeError::Run(_) => internal(error),
    }
}

/// A model that can't be loaded, or run on vectors that say nothing: what a server says of it can quote nobody's values.
pub(crate) fn of_trial(error: &RuntimeError) -> ModelGatewayError {
    match (error, of_runtime(error)) {
        (
            RuntimeError::Upstream {
                detail,
                words: Some(words),
                ..
            },
            ModelGatewayError::Upstream { upstream, failure, .. },
        ) => ModelGatewayError::Upstream {
            upstream,
            failure,
            detail: format!("{detail}: {words}"),
        },
        (_, error) => error,
    }
}

/// The candidate nearest to `name`, if any is near enough to be meant.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + name.len().max(candidate.len()) / 3)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

/// `: did you mean …?`, or nothing.
pub(crate) fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates)
        .map(|near| format!(": did you mean `{near}`?"))
        .unwrap_or_default()
}
