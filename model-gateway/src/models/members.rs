//! Registered versions as the members of a graph.

use super::Models;
use crate::runtime::RuntimeError;
use crate::runtime::graph::{FoundMember, Members};
use async_trait::async_trait;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::VersionedName;
use std::sync::Weak;

#[async_trait]
impl Members for Weak<Models> {
    async fn member(&self, model: &VersionedName) -> Result<FoundMember, RuntimeError> {
        let models = self
            .upgrade()
            .ok_or_else(|| RuntimeError::Run("the gateway is stopping".to_owned()))?;
        let versions = models.versions(&model.name);
        let version = versions
            .iter()
            .find(|version| version.record.registered.model == *model)
            .ok_or_else(|| {
                let newest = versions
                    .last()
                    .map(|version| version.record.registered.model.to_string());
                let near = newest.map(|newest| format!(": its newest version is `{newest}`"));
                RuntimeError::Artifact(format!(
                    "no version `{model}` is registered{}",
                    near.unwrap_or_default()
                ))
            })?;
        // Held before it is loaded: the next member's load must not evict it.
        let hold = models.hold(version);
        let scorer = models.scorer(version).await.map_err(|error| match error {
            ModelGatewayError::Unavailable { detail } => RuntimeError::Library(format!("`{model}`: {detail}")),
            other => RuntimeError::Artifact(format!("`{model}`: {other}")),
        })?;
        Ok(FoundMember {
            scorer,
            definition: version.record.definition.clone(),
            hold,
        })
    }
}
