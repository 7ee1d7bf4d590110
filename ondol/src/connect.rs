//! The services as the command line sees them: clients at the addresses it was given.

use crate::cli::ConnectArgs;
use anyhow::{Context as _, Result};
use ondol_feature_store_api::{FeatureStore, FeatureStoreClient};
use ondol_ingest_api::{Ingest, IngestClient};
use ondol_model_gateway_api::{GatewayAccessClient, ModelGateway, ModelGatewayClient};
use ondol_pipelines_api::{OfflineSql, Pipelines, PipelinesClient};
use ondol_wire::Credentials;
use std::path::PathBuf;
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
            token: None,
            service_token: None,
            ca: None,
            identity: None,
        }
    }

    fn credentials(&self, token: Option<&String>) -> Result<Credentials> {
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("can't read `{}`", path.display()));
        Ok(Credentials {
            // An empty variable is no token.
            token: token.filter(|token| !token.is_empty()).cloned(),
            authorities: self.ca.as_ref().map(read).transpose()?,
            identity: self.identity.as_ref().map(read).transpose()?,
        })
    }

    /// What services that share a token are shown.
    fn as_service(&self) -> Result<Credentials> {
        self.credentials(self.service_token.as_ref())
    }

    /// What the gateway is shown.
    fn as_caller(&self) -> Result<Credentials> {
        self.credentials(self.token.as_ref())
    }

    fn url(&self, own: Option<&Url>) -> Url {
        own.unwrap_or(&self.server).clone()
    }

    pub(crate) fn feature_store(&self) -> Result<Arc<dyn FeatureStore>> {
        Ok(Arc::new(
            FeatureStoreClient::with(self.url(self.feature_store.as_ref()), &self.as_service()?).context(CLIENT)?,
        ))
    }

    pub(crate) fn ingest(&self) -> Result<Arc<dyn Ingest>> {
        Ok(Arc::new(
            IngestClient::with(self.url(self.ingest.as_ref()), &self.as_service()?).context(CLIENT)?,
        ))
    }

    pub(crate) fn pipelines(&self) -> Result<Arc<dyn Pipelines>> {
        Ok(Arc::new(
            PipelinesClient::with(self.url(self.pipelines.as_ref()), &self.as_service()?).context(CLIENT)?,
        ))
    }

    pub(crate) fn sql(&self) -> Result<Arc<dyn OfflineSql>> {
        Ok(Arc::new(
            PipelinesClient::with(self.url(self.pipelines.as_ref()), &self.as_service()?).context(CLIENT)?,
        ))
    }

    pub(crate) fn model_gateway(&self) -> Result<Arc<dyn ModelGateway>> {
        Ok(Arc::new(
            ModelGatewayClient::with(self.url(self.model_gateway.as_ref()), &self.as_caller()?).context(CLIENT)?,
        ))
    }

    pub(crate) fn gateway_access(&self) -> Result<GatewayAccessClient> {
        GatewayAccessClient::with(self.url(self.model_gateway.as_ref()), &self.as_caller()?).context(CLIENT)
    }
}

const CLIENT: &str = "the HTTP client can't be set up";
