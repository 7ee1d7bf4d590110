//! A Parquet file on this machine's disk, read a page at a time.
//!
//! An object store is asked for all the columns of a row group at once, because each question costs a round trip. A disk's
//! answers cost next to nothing, and a page is read into memory that the page before has just left: still in the
//! processor's cache, and not to be cleared by the kernel first.

use super::Table;
use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, pread};
use std::fs::File;
use std::io::{BufReader, Error, ErrorKind, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// An open file. Reads do not move it, so any number may go on at once.
#[derive(Clone)]
pub(super) struct LocalFile {
    file: Arc<File>,
    path: Arc<str>,
    size: u64,
}

impl Table {
    /// File `index`, if the table is on a disk of this machine.
    pub(super) fn local_file(&self, index: usize) -> Option<Result<LocalFile, ParquetError>> {
        if self.root.scheme() != "file" {
            return None;
        }
        let file = self.files.get(index)?;
        let path = self.root.to_file_path().ok()?.join(file.path());
        let open = File::open(&path).map_err(|error| external(file.path(), error));
        Some(open.map(|open| LocalFile {
            file: Arc::new(open),
            path: file.path().into(),
            size: file.size,
        }))
    }
}

impl Length for LocalFile {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for LocalFile {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(From {
            file: self.clone(),
            at: start,
        }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // Room that was not cleared: the file's bytes are the first that are written there.
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = start + bytes.len() as u64;
            match pread(&*self.file, spare_capacity(&mut bytes), at) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(external(&self.path, error.into())),
            }
        }
        // The room may have been greater than what was asked for.
        bytes.truncate(length);
        let read = bytes.len();
        if read == length {
            return Ok(bytes.into());
        }
        let cut = Error::new(
            ErrorKind::UnexpectedEof,
            format!("it ends {} bytes early", length - read),
        );
        Err(external(&self.path, cut))
    }
}

/// The file from a place on.
pub(super) struct From {
    file: LocalFile,
    at: u64,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The error as the store of the same file would give it: what it means and what to do is told in one place.
fn external(path: &str, error: Error) -> ParquetError {
    let (kind, path, source) = (error.kind(), path.to_owned(), Box::new(error));
    ParquetError::External(Box::new(match kind {
        ErrorKind::NotFound => object_store::Error::NotFound { path, source },
        ErrorKind::PermissionDenied => object_store::Error::PermissionDenied { path, source },
        _ => object_store::Error::Generic {
            store: "LocalFileSystem",
            source,
        },
    }))
}
