//! Events that memory has no room for: batches in a file of their own, each read back by itself.
//!
//! The file has no name (it is unlinked as soon as it is open), so nothing is left of it however the process ends.

use crate::error::JobError;
use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::OnceLock;

/// A file of batches.
#[derive(Debug)]
pub(crate) struct Spill {
    folder: PathBuf,
    file: OnceLock<File>,
    end: Mutex<u64>,
}

/// Where a batch stands in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    offset: u64,
    length: usize,
}

impl Segment {
    /// Bytes of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.length as u64
    }
}

impl Spill {
    /// In `folder`, which is created once something is spilled.
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            file: OnceLock::new(),
            end: Mutex::new(0),
        }
    }

    /// Bytes written.
    pub(crate) fn bytes(&self) -> u64 {
        self.end.lock().map_or(0, |end| *end)
    }

    /// Puts `batch` at the file's end.
    pub(crate) fn write(&self, batch: &RecordBatch) -> Result<Segment, JobError> {
        let mut writer = StreamWriter::try_new(Vec::with_capacity(batch.get_array_memory_size()), &batch.schema())?;
        writer.write(batch)?;
        writer.finish()?;
        let bytes = writer.into_inner()?;
        let offset = {
            let mut end = self.end.lock().map_err(|_| JobError::internal("a writer panicked"))?;
            let offset = *end;
            *end += bytes.len() as u64;
            offset
        };
        self.file()?
            .write_all_at(&bytes, offset)
            .map_err(|cause| self.fault("write to", &cause))?;
        Ok(Segment {
            offset,
            length: bytes.len(),
        })
    }

    /// The batch at `segment`.
    pub(crate) fn read(&self, segment: Segment) -> Result<RecordBatch, JobError> {
        let mut bytes = vec![0; segment.length];
        self.file()?
            .read_exact_at(&mut bytes, segment.offset)
            .map_err(|cause| self.fault("read from", &cause))?;
        // Columns are parts of these bytes: nothing is copied.
        let mut buffer = Buffer::from_vec(bytes);
        let mut decoder = StreamDecoder::new();
        let batch = decoder.decode(&mut buffer)?;
        batch.ok_or_else(|| JobError::internal("a spilled batch is empty"))
    }

    fn file(&self) -> Result<&File, JobError> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let open = || {
            std::fs::create_dir_all(&self.folder)?;
            tempfile::tempfile_in(&self.folder)
        };
        let file = open().map_err(|cause| self.fault("make a file in", &cause))?;
        // Should two threads be first, the file of the slower is gone with its handle.
        Ok(self.file.get_or_init(|| file))
    }

    fn fault(&self, action: &str, cause: &std::io::Error) -> JobError {
        JobError::storage(
            format!(
                "can't {action} {}, where events that memory has no room for go",
                self.folder.display()
            ),
            cause,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use std::sync::Arc;

    #[test]
    fn batches_come_back_as_they_were_and_no_file_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::new(folder.path());
        let batch = |from: i64| {
            let numbers = Int64Array::from_iter([Some(from), None, Some(from + 2)]);
            let texts = StringArray::from(vec![Some("a"), Some(""), None]);
            RecordBatch::try_from_iter([("n", Arc::new(numbers) as _), ("t", Arc::new(texts) as _)]).unwrap()
        };
        let segments: Vec<Segment> = (0..3).map(|from| spill.write(&batch(from)).unwrap()).collect();
        for (from, segment) in [0, 1, 2].into_iter().zip(segments).rev() {
            assert_eq!(spill.read(segment).unwrap(), batch(from));
        }
        assert!(spill.bytes() > 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
