//! Object stores by URL: `s3://bucket/prefix`, `file:///folder`, or a plain path.
//!
//! [`ObjectStores`] turns a place as somebody wrote it into a [`Location`]: the store of the whole bucket or file system,
//! and the path within. Services hand locations to whatever reads and writes there (Delta logs, Parquet files).
//!
//! A process has one configuration of S3, as it has one subscriber of its logs: [`configure`] sets it at the start, and
//! [`ObjectStores::of_process`] is what every service opens places with, so that each bucket has one client.
//!
//! What is promised: a write that was acknowledged lasts ([`durable_files`] syncs; S3 does by itself), an object appears
//! whole or not at all, and [`PutMode::Create`](object_store::PutMode) succeeds for one writer only. On S3 the last is the
//! header `If-None-Match: *`, which stores that are old or partly compatible ignore without a word:
//! [`Location::check_writable`] finds out before anything relies on it.

mod download;
pub mod durable_files;
mod s3;
mod upload;

pub use durable_files::DurableFiles;
pub use s3::S3Config;

use futures::StreamExt;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{Error, ObjectStore, PutMode, PutOptions};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use url::Url;

/// The object that shows whether a store can be written to, and whether it creates an object only once. It stays.
const PROBE: &str = ".ondol-probe";

/// Why a place can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {detail}")]
pub struct ObjectsError {
    /// The place as it was given.
    pub place: String,
    /// What is wrong and what to do.
    pub detail: String,
}

impl ObjectsError {
    pub(crate) fn new(place: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            detail: detail.into(),
        }
    }
}

/// The stores that places lie in. Clones share the opened ones.
#[derive(Clone, Debug, Default)]
pub struct ObjectStores {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    s3: S3Config,
    files: Arc<DurableFiles>,
    buckets: Mutex<BTreeMap<String, Arc<dyn ObjectStore>>>,
}

/// The process's stores, once something has asked for them.
static PROCESS: OnceLock<ObjectStores> = OnceLock::new();

/// Says how the process reaches S3. To be called before any place is opened; again only with the same.
///
/// # Errors
/// When places are opened already, and otherwise.
pub fn configure(s3: &S3Config) -> Result<(), ObjectsError> {
    let stores = PROCESS.get_or_init(|| ObjectStores::new(s3.clone()));
    if stores.shared.s3 == *s3 {
        return Ok(());
    }
    Err(ObjectsError::new(
        "s3",
        "the process reaches S3 in another way already: configure it once, at the start",
    ))
}

/// A place in a store: a folder, or an object.
#[derive(Clone)]
pub struct Location {
    url: Url,
    root: Arc<dyn ObjectStore>,
    path: Path,
}

impl ObjectStores {
    /// Stores that are reached as `s3` says.
    pub fn new(s3: S3Config) -> Self {
        Self {
            shared: Arc::new(Shared {
                s3,
                ..Shared::default()
            }),
        }
    }

    /// The process's own, as [`configure`] has set them, or else as the AWS_… variables say.
    pub fn of_process() -> Self {
        PROCESS.get_or_init(Self::default).clone()
    }

    /// The place that `place` names. A path is relative to the process's working folder, and need not exist.
    ///
    /// # Errors
    /// When the URL is none, or of a kind that is not known, or the configuration of its store is wrong.
    pub fn at(&self, place: &str) -> Result<Location, ObjectsError> {
        let refused = |detail: &dyn fmt::Display| ObjectsError::new(place, detail.to_string());
        let url = parse(place)?;
        let path = |url: &Url| Path::from_url_path(url.path()).map_err(|error| refused(&error));
        match url.scheme() {
            "file" => {
                let file = url.to_file_path().map_err(|()| {
                    refused(&"it is no file URL such as file:///var/lib/ondol/offline: give the whole path")
                })?;
                Ok(Location {
                    path: Path::from_absolute_path(file).map_err(|error| refused(&error))?,
                    root: Arc::clone(&self.shared.files) as Arc<dyn ObjectStore>,
                    url,
                })
            }
            "s3" | "s3a" => {
                let bucket = url.host_str().filter(|bucket| !bucket.is_empty());
                let bucket = bucket.ok_or_else(|| refused(&"it names no bucket: write s3://bucket/prefix"))?;
                let canonical = format!("s3://{bucket}{}", url.path());
                let url = Url::parse(&canonical).map_err(|error| refused(&error))?;
                Ok(Location {
                    path: path(&url)?,
                    root: self.bucket(bucket)?,
                    url,
                })
            }
            scheme => Err(refused(&format!(
                "places of {scheme}:// are not supported: use a path, file:///… or s3://bucket/prefix"
            ))),
        }
    }

