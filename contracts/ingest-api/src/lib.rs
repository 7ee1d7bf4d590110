//! The contract of ingest, both ends of its wire: [`service`], [`wire`], [`error`], [`server`], [`client`].

pub mod client;
pub mod error;
pub mod server;
pub mod service;
pub mod wire;

pub use client::IngestClient;
pub use error::IngestError;
pub use service::Ingest;
