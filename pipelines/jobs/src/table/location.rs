//! A table's location as its definition gives it: a path or a URL.

use crate::error::JobError;
use ondol_runtime::{Location, ObjectStores};
use url::Url;

/// The root of the local file system.
#[allow(clippy::expect_used, reason = "the text is fixed")]
pub(super) fn here() -> Url {
    Url::parse("file:///").expect("a literal URL parses")
}

/// The place in its store; of this machine, with links resolved.
pub(crate) fn existing(location: &str) -> Result<Location, JobError> {
    let at = ObjectStores::of_process().at(location);
    let at = at.map_err(|error| JobError::table(location, error.detail))?;
    let Some(path) = at.local_path() else { return Ok(at) };
    let whole = path.canonicalize().map_err(|error| {
        let detail = format!("there is nothing at {}: {error}; check the path", path.display());
        JobError::table(location, detail)
    })?;
    let at = ObjectStores::of_process().at(&whole.display().to_string());
    at.map_err(|error| JobError::table(location, error.detail))
}
