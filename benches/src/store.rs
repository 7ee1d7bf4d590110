//! A feature store in this process, with definitions in force and payments in it.

use crate::payments::{Payments, SOURCE, delivery};
use anyhow::{Context as _, Result, bail};
use ondol_feature_store::{FeatureStoreConfig, FeatureStoreService};
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::wire::DefinitionFiles;
use ondol_runtime::{Shutdown, SystemClock};
use ondol_vocabulary::{Snapshot, ViewState};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events of one delivery: ingest's own bound.
const DELIVERY_ROWS: u64 = 8_192;

/// How long the parts of a store may take to stop.
pub(crate) const DRAIN: Duration = Duration::from_secs(60);

/// A store, its tasks and its configuration.
pub(crate) struct Store {
    pub(crate) service: Arc<FeatureStoreService>,
    pub(crate) config: FeatureStoreConfig,
    shutdown: Shutdown,
}

impl Store {
    /// With everything in `folder`, or the online rows in the Redis at `redis`.
    pub(crate) async fn open(folder: &Path, redis: Option<&str>) -> Result<Self> {
        let shutdown = Shutdown::new();
        let (service, config) = open_service(folder, redis, None, &shutdown).await?;
        Ok(Self {
            service,
            config,
            shutdown,
        })
    }

    /// Puts `files` in force and waits until every view serves.
    pub(crate) async fn apply(&self, files: DefinitionFiles) -> Result<Arc<Snapshot>> {
        self.service.apply(files).await?;
        let begun = Instant::now();
        loop {
            let snapshot = self.service.snapshot().await?;
            if snapshot.views.iter().all(|view| view.state == ViewState::Active) {
                return Ok(snapshot);
            }
            if begun.elapsed() > Duration::from_secs(60) {
                bail!("a view is not active after a minute");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes `count` payments and makes them durable.
    pub(crate) async fn fill(&self, mut payments: Payments, count: u64) -> Result<()> {
        let snapshot = self.service.snapshot().await?;
        let source = &snapshot.source(SOURCE).context("no source")?.definition;
        let mut left = count;
        while left > 0 {
            let rows = left.min(DELIVERY_ROWS);
            let batch: Vec<_> = (0..rows).map(|_| payments.next()).collect();
            self.service.write(delivery(source, &batch)?).await?;
            left -= rows;
        }
        self.service.flush(SOURCE).await?;
        Ok(())
    }

    /// Stops it. Rows in a shared Redis are removed.
    pub(crate) async fn close(self) -> Result<()> {
        if self.config.online.is_some() {
            for view in &self.service.snapshot().await?.views {
                self.service
                    .online()
                    .delete_view(view.id, std::time::Duration::ZERO)
                    .await?;
            }
        }
        if !self.shutdown.drain(DRAIN).await {
            bail!("the feature store did not stop");
        }
        Ok(())
    }
}

/// Opens a feature store in `folder`, with its online rows there or in the Redis at `redis`.
pub(crate) async fn open_service(
    folder: &Path,
    redis: Option<&str>,
    cache_mib: Option<usize>,
    shutdown: &Shutdown,
) -> Result<(Arc<FeatureStoreService>, FeatureStoreConfig)> {
    let embedded = FeatureStoreConfig::embedded(folder);
    let config = FeatureStoreConfig {
        online: redis.map(ToOwned::to_owned),
        online_prefix: format!("bench-{:016x}", rand::random::<u64>()),
        online_cache_mib: cache_mib.unwrap_or(embedded.online_cache_mib),
        ..embedded
    };
    let service = FeatureStoreService::open(&config, Arc::new(SystemClock), shutdown).await?;
    Ok((service, config))
}

/// The Redis that benchmarks use.
pub(crate) fn redis_url() -> Result<String> {
    std::env::var("ONDOL_TEST_REDIS").context("ONDOL_TEST_REDIS is not set: run scripts/bench, or scripts/services up")
}
