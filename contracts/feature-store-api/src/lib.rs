//! The contract of the feature store, both ends of its wire.
//!
//! | file | holds |
//! |---|---|
//! | [`service`] | [`FeatureStore`], the trait callers hold and the service implements |
//! | [`wire`] | the types that travel |
//! | [`maintenance`] | those of compaction and vacuum |
//! | [`provisioning`] | those of view versions that are being provisioned, and their routes |
//! | [`delivery`], [`feature_batch`] | the two of them that travel as Arrow |
//! | [`uses`] | what live models read |
//! | [`error`] | [`FeatureStoreError`] |
//! | [`server`] | the router that serves any [`FeatureStore`] over HTTP, and its OpenAPI document |
//! | [`client`] | the [`FeatureStore`] that calls such a router |

pub mod client;
pub mod delivery;
pub mod error;
pub mod feature_batch;
pub mod maintenance;
pub mod provisioning;
pub mod server;
pub mod service;
pub mod uses;
pub mod wire;

pub use client::FeatureStoreClient;
pub use error::FeatureStoreError;
pub use service::FeatureStore;
