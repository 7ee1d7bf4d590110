//! A local file system whose acknowledged writes survive a power cut.
//!
//! `object_store`'s local file system never calls fsync: a Delta commit that it acknowledged may vanish, or worse, stay
//! as an empty file. Here every object is written to a hidden staging file and synced *before* it gets its name, then
//! the folder is synced: an object is either absent or whole. Reads, lists and deletes go to the wrapped store.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode,
    Result, UploadPart,
};
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A [`LocalFileSystem`] that syncs what it writes, files and folders, before it acknowledges.
#[derive(Clone, Debug)]
pub struct DurableFiles {
    files: Arc<LocalFileSystem>,
}

impl DurableFiles {
    /// The whole file system: object paths are absolute file paths.
    pub fn new() -> Self {
        Self {
            files: Arc::new(LocalFileSystem::new()),
        }
    }

    async fn write(&self, location: &Path, payload: PutPayload, exclusive: bool) -> Result<PutResult> {
        let path = self.files.path_to_filesystem(location)?;
        let object = location.to_string();
        blocking(move || write_file(&path, &payload, exclusive).map_err(|source| named(&object, source))).await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }
}

impl Default for DurableFiles {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for DurableFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DurableFiles")
    }
}

#[async_trait]
impl ObjectStore for DurableFiles {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match opts.mode {
            PutMode::Overwrite => self.write(location, payload, false).await,
            PutMode::Create => self.write(location, payload, true).await,
            PutMode::Update(_) => Err(Error::NotImplemented {
                operation: "`put_opts` with mode `PutMode::Update`".to_owned(),
                implementer: self.to_string(),
            }),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(GatheredUpload {
            store: self.clone(),
            location: location.clone(),
            parts: Vec::new(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.files.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let bytes = self.get(from).await?.bytes().await?;
        self.write(to, bytes.into(), matches!(options.mode, CopyMode::Create))
            .await
            .map(|_| ())
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let mode = match options.target_mode {
            RenameTargetMode::Overwrite => CopyMode::Overwrite,
            RenameTargetMode::Create => CopyMode::Create,
        };
        self.copy_opts(
            from,
            to,
            CopyOptions {
                mode,
                ..CopyOptions::default()
            },
        )
        .await?;
        self.delete(from).await
    }
}

/// A multipart upload held in memory and written as one object: what comes this way (checkpoints) is small, and must
/// not be seen before it is whole on disk.
#[derive(Debug)]
struct GatheredUpload {
    store: DurableFiles,
    location: Path,
    parts: Vec<PutPayload>,
}

#[async_trait]
impl MultipartUpload for GatheredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.push(data);
        Box::pin(std::future::ready(Ok(())))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let whole: PutPayload = self.parts.drain(..).flatten().collect();
        self.store.write(&self.location, whole, false).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.clear();
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|source| Error::JoinError { source })?
}

fn named(object: &str, source: io::Error) -> Error {
    let path = object.to_owned();
    match source.kind() {
        ErrorKind::AlreadyExists => Error::AlreadyExists {
            path,
            source: Box::new(source),
        },
        ErrorKind::NotFound => Error::NotFound {
            path,
            source: Box::new(source),
        },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Error::PermissionDenied {
            path,
            source: Box::new(source),
        },
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            generic(format!("/{path} can't be written: {source}: free space on its disk"))
        }
        _ => generic(format!("/{path} can't be written: {source}")),
    }
}

fn generic(detail: String) -> Error {
    Error::Generic {
        store: "DurableFiles",
        source: detail.into(),
    }
}

/// Writes, syncs, names, syncs the folder. `exclusive` fails when the name is taken.
fn write_file(path: &FilePath, payload: &PutPayload, exclusive: bool) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
    create_folders(folder)?;
    let staged = staging_path(path);
    let result = fill(&staged, payload).and_then(|()| {
        if exclusive {
            std::fs::hard_link(&staged, path)
        } else {
            std::fs::rename(&staged, path)
        }
    });
    if exclusive || result.is_err() {
        // Best effort: a staging file that stays behind is hidden from lists and harms nothing.
        drop(std::fs::remove_file(&staged));
    }
    result?;
    sync_folder(folder)
}

