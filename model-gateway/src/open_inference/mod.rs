//! The Open Inference Protocol V2, so that tritonclient and the KServe SDK work unmodified; and MLflow's scoring.
//!
//! In the order of a request's way: [`rest`], [`grpc`] and [`mlflow`] are the three surfaces. They parse a request into
//! [`tensor`]s, whose elements stand in JSON ([`wire`], [`json`]), in the bytes of the binary tensor extension and of
//! gRPC's raw contents ([`blob`]), or in gRPC's typed contents; [`compression`] unpacks what was sent compressed.
//! [`infer`] knows none of the surfaces: it tells entity keys from raw tensors and gets them scored; [`merge`] makes one
//! answer of several versions'. [`metadata`],
//! [`repository`] and [`statistics`] answer what is asked about models; [`refusal`] is an error of any of them.
//!
//! Cost model: a raw tensor's bytes are copied once, from the request's body into the vector that the runtime takes
//! over, and once on the way back. Nothing is made per element but texts.
//!
//! Sources: the Open Inference Protocol specification ("Inference Protocol HTTP/REST" and "GRPC"), Triton's extensions
//! of it (binary tensor data, model repository, model configuration, statistics), and what unmodified clients really do
//! where these are silent.

pub mod blob;
pub mod compression;
pub mod datatype;
pub mod grpc;
pub mod json;
pub mod statistics;
pub mod tensor;
pub mod wire;

mod infer;
mod merge;
mod metadata;
mod mlflow;
mod refusal;
mod repository;
mod rest;
mod routes;

pub(crate) use routes::OpenInference;
pub use routes::{openapi, router};
