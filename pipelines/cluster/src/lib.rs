//! The query engine over history: SQL, and training sets beyond one machine.
//!
//! An offline table becomes a [`listing`] (its files at one version), a listing a table of DataFusion ([`provider`]), read
//! through [`stores`] that every process opens for itself. [`sql`] answers queries over all of them.
//!
//! This is the only crate that sees DataFusion's engine and Ballista. What a feature is lives in `ondol-transform`, how
//! events meet spine rows in `ondol-jobs`; nothing here computes one.

#[cfg(feature = "client")]
pub mod cluster;
#[cfg(feature = "client")]
mod codec;
mod config;
mod engine;
mod fault;
mod listing;
pub mod point_in_time;
mod provider;
mod spine;
pub mod sql;
mod stores;

pub use config::EngineConfig;
pub use engine::PlanEngine;
pub use fault::EngineError;
pub use sql::{SqlConfig, SqlService};
