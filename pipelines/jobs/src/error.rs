//! Why a job did not succeed.

use arrow::error::ArrowError;
use ondol_feature_store_api::FeatureStoreError;
use ondol_transform::expression::ExpressionError;

/// Why a job did not succeed. What it says ends up in the job list.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Somebody asked it to stop.
    #[error("cancelled")]
    Cancelled,
    /// Nothing is left to do for it, which is nobody's fault.
    #[error("{0}")]
    Withdrawn(String),
    /// The service is going down.
    #[error("interrupted by a shutdown of the pipelines: start it again")]
    Shutdown,
    /// The lease on it ran out, and another instance may be at work on it.
    #[error("another instance of the pipelines has taken it over")]
    Lost,
    /// What was asked for no longer fits the definitions in force.
    #[error("{0}")]
    Refused(String),
    /// A source table can't be read.
    #[error("table {location}: {detail}")]
    Table {
        /// Where it is.
        location: String,
        /// What is wrong and what to do.
        detail: String,
    },
    /// The feature store refused or did not answer.
    #[error("the feature store: {0}")]
    FeatureStore(#[from] FeatureStoreError),
    /// A training set that was to be made again came out otherwise.
    #[error("the training set can't be made again: {0}")]
    NotReproduced(String),
    /// A definition's expression failed on the data.
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    /// Columns don't fit together.
    #[error("columns: {0}")]
    Columns(#[from] ArrowError),
    /// The result or the ledger can't be written.
    #[error("{action}: {cause}")]
    Storage {
        /// What was attempted.
        action: String,
        /// Why it failed.
        cause: String,
    },
    /// The engine that joins elsewhere failed.
    #[error("{0}")]
    Engine(String),
    /// A fault of the pipelines' own.
    #[error("internal fault: {0}")]
    Internal(String),
}

impl JobError {
    /// A fault of the table at `location`.
    pub(crate) fn table(location: &str, detail: impl std::fmt::Display) -> Self {
        Self::Table {
            location: location.to_owned(),
            detail: detail.to_string(),
        }
    }

    /// The same fault, with the source that reads the table named.
    pub(crate) fn of_source(self, source: &str) -> Self {
        match self {
            Self::Table { location, detail } => Self::Table {
                location,
                detail: format!("source `{source}`: {detail}"),
            },
            other => other,
        }
    }

    /// A failure of `action` on a disk or database.
    pub(crate) fn storage(action: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        let cause = cause.to_string();
        Self::Storage {
            action: action.into(),
            cause: match remedy(&cause) {
                Some(remedy) if !cause.contains("free space") => format!("{cause}: {remedy}"),
                _ => cause,
            },
        }
    }

    /// A broken invariant.
    pub(crate) fn internal(detail: impl std::fmt::Display) -> Self {
        Self::Internal(detail.to_string())
    }
}

/// What helps against a failure of the system, which the libraries between here and there pass on as text.
fn remedy(cause: &str) -> Option<&'static str> {
    let (_, code) = cause.split_once("(os error ")?;
    match code.split(')').next()? {
        // EPERM, EACCES, EROFS
        "1" | "13" | "30" => Some("let the user that the pipelines run as write there, or set another `data_dir`"),
        // EFBIG, ENOSPC, EDQUOT
        "27" | "28" | "122" => Some("free space on its disk, or set another `data_dir`"),
        _ => None,
    }
}
