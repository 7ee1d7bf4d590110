//! What was compiled for each schema met: schemas never change, so that each is compiled once a source.

use super::value::Half;
use super::{Fault, Reason, Rejection};
use crate::schema_registry::{LookupError, Registered, SchemaRegistry};
use hashbrown::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Programs kept for one source; a topic has a few schemas. When there are more, all are compiled anew.
const BOUND: usize = 256;

/// Programs by half of the record and key.
#[derive(Debug)]
pub(super) struct Programs<K, P> {
    known: Mutex<HashMap<(Half, K), Arc<P>>>,
}

impl<K, P> Default for Programs<K, P> {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
        }
    }
}

impl<K: Clone + Eq + Hash, P> Programs<K, P> {
    /// The program of `key`, made by `make` when it is met first. Two that meet it at once may both make it: they make
    /// the same.
    pub(super) fn get(&self, half: Half, key: &K, make: impl FnOnce() -> Result<P, Fault>) -> Result<Arc<P>, Fault> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (half, key.clone());
        if let Some(program) = known().get(&place) {
            return Ok(Arc::clone(program));
        }
        // Not under the lock: the registry may have to be asked.
        let program = Arc::new(make()?);
        let mut known = known();
        if known.len() >= BOUND {
            known.clear();
        }
        known.insert(place, Arc::clone(&program));
        Ok(program)
    }
}

/// Schema `id` of the registry, which must be of `kind`.
pub(super) fn registered(registry: Option<&SchemaRegistry>, id: u32, kind: &str) -> Result<Arc<Registered>, Fault> {
    let Some(registry) = registry else {
        let detail = format!(
            "messages name schemas of a registry (the first: {id}), but none is configured: set `url` of \
             [ingest.schema_registry]"
        );
        return Err(Fault::Unavailable(detail));
    };
    match registry.schema(id) {
        Ok(registered) if registered.kind == kind => Ok(registered),
        Ok(registered) => {
            let detail = format!(
                "schema {id} of the registry is {}, but the source's format is {kind}: set `format` of the source, or \
                 the producer's serializer",
                registered.kind
            );
            Err(Rejection::new(Reason::IncompatibleSchema, detail).into())
        }
        Err(LookupError::Unknown(detail)) => Err(Rejection::new(Reason::UnknownSchema, detail).into()),
        Err(LookupError::Unusable(detail)) => Err(Rejection::new(Reason::IncompatibleSchema, detail).into()),
        Err(LookupError::Unavailable(detail)) => Err(Fault::Unavailable(detail)),
    }
}
