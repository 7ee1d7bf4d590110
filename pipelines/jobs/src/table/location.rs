//! A table's location as its definition gives it: a path or a URL.

use crate::error::JobError;
use url::Url;

/// The location as a URL. A relative path is relative to the service's working folder.
pub(crate) fn parse(location: &str) -> Result<Url, JobError> {
    // A scheme of one letter is a drive, not a scheme.
    if let Ok(url) = Url::parse(location)
        && url.scheme().len() > 1
    {
        return Ok(url);
    }
    let path = std::path::absolute(location).map_err(|error| JobError::table(location, error))?;
    let path = path.canonicalize().map_err(|error| {
        JobError::table(
            location,
            format!("there is nothing at {}: {error}; check the path", path.display()),
        )
    })?;
    Url::from_file_path(&path).map_err(|()| JobError::table(location, format!("{} is no path", path.display())))
}