    fn bucket(&self, name: &str) -> Result<Arc<dyn ObjectStore>, ObjectsError> {
        let mut buckets = self.shared.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get(name) {
            return Ok(Arc::clone(bucket));
        }
        let bucket: Arc<dyn ObjectStore> = Arc::new(s3::open(name, &self.shared.s3)?);
        buckets.insert(name.to_owned(), Arc::clone(&bucket));
        Ok(bucket)
    }
}

/// A place as a URL.
fn parse(place: &str) -> Result<Url, ObjectsError> {
    // A scheme of one letter is a drive, not a scheme.
    if let Ok(url) = Url::parse(place)
        && url.scheme().len() > 1
    {
        return Ok(url);
    }
    let path = std::path::absolute(place).map_err(|error| ObjectsError::new(place, error.to_string()))?;
    Url::from_file_path(&path).map_err(|()| ObjectsError::new(place, format!("{} is no path", path.display())))
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str())
    }
}

impl Location {
    /// The place's URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The URL as that of a folder: it ends in a slash, so that names can be joined to it.
    pub fn folder_url(&self) -> Url {
        let mut url = self.url.clone();
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        url
    }

    /// The store of the whole bucket or file system.
    pub fn root(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.root)
    }

    /// The place's path in [`Self::root`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A store in which the place is the root.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(PrefixStore::new(self.root(), self.path.clone()))
    }

    /// The folder, when it is one of this machine.
    pub fn local_path(&self) -> Option<std::path::PathBuf> {
        (self.url.scheme() == "file")
            .then(|| self.url.to_file_path().ok())
            .flatten()
    }

    /// What lies under `name` in this folder.
    ///
    /// # Errors
    /// When `name` is none that a URL can hold.
    pub fn join(&self, name: &str) -> Result<Self, ObjectsError> {
        let url = self.folder_url().join(name);
        let url = url.map_err(|error| ObjectsError::new(self.url.as_str(), format!("`{name}`: {error}")))?;
        Ok(Self {
            url,
            root: self.root(),
            path: self.path.clone().join(name),
        })
    }

    /// The object whose key below this folder is `key`, letter by letter: `year=2025/city=S%C3%A3o/part-0.parquet`.
    ///
    /// # Errors
    /// When `key` is none.
    pub fn object(&self, key: &str) -> Result<Self, ObjectsError> {
        let refused = |detail: String| ObjectsError::new(self.url.as_str(), format!("`{key}`: {detail}"));
        let whole = format!("{}/{key}", self.path);
        Ok(Self {
            url: self
                .folder_url()
                .join(key)
                .map_err(|error| refused(error.to_string()))?,
            root: self.root(),
            path: Path::parse(whole.trim_start_matches('/')).map_err(|error| refused(error.to_string()))?,
        })
    }

    /// Makes the folder, where folders are made (on this machine), and resolves links on the way to it.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn created(self) -> Result<Self, ObjectsError> {
        let Some(folder) = self.local_path() else {
            return Ok(self);
        };
        let failed = |detail: String| ObjectsError::new(folder.display().to_string(), detail);
        let whole = std::fs::create_dir_all(&folder).and_then(|()| folder.canonicalize());
        let whole = whole.map_err(|error| failed(format!("the folder can't be created: {error}")))?;
        Ok(Self {
            url: Url::from_file_path(&whole).map_err(|()| failed("it is no whole path".to_owned()))?,
            path: Path::from_absolute_path(&whole).map_err(|error| failed(error.to_string()))?,
            root: self.root,
        })
    }

    /// Whether objects can be written here, each by one writer only.
    ///
    /// # Errors
    /// When the bucket is missing, access is refused, or the store lets a second writer replace what the first one made.
    pub async fn check_writable(&self) -> Result<(), ObjectsError> {
        for _ in 0..2 {
            match self.create_probe().await {
                Ok(()) => {}
                Err(Error::AlreadyExists { .. }) => return Ok(()),
                Err(error) => return Err(self.explain("writing", &error)),
            }
        }
        Err(ObjectsError::new(
            self.url.as_str(),
            "the store ignores `If-None-Match: *`, so that writers would replace each other's commits: use one that creates \
             objects conditionally (Amazon S3, MinIO, Ceph, R2 do in their present versions)",
        ))
    }

    /// Whether nothing lies in this folder.
    ///
    /// # Errors
    /// When the bucket is missing, or access is refused.
    pub async fn is_empty(&self) -> Result<bool, ObjectsError> {
        match self.root.list(Some(&self.path)).next().await {
            None | Some(Err(Error::NotFound { .. })) => Ok(true),
            Some(Ok(_)) => Ok(false),
            Some(Err(error)) => Err(self.explain("listing", &error)),
        }
    }

    /// Removes what kills have left of writes to this folder of this machine at least `age` ago; nothing shows it, and
    /// nothing else removes it. Blocks. (In a bucket a lifecycle rule does that.)
    ///
    /// # Errors
    /// When the folder can't be listed, or a file not be removed.
    pub fn remove_staged(&self, age: std::time::Duration) -> Result<(), ObjectsError> {
        let Some(folder) = self.local_path() else {
            return Ok(());
        };
        let removed = durable_files::remove_staged(&folder, age);
        removed.map_err(|error| ObjectsError::new(folder.display().to_string(), format!("tidying failed: {error}")))
    }

    async fn create_probe(&self) -> object_store::Result<()> {
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let text = "Written by Ondol to see whether this place can be written to.\n";
        let probe = self.path.clone().join(PROBE);
        self.root.put_opts(&probe, text.into(), options).await.map(drop)
    }

    /// `error` of `doing` something here, with what to do about it.
    pub fn explain(&self, doing: &str, error: &Error) -> ObjectsError {
        let text = error.to_string();
        let detail = match Cause::of(error).remedy(self.url.scheme() == "file") {
            remedy if text.contains(remedy) => format!("{doing} failed: {text}"),
            remedy => format!("{doing} failed: {text}; {remedy}"),
        };
        ObjectsError::new(self.url.as_str(), detail)
    }
}

