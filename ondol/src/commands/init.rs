//! `ondol init`: a first definition file to start from.

use crate::cli::{InitArgs, Output};
use crate::print;
use anyhow::{Context as _, Result, bail};
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write as _;

const TEMPLATE: &str = include_str!("template.toml");

/// Writes `features.toml`, never over one that exists.
pub(crate) fn run(args: &InitArgs, output: Output) -> Result<()> {
    std::fs::create_dir_all(&args.folder).with_context(|| format!("can't make `{}`", args.folder.display()))?;
    let path = args.folder.join("features.toml");
    match OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(mut file) => file
            .write_all(TEMPLATE.as_bytes())
            .with_context(|| format!("can't write `{}`", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("`{}` exists already: it is left as it is", path.display())
        }
        Err(error) => return Err(error).with_context(|| format!("can't write `{}`", path.display())),
    }
    let folder = args.folder.display();
    print::result(output, &json!({"written": path}), |_| {
        format!(
            "wrote {path}\n\nnext:\n  cd {folder}\n  ondol dev      # in a second terminal: every service, no set-up\n  \
             ondol plan     # what applying the file would change\n  ondol apply",
            path = path.display(),
        )
    })
}
