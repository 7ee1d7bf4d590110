//! What can be typed to start and follow jobs.

use super::ConnectArgs;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct MaterializeArgs {
    /// The batch source.
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}
