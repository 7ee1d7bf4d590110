//! What scores a vector: artifacts and the runtimes that run them.
//!
//! [`library`] finds ONNX Runtime on this machine, [`onnx`] loads artifacts into pools of sessions and runs them,
//! [`tensor`] is what goes in and comes out.

pub mod library;
pub mod onnx;
pub mod tensor;

/// Why an artifact can't be loaded or run.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RuntimeError {
    /// ONNX Runtime is not on this machine, or too old.
    #[error("{0}")]
    Library(String),
    /// The bytes are no ONNX model this runtime can load.
    #[error("the artifact can't be loaded: {0}")]
    Artifact(String),
    /// The model failed on its inputs.
    #[error("the model failed: {0}")]
    Run(String),
}
