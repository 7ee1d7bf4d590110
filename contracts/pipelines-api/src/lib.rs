//! The contract of the pipelines, both ends of its wire: [`service`], [`wire`], [`error`], [`server`], [`client`];
//! and of its queries: [`sql`]. [`rows`] is how results travel, [`digest`] how they are recognized.

pub mod client;
pub mod digest;
pub mod error;
pub mod rows;
pub mod server;
pub mod service;
pub mod sql;
pub mod wire;

pub use client::PipelinesClient;
pub use digest::RowsDigest;
pub use error::PipelinesError;
pub use rows::Rows;
pub use service::Pipelines;
pub use sql::OfflineSql;
