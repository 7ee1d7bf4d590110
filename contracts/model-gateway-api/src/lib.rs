//! The contract of the model gateway, both ends of its wire: [`service`], [`wire`], [`error`], [`server`], [`client`].
//!
//! The gateway also speaks the Open Inference Protocol V2, whose wire is fixed by its specification and therefore
//! lives in the gateway (`open_inference`), not here.

pub mod access;
pub mod artifact;
pub mod client;
mod decision_server;
pub mod error;
mod routing_server;
pub mod server;
pub mod service;
pub mod wire;

pub use access::{AccessError, GatewayAccess, GatewayAccessClient};
pub use client::ModelGatewayClient;
pub use error::{ModelGatewayError, UpstreamFailure};
pub use service::ModelGateway;
