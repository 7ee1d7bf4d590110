//! Artifacts, named by their SHA-256: written once, durable before anything refers to them, never changed.
//!
//! All replicas of a gateway share one place, a folder or a bucket. Of what lies in a bucket a replica keeps copies in a
//! folder of its own, so that it starts and loads again while the bucket does not answer. A copy that no longer has its
//! hash is fetched anew; what has been damaged in the shared place is refused.

use bytes::Bytes;
use object_store::ObjectStoreExt;
use ondol_runtime::objects::{Location, ObjectStores, ObjectsError};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// What an unfinished file's name ends in.
const UNFINISHED: &str = "tmp";

/// Why an artifact can't be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The folder fails, or what lies in it is no longer what was kept.
    #[error("{0}")]
    Folder(#[from] io::Error),
    /// The bucket fails.
    #[error("{0}")]
    Bucket(#[from] ObjectsError),
    /// What lies in the bucket is no longer what was kept.
    #[error("{object} has changed since it was registered: restore it, or register again")]
    Changed {
        /// Its URL.
        object: String,
    },
}

/// The artifacts of all replicas. Clones share the place.
#[derive(Clone, Debug)]
pub struct Artifacts {
    folder: ArtifactFolder,
    bucket: Option<Location>,
}

impl Artifacts {
    /// At `place`, a folder, which is made, or in a bucket, whose copies are kept in the folder `own`. Asks no bucket
    /// anything.
    pub fn open(objects: &ObjectStores, place: &str, own: PathBuf) -> Result<Self, ArtifactError> {
        let place = objects.at(place)?.created()?;
        let (folder, bucket) = match place.local_path() {
            Some(folder) => (ArtifactFolder::open(folder)?, None),
            None => {
                let own = ArtifactFolder::open(own)?;
                own.remove_unfinished()?;
                (own, Some(place))
            }
        };
        Ok(Self { folder, bucket })
    }

    /// Keeps `artifact`; when it returns its name, the artifact survives a crash. Keeping the same bytes again changes
    /// nothing, unless they were damaged since: then they are whole again.
    pub async fn keep(&self, artifact: Bytes) -> Result<String, ArtifactError> {
        let name = self.aside(move |folder| folder.keep(&artifact)).await?;
        if let Some(object) = self.object(&name)? {
            object.upload(&self.folder.path(&name)).await?;
        }
        Ok(name)
    }

    /// The artifact whose hash is `name`. Bytes that no longer have it are refused.
    pub async fn read(&self, name: &str) -> Result<Bytes, ArtifactError> {
        let hash = name.to_owned();
        let read = self.aside(move |folder| folder.read(&hash)).await;
        let Some(object) = self.object(name)? else {
            return read;
        };
        if read.is_ok() {
            return read;
        }
        let fetched = self.folder.unfinished(name);
        let found = self.fetch(&object, name, &fetched).await;
        if found.is_err() {
            // Why there is no copy is what matters; what is left of it harms nobody.
            let _ = tokio::fs::remove_file(&fetched).await;
        }
        found
    }

    /// How many bytes the artifact has whose hash is `name`.
    pub async fn size_bytes(&self, name: &str) -> Result<usize, ArtifactError> {
        let hash = name.to_owned();
        let size = self.aside(move |folder| folder.size_bytes(&hash)).await;
        match self.object(name)? {
            Some(object) if size.is_err() => {
                let found = object.root().head(object.path()).await;
                let found = found.map_err(|error| object.explain("reading", &error))?;
                Ok(usize::try_from(found.size).unwrap_or(usize::MAX))
            }
            _ => size,
        }
    }

    /// Makes a copy of `object` by way of `fetched`, and returns it.
    async fn fetch(&self, object: &Location, name: &str, fetched: &Path) -> Result<Bytes, ArtifactError> {
        object.download(fetched).await?;
        let bytes = Bytes::from(tokio::fs::read(fetched).await?);
        if sha256(&bytes) != name {
            let object = object.to_string();
            return Err(ArtifactError::Changed { object });
        }
        tokio::fs::rename(fetched, self.folder.path(name)).await?;
        Ok(bytes)
    }

    /// Where the bucket has it, if there is one.
    fn object(&self, name: &str) -> Result<Option<Location>, ObjectsError> {
        let bucket = self.bucket.as_ref();
        bucket.map(|bucket| bucket.join(&file_name(name))).transpose()
    }

    /// Does blocking work with the folder aside from async threads.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ArtifactFolder) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ArtifactError> {
        let folder = self.folder.clone();
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        Ok(done.map_err(io::Error::other)??)
    }
}

