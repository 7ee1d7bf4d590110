//! What the versions that serve read, published to the feature store, which then refuses to take it away.
//!
//! Live is what a request may reach without naming a version: the default, aliases, rules, shares, shadows, and what
//! policies have stand in. The store keeps what was published, so this is said again only when it has changed; every
//! replica says the same, since they share the model database.

use crate::definitions::Definitions;
use crate::models::{Models, Version};
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::uses::{FeatureUse, ModelUse};
use ondol_runtime::Shutdown;
use ondol_vocabulary::FeatureRef;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How often it is looked whether something has changed.
const POLL: Duration = Duration::from_secs(1);
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Publishes uses. Clones share what was said last.
#[derive(Clone)]
pub struct Uses {
    store: Arc<dyn FeatureStore>,
    models: Arc<Models>,
    definitions: Definitions,
    consumer: String,
    published: Arc<Mutex<Option<Vec<ModelUse>>>>,
}

impl Uses {
    /// Of `models`, published as `consumer`'s.
    pub fn new(store: Arc<dyn FeatureStore>, models: Arc<Models>, definitions: Definitions, consumer: String) -> Self {
        Self {
            store,
            models,
            definitions,
            consumer,
            published: Arc::default(),
        }
    }

    /// Spawns the task that publishes what changes, until the shutdown.
    pub fn follow(&self, shutdown: &Shutdown) {
        let uses = self.clone();
        let token = shutdown.token();
        shutdown.spawn("gateway-uses", async move {
            let poll = async {
                loop {
                    uses.publish().await;
                    tokio::time::sleep(POLL).await;
                }
            };
            token.run_until_cancelled(poll).await;
        });
    }

    /// Publishes what is read now, if that has changed. A store that can't be told is told again.
    pub async fn publish(&self) {
        let mut published = self.published.lock().await;
        let now = self.now();
        if published.as_ref() == Some(&now) {
            return;
        }
        let told = tokio::time::timeout(PATIENCE, self.store.publish_uses(&self.consumer, now.clone())).await;
        match told {
            Ok(Ok(_)) => *published = Some(now),
            Ok(Err(error)) => {
                metrics::counter!("ondol_gateway_uses_errors_total").increment(1);
                tracing::warn!(%error, "the feature store does not know what live models read");
            }
            Err(_) => {
                metrics::counter!("ondol_gateway_uses_errors_total").increment(1);
                tracing::warn!("the feature store does not know what live models read: it did not answer");
            }
        }
    }

    fn now(&self) -> Vec<ModelUse> {
        let snapshot = self.definitions.current();
        let mut uses: Vec<ModelUse> = Vec::new();
        for routes in self.models.all_routes() {
            let policy = snapshot.model(&routes.name).map(|model| &model.definition.policy);
            let live = routes.live(policy);
            let versions = routes.versions.iter();
            uses.extend(
                versions
                    .filter(|version| live.contains(&version.record.registered.model.version))
                    .map(|version| use_of(version)),
            );
        }
        uses.sort_by_key(|found| (found.model.name.clone(), found.model.version));
        uses
    }
}

/// What a version reads, of the views as they were when it was registered. A version of an older gateway did not note
/// them: nothing is claimed for it.
fn use_of(version: &Version) -> ModelUse {
    let record = &version.record;
    let read = |feature: FeatureRef| {
        let place = record.views.iter().position(|view| view.name == feature.view)?;
        let data_type = record.views.get(place)?.feature(&feature.feature)?.data_type;
        let view_version = record
            .registered
            .views
            .iter()
            .find(|view| view.name == feature.view)?
            .version;
        Some(FeatureUse {
            feature,
            view_version,
            data_type,
        })
    };
    let reads = record.definition.view_features();
    ModelUse {
        model: record.registered.model.clone(),
        reads: reads.into_iter().filter_map(read).collect(),
    }
}
