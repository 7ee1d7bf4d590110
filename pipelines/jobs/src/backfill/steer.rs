//! Holding a version back in the feature store, and letting it go on.

use ondol_feature_store_api::provisioning::{Provisioning, ProvisioningState};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_pipelines_api::PipelinesError;
use ondol_vocabulary::VersionedName;

/// How `view` is being provisioned; none when it is not.
pub(super) async fn find(
    store: &dyn FeatureStore,
    view: &VersionedName,
) -> Result<Option<Provisioning>, FeatureStoreError> {
    let all = store.provisionings().await?;
    Ok(all
        .into_iter()
        .find(|found| found.view == view.name && found.version == view.version))
}

/// Holds the version that a job is about back. One that is not being provisioned any more has nothing to hold.
///
/// # Errors
/// When it is being handed over by now, or the store does not answer.
pub(crate) async fn hold(store: &dyn FeatureStore, subject: &str) -> Result<(), PipelinesError> {
    let Some(found) = wanted(store, subject).await? else {
        return Ok(());
    };
    match store.hold(found.view_id).await {
        Ok(_) | Err(FeatureStoreError::Unknown { .. }) => Ok(()),
        Err(FeatureStoreError::InvalidRequest { detail }) => Err(PipelinesError::InvalidRequest { detail }),
        Err(error) => Err(unavailable(&error)),
    }
}

/// Lets the version that a job is about go on, if it is held.
///
/// # Errors
/// When the store does not answer.
pub(crate) async fn release(store: &dyn FeatureStore, subject: &str) -> Result<(), PipelinesError> {
    let found = wanted(store, subject).await?;
    let Some(found) = found.filter(|found| found.state == ProvisioningState::Held) else {
        return Ok(());
    };
    match store.release(found.view_id).await {
        Ok(_) | Err(FeatureStoreError::Unknown { .. }) => Ok(()),
        Err(error) => Err(unavailable(&error)),
    }
}

async fn wanted(store: &dyn FeatureStore, subject: &str) -> Result<Option<Provisioning>, PipelinesError> {
    match subject.parse() {
        Ok(view) => find(store, &view).await.map_err(|error| unavailable(&error)),
        Err(_) => Ok(None),
    }
}

fn unavailable(error: &FeatureStoreError) -> PipelinesError {
    PipelinesError::Unavailable {
        detail: format!("the feature store can't be asked: {error}"),
    }
}
