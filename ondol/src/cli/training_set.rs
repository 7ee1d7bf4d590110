//! What can be typed to build a training set.

use super::ConnectArgs;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct TrainingSetArgs {
    /// The model whose feature vector is built.
    pub(crate) model: String,
    /// Parquet or CSV with the model's inputs, a time column and any extra columns such as the label.
    #[arg(long, value_name = "FILE")]
    pub(crate) spine: PathBuf,
    /// Where to write: .parquet, .csv or .arrow; the manifest goes beside it.
    #[arg(short, long = "out", value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// The spine's time column, if its name does not say so.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) time_column: Option<String>,
    /// What a row may see.
    #[arg(long, value_enum, default_value_t = AsOfArg::KnownAt)]
    pub(crate) as_of: AsOfArg,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// What a training row at `t` may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AsOfArg {
    /// Events before `t` that had arrived by `t`: what would have been served.
    KnownAt,
    /// Events before `t`, whenever they arrived.
    EventTime,
}
