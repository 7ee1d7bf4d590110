//! What goes wrong inside the engine.

use datafusion::error::DataFusionError;
use ondol_feature_store_api::FeatureStoreError;
use ondol_runtime::objects::ObjectsError;

/// A fault of the engine or of what it reads.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A table can't be read.
    #[error("table {location}: {detail}")]
    Table {
        /// Where it is.
        location: String,
        /// What is wrong and what to do.
        detail: String,
    },
    /// A place can't be used.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// The feature store refused or did not answer.
    #[error("the feature store: {0}")]
    FeatureStore(#[from] FeatureStoreError),
    /// The query engine failed.
    #[error(transparent)]
    Query(#[from] DataFusionError),
    /// The cluster does not answer, or gave up.
    #[error("the cluster at {address}: {detail}")]
    Cluster {
        /// Its scheduler.
        address: String,
        /// What is wrong and what to do.
        detail: String,
    },
    /// The events are not what the source declares.
    #[error("{0}")]
    Events(String),
    /// The configuration can't be used.
    #[error("{0}")]
    Configuration(String),
    /// Whoever asked wants no answer any more.
    #[error("stopped")]
    Stopped,
    /// A fault of the engine's own.
    #[error("internal fault: {0}")]
    Internal(String),
}

impl EngineError {
    /// A fault of the table at `location`.
    pub(crate) fn table(location: &str, detail: impl std::fmt::Display) -> Self {
        Self::Table {
            location: location.to_owned(),
            detail: detail.to_string(),
        }
    }
}

impl From<EngineError> for DataFusionError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Query(error) => error,
            other => Self::External(Box::new(other)),
        }
    }
}
