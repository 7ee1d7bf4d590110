//! The feature store as lookups reach it: past a breaker, so that while it does not answer nobody waits for it.
//!
//! Lookups that end without an answer, each after its share of the deadline, open the breaker; then the model's policy
//! applies at once, until a lookup that is let through as a trial is answered. Only silence counts: an error is an answer,
//! and comes at once. A lookup that had hardly any time says nothing of the store.

use crate::breaker::Breaker;
use crate::fault::unavailable;
use crate::predict::Deadline;
use crate::runtime::upstream::spec::BreakerSpec;
use ondol_feature_store_api::FeatureStore;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_runtime::{Health, ReadyHandle};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// When the feature store is not asked for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreBreakerConfig {
    /// Lookups in a row that end without an answer before the store is not asked for a while. 0: it is always asked.
    pub timeouts: u32,
    /// How long a lookup must have waited to be counted, in milliseconds.
    pub slow_ms: u64,
    /// How long the store is not asked before one lookup tries it, in milliseconds; doubled each time that fails.
    pub open_ms: u64,
    /// The longest it is not asked, in milliseconds.
    pub max_open_ms: u64,
}

impl Default for StoreBreakerConfig {
    fn default() -> Self {
        Self {
            timeouts: 10,
            slow_ms: 10,
            open_ms: 500,
            max_open_ms: 2_000,
        }
    }
}

/// The feature store, and whether it is asked. Clones share both.
#[derive(Clone)]
pub struct Lookups {
    store: Arc<dyn FeatureStore>,
    guard: Option<Arc<Guard>>,
}

struct Guard {
    breaker: Arc<Breaker>,
    timeouts: u32,
    slow: Duration,
    /// Whether it was told that the store is not asked.
    is_told: AtomicBool,
    ready: ReadyHandle,
}

impl Lookups {
    /// Of `store`; `health` tells when it is not asked, which keeps no traffic out: policies have answers without it.
    pub fn new(store: Arc<dyn FeatureStore>, config: &StoreBreakerConfig, health: &Health) -> Self {
        if config.timeouts == 0 {
            return Self { store, guard: None };
        }
        let ready = health.register("gateway-feature-store");
        ready.ready();
        metrics::gauge!("ondol_gateway_store_open").set(0.0);
        let guard = Guard {
            breaker: Breaker::new(BreakerSpec {
                failures: config.timeouts,
                // Only those in a row: a store that answers some is asked.
                failure_percent: 101,
                open_ms: config.open_ms.max(1),
                max_open_ms: config.max_open_ms.max(config.open_ms).max(1),
                probes: 1,
            }),
            timeouts: config.timeouts,
            slow: Duration::from_millis(config.slow_ms),
            is_told: AtomicBool::new(false),
            ready,
        };
        Self {
            store,
            guard: Some(Arc::new(guard)),
        }
    }

    /// The store.
    pub fn store(&self) -> &dyn FeatureStore {
        self.store.as_ref()
    }

    /// Waits for `read`, a lookup, at most for `limit` of `deadline`; not at all while the store is not asked.
    pub async fn within<T>(
        &self,
        deadline: Deadline,
        limit: Duration,
        read: impl Future<Output = Result<T, ModelGatewayError>>,
    ) -> Result<T, ModelGatewayError> {
        let Some(guard) = &self.guard else {
            return deadline.features(limit, read).await;
        };
        let begun = Instant::now();
        let pass = guard.breaker.admit(begun).map_err(|wait| guard.refused(wait))?;
        let result = deadline.features(limit, read).await;
        let now = Instant::now();
        match &result {
            Err(ModelGatewayError::DeadlineExceeded { .. }) if now - begun >= guard.slow => {
                pass.failed(now);
                guard.tell_open();
            }
            // Too little time for a verdict.
            Err(ModelGatewayError::DeadlineExceeded { .. }) => drop(pass),
            _ => {
                pass.succeeded(now);
                guard.tell_closed();
            }
        }
        result
    }
}

impl Guard {
    fn refused(&self, wait: Duration) -> ModelGatewayError {
        metrics::counter!("ondol_gateway_store_refused_total").increment(1);
        unavailable(format!(
            "the feature store did not answer {} lookups in a row: it is asked again in {} ms",
            self.timeouts,
            wait.as_millis()
        ))
    }

    fn tell_open(&self) {
        if !self.breaker.is_open() || self.is_told.swap(true, Ordering::Relaxed) {
            return;
        }
        metrics::gauge!("ondol_gateway_store_open").set(1.0);
        tracing::warn!(
            timeouts = self.timeouts,
            "the feature store does not answer: it is not asked for a while"
        );
        self.ready.ready_with(format!(
            "the feature store did not answer {} lookups in a row: models answer as their policies say without it",
            self.timeouts
        ));
    }

    fn tell_closed(&self) {
        // Read first: this is on the way of every request.
        if !self.is_told.load(Ordering::Relaxed) || self.breaker.is_open() {
            return;
        }
        if self.is_told.swap(false, Ordering::Relaxed) {
            metrics::gauge!("ondol_gateway_store_open").set(0.0);
            tracing::info!("the feature store answers again");
            self.ready.ready();
        }
    }
}
