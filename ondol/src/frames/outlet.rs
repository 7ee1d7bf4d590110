//! Where a table goes: to a path of this machine, or into a bucket.
//!
//! What goes into a bucket is written to a folder of this machine first, whole, and then uploaded: the rows, then the
//! manifest, so that whoever finds a manifest finds all of what it describes.

use super::place::{Place, stores};
use super::{MANIFEST_ENDING, manifest_path};
use anyhow::{Context as _, Result, anyhow, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use ondol_runtime::objects::Location;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Files that are uploaded at the same time.
const UPLOADS: usize = 4;

/// Where a table, and the manifest beside it, go.
pub(crate) struct Outlet {
    /// As it was given.
    shown: String,
    /// Where on this machine it is written.
    path: PathBuf,
    bucket: Option<Bucket>,
}

/// A place in a bucket, and what is on its way there.
struct Bucket {
    /// The folder that the table is to stand in.
    parent: Location,
    /// What is written until it is uploaded. Removed with this.
    staged: TempDir,
}

impl Outlet {
    /// `out`: a path, `file:///…` or `s3://bucket/…`. `config` says how S3 is reached.
    pub(crate) fn new(out: &Path, config: Option<&Path>) -> Result<Self> {
        let shown = out.display().to_string();
        if let Place::Path(path) = Place::of(out)? {
            return Ok(Self {
                path,
                shown,
                bucket: None,
            });
        }
        let (parent, name) = parted(&shown)?;
        let stores = stores(config)?;
        let staged = tempfile::tempdir().context("can't make a folder for what is to be uploaded")?;
        Ok(Self {
            path: staged.path().join(name),
            bucket: Some(Bucket {
                parent: stores.at(parent)?,
                staged,
            }),
            shown,
        })
    }

    /// Where on this machine the table is to be written.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The place as it was given.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Where the manifest will stand.
    pub(crate) fn manifest(&self) -> String {
        match &self.bucket {
            Some(_) => format!("{}{MANIFEST_ENDING}", self.shown.trim_end_matches('/')),
            None => manifest_path(&self.path).display().to_string(),
        }
    }

    /// Whether a bucket can be reached, and has room under the name of a folder: before any work is done.
    pub(crate) async fn check(&self, is_folder: bool) -> Result<()> {
        let (Some(bucket), Some(name)) = (&self.bucket, self.path.file_name().and_then(|name| name.to_str())) else {
            return Ok(());
        };
        let is_empty = bucket.parent.join(name)?.is_empty().await?;
        if is_folder && !is_empty {
            bail!(
                "can't write a folder to `{}`: it exists; remove it or name another",
                self.shown
            );
        }
        Ok(())
    }

    /// Shows what was written under the name that was given: the manifest last.
    pub(crate) async fn publish(self) -> Result<()> {
        let Some(Bucket { parent, staged }) = &self.bucket else {
            return Ok(());
        };
        let manifest = manifest_path(&self.path);
        let mut files = files(staged.path())?;
        files.retain(|file| *file != manifest);
        let upload = |file: PathBuf| async move {
            let name = file.strip_prefix(staged.path()).ok().and_then(Path::to_str);
            let name = name.ok_or_else(|| anyhow!("`{}` has a name that no object can have", file.display()))?;
            parent.object(name)?.upload(&file).await?;
            Ok::<_, anyhow::Error>(())
        };
        let uploads = stream::iter(files).map(upload).buffer_unordered(UPLOADS);
        uploads.try_collect::<Vec<()>>().await?;
        if manifest.exists() {
            upload(manifest).await?;
        }
        Ok(())
    }
}

/// The folder of a URL, and the name in it.
fn parted(shown: &str) -> Result<(&str, &str)> {
    let trimmed = shown.trim_end_matches('/');
    let parted = trimmed.rsplit_once('/').filter(|(parent, name)| {
        // `s3://bucket` has no name in it.
        !name.is_empty() && !parent.ends_with(":/")
    });
    parted.ok_or_else(|| anyhow!("can't write `{shown}`: name what is to be in the bucket: s3://bucket/train.parquet"))
}

/// Every file below `folder`.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("can't list `{}`", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_bucket_is_a_folder_and_a_name() {
        assert_eq!(parted("s3://b/a/train.parquet").unwrap(), ("s3://b/a", "train.parquet"));
        assert_eq!(parted("s3://b/train/").unwrap(), ("s3://b", "train"));
        for nameless in ["s3://b", "s3://b/", "s3://"] {
            assert!(
                parted(nameless)
                    .unwrap_err()
                    .to_string()
                    .contains("s3://bucket/train.parquet")
            );
        }
    }

    #[test]
    fn a_file_url_is_a_path_and_a_path_stays_one() {
        for (out, path) in [
            ("file:///tmp/x.parquet", "/tmp/x.parquet"),
            ("a/x.parquet", "a/x.parquet"),
        ] {
            let outlet = Outlet::new(Path::new(out), None).unwrap();
            assert_eq!((outlet.path(), outlet.shown()), (Path::new(path), out));
            assert_eq!(outlet.manifest(), format!("{path}.manifest.json"));
        }
    }
}
