//! The contract of the pipelines, both ends of its wire: [`service`], [`wire`], [`error`], [`server`], [`client`].

pub mod client;
pub mod error;
pub mod server;
pub mod service;
pub mod wire;

pub use client::PipelinesClient;
pub use error::PipelinesError;
pub use service::Pipelines;
