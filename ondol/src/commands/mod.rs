//! One module per group of commands; each calls services through their contracts and prints what came back.

pub(crate) mod backfill;
pub(crate) mod correction;
pub(crate) mod dead_letters;
pub(crate) mod decisions;
pub(crate) mod definitions;
pub(crate) mod ingest;
pub(crate) mod init;
pub(crate) mod jobs;
pub(crate) mod key;
pub(crate) mod logged_training_set;
pub(crate) mod model;
pub(crate) mod model_routing;
pub(crate) mod rebuild;
pub(crate) mod schedule;
pub(crate) mod sql;
pub(crate) mod statistics;
pub(crate) mod stream;
pub(crate) mod training_set;
