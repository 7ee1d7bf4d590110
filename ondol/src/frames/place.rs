//! A place as somebody typed it: a path of this machine, or a URL of an object store.

use crate::cli::ServerArgs;
use crate::config::OndolConfig;
use anyhow::{Context as _, Result, anyhow};
use ondol_runtime::objects::{self, ObjectStores};
use std::path::{Path, PathBuf};
use url::Url;

/// Where a table is, or is to be.
pub(super) enum Place {
    /// On this machine.
    Path(PathBuf),
    /// In an object store.
    Bucket,
}

impl Place {
    /// `typed`: a path, `file:///…` or `s3://bucket/…`.
    pub(super) fn of(typed: &Path) -> Result<Self> {
        let shown = typed.display().to_string();
        // A scheme of one letter is a drive, not a scheme.
        match Url::parse(&shown).ok().filter(|url| url.scheme().len() > 1) {
            None => Ok(Self::Path(typed.to_owned())),
            Some(url) if url.scheme() == "file" => {
                let path = url.to_file_path();
                let odd = |()| anyhow!("`{shown}` is no file: write it as file:///folder/train.parquet");
                path.map(Self::Path).map_err(odd)
            }
            Some(_) => Ok(Self::Bucket),
        }
    }
}

/// The object stores, reached as `[s3]` of the configuration at `config` says.
pub(super) fn stores(config: Option<&Path>) -> Result<ObjectStores> {
    let config = OndolConfig::load(&ServerArgs::of(config), |_| {})?;
    objects::configure(&config.s3).context("S3 can't be set up")?;
    Ok(ObjectStores::of_process())
}
