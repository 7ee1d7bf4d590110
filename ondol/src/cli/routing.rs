//! `model routing`, `route`, `shadow`, `promote` and `rollback`.

use super::ConnectArgs;
use clap::Args;
use ondol_model_gateway_api::wire::{Remark, Shadow, Share, Target};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct RoutingArgs {
    /// The model.
    pub(crate) model: String,
    /// Show every revision: who changed what, when and why.
    #[arg(long)]
    pub(crate) history: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RouteArgs {
    /// The model.
    pub(crate) model: String,
    /// Name a version, as in `champion=3`; `canary=` takes the name away. Repeatable.
    #[arg(long = "alias", value_name = "NAME=VERSION", value_parser = alias)]
    pub(crate) aliases: Vec<(String, Option<u32>)>,
    /// Shares of the requests in percent, as in `champion=95,canary=5`; the same entity keys get the same version.
    #[arg(long, value_name = "VERSION=PERCENT,…", value_delimiter = ',', value_parser = share, conflicts_with = "no_split")]
    pub(crate) split: Vec<Share>,
    /// All requests to the champion.
    #[arg(long)]
    pub(crate) no_split: bool,
    /// A version that scores what is served, aside; `5@0.5` counts decisions that turn at a score of 0.5. Repeatable:
    /// these take the place of those before.
    #[arg(long = "shadow", value_name = "VERSION[@SCORE]", value_parser = shadow, conflicts_with = "no_shadow")]
    pub(crate) shadows: Vec<Shadow>,
    /// No shadows.
    #[arg(long)]
    pub(crate) no_shadow: bool,
    /// The whole routing from a file, JSON or TOML: rules and limits too.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["aliases", "split", "no_split", "shadows", "no_shadow"])]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) remark: RemarkArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// The model.
    pub(crate) model: String,
    /// The version or alias; without it `canary`, or the only one that is tried beside the champion.
    #[arg(value_parser = target)]
    pub(crate) version: Option<Target>,
    /// Also when it does not keep the limits. Recorded.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) remark: RemarkArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The model.
    pub(crate) model: String,
    /// The revision to bring back; without it the one before.
    #[arg(long, value_name = "REVISION")]
    pub(crate) to: Option<u64>,
    #[command(flatten)]
    pub(crate) remark: RemarkArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShadowArgs {
    /// The model.
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// For the history.
#[derive(Debug, Args)]
pub(crate) struct RemarkArgs {
    /// Who changes it; a gateway with authentication knows.
    #[arg(long, env = "USER", value_name = "NAME")]
    pub(crate) by: Option<String>,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
}

impl RemarkArgs {
    pub(crate) fn remark(&self) -> Remark {
        Remark {
            by: self.by.clone().filter(|by| !by.is_empty()),
            note: self.note.clone(),
        }
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the form clap asks for")]
fn target(text: &str) -> Result<Target, String> {
    match text.parse() {
        Ok(target) => Ok(target),
    }
}

fn alias(text: &str) -> Result<(String, Option<u32>), String> {
    let (name, version) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` has no `=`: write `champion=3`"))?;
    if version.is_empty() {
        return Ok((name.to_owned(), None));
    }
    let number = version
        .parse()
        .map_err(|_| format!("`{version}` is no version: write its number, as in `{name}=3`"))?;
    Ok((name.to_owned(), Some(number)))
}

fn share(text: &str) -> Result<Share, String> {
    let (to, percent) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` has no `=`: write `champion=95,canary=5`"))?;
    let percent = percent
        .parse()
        .map_err(|_| format!("`{percent}` is no percentage: write `{to}=5`"))?;
    Ok(Share {
        to: target(to)?,
        percent,
    })
}

fn shadow(text: &str) -> Result<Shadow, String> {
    let (version, flip_at) = match text.split_once('@') {
        None => (text, None),
        Some((version, score)) => {
            let score = score
                .parse()
                .map_err(|_| format!("`{score}` is no score: write `{version}@0.5`"))?;
            (version, Some(score))
        }
    };
    Ok(Shadow {
        version: target(version)?,
        flip_at,
        sample_percent: 100.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_read_or_refused_with_how_to_write_it() {
        assert_eq!(alias("champion=3"), Ok(("champion".to_owned(), Some(3))));
        assert_eq!(alias("canary="), Ok(("canary".to_owned(), None)));
        assert!(alias("canary").unwrap_err().contains("write `champion=3`"));
        assert_eq!(share("4=0.5").unwrap().to, Target::Version(4));
        assert!(share("canary=five").unwrap_err().contains("write `canary=5`"));
        assert_eq!(shadow("5@0.5").unwrap().flip_at, Some(0.5));
        assert_eq!(shadow("next").unwrap().version, Target::Alias("next".to_owned()));
    }
}
