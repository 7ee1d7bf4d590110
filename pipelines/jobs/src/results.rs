//! Finished training sets on disk: an Arrow IPC file each, whole or absent.

use crate::error::JobError;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use ondol_pipelines_api::wire::JobResult;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::PathBuf;

/// The folder of finished training sets. Its methods block.
#[derive(Clone, Debug)]
pub(crate) struct Results {
    folder: PathBuf,
}

impl Results {
    /// In `folder`, which is created; leftovers of writes that a crash cut short are removed.
    pub(crate) fn open(folder: PathBuf) -> Result<Self, JobError> {
        let fault = |cause: std::io::Error| JobError::storage(format!("can't open {}", folder.display()), cause);
        fs::create_dir_all(&folder).map_err(fault)?;
        for entry in fs::read_dir(&folder).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(fault)?;
            }
        }
        Ok(Self { folder })
    }

    /// Writes the result of job `id`. When this returns it survives a crash.
    pub(crate) fn write(&self, id: &str, result: &JobResult) -> Result<(), JobError> {
        let temporary = self.folder.join(format!("{id}.tmp"));
        let write = || -> Result<(), arrow::error::ArrowError> {
            let mut writer = FileWriter::try_new(BufWriter::new(File::create(&temporary)?), &result.schema)?;
            for batch in &result.batches {
                writer.write(batch)?;
            }
            writer.finish()?;
            let file = writer.into_inner()?.into_inner().map_err(|cause| cause.into_error())?;
            file.sync_all()?;
            fs::rename(&temporary, self.path(id))?;
            File::open(&self.folder)?.sync_all()?;
            Ok(())
        };
        write().map_err(|cause| JobError::storage(format!("can't write {}", temporary.display()), cause))
    }

    /// The result of job `id`, if it is still there.
    pub(crate) fn read(&self, id: &str) -> Result<Option<JobResult>, JobError> {
        let path = self.path(id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(JobError::storage(format!("can't open {}", path.display()), cause)),
        };
        let read = || -> Result<JobResult, arrow::error::ArrowError> {
            let reader = FileReader::try_new(BufReader::new(file), None)?;
            Ok(JobResult {
                schema: reader.schema(),
                batches: reader.collect::<Result<_, _>>()?,
            })
        };
        read()
            .map(Some)
            .map_err(|cause| JobError::storage(format!("can't read {}", path.display()), cause))
    }

    /// The jobs whose results are here.
    pub(crate) fn ids(&self) -> Result<Vec<String>, JobError> {
        let fault = |cause: std::io::Error| JobError::storage(format!("can't list {}", self.folder.display()), cause);
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            if path.extension().is_some_and(|extension| extension == "arrow") {
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
        self.folder.join(format!("{id}.arrow"))
    }
}
