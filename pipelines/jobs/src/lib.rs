//! The pipelines service: jobs over history.
//!
//! A request becomes a job: checked at once ([`PipelinesService`]), queued with a bound, run to its end while its
//! progress is watched, remembered in a ledger. Two kinds of jobs exist: training sets (a spine and the source tables
//! in, point-in-time correct rows out) and materializations (a batch source's rows delivered to the feature store).
//! Both read tables the same way: pinned to a version, pruned by statistics, decoded on compute threads.
//!
//! What a feature *is* lives in `ondol-transform`; nothing here computes one.

mod backfill;
mod config;
pub mod engine;
mod error;
pub mod flight;
mod kind;
mod ledger;
mod materialize;
mod memory;
mod nearest;
pub mod point_in_time;
mod pool;
mod progress;
mod queue;
mod recurring;
mod results;
mod schedule;
mod service;
mod speed;
mod spines;
mod statistics;
mod table;
mod training_set;

pub use config::PipelinesConfig;
pub use service::PipelinesService;
pub use table::{delta_table, event_files};
