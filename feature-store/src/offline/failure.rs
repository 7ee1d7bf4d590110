//! How failures of the log read to callers.

use ondol_feature_store_api::FeatureStoreError;
use std::fmt::Display;

/// Storage did not do its part; trying again may help.
pub(super) fn unavailable(source: &str, doing: &str, error: impl Display) -> FeatureStoreError {
    FeatureStoreError::Unavailable {
        detail: format!("{doing} the offline table of `{source}`: {error}"),
    }
}

/// The data or the table is not as it must be; trying again won't help.
pub(super) fn internal(source: &str, detail: impl Display) -> FeatureStoreError {
    FeatureStoreError::Internal {
        detail: format!("offline table of `{source}`: {detail}"),
    }
}
