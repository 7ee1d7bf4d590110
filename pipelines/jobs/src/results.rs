//! Finished training sets: an Arrow IPC stream each, whole or absent, in a folder or a bucket. Written batch by batch as
//! a job goes on, and read the same way, so that neither holds a result in memory.
//!
//! What is not finished is always a file of this machine: where results lie in a bucket, it is uploaded at the end and
//! removed. So a bucket holds whole results only, and a slow one does not hold up the computing.

use crate::error::JobError;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, path::Path as ObjectPath};
use ondol_pipelines_api::{PipelinesError, Rows, rows};
use ondol_runtime::objects::{Location, ObjectStores};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// The ending of a result's name. (A dictionary may change from batch to batch in a stream, in an IPC file it may not.)
const ENDING: &str = "arrows";
/// Endings of what no reader wants: unfinished writes, and results of versions before streams.
const REMOVED: [&str; 2] = ["tmp", "arrow"];

/// Where finished training sets are. Clones share the place.
#[derive(Clone, Debug)]
pub(crate) struct Results {
    /// Of unfinished ones, and of finished ones that are in no bucket.
    folder: PathBuf,
    bucket: Option<Bucket>,
}

/// A place of results that other machines reach as well.
#[derive(Clone, Debug)]
struct Bucket {
    place: Location,
    /// In which the place is the root.
    store: Arc<dyn ObjectStore>,
}

/// A file that no reader wants.
#[derive(Clone, Debug)]
pub(crate) struct Unfinished {
    /// What it was to be the result of.
    pub name: String,
    path: PathBuf,
}

/// Bytes of a result after which they are brought to the disk, while more are written.
const FLUSHED_BYTES: usize = 32 << 20;

/// Brings a file to the disk while it is being written, so that at its end little is left to wait for.
struct Flusher {
    /// Room for one: who is asked twice meanwhile, brings it all at once.
    asked: Option<SyncSender<()>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    written: usize,
}

/// A result that is being written. Dropped before [`Self::finish`] it leaves nothing.
pub(crate) struct ResultWriter {
    id: String,
    results: Results,
    writer: StreamWriter<BufWriter<File>>,
    flusher: Flusher,
    temporary: PathBuf,
    finished: bool,
}

impl Results {
    /// At `place`, a folder or in a bucket; `own` is this instance's folder for those of a bucket that are not finished.
    /// Folders are created. When nobody else writes there, leftovers of writes that a crash cut short are removed at
    /// once. Blocks.
    pub(crate) fn open(objects: &ObjectStores, place: &str, own: PathBuf, exclusive: bool) -> Result<Self, JobError> {
        let opened = objects.at(place).and_then(Location::created);
        let place = opened.map_err(|cause| JobError::storage("can't keep results", cause))?;
        let (folder, bucket) = match place.local_path() {
            Some(folder) => (folder, None),
            None => {
                let store = place.store();
                (own, Some(Bucket { place, store }))
            }
        };
        fs::create_dir_all(&folder)
            .map_err(|cause| JobError::storage(format!("can't open {}", folder.display()), cause))?;
        let results = Self { folder, bucket };
        if exclusive {
            for file in results.unfinished()? {
                results.remove_unfinished(&file)?;
            }
        }
        Ok(results)
    }

