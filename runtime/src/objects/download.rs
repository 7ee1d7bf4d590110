//! An object becomes a local file, piece by piece: memory holds one piece.

use super::{Location, ObjectsError};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use std::path::Path;
use tokio::io::AsyncWriteExt;

impl Location {
    /// Writes the object at this place into the local file `file`, which is replaced. After an error, or dropped half-way,
    /// a part of it may stay there.
    ///
    /// # Errors
    /// When the object can't be read, or the file not be written.
    pub async fn download(&self, file: &Path) -> Result<(), ObjectsError> {
        let object = self.root().get(self.path()).await;
        let mut pieces = object.map_err(|error| self.explain("reading", &error))?.into_stream();
        let unwritten = |cause: std::io::Error| {
            let detail = format!("can't be kept in `{}`: {cause}", file.display());
            ObjectsError::new(self.url().as_str(), detail)
        };
        let mut local = tokio::fs::File::create(file).await.map_err(unwritten)?;
        while let Some(piece) = pieces
            .try_next()
            .await
            .map_err(|error| self.explain("reading", &error))?
        {
            local.write_all(&piece).await.map_err(unwritten)?;
        }
        local.flush().await.map_err(unwritten)
    }
}
