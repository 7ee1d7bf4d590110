//! Artifact files, named by their SHA-256: written once, synced before anything refers to them, never changed.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The folder of artifacts. Its calls block: run them aside from async threads.
#[derive(Clone, Debug)]
pub struct ArtifactFolder {
    folder: PathBuf,
}

impl ArtifactFolder {
    /// In `folder`, which is made.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Keeps `artifact`; when it returns, the file survives a crash. Keeping the same bytes again changes nothing, unless
    /// the file was damaged since: then it is whole again.
    pub fn keep(&self, artifact: &[u8]) -> io::Result<String> {
        let name = sha256(artifact);
        let path = self.path(&name);
        match std::fs::read(&path) {
            Ok(kept) if kept == artifact => {}
            // Read or not: what stands there is not the artifact.
            Ok(_) | Err(_) => write_durably(&path, artifact)?,
        }
        Ok(name)
    }

    /// The artifact whose hash is `sha256`. Bytes that no longer have it are refused.
    pub fn read(&self, name: &str) -> io::Result<Bytes> {
        let path = self.path(name);
        let explain = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let bytes = std::fs::read(&path).map_err(explain)?;
        if sha256(&bytes) != name {
            let detail = format!(
                "{} has changed since it was registered: restore it, or register again",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
        }
        Ok(Bytes::from(bytes))
    }

    /// How many bytes the artifact has whose hash is `name`.
    pub fn size_bytes(&self, name: &str) -> io::Result<usize> {
        let path = self.path(name);
        let explain = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let size = std::fs::metadata(&path).map_err(explain)?.len();
        Ok(usize::try_from(size).unwrap_or(usize::MAX))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.onnx"))
    }
}

/// Writes `bytes` to `path` so that a crash leaves either the old file or the whole new one.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", ulid::Ulid::new()));
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

    #[test]
    fn an_artifact_is_kept_once_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = ArtifactFolder::open(folder.path().join("artifacts")).unwrap();
        let name = artifacts.keep(b"model").unwrap();
        assert_eq!(artifacts.keep(b"model").unwrap(), name);
        assert_eq!(artifacts.read(&name).unwrap(), Bytes::from_static(b"model"));
        assert_eq!(std::fs::read_dir(folder.path().join("artifacts")).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_was_tampered_with_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = ArtifactFolder::open(folder.path().to_owned()).unwrap();
        let name = artifacts.keep(b"model").unwrap();
        std::fs::write(folder.path().join(format!("{name}.onnx")), b"other").unwrap();
        assert!(
            artifacts
                .read(&name)
                .unwrap_err()
                .to_string()
                .contains("register again")
        );
    }

    #[test]
    fn keeping_it_again_mends_a_damaged_file() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = ArtifactFolder::open(folder.path().to_owned()).unwrap();
        let name = artifacts.keep(b"model").unwrap();
        for damage in [b"other".as_slice(), b"mod", b""] {
            std::fs::write(folder.path().join(format!("{name}.onnx")), damage).unwrap();
            assert_eq!(artifacts.keep(b"model").unwrap(), name);
            assert_eq!(artifacts.read(&name).unwrap(), Bytes::from_static(b"model"));
        }
    }
}
