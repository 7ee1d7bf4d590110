//! The last definitions seen, kept beside the service: a restart goes on with them while the registry is down.

use ondol_vocabulary::Snapshot;
use std::fs::File;
use std::io::{Error, Write};
use std::path::Path;

/// The definitions kept in `path`; none when there are none, or none that can be read (which is logged).
pub(crate) fn load(path: &Path) -> Option<Snapshot> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the kept definitions can't be read: asking the registry");
            return None;
        }
    };
    serde_json::from_slice(&bytes)
        .inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "the kept definitions are damaged: asking the registry");
        })
        .ok()
}

/// Keeps `snapshot` in `path`, whole or not at all.
///
/// # Errors
/// When the file can't be written.
pub(crate) fn save(path: &Path, snapshot: &Snapshot) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let aside = path.with_extension("new");
    let mut file = File::create(&aside)?;
    file.write_all(&serde_json::to_vec(snapshot)?)?;
    file.sync_all()?;
    std::fs::rename(aside, path)
}
