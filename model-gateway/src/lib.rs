//! The model gateway: one API for all models.
//!
//! In the order of a model's life and of a request's way:
//! 1. [`config`] says where things are and which bounds hold;
//! 2. [`definitions`] follows the registry's snapshots, and starts from the last one when the store is down;
//! 3. [`register`] takes an artifact in: [`runtime`] loads it, [`layout`] and [`manifest`] check it against the model's
//!    feature vector, [`artifact`] and [`catalog`] keep it, [`models`] holds what is registered, ready to run;
//! 4. [`inputs`] parses a request, [`features`] looks its vector up with one read, [`predict`] runs the model on it,
//!    [`score`] picks the prediction from the model's outputs;
//! 5. [`decision_log`] sends what was served to the decision topic, aside from the request or, where the model's
//!    definition says so, before its answer; [`replay`] scores old vectors anew, [`outcomes`] takes what became of them;
//! 6. [`service`] is all of it behind the contract; [`open_inference`] speaks the Open Inference Protocol V2.
//!
//! A request makes one hop to features and one to the model, and only executes what was compiled when the snapshot or
//! the model changed. A batch is columns, not a loop of requests.

pub mod access;
pub mod artifact;
pub mod catalog;
pub mod config;
pub mod decision_log;
pub mod definitions;
pub mod features;
pub mod inputs;
pub mod layout;
pub mod manifest;
pub mod models;
pub mod open_inference;
pub mod outcomes;
pub mod predict;
pub mod register;
pub mod replay;
pub mod route;
pub mod routed;
pub mod runtime;
pub mod score;
pub mod service;
pub mod shadow;
pub mod uses;

mod breaker;
mod difference;
mod fault;
mod stand_in;

pub use config::ModelGatewayConfig;
pub use service::ModelGatewayService;
