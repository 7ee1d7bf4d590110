//! Finished training sets on disk: an Arrow IPC stream each, whole or absent. Written batch by batch as a job goes on,
//! and read the same way, so that neither holds a result in memory.

use crate::error::JobError;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use futures::{StreamExt, stream};
use ondol_pipelines_api::{PipelinesError, Rows};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::PathBuf;

/// The ending of a result's name. (A dictionary may change from batch to batch in a stream, in an IPC file it may not.)
const ENDING: &str = "arrows";
/// Endings of what no reader wants: unfinished writes, and results of versions before streams.
const REMOVED: [&str; 2] = ["tmp", "arrow"];

/// The folder of finished training sets. Its methods block.
#[derive(Clone, Debug)]
pub(crate) struct Results {
    folder: PathBuf,
}

/// A file that no reader wants.
#[derive(Clone, Debug)]
pub(crate) struct Unfinished {
    /// What it was to be the result of.
    pub name: String,
    path: PathBuf,
}

/// A result that is being written. Dropped before [`Self::finish`] it leaves nothing.
pub(crate) struct ResultWriter {
    id: String,
    results: Results,
    writer: StreamWriter<BufWriter<File>>,
    temporary: PathBuf,
    finished: bool,
}

impl Results {
    /// In `folder`, which is created. When nobody else writes there, leftovers of writes that a crash cut short are
    /// removed at once.
    pub(crate) fn open(folder: PathBuf, exclusive: bool) -> Result<Self, JobError> {
        fs::create_dir_all(&folder)
            .map_err(|cause| JobError::storage(format!("can't open {}", folder.display()), cause))?;
        let results = Self { folder };
        if exclusive {
            for file in results.unfinished()? {
                results.remove_unfinished(&file)?;
            }
        }
        Ok(results)
    }

    /// Files of results that are not whole, or not read any more, with what each was to be the result of.
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

    /// Removes one of them, if it is still there.
    pub(crate) fn remove_unfinished(&self, file: &Unfinished) -> Result<(), JobError> {
        match fs::remove_file(&file.path) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                let path = file.path.display();
                Err(JobError::storage(format!("can't remove {path}"), cause))
            }
            _ => Ok(()),
        }
    }

    /// Begins the result of job `id`.
    pub(crate) fn write(&self, id: &str, schema: &SchemaRef) -> Result<ResultWriter, JobError> {
        let temporary = self.folder.join(format!("{id}.tmp"));
        let begin = || -> Result<StreamWriter<BufWriter<File>>, ArrowError> {
            StreamWriter::try_new(BufWriter::new(File::create(&temporary)?), schema)
        };
        let writer =
            begin().map_err(|cause| JobError::storage(format!("can't write {}", temporary.display()), cause))?;
        Ok(ResultWriter {
            id: id.to_owned(),
            results: self.clone(),
            writer,
            temporary,
            finished: false,
        })
    }

    /// The result of job `id`, if it is still there. It is read on as the rows are taken.
    pub(crate) fn read(&self, id: &str) -> Result<Option<Rows>, JobError> {
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
    pub(crate) fn ids(&self) -> Result<Vec<String>, JobError> {
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

    /// Removes the result of job `id`.
    pub(crate) fn remove(&self, id: &str) -> Result<(), JobError> {
        let path = self.path(id);
        fs::remove_file(&path).map_err(|cause| JobError::storage(format!("can't remove {}", path.display()), cause))
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.{ENDING}"))
    }
}

impl ResultWriter {
    /// Adds rows.
    pub(crate) fn push(&mut self, batch: &RecordBatch) -> Result<(), JobError> {
        self.writer.write(batch).map_err(|cause| self.fault(&cause))
    }

    /// Makes the result visible. When this returns it survives a crash.
    pub(crate) fn finish(mut self) -> Result<(), JobError> {
        self.close().map_err(|cause| self.fault(&cause))?;
        self.finished = true;
        Ok(())
    }

    fn close(&mut self) -> Result<(), ArrowError> {
        self.writer.finish()?;
        self.writer.flush()?;
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
    use arrow::datatypes::Int32Type;
    use std::sync::Arc;

    fn batch(word: &str) -> RecordBatch {
        let words: DictionaryArray<Int32Type> = vec![Some(word), None].into_iter().collect();
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        RecordBatch::try_from_iter_with_nullable([("w", Arc::new(words) as ArrayRef, true), ("n", numbers, true)])
            .unwrap()
    }

    #[tokio::test]
    async fn a_result_is_whole_or_absent() {
        let folder = tempfile::tempdir().unwrap();
        let results = Results::open(folder.path().to_owned(), true).unwrap();
        let batches = [batch("one"), batch("two")];
        let mut writer = results.write("a", &batches[0].schema()).unwrap();
        for batch in &batches {
            writer.push(batch).unwrap();
        }
        assert!(results.read("a").unwrap().is_none());
        writer.finish().unwrap();
        let read = results.read("a").unwrap().unwrap().collect().await.unwrap();
        assert_eq!(read.batches, batches);
        assert_eq!(results.ids().unwrap(), ["a"]);

        let mut dropped = results.write("b", &batches[0].schema()).unwrap();
        dropped.push(&batches[0]).unwrap();
        drop(dropped);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_is_removed_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x.tmp"), "half").unwrap();
        Results::open(folder.path().to_owned(), true).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
