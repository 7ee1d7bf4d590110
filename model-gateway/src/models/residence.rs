//! Whether a version is in memory: loaded at its first use, and given up when it is told to.

use crate::models::Scorer;
use arc_swap::ArcSwap;
use ondol_model_gateway_api::ModelGatewayError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::OnceCell;

/// A version's place in memory.
#[derive(Debug, Default)]
pub(super) struct Residence {
    /// Replaced when the version is unloaded. Requests under way keep the one they have; its memory goes with the last.
    cell: ArcSwap<OnceCell<Arc<Scorer>>>,
    /// Whether it was unloaded on purpose: then it is not loaded again by a request.
    is_unloaded: AtomicBool,
}

impl Residence {
    /// With a model that is loaded already.
    pub(super) fn of(scorer: Arc<Scorer>) -> Self {
        Self {
            cell: ArcSwap::from_pointee(OnceCell::new_with(Some(scorer))),
            is_unloaded: AtomicBool::new(false),
        }
    }

    /// The loaded model; `load` is called once, however many ask.
    pub(super) async fn get_or_load<F>(&self, load: impl FnOnce() -> F) -> Result<Arc<Scorer>, ModelGatewayError>
    where
        F: Future<Output = Result<Arc<Scorer>, ModelGatewayError>>,
    {
        if let Some(scorer) = self.cell.load().get() {
            return Ok(Arc::clone(scorer));
        }
        let cell = self.cell.load_full();
        // Boxed: loading is rare and its future large, and every request's would hold it.
        cell.get_or_try_init(|| Box::pin(load())).await.cloned()
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.cell.load().initialized()
    }

    pub(super) fn is_unloaded(&self) -> bool {
        self.is_unloaded.load(Ordering::Relaxed)
    }

    /// Gives the model up, until [`Self::allow`].
    pub(super) fn unload(&self) {
        self.is_unloaded.store(true, Ordering::Relaxed);
        self.cell.store(Arc::default());
    }

    /// Lets requests load it again.
    pub(super) fn allow(&self) {
        self.is_unloaded.store(false, Ordering::Relaxed);
    }
}
