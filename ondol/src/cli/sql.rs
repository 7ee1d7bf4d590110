//! What can be typed to query offline tables.

use super::ConnectArgs;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct SqlArgs {
    /// The query: sources are tables by name. `-` reads it from standard input.
    pub(crate) query: String,
    /// Where to write the rows: .parquet, .csv or .arrow, to a path, file:///… or s3://bucket/…; without it they are
    /// printed.
    #[arg(short, long = "out", value_name = "FILE|URL")]
    pub(crate) out: Option<PathBuf>,
    /// The configuration whose `[s3]` says how a bucket is reached; the AWS_… variables say it too.
    #[arg(long, env = "ONDOL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Rows at most. Without it a table on the screen ends after 100, everything else has all.
    #[arg(long, value_name = "N")]
    pub(crate) max_rows: Option<u64>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}
