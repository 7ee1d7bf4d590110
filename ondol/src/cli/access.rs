//! `key` and `audit`.

use super::ConnectArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `ondol key`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key; it is shown once.
    Create(CreateKeyArgs),
    /// List keys, revoked and expired ones too.
    #[command(visible_alias = "ls")]
    List(ConnectArgs),
    /// End a key.
    Revoke(RevokeKeyArgs),
    /// Show who the gateway takes this caller for, and what it may do.
    Whoami(ConnectArgs),
    /// Make a first key that may do everything, in the gateway's database: on the server's own machine.
    Bootstrap(BootstrapKeyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateKeyArgs {
    /// What it is for.
    pub(crate) label: String,
    /// What it may do: `predict:fraud`, `predict:fraud-*`, `register:*`, `route:fraud`, `load:fraud`, `see:*`, `admin`.
    #[arg(long = "scope", required = true, value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// Whose it is: rate limits are per tenant.
    #[arg(long, default_value = "default")]
    pub(crate) tenant: String,
    /// How long it is good for: `90d`, `12h`, `30m`, `45s`. Without it: until it is revoked.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) expires: Option<u64>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeKeyArgs {
    /// The key's id, as `ondol key list` shows it.
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BootstrapKeyArgs {
    /// The server's configuration file.
    #[arg(long, env = "ONDOL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The server's data folder, where its configuration does not name it.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data: Option<PathBuf>,
    /// What it is for.
    #[arg(long, default_value = "bootstrap")]
    pub(crate) label: String,
    /// Make one even if there is a key that may do everything.
    #[arg(long)]
    pub(crate) another: bool,
}

/// `ondol audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Entries at most.
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: u32,
    /// Only entries older than the one of this id.
    #[arg(long, value_name = "ID")]
    pub(crate) before: Option<String>,
    /// Only those of this action: `register`, `route`, `load`, `admin`.
    #[arg(long)]
    pub(crate) action: Option<String>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Seconds of `90d`, `12h`, `30m`, `45s`.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no time: write a number and d, h, m or s, such as `90d`");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let number: u64 = text
        .strip_suffix(unit)
        .and_then(|number| number.parse().ok())
        .ok_or_else(wrong)?;
    let scale = match unit {
        'd' => 86_400,
        'h' => 3_600,
        'm' => 60,
        's' => 1,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(scale)
        .filter(|seconds| *seconds > 0)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        assert_eq!(seconds("90d"), Ok(7_776_000));
        assert_eq!(seconds("12h"), Ok(43_200));
        for text in ["", "d", "0d", "7", "-1d", "7w", "99999999999999999999d", "1é"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