/// Why a store failed, as far as somebody can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Rights are missing.
    Forbidden,
    /// Bucket or object is missing.
    Missing,
    /// No space is left.
    Full,
    /// Something else; trying again may help.
    Other,
}

impl Cause {
    /// The cause of `error`. Some failures (of a listing, of opening a local file) come without a kind: then what the
    /// server or the system said tells.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => return Self::Forbidden,
            Error::NotFound { .. } => return Self::Missing,
            _ => {}
        }
        Self::told(&error.to_string())
    }

    /// The cause of a failure of which only the text is left.
    pub fn told(text: &str) -> Self {
        let says = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
        if says(&[
            "AccessDenied",
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "(os error 1)",
            "(os error 13)",
            "(os error 30)",
        ]) {
            Self::Forbidden
        } else if says(&["NoSuchBucket", "NoSuchKey", "(os error 2)"]) {
            Self::Missing
        } else if says(&["(os error 27)", "(os error 28)", "(os error 122)"]) {
            Self::Full
        } else {
            Self::Other
        }
    }

    /// What to do, on a disk of this machine (`local`) or on S3.
    pub const fn remedy(self, local: bool) -> &'static str {
        match (self, local) {
            (Self::Forbidden, true) => "check the rights of the user that the process runs as",
            (Self::Forbidden, false) => {
                "check the credentials (`[s3]`, or the AWS_… variables) and the bucket's policy"
            }
            (Self::Missing, true) => "check the path",
            (Self::Missing, false) => "check the bucket's name, `s3.endpoint` and `s3.region`",
            (Self::Full, _) => "free space on its disk",
            (Self::Other, true) => "check the path and the disk",
            (Self::Other, false) => {
                "check `s3.endpoint` and `s3.region` of the configuration, and that the server answers"
            }
        }
    }
}

#[cfg(test)]
mod tests;
