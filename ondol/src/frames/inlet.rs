//! Where a file comes from: a path of this machine, or an object store.
//!
//! What lies in a bucket is fetched to a temporary folder first: readers of all forms want to go back and forth in it.

use super::MANIFEST_ENDING;
use super::place::{Place, stores};
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A file that can be read.
#[derive(Debug)]
pub(crate) struct Inlet {
    /// As it was given.
    shown: String,
    /// Where on this machine it is.
    path: PathBuf,
    /// What was fetched. Removed with this.
    fetched: Option<TempDir>,
}

impl Inlet {
    /// The file at `place`: a path, `file:///…` or `s3://bucket/…`. `config` says how S3 is reached.
    pub(crate) async fn open(place: &Path, config: Option<&Path>) -> Result<Self> {
        let shown = place.display().to_string();
        if let Place::Path(path) = Place::of(place)? {
            return Ok(Self {
                shown,
                path,
                fetched: None,
            });
        }
        let location = stores(config)?.at(&shown)?;
        let Some(name) = location.path().filename() else {
            bail!("can't read `{shown}`: name a file in the bucket: s3://bucket/labels.parquet");
        };
        let fetched = tempfile::tempdir().context("can't make a folder for what is fetched")?;
        let path = fetched.path().join(name);
        location.download(&path).await?;
        Ok(Self {
            shown,
            path,
            fetched: Some(fetched),
        })
    }

    /// Where on this machine it can be read.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The place as it was given.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// The place as others find it again, from wherever they look.
    pub(crate) fn recorded(&self) -> Option<String> {
        if self.fetched.is_some() {
            return Some(self.shown.clone());
        }
        let whole = std::fs::canonicalize(&self.path).ok();
        whole.map(|path| path.display().to_string())
    }

    /// Whether `out`, as somebody typed it, is this very file.
    pub(crate) fn is(&self, out: &Path) -> bool {
        match Place::of(out) {
            Ok(Place::Bucket) => self.fetched.is_some() && out.display().to_string() == self.shown,
            Ok(Place::Path(out)) if self.fetched.is_none() => {
                let whole = |path: &Path| std::fs::canonicalize(path).ok();
                whole(&out).is_some_and(|out| whole(&self.path) == Some(out))
            }
            Ok(Place::Path(_)) | Err(_) => false,
        }
    }

    /// The place of the training set that the manifest in this file was written beside.
    pub(crate) fn described(&self) -> Option<PathBuf> {
        self.shown.strip_suffix(MANIFEST_ENDING).map(PathBuf::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_url_is_a_path_and_tells_whether_it_is_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spine.csv");
        std::fs::write(&path, "time\n").unwrap();
        let url = format!("file://{}", path.display());
        for place in [url.as_str(), path.to_str().unwrap()] {
            let inlet = Inlet::open(Path::new(place), None).await.unwrap();
            assert_eq!((inlet.path(), inlet.shown()), (path.as_path(), place));
            assert!(inlet.is(&path) && inlet.is(Path::new(&url)));
            assert!(!inlet.is(&folder.path().join("other.csv")) && !inlet.is(Path::new("s3://b/spine.csv")));
            assert_eq!(
                inlet.recorded().unwrap(),
                path.canonicalize().unwrap().display().to_string()
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_place_is_told() {
        for (place, told) in [
            ("gs://b/spine.csv", "use a path, file:///… or s3://bucket/prefix"),
            ("file://host/x", "file:///folder"),
        ] {
            let error = Inlet::open(Path::new(place), None).await.unwrap_err();
            assert!(format!("{error:#}").contains(told), "{error:#}");
        }
    }
}
