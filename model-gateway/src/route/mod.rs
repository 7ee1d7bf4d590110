//! How a request finds its version.
//!
//! A model's routing is a document ([`ondol_model_gateway_api::wire::Routing`]) whose revisions are kept for ever
//! ([`history`]). A change is checked and completed ([`document`]), its split is laid out over [`slots`] so that only
//! the keys move that must, and it is compiled into [`table::ModelRoutes`]: a request only executes what was compiled,
//! on a table that is swapped whole, so nothing on its way takes a lock. In order: what the caller names, the first
//! [`rules`] that match, the split (by [`key`]), the champion.
//!
//! [`bulkhead`] bounds what a model may have under way, so that one that hangs starves no other. [`traffic`] measures
//! every version as it serves, [`promotion`] holds what was measured against the declared limits, and [`control`]
//! carries out changes and follows those of other replicas.

pub mod bulkhead;
pub mod control;
pub mod document;
pub mod epochs;
pub mod histogram;
pub mod history;
pub mod key;
pub mod measurements;
pub mod promotion;
pub mod rules;
pub mod slots;
pub mod table;
pub mod traffic;
pub mod values;
