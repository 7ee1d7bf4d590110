//! What can be typed to see statistics.

use super::ConnectArgs;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct StatisticsArgs {
    /// The source.
    pub(crate) source: String,
    /// The first event date (UTC), as 2026-11-21.
    #[arg(long, value_name = "DATE")]
    pub(crate) from: Option<String>,
    /// The first event date (UTC) that no longer counts.
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<String>,
    /// Read every date again, rather than those that have changed.
    #[arg(long, conflicts_with = "kept")]
    pub(crate) full: bool,
    /// Show what was computed last, without looking for changes.
    #[arg(long)]
    pub(crate) kept: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}
