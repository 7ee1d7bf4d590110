//! What can be typed to look back on decisions.

use super::ConnectArgs;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct ReplayDecisionArgs {
    /// The id that the prediction's answer has.
    pub(crate) request_id: String,
    /// Score the recorded vector by another version (or alias) instead, and show the difference: `fraud@2`.
    #[arg(long, value_name = "MODEL@VERSION")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct OutcomeArgs {
    /// The model that was asked.
    pub(crate) model: String,
    /// The id that the prediction's answer has.
    pub(crate) request_id: String,
    /// What happened: a number, true, false or a text.
    pub(crate) outcome: String,
    /// When it happened (RFC 3339); now, if not said.
    #[arg(long, value_name = "MOMENT")]
    pub(crate) at: Option<String>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}