    /// Files of results that are not whole, or not read any more, with what each was to be the result of. Blocks.
    pub(crate) fn unfinished(&self) -> Result<Vec<Unfinished>, JobError> {
        let fault = |cause: std::io::Error| JobError::storage(format!("can't list {}", self.folder.display()), cause);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            let unread = |ending: &&str| path.extension().is_some_and(|found| found == *ending);
            if let Some(stem) = path.file_stem().filter(|_| REMOVED.iter().any(unread)) {
                let name = stem.to_string_lossy().into_owned();
                files.push(Unfinished { name, path });
            }
        }
        Ok(files)
    }

    /// Removes one of them, if it is still there. Blocks.
    pub(crate) fn remove_unfinished(&self, file: &Unfinished) -> Result<(), JobError> {
        match fs::remove_file(&file.path) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                let path = file.path.display();
                Err(JobError::storage(format!("can't remove {path}"), cause))
            }
            _ => Ok(()),
        }
    }

    /// Begins the result of job `id`. This and the writer block.
    pub(crate) fn write(&self, id: &str, schema: &SchemaRef) -> Result<ResultWriter, JobError> {
        let temporary = self.folder.join(format!("{id}.tmp"));
        let begin = || -> Result<(StreamWriter<BufWriter<File>>, Flusher), ArrowError> {
            let file = File::create(&temporary)?;
            let flusher = Flusher::of(file.try_clone()?)?;
            Ok((StreamWriter::try_new(BufWriter::new(file), schema)?, flusher))
        };
        let (writer, flusher) =
            begin().map_err(|cause| JobError::storage(format!("can't write {}", temporary.display()), cause))?;
        Ok(ResultWriter {
            id: id.to_owned(),
            results: self.clone(),
            writer,
            flusher,
            temporary,
            finished: false,
        })
    }

    /// The result of job `id`, if it is still there. It is read on as the rows are taken.
    pub(crate) async fn read(&self, id: &str) -> Result<Option<Rows>, JobError> {
        if let Some(bucket) = &self.bucket {
            return bucket.read(id).await;
        }
        let (results, id) = (self.clone(), id.to_owned());
        blocking(move || results.read_file(&id)).await
    }

    fn read_file(&self, id: &str) -> Result<Option<Rows>, JobError> {
        let path = self.path(id);
        let fault = |action: &str, cause: &dyn std::fmt::Display| {
            JobError::storage(format!("can't {action} {}", path.display()), cause)
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(fault("open", &cause)),
        };
        let reader = StreamReader::try_new(BufReader::new(file), None).map_err(|cause| fault("read", &cause))?;
        let schema = reader.schema();
        let batches = stream::unfold(Some(reader), move |state| {
            let path = path.clone();
            async move {
                let mut reader = state?;
                let read = tokio::task::spawn_blocking(move || {
                    let next = reader.next();
                    (reader, next)
                });
                let broken = |cause: &dyn std::fmt::Display| PipelinesError::Internal {
                    detail: format!("can't read {}: {cause}", path.display()),
                };
                match read.await {
                    Ok((reader, Some(Ok(batch)))) => Some((Ok(batch), Some(reader))),
                    Ok((_, None)) => None,
                    Ok((_, Some(Err(cause)))) => Some((Err(broken(&cause)), None)),
                    Err(cause) => Some((Err(broken(&cause)), None)),
                }
            }
        });
        Ok(Some(Rows {
            schema,
            batches: batches.boxed(),
        }))
    }

    /// The jobs whose results are here.
    pub(crate) async fn ids(&self) -> Result<Vec<String>, JobError> {
        if let Some(bucket) = &self.bucket {
            return bucket.ids().await;
        }
        let results = self.clone();
        blocking(move || results.files()).await
    }

    fn files(&self) -> Result<Vec<String>, JobError> {
        let fault = |cause: std::io::Error| JobError::storage(format!("can't list {}", self.folder.display()), cause);
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            if path.extension().is_some_and(|extension| extension == ENDING) {
                ids.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
            }
        }
        Ok(ids)
    }

    /// Removes the result of job `id`, if it is there.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), JobError> {
        if let Some(bucket) = &self.bucket {
            return bucket.remove(id).await;
        }
        let path = self.path(id);
        blocking(move || match fs::remove_file(&path) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(JobError::storage(format!("can't remove {}", path.display()), cause))
            }
            _ => Ok(()),
        })
        .await
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.{ENDING}"))
    }
}

impl Bucket {
    async fn read(&self, id: &str) -> Result<Option<Rows>, JobError> {
        let pieces = match self.store.get(&object(id)).await {
            Ok(found) => found.into_stream().map_err(|cause| cause.to_string()).boxed(),
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(cause) => return Err(self.failed("reading a result", &cause)),
        };
        let rows = rows::decode(pieces, format!("{}/{id}.{ENDING}", self.place)).await;
        rows.map(Some)
            .map_err(|cause| JobError::storage("can't read a result", cause))
    }

