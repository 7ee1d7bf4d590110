//! A Ballista cluster: how this service uses one ([`client`], a plan of it [`submission`]), and its own programs
//! ([`scheduler`], [`executor`]).
//!
//! ```text
//! pipelines ── plan ──► scheduler ── tasks ──► executors ── events ──► object store
//!     │                                           ▲   └─► shuffle files on their disks
//!     └── spine, as files ──► exchange folder ────┘
//!     ◄────────────────── joined rows ────────────┘
//! ```
//!
//! The service plans; the scheduler cuts the plan into stages where rows change partitions, and runs a stage's tasks where
//! there is room. A task that is lost with its executor runs again elsewhere, as does what it had written for others.

mod client;
#[cfg(feature = "server")]
pub mod executor;
#[cfg(feature = "server")]
pub mod scheduler;
mod submission;

pub(crate) use client::{Cluster, session_config};

/// The largest message between the parts of a cluster: a plan with its lists of files.
const MESSAGE_BYTES: usize = 256 << 20;
