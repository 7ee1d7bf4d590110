//! The tables by name: every source of the registry, opened when a query names it.

use crate::fault::EngineError;
use crate::listing::Listing;
use crate::provider::ListedTable;
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, SchemaProvider, TableProvider};
use datafusion::error::{DataFusionError, Result};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_pipelines_api::PipelinesError;
use ondol_runtime::objects::ObjectStores;
use ondol_vocabulary::Snapshot;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The catalog's name.
pub(super) const CATALOG: &str = "ondol";
/// The schema's name.
pub(super) const SCHEMA: &str = "offline";

/// The registry's sources as tables. One query holds one: each table is opened once and stays at its version.
pub(super) struct OfflineTables {
    store: Arc<dyn FeatureStore>,
    objects: ObjectStores,
    snapshot: Arc<Snapshot>,
    opened: Mutex<HashMap<String, Arc<dyn TableProvider>>>,
}

impl std::fmt::Debug for OfflineTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfflineTables").field("names", &self.names()).finish()
    }
}

impl OfflineTables {
    /// The tables that the registry names now.
    pub(super) async fn of(store: Arc<dyn FeatureStore>, objects: ObjectStores) -> Result<Self, PipelinesError> {
        let unavailable = |cause: FeatureStoreError| PipelinesError::Unavailable {
            detail: format!("the registry can't be read: {cause}"),
        };
        let snapshot = store.snapshot().await.map_err(unavailable)?;
        Ok(Self {
            store,
            objects,
            snapshot,
            opened: Mutex::new(HashMap::new()),
        })
    }

    /// Every name.
    pub(super) fn names(&self) -> Vec<String> {
        let sources = self.snapshot.sources.iter();
        let mut names: Vec<String> = sources.map(|source| source.definition.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    async fn open(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, EngineError> {
        let Some(source) = self.snapshot.source(name) else {
            return Ok(None);
        };
        let log = if source.definition.is_stream() {
            // What the store has accepted but not committed yet belongs to the present too.
            self.store.flush(name).await?;
            let tables = self.store.tables().await?;
            tables
                .into_iter()
                .find(|table| table.source == name && table.version.is_some())
        } else {
            None
        };
        let listing = Listing::of_source(
            &self.objects,
            &source.definition,
            log.as_ref().map(|log| log.url.as_str()),
        )
        .await?;
        Ok(Some(Arc::new(ListedTable::new(listing))))
    }

    /// The catalog that holds these tables.
    pub(super) fn catalog(self: Arc<Self>) -> Result<Arc<dyn CatalogProvider>> {
        let catalog = MemoryCatalogProvider::new();
        catalog.register_schema(SCHEMA, self)?;
        Ok(Arc::new(catalog))
    }
}

#[async_trait]
impl SchemaProvider for OfflineTables {
    fn table_names(&self) -> Vec<String> {
        self.names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let known = |tables: &Self| {
            let opened = tables.opened.lock().unwrap_or_else(PoisonError::into_inner);
            opened.get(name).cloned()
        };
        if let Some(table) = known(self) {
            return Ok(Some(table));
        }
        let Some(table) = self.open(name).await.map_err(DataFusionError::from)? else {
            return Ok(None);
        };
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.insert(name.to_owned(), Arc::clone(&table));
        Ok(Some(table))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.snapshot.source(name).is_some()
    }
}
