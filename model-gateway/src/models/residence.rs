//! Whether a version is in memory: loaded at its first use, and given up when it is told to, or when others need the room.

use crate::models::Scorer;
use crate::models::memory::Memory;
use arc_swap::ArcSwapOption;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use ondol_model_gateway_api::ModelGatewayError;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// A load under way, which all wait for who want the model.
pub(super) type Loading = Shared<BoxFuture<'static, Result<Arc<Scorer>, ModelGatewayError>>>;

/// A version's place in memory.
#[derive(Debug, Default)]
pub(super) struct Residence {
    /// Requests under way keep the one they have; its memory goes with the last.
    scorer: ArcSwapOption<Scorer>,
    loading: Mutex<Option<Loading>>,
    /// Whether it was unloaded on purpose: then it is not loaded again by a request.
    is_unloaded: AtomicBool,
    /// How many can't go on without it: graphs that run it, changes of routing on their way.
    holds: AtomicUsize,
    loaded_ms: AtomicU64,
}

/// Keeps a version in memory, once it is there, until it is dropped.
#[derive(Debug)]
pub struct Hold {
    residence: Arc<Residence>,
    memory: Arc<Memory>,
}

impl Residence {
    /// With a model that is loaded already.
    pub(super) fn of(scorer: Arc<Scorer>) -> Self {
        let residence = Self::default();
        residence.keep(scorer);
        residence
    }

    /// The loaded model; `start` is called once, however many ask, and what it starts goes on when they have gone.
    pub(super) async fn get_or_load(&self, start: impl FnOnce() -> Loading) -> Result<Arc<Scorer>, ModelGatewayError> {
        if let Some(scorer) = self.scorer.load_full() {
            return Ok(scorer);
        }
        let loading = {
            let mut loading = self.lock();
            // It may have arrived in between.
            if let Some(scorer) = self.scorer.load_full() {
                return Ok(scorer);
            }
            loading.get_or_insert_with(start).clone()
        };
        // Boxed: loading is rare, and every request's future would hold it.
        loading.boxed().await
    }

    /// The load under way has ended with `result`. After a failure the next request tries again.
    pub(super) fn arrived(&self, result: &Result<Arc<Scorer>, ModelGatewayError>) {
        let mut loading = self.lock();
        *loading = None;
        if let Ok(scorer) = result
            && !self.is_unloaded()
        {
            self.keep(Arc::clone(scorer));
        }
    }

    fn keep(&self, scorer: Arc<Scorer>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.loaded_ms
            .store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.scorer.store(Some(scorer));
    }

    /// The model, if it is in memory.
    pub(super) fn loaded(&self) -> Option<Arc<Scorer>> {
        self.scorer.load_full()
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.scorer.load().is_some()
    }

    /// When it was last loaded, in milliseconds since 1970.
    pub(super) fn loaded_ms(&self) -> u64 {
        self.loaded_ms.load(Ordering::Relaxed)
    }

    pub(super) fn is_unloaded(&self) -> bool {
        self.is_unloaded.load(Ordering::Relaxed)
    }

    pub(super) fn is_held(&self) -> bool {
        self.holds.load(Ordering::Relaxed) > 0
    }

    /// Gives the model up, until [`Self::allow`].
    pub(super) fn unload(&self) {
        let loading = self.lock();
        self.is_unloaded.store(true, Ordering::Relaxed);
        self.scorer.store(None);
        drop(loading);
    }

    /// Gives the model up for another's sake, unless something holds it: the next request loads it again.
    pub(super) fn evict(&self) -> Option<Arc<Scorer>> {
        if self.is_held() { None } else { self.scorer.swap(None) }
    }

    /// Lets requests load it again.
    pub(super) fn allow(&self) {
        self.is_unloaded.store(false, Ordering::Relaxed);
    }

    /// Keeps it from being evicted.
    pub(super) fn hold(self: &Arc<Self>, memory: &Arc<Memory>) -> Hold {
        self.holds.fetch_add(1, Ordering::Relaxed);
        Hold {
            residence: Arc::clone(self),
            memory: Arc::clone(memory),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Loading>> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.residence.holds.fetch_sub(1, Ordering::Relaxed);
        self.memory.changed();
    }
}
