//! Object stores as plans name them: by scheme and authority.
//!
//! A plan may run in another process than the one that made it, so no store is handed over: every process opens its own
//! from its own configuration.

use crate::fault::EngineError;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreRegistry;
use object_store::ObjectStore;
use ondol_runtime::objects::ObjectStores;
use std::sync::Arc;
use url::Url;

/// The process's stores, as the engine asks for them.
#[derive(Debug)]
pub(crate) struct Stores(pub ObjectStores);

impl ObjectStoreRegistry for Stores {
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        // Every store is known by the configuration already.
        None
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let place = self.0.at(url.as_str()).map_err(EngineError::from);
        place.map(|place| place.root()).map_err(DataFusionError::from)
    }
}
