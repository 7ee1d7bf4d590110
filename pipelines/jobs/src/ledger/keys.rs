//! Idempotency keys: which submission made which job.

use ondol_pipelines_api::wire::IdempotencyKey;

/// A submission's key, and what tells its request from another one.
#[derive(Clone, Debug)]
pub(crate) struct KeyDigest {
    /// The key.
    pub key: IdempotencyKey,
    /// Equal for equal requests.
    pub digest: String,
}
