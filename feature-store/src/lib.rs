//! The feature store service: registry, write path, online rows, event log, read path.

pub mod bootstrap;
pub mod offline;
pub mod registry;
