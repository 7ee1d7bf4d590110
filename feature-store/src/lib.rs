//! The feature store service: registry, write path, online rows, event log, read path.
//!
//! In the order of the data:
//! 1. [`config`] says where everything is kept;
//! 2. [`registry`] holds the definitions and publishes snapshots of them; [`views`] compiles what a snapshot names;
//! 3. [`write`] takes a delivery of events, absorbs it into online rows and appends it to the event log;
//! 4. [`online`] keeps one packed row per (view version, entity), embedded or in Redis;
//! 5. [`offline`] archives the events of streams as Delta tables, positions included;
//! 6. [`bootstrap`] builds a new view version's rows from that archive;
//! 7. [`read`] answers requests from the online rows alone, by plans compiled per snapshot;
//! 8. [`upkeep`] repairs what was lost and deletes what nobody reads;
//! 9. [`service`] composes them into [`FeatureStoreService`], which owns the tasks and the order
//!    "online rows durable, then the log's position".

pub mod bootstrap;
pub mod config;
mod event_positions;
#[doc(hidden)]
pub mod fuzzing;
pub mod offline;
pub mod online;
pub mod read;
pub mod registry;
pub mod service;
pub mod upkeep;
pub mod views;
pub mod write;

pub use config::FeatureStoreConfig;
pub use service::FeatureStoreService;
