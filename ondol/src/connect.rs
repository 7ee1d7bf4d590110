//! The services as the command line sees them: clients at the addresses it was given.

use crate::cli::ConnectArgs;
use anyhow::{Context as _, Result};
use ondol_feature_store_api::{FeatureStore, FeatureStoreClient};
use ondol_ingest_api::{Ingest, IngestClient};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayClient};
use ondol_pipelines_api::{OfflineSql, Pipelines, PipelinesClient};
use std::sync::Arc;
use url::Url;

impl ConnectArgs {
    /// All four at one address.
    pub(crate) fn at(server: Url) -> Self {
        Self {
            server,
            feature_store: None,
            ingest: None,
            pipelines: None,
            model_gateway: None,
        }
    }

    fn url(&self, own: Option<&Url>) -> Url {
        own.unwrap_or(&self.server).clone()
    }

    pub(crate) fn feature_store(&self) -> Result<Arc<dyn FeatureStore>> {
        Ok(Arc::new(
            FeatureStoreClient::new(self.url(self.feature_store.as_ref())).context(CLIENT)?,
        ))
    }

    pub(crate) fn ingest(&self) -> Result<Arc<dyn Ingest>> {
        Ok(Arc::new(
            IngestClient::new(self.url(self.ingest.as_ref())).context(CLIENT)?,
        ))
    }

    pub(crate) fn pipelines(&self) -> Result<Arc<dyn Pipelines>> {
        Ok(Arc::new(
            PipelinesClient::new(self.url(self.pipelines.as_ref())).context(CLIENT)?,
        ))
    }

    pub(crate) fn sql(&self) -> Result<Arc<dyn OfflineSql>> {
        Ok(Arc::new(
            PipelinesClient::new(self.url(self.pipelines.as_ref())).context(CLIENT)?,
        ))
    }

    pub(crate) fn model_gateway(&self) -> Result<Arc<dyn ModelGateway>> {
        Ok(Arc::new(
            ModelGatewayClient::new(self.url(self.model_gateway.as_ref())).context(CLIENT)?,
        ))
    }
}

const CLIENT: &str = "the HTTP client can't be set up";