    async fn ids(&self) -> Result<Vec<String>, JobError> {
        let found: Result<Vec<_>, StoreError> = self.store.list(None).try_collect().await;
        let found = found.map_err(|cause| self.failed("listing results", &cause))?;
        let names = found.iter().filter_map(|object| object.location.filename());
        let id = |name: &str| Some(name.strip_suffix(ENDING)?.strip_suffix('.')?.to_owned());
        Ok(names.filter_map(id).collect())
    }

    async fn remove(&self, id: &str) -> Result<(), JobError> {
        match self.store.delete(&object(id)).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(cause) => Err(self.failed("removing a result", &cause)),
        }
    }

    /// Makes `file` the result of job `id`. Blocks.
    fn publish(&self, id: &str, file: &std::path::Path) -> Result<(), JobError> {
        let place = self.place.join(&format!("{id}.{ENDING}"));
        let upload = async { place?.upload(file).await };
        tokio::runtime::Handle::current()
            .block_on(upload)
            .map_err(|cause| JobError::storage("can't keep a result", cause))
    }

    fn failed(&self, doing: &str, cause: &StoreError) -> JobError {
        JobError::storage("can't keep results", self.place.explain(doing, cause))
    }
}

fn object(id: &str) -> ObjectPath {
    ObjectPath::from(format!("{id}.{ENDING}"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    tokio::task::spawn_blocking(work).await.map_err(JobError::internal)?
}

impl Flusher {
    fn of(file: File) -> std::io::Result<Self> {
        let (asked, asks) = sync_channel(1);
        // An error is told once: whoever meets it keeps it.
        let flush = move || asks.into_iter().try_for_each(|()| file.sync_data());
        let thread = std::thread::Builder::new().name("result-flush".to_owned());
        Ok(Self {
            asked: Some(asked),
            thread: Some(thread.spawn(flush)?),
            written: 0,
        })
    }

    /// So many bytes more are written, about.
    fn add(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written >= FLUSHED_BYTES
            && let Some(asked) = &self.asked
        {
            self.written = 0;
            // At work already, or stopped by an error that is told at the end.
            let _ = asked.try_send(());
        }
    }

    /// Waits for what it was asked for.
    fn end(&mut self) -> std::io::Result<()> {
        drop(self.asked.take());
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(flushed)) => flushed,
            Some(Err(_)) => Err(std::io::Error::other(
                "the thread that brings a result to the disk panicked",
            )),
        }
    }
}

impl ResultWriter {
    /// Adds rows.
    pub(crate) fn push(&mut self, batch: &RecordBatch) -> Result<(), JobError> {
        self.writer.write(batch).map_err(|cause| self.fault(&cause))?;
        let columns = batch.columns().iter();
        let bytes = columns.map(|column| column.to_data().get_slice_memory_size().unwrap_or(0));
        self.flusher.add(bytes.sum());
        Ok(())
    }

    /// Makes the result visible. When this returns it survives a crash.
    pub(crate) fn finish(mut self) -> Result<(), JobError> {
        self.close().map_err(|cause| self.fault(&cause))?;
        if let Some(bucket) = &self.results.bucket {
            // The file is removed when this is dropped.
            return bucket.publish(&self.id, &self.temporary);
        }
        self.show().map_err(|cause| self.fault(&cause))?;
        self.finished = true;
        Ok(())
    }

    fn close(&mut self) -> Result<(), ArrowError> {
        self.writer.finish()?;
        self.writer.flush()?;
        Ok(self.flusher.end()?)
    }

    /// Gives the file its name. When this returns both survive a crash.
    fn show(&mut self) -> Result<(), ArrowError> {
        self.writer.get_ref().get_ref().sync_all()?;
        fs::rename(&self.temporary, self.results.path(&self.id))?;
        File::open(&self.results.folder)?.sync_all()?;
        Ok(())
    }

    fn fault(&self, cause: &ArrowError) -> JobError {
        JobError::storage(format!("can't write {}", self.temporary.display()), cause)
    }
}

