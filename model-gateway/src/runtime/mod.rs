//! What scores a vector: artifacts and the runtimes that run them.
//!
//! A [`Runtime`] takes named tensors and gives named tensors; everything above it (layout, score, the protocols) knows
//! no more. [`kind`] recognises what an artifact is, [`loader`] makes the runtime that runs it: [`onnx`] (with
//! [`library`], which finds ONNX Runtime) and [`trees`] in process, [`upstream`] on another server, [`graph`] through other models.
//! [`batch`] merges requests. [`signature`] is what a model says of itself, [`tensor`] is what goes in and comes out.

pub mod batch;
pub mod graph;
pub mod kind;
pub mod library;
pub mod loader;
pub mod onnx;
pub mod signature;
pub mod tensor;
pub mod trees;
pub mod upstream;

mod heap;

use crate::runtime::signature::Signature;
use crate::runtime::tensor::NamedTensor;
use async_trait::async_trait;
use ondol_vocabulary::VersionedName;
use std::fmt;
use tokio::time::Instant;

/// The most rows of a typical request: what a version is tried with before it serves.
pub const WARM_UP_ROWS: [usize; 2] = [1, 16];

/// A loaded model, whatever runs it.
#[async_trait]
pub trait Runtime: fmt::Debug + Send + Sync {
    /// What the model takes and gives.
    fn signature(&self) -> &Signature;

    /// About how much memory the model takes here at most, in bytes: what the bound on loaded models counts.
    fn memory_bytes(&self) -> usize {
        0
    }

    /// Registered versions that it runs: they are in memory as long as it is.
    fn members(&self) -> Vec<VersionedName> {
        Vec::new()
    }

    /// Runs the model on tensors whose first dimension is `rows`, and gives its outputs, whose first dimension is
    /// `rows` too. The caller stops waiting at `deadline`; a runtime that can do less work for it (a call to a server)
    /// does. Dropping the future abandons the wait; work that can't be stopped ends on its own and returns what it
    /// holds (sessions, connections).
    async fn run(
        &self,
        rows: usize,
        inputs: Vec<NamedTensor>,
        deadline: Instant,
    ) -> Result<Vec<NamedTensor>, RuntimeError>;
}

/// Why a model can't be loaded or run.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RuntimeError {
    /// ONNX Runtime is not on this machine, or too old.
    #[error("{0}")]
    Library(String),
    /// The bytes are no model that a runtime can load.
    #[error("the artifact can't be loaded: {0}")]
    Artifact(String),
    /// More requests wait for the model than may.
    #[error("the model is overloaded: {0}")]
    Overloaded(String),
    /// A model on another server could not be asked.
    #[error("upstream `{upstream}`: {detail}")]
    Upstream {
        /// Its host and model.
        upstream: String,
        /// What kind of failure.
        fault: UpstreamFault,
        /// What happened, without a secret and without a value.
        detail: String,
        /// What the server itself said of it, which may quote what it was sent: not for logs, and not for callers.
        words: Option<String>,
    },
    /// The model failed on its inputs.
    #[error("the model failed: {0}")]
    Run(String),
}

/// How a model on another server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamFault {
    /// No whole answer in time.
    TimedOut,
    /// It has failed so often that it is not called for now.
    Open {
        /// When it is tried again.
        retry_after_s: u64,
    },
    /// It can't be reached, broke off, or answered wrongly.
    Failed,
}
