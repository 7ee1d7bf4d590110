//! What can go wrong in the feature store.

use crate::uses::BrokenUse;
use crate::wire::Diagnostic;
use http::StatusCode;
use ondol_wire::ContractError;
use serde::{Deserialize, Serialize};

/// An error of the feature store, the same on both ends of the wire.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum FeatureStoreError {
    /// The definitions don't compile; each diagnostic points to file, line and column.
    #[error("{} in the definitions: {}", count(diagnostics), first(diagnostics))]
    InvalidDefinitions {
        /// Every error found.
        diagnostics: Vec<Diagnostic>,
    },
    /// Live models read what the change takes away or changes.
    #[error(
        "live models read what this would change:\n{}\nregister versions that do not need it first (add the changed feature under a new name, train, register, promote), or force it",
        lines(broken)
    )]
    InUse {
        /// What would change, and for whom.
        broken: Vec<BrokenUse>,
    },
    /// The request is not of the contract's form.
    #[error("{detail}")]
    InvalidRequest {
        /// The field, the value and the remedy.
        detail: String,
    },
    /// A name in the request is not in the registry.
    #[error("unknown {kind} `{name}`{}", suggest(suggestion))]
    Unknown {
        /// `source`, `view`, `feature` or `model`.
        kind: String,
        /// The name as given.
        name: String,
        /// The nearest valid name.
        suggestion: Option<String>,
    },
    /// The view is known but does not serve yet.
    #[error("view `{view}` is still being provisioned: try again shortly")]
    NotActive {
        /// The view's name.
        view: String,
    },
    /// An `as_of` lies before what the online rows have absorbed.
    #[error(
        "as_of {as_of} is not after the newest event absorbed for {entity} ({newest}): \
         online rows hold the present; use a training set for the past"
    )]
    AsOfInThePast {
        /// The moment asked for.
        as_of: String,
        /// The view and row number of the request.
        entity: String,
        /// The newest event's time.
        newest: String,
    },
    /// A delivery starts after the position the store expects.
    #[error("partition {partition} of `{source_name}` continues at offset {expected}, the delivery starts at {from}")]
    Gap {
        /// The source.
        source_name: String,
        /// The partition.
        partition: i32,
        /// Where the store expects the next delivery to start.
        expected: i64,
        /// Where it started.
        from: i64,
    },
    /// The store, or something it needs, can't answer now.
    #[error("the feature store is unavailable: {detail}")]
    Unavailable {
        /// What failed.
        detail: String,
    },
    /// A fault of the store's own.
    #[error("the feature store failed: {detail}")]
    Internal {
        /// What failed.
        detail: String,
    },
}

fn lines(broken: &[BrokenUse]) -> String {
    let lines: Vec<String> = broken.iter().map(|broken| format!("- {broken}")).collect();
    lines.join("\n")
}

fn count(diagnostics: &[Diagnostic]) -> String {
    match diagnostics.len() {
        1 => "1 error".to_owned(),
        several => format!("{several} errors"),
    }
}

fn first(diagnostics: &[Diagnostic]) -> String {
    diagnostics.first().map(ToString::to_string).unwrap_or_default()
}

fn suggest(suggestion: &Option<String>) -> String {
    suggestion
        .as_ref()
        .map(|name| format!(": did you mean `{name}`?"))
        .unwrap_or_default()
}

impl ContractError for FeatureStoreError {
    fn status(&self) -> StatusCode {
        match self {
            Self::InvalidDefinitions { .. } | Self::AsOfInThePast { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::InvalidRequest { .. } => StatusCode::BAD_REQUEST,
            Self::Unknown { .. } => StatusCode::NOT_FOUND,
            Self::Gap { .. } | Self::InUse { .. } => StatusCode::CONFLICT,
            Self::NotActive { .. } | Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::InvalidDefinitions { .. } => "invalid-definitions",
            Self::InUse { .. } => "in-use",
            Self::InvalidRequest { .. } => "invalid-request",
            Self::Unknown { .. } => "unknown",
            Self::NotActive { .. } => "not-active",
            Self::AsOfInThePast { .. } => "as-of-in-the-past",
            Self::Gap { .. } => "gap",
            Self::Unavailable { .. } => "unavailable",
            Self::Internal { .. } => "internal",
        }
    }

    fn retryable(&self) -> bool {
        matches!(self, Self::NotActive { .. } | Self::Unavailable { .. })
    }

    fn unavailable(detail: String) -> Self {
        Self::Unavailable { detail }
    }

    fn invalid(detail: String) -> Self {
        Self::InvalidRequest { detail }
    }
}