/// A folder of artifacts. Its calls block: run them aside from async threads.
#[derive(Clone, Debug)]
struct ArtifactFolder {
    folder: PathBuf,
}

impl ArtifactFolder {
    /// In `folder`, which is made.
    fn open(folder: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    fn keep(&self, artifact: &[u8]) -> io::Result<String> {
        let name = sha256(artifact);
        let path = self.path(&name);
        match std::fs::read(&path) {
            Ok(kept) if kept == artifact => {}
            // Read or not: what stands there is not the artifact.
            Ok(_) | Err(_) => write_durably(&path, artifact).map_err(|error| explained(&path, &error))?,
        }
        Ok(name)
    }

    fn read(&self, name: &str) -> io::Result<Bytes> {
        let path = self.path(name);
        let bytes = std::fs::read(&path).map_err(|error| explained(&path, &error))?;
        if sha256(&bytes) != name {
            let detail = format!(
                "{} has changed since it was registered: restore it, or register again",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
        }
        Ok(Bytes::from(bytes))
    }

    fn size_bytes(&self, name: &str) -> io::Result<usize> {
        let path = self.path(name);
        let file = std::fs::metadata(&path).map_err(|error| explained(&path, &error))?;
        Ok(usize::try_from(file.len()).unwrap_or(usize::MAX))
    }

    /// Removes what a crash has left. Only of a folder that nobody else writes to.
    fn remove_unfinished(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == UNFINISHED) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(file_name(name))
    }

    /// A new file for what is to become the artifact.
    fn unfinished(&self, name: &str) -> PathBuf {
        unfinished(&self.path(name))
    }
}

/// `error`, with the file that it is about.
fn explained(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn file_name(name: &str) -> String {
    format!("{name}.onnx")
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension(format!("{}.{UNFINISHED}", ulid::Ulid::new()))
}

/// Writes `bytes` to `path` so that a crash leaves either the old file or the whole new one.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = unfinished(path);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    });
    if let Err(error) = written {
        // The failed write is what matters; a leftover temporary file harms nobody.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ondol_testkit::s3;

    struct Bench {
        artifacts: Artifacts,
        place: String,
        own: tempfile::TempDir,
    }

    fn objects() -> ObjectStores {
        ObjectStores::new(s3::config())
    }

    fn open(place: &str) -> Bench {
        let own = tempfile::tempdir().unwrap();
        Bench {
            artifacts: Artifacts::open(&objects(), place, own.path().to_owned()).unwrap(),
            place: place.to_owned(),
            own,
        }
    }

    fn in_a_folder() -> (tempfile::TempDir, Bench) {
        let folder = tempfile::tempdir().unwrap();
        let bench = open(folder.path().join("artifacts").to_str().unwrap());
        (folder, bench)
    }

    fn in_a_bucket() -> Bench {
        open(&format!("s3://{}/artifacts", s3::bucket()))
    }

    const MODEL: Bytes = Bytes::from_static(b"model");

    /// What every place of artifacts promises.
    async fn an_artifact_is_kept_once_and_read_back(artifacts: &Artifacts, folder: &Path) {
        let name = artifacts.keep(MODEL).await.unwrap();
        assert_eq!(name, sha256(&MODEL));
        assert_eq!(artifacts.keep(MODEL).await.unwrap(), name);
        assert_eq!(artifacts.read(&name).await.unwrap(), MODEL);
        assert_eq!(artifacts.size_bytes(&name).await.unwrap(), MODEL.len());
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
        let other = sha256(b"other");
        assert!(artifacts.read(&other).await.is_err());
        assert!(artifacts.size_bytes(&other).await.is_err());
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1, "nothing is left");
    }

    #[tokio::test]
    async fn a_folder_keeps_artifacts() {
        let (folder, bench) = in_a_folder();
        an_artifact_is_kept_once_and_read_back(&bench.artifacts, &folder.path().join("artifacts")).await;
        assert_eq!(std::fs::read_dir(bench.own.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_bucket_keeps_artifacts() {
        let bench = in_a_bucket();
        an_artifact_is_kept_once_and_read_back(&bench.artifacts, bench.own.path()).await;
    }

    #[tokio::test]
    async fn a_file_that_was_tampered_with_is_refused_until_it_is_kept_again() {
        let (folder, Bench { artifacts, .. }) = in_a_folder();
        let name = artifacts.keep(MODEL).await.unwrap();
        let file = folder.path().join("artifacts").join(file_name(&name));
        for damage in [b"other".as_slice(), b"mod", b""] {
            std::fs::write(&file, damage).unwrap();
            let error = artifacts.read(&name).await.unwrap_err().to_string();
            assert!(error.contains("register again"), "{error}");
            assert_eq!(artifacts.keep(MODEL).await.unwrap(), name);
            assert_eq!(artifacts.read(&name).await.unwrap(), MODEL);
        }
    }

    #[tokio::test]
    async fn what_one_replica_kept_in_a_bucket_another_fetches_once_and_has_without_it() {
        let one = in_a_bucket();
        let name = one.artifacts.keep(MODEL).await.unwrap();
        let other = open(&one.place);
        assert_eq!(other.artifacts.size_bytes(&name).await.unwrap(), MODEL.len());
        assert_eq!(other.artifacts.read(&name).await.unwrap(), MODEL);
        let object = objects().at(&one.place).unwrap().join(&file_name(&name)).unwrap();
        object.root().delete(object.path()).await.unwrap();
        assert_eq!(other.artifacts.read(&name).await.unwrap(), MODEL);
        assert_eq!(std::fs::read_dir(other.own.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_copy_that_was_damaged_is_fetched_anew_and_a_damaged_object_refused_until_it_is_kept_again() {
        let bench = in_a_bucket();
        let name = bench.artifacts.keep(MODEL).await.unwrap();
        let copy = bench.own.path().join(file_name(&name));
        std::fs::write(&copy, b"mod").unwrap();
        assert_eq!(bench.artifacts.read(&name).await.unwrap(), MODEL);
        assert_eq!(std::fs::read(&copy).unwrap(), MODEL);

        let object = objects().at(&bench.place).unwrap().join(&file_name(&name)).unwrap();
        object.root().put(object.path(), "other".into()).await.unwrap();
        let fresh = open(&bench.place);
        let error = fresh.artifacts.read(&name).await.unwrap_err().to_string();
        assert!(
            error.contains("register again") && error.contains(&bench.place),
            "{error}"
        );
        assert_eq!(
            std::fs::read_dir(fresh.own.path()).unwrap().count(),
            0,
            "nothing is left"
        );
        bench.artifacts.keep(MODEL).await.unwrap();
        assert_eq!(fresh.artifacts.read(&name).await.unwrap(), MODEL);
    }

    #[tokio::test]
    async fn a_bucket_that_is_missing_is_told_with_the_remedy() {
        let bench = open("s3://ondol-no-such-bucket/artifacts");
        let error = bench.artifacts.keep(MODEL).await.unwrap_err().to_string();
        assert!(error.contains("check the bucket's name"), "{error}");
        let error = bench.artifacts.read(&sha256(b"other")).await.unwrap_err().to_string();
        assert!(error.contains("ondol-no-such-bucket"), "{error}");
    }

    #[test]
    fn what_a_crash_left_among_the_copies_is_removed_at_the_next_start() {
        let own = tempfile::tempdir().unwrap();
        std::fs::write(own.path().join("x.01J.tmp"), "half").unwrap();
        Artifacts::open(&objects(), "s3://any/artifacts", own.path().to_owned()).unwrap();
        assert_eq!(std::fs::read_dir(own.path()).unwrap().count(), 0);
    }
}
