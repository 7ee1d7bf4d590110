//! The contract of the feature store, both ends of its wire.
//!
//! | file | holds |
//! |---|---|
//! | [`service`] | [`FeatureStore`], the trait callers hold and the service implements |
//! | [`wire`] | the types that travel |
//! | [`maintenance`] | those of compaction and vacuum |
//! | [`delivery`], [`feature_batch`] | the two of them that travel as Arrow |
//! | [`error`] | [`FeatureStoreError`] |
//! | [`server`] | the router that serves any [`FeatureStore`] over HTTP, and its OpenAPI document |
//! | [`client`] | the [`FeatureStore`] that calls such a router |

pub mod client;
pub mod delivery;
pub mod error;
pub mod feature_batch;
pub mod maintenance;
pub mod server;
pub mod service;
pub mod wire;

pub use client::FeatureStoreClient;
pub use error::FeatureStoreError;
pub use service::FeatureStore;