impl Drop for ResultWriter {
    fn drop(&mut self) {
        // Of what is not finished nobody cares whether it is on the disk.
        let _ = self.flusher.end();
        if !self.finished
            && let Err(error) = fs::remove_file(&self.temporary)
        {
            tracing::warn!(%error, path = %self.temporary.display(), "an unfinished result stays until the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, DictionaryArray, Int64Array};
    use arrow::compute::concat_batches;
    use arrow::datatypes::Int32Type;
    use ondol_testkit::s3;

    fn batch(word: &str) -> RecordBatch {
        let words: DictionaryArray<Int32Type> = vec![Some(word), None].into_iter().collect();
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        RecordBatch::try_from_iter_with_nullable([("w", Arc::new(words) as ArrayRef, true), ("n", numbers, true)])
            .unwrap()
    }

    fn open(place: &str, own: &std::path::Path) -> Results {
        let objects = ObjectStores::new(s3::config());
        Results::open(&objects, place, own.to_owned(), true).unwrap()
    }

    /// What every place of results promises.
    async fn a_result_is_whole_or_absent(results: Results, own: &std::path::Path) {
        let batches = [batch("one"), batch("two")];
        let mut writer = results.write("a", &batches[0].schema()).unwrap();
        for batch in &batches {
            writer.push(batch).unwrap();
        }
        assert!(results.read("a").await.unwrap().is_none());
        assert_eq!(results.ids().await.unwrap(), [""; 0]);
        blocking(move || writer.finish()).await.unwrap();
        let read = results.read("a").await.unwrap().unwrap().collect().await.unwrap();
        assert_eq!(read.batches, batches);
        assert_eq!(results.ids().await.unwrap(), ["a"]);

        let mut dropped = results.write("b", &batches[0].schema()).unwrap();
        dropped.push(&batches[0]).unwrap();
        assert_eq!(results.unfinished().unwrap().len(), 1);
        drop(dropped);
        assert!(results.read("b").await.unwrap().is_none());
        results.remove("a").await.unwrap();
        results.remove("a").await.unwrap();
        assert!(results.read("a").await.unwrap().is_none());
        assert_eq!(fs::read_dir(own).unwrap().count(), 0, "nothing is left");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_result_in_a_folder_is_whole_or_absent() {
        let folder = tempfile::tempdir().unwrap();
        let results = open(folder.path().to_str().unwrap(), folder.path());
        a_result_is_whole_or_absent(results, folder.path()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_result_in_a_bucket_is_whole_or_absent() {
        let own = tempfile::tempdir().unwrap();
        let results = open(&format!("s3://{}/results", s3::bucket()), own.path());
        a_result_is_whole_or_absent(results, own.path()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_result_of_many_parts_comes_back_from_a_bucket() {
        let own = tempfile::tempdir().unwrap();
        let results = open(&format!("s3://{}/results", s3::bucket()), own.path());
        let numbers = |from: i64| -> ArrayRef { Arc::new((from..from + 1_000_000).collect::<Int64Array>()) };
        let batch = |from: i64| RecordBatch::try_from_iter([("n", numbers(from))]).unwrap();
        let mut writer = results.write("large", &batch(0).schema()).unwrap();
        for from in 0..5 {
            writer.push(&batch(from * 1_000_000)).unwrap();
        }
        blocking(move || writer.finish()).await.unwrap();
        let read = results.read("large").await.unwrap().unwrap().collect().await.unwrap();
        let read = concat_batches(&read.schema, &read.batches).unwrap();
        let expected: ArrayRef = Arc::new((0..5_000_000).collect::<Int64Array>());
        assert!(*read.column(0) == expected);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_bucket_that_is_missing_is_told_with_the_remedy_and_nothing_is_left() {
        let own = tempfile::tempdir().unwrap();
        let results = open("s3://ondol-no-such-bucket/results", own.path());
        let mut writer = results.write("a", &batch("one").schema()).unwrap();
        writer.push(&batch("one")).unwrap();
        let error = blocking(move || writer.finish()).await.unwrap_err().to_string();
        assert!(
            error.contains("check the bucket's name") && error.contains("ondol-no-such-bucket"),
            "{error}"
        );
        assert_eq!(fs::read_dir(own.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_crash_left_is_removed_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x.tmp"), "half").unwrap();
        let place = folder.path().to_str().unwrap();
        Results::open(&ObjectStores::default(), place, folder.path().to_owned(), true).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
