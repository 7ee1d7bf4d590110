//! A finished local file becomes an object, whole or not at all: in parts, which nobody sees until the last step.

use super::{Location, ObjectsError};
use object_store::path::Path as ObjectPath;
use object_store::{Error, ObjectStore, ObjectStoreExt, WriteMultipart};
use std::io::{ErrorKind, Read};
use std::path::Path;
use tokio::task::spawn_blocking;

/// Bytes of a part. S3 wants 5 MiB at least, and takes 10,000 of them.
const PART_BYTES: usize = 16 << 20;
/// Parts on their way at a time: with the one being read, what an upload holds in memory.
const PARTS_AHEAD: usize = 3;

impl Location {
    /// Makes the local file `file` the object at this place. When this returns it lasts; before, or after an error,
    /// readers see what was there. Dropped half-way, parts may stay in the store unseen until its own rule removes them.
    ///
    /// # Errors
    /// When the file can't be read, or the store refuses it.
    pub async fn upload(&self, file: &Path) -> Result<(), ObjectsError> {
        let uploaded = upload(self.root().as_ref(), self.path(), file).await;
        uploaded.map_err(|error| self.explain("writing", &error))
    }
}

async fn upload(store: &dyn ObjectStore, to: &ObjectPath, file: &Path) -> object_store::Result<()> {
    let mut parts = Parts::open(file).await?;
    let first = parts.next().await?;
    if first.len() < PART_BYTES {
        return store.put(to, first.into()).await.map(drop);
    }
    let mut writer = WriteMultipart::new_with_chunk_size(store.put_multipart(to).await?, PART_BYTES);
    let sent = send(&mut writer, first, &mut parts).await;
    match sent {
        Ok(()) => writer.finish().await.map(drop),
        Err(error) => {
            if let Err(abort) = writer.abort().await {
                tracing::warn!(%abort, object = %to, "parts of an upload that failed stay in the store");
            }
            Err(error)
        }
    }
}

/// Sends every part, and waits until all have arrived.
async fn send(writer: &mut WriteMultipart, first: Vec<u8>, parts: &mut Parts) -> object_store::Result<()> {
    let mut part = first;
    while !part.is_empty() {
        writer.wait_for_capacity(PARTS_AHEAD).await?;
        writer.put(part.into());
        part = parts.next().await?;
    }
    writer.wait_for_capacity(0).await
}

/// A file, read part by part.
struct Parts {
    /// Taken while a part is read.
    file: Option<std::fs::File>,
}

impl Parts {
    async fn open(file: &Path) -> object_store::Result<Self> {
        let path = file.to_owned();
        let file = reading(move || std::fs::File::open(path)).await?;
        Ok(Self { file: Some(file) })
    }

    /// The next part: shorter than [`PART_BYTES`] at the end, and empty after it.
    async fn next(&mut self) -> object_store::Result<Vec<u8>> {
        let Some(mut file) = self.file.take() else {
            return Ok(Vec::new());
        };
        let (file, part) = reading(move || {
            let mut part = Vec::with_capacity(PART_BYTES);
            let mut limited = (&mut file).take(PART_BYTES as u64);
            limited.read_to_end(&mut part)?;
            Ok((file, part))
        })
        .await?;
        self.file = Some(file);
        Ok(part)
    }
}

async fn reading<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> object_store::Result<T> {
    let read = spawn_blocking(work)
        .await
        .map_err(|source| Error::JoinError { source })?;
    read.map_err(|source| match source.kind() {
        ErrorKind::NotFound => Error::NotFound {
            path: "the file to upload".to_owned(),
            source: source.into(),
        },
        _ => Error::Generic {
            store: "local file",
            source: source.into(),
        },
    })
}