fn fill(staged: &FilePath, payload: &PutPayload) -> io::Result<()> {
    let mut file = File::create_new(staged)?;
    for chunk in payload {
        file.write_all(chunk)?;
    }
    file.sync_all()
}

/// Digits of a staging file's name behind the process id: a random part and a count.
const STAGING_DIGITS: usize = 39 + 20;

/// `name#123…`: the wrapped store hides names that end in `#` and digits.
fn staging_path(path: &FilePath) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.as_os_str().to_owned();
    // The process id and a random part keep apart the leftovers of a process that was killed.
    name.push(format!("#{}{:039}{count:020}", std::process::id(), ulid::Ulid::new().0));
    PathBuf::from(name)
}

/// Removes the staging files in `folder` that were last written to at least `age` ago: what a kill leaves of a write.
pub(super) fn remove_staged(folder: &FilePath, age: Duration) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_staged = name.to_str().is_some_and(|name| {
            let digits = name.rsplit_once('#').map_or("", |(_, digits)| digits);
            digits.len() > STAGING_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit())
        });
        if !is_staged {
            continue;
        }
        let gone = |error: io::Error| match error.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        };
        let is_old = |metadata: std::fs::Metadata| Ok(metadata.modified()?.elapsed().unwrap_or_default() >= age);
        match entry.metadata().and_then(is_old) {
            Ok(true) => std::fs::remove_file(entry.path()).or_else(gone)?,
            Ok(false) => {}
            Err(error) => gone(error)?,
        }
    }
    Ok(())
}

/// Creates missing folders, syncing each parent so that the new entry lasts.
fn create_folders(folder: &FilePath) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let Some(parent) = folder.parent() else { return Ok(()) };
    create_folders(parent)?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    sync_folder(parent)
}

fn sync_folder(folder: &FilePath) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use futures::TryStreamExt;

    fn location(folder: &tempfile::TempDir, name: &str) -> Path {
        Path::from_absolute_path(folder.path().join(name)).unwrap()
    }

    #[tokio::test]
    async fn an_exclusive_put_refuses_a_taken_name_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableFiles::new();
        let path = location(&folder, "a/b/commit.json");
        let create = || PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        store.put_opts(&path, "first".into(), create()).await.unwrap();
        let error = store.put_opts(&path, "second".into(), create()).await.unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "first");
        assert_eq!(std::fs::read_dir(folder.path().join("a/b")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_staging_file_of_a_killed_process_is_hidden_from_lists() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableFiles::new();
        store.put(&location(&folder, "kept"), "kept".into()).await.unwrap();
        std::fs::write(staging_path(&folder.path().join("lost")), "half").unwrap();
        let listed: Vec<_> = store
            .list(Some(&Path::from_absolute_path(folder.path()).unwrap()))
            .map_ok(|meta| meta.location.filename().unwrap().to_owned())
            .try_collect()
            .await
            .unwrap();
        assert_eq!(listed, ["kept"]);
    }

    #[tokio::test]
    async fn a_multipart_upload_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableFiles::new();
        let path = location(&folder, "checkpoint.parquet");
        let mut upload = store
            .put_multipart_opts(&path, PutMultipartOptions::default())
            .await
            .unwrap();
        upload.put_part("one ".into()).await.unwrap();
        upload.put_part("two".into()).await.unwrap();
        assert!(store.head(&path).await.is_err());
        upload.complete().await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "one two");
    }

    #[test]
    fn what_a_kill_left_of_a_write_is_removed_once_it_is_old_enough_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a#1"), "somebody's").unwrap();
        let staged = staging_path(&folder.path().join("b"));
        fill(&staged, &"half".into()).unwrap();
        remove_staged(folder.path(), Duration::from_secs(3_600)).unwrap();
        assert!(staged.exists(), "its writer may be at work");
        remove_staged(folder.path(), Duration::ZERO).unwrap();
        assert!(!staged.exists());
        assert!(folder.path().join("a#1").exists());
    }
}
