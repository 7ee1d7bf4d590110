//! View engines, compiled once for each version and kept while a snapshot names it.
//!
//! A view version never changes, but the source it reads may gain columns, so an engine belongs to the pair. Compiling
//! is per view: one that does not compile fails what needs it, and nothing else.

use ondol_feature_store_api::FeatureStoreError;
use ondol_transform::ViewEngine;
use ondol_vocabulary::{Snapshot, SourceDefinition, ViewVersion};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A view version with its engine.
pub struct CompiledView {
    /// Names the version in stored rows.
    pub id: u32,
    /// Its version.
    pub version: u32,
    /// The engine, which holds the definition.
    pub engine: ViewEngine,
}

/// The engines in use. Bounded by the view versions of a snapshot.
#[derive(Default)]
pub struct CompiledViews {
    engines: Mutex<HashMap<(u32, u32), Arc<CompiledView>>>,
}

impl CompiledViews {
    /// The engine of `view`, which `snapshot` holds.
    pub fn get(&self, snapshot: &Snapshot, view: &ViewVersion) -> Result<Arc<CompiledView>, FeatureStoreError> {
        let source = snapshot
            .source(&view.definition.source)
            .ok_or_else(|| FeatureStoreError::Internal {
                detail: format!(
                    "view `{}` reads `{}`, which no source is",
                    view.definition.name, view.definition.source
                ),
            })?;
        let place = (view.id, source.version);
        if let Some(known) = self.lock().get(&place) {
            return Ok(Arc::clone(known));
        }
        let compiled = Arc::new(compile(view, &source.definition)?);
        let mut engines = self.lock();
        engines.retain(|(id, _), _| snapshot.views.iter().any(|view| view.id == *id));
        engines.insert(place, Arc::clone(&compiled));
        Ok(compiled)
    }

    // A panic can't leave the map half-changed, so a poisoned lock is as good as any.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(u32, u32), Arc<CompiledView>>> {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CompiledView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledView")
            .field("id", &self.id)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

fn compile(view: &ViewVersion, source: &SourceDefinition) -> Result<CompiledView, FeatureStoreError> {
    let engine = ViewEngine::compile(&view.definition, source).map_err(|error| FeatureStoreError::Internal {
        detail: format!(
            "view `{}@{}` no longer compiles: {error}",
            view.definition.name, view.version
        ),
    })?;
    Ok(CompiledView {
        id: view.id,
        version: view.version,
        engine,
    })
}
