//! One partition on disk: segment files named by the offset of their first record, appended to by one writer
//! ([`PartitionWriter`], owned by the topic's commit thread) and read by any number of readers through [`Partition`].
//!
//! Invariant: a reader never sees a record at or past [`Partition::end`], and `end` moves only after the bytes before
//! it are synced. So what was read can't vanish in a crash.

use super::frame::{self, FrameError, HEADER};
use super::{Retention, unavailable};
use crate::source::StreamError;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

/// What readers and the writer of a partition share.
#[derive(Debug)]
pub(super) struct Partition {
    segments: RwLock<Vec<Segment>>,
    end: AtomicI64,
    seed: u32,
}

/// One segment file, open for reading.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) base: i64,
    pub(super) file: Arc<File>,
    path: PathBuf,
}

/// Appends to one partition.
#[derive(Debug)]
pub(super) struct PartitionWriter {
    dir: PathBuf,
    shared: Arc<Partition>,
    file: File,
    path: PathBuf,
    size_bytes: u64,
    segment_bytes: u64,
    retention: Retention,
    /// Set when the state of the file on disk is unknown: nothing may be acknowledged until it is opened anew.
    broken: bool,
}

impl Partition {
    /// First offset not yet durable.
    pub(super) fn end(&self) -> i64 {
        self.end.load(Ordering::Acquire)
    }

    /// First offset that retention has left.
    pub(super) fn begin(&self) -> i64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.first().map_or(0, |segment| segment.base)
    }

    /// The checksum's start for this topic.
    pub(super) fn seed(&self) -> u32 {
        self.seed
    }

    /// The segment that holds `offset`, or the oldest one when retention took it.
    pub(super) fn segment_of(&self, offset: i64) -> Option<Segment> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|segment| segment.base <= offset);
        segments.get(after.saturating_sub(1)).cloned()
    }

    /// The segment that follows the one which starts at `base`.
    pub(super) fn segment_after(&self, base: i64) -> Option<Segment> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.iter().find(|segment| segment.base > base).cloned()
    }
}

/// Opens or creates the partition in `dir`, cutting off a torn tail.
pub(super) fn open(
    dir: PathBuf,
    seed: u32,
    segment_bytes: u64,
    retention: Retention,
) -> Result<PartitionWriter, StreamError> {
    std::fs::create_dir_all(&dir).map_err(|error| unavailable(&dir, &error))?;
    let mut bases = segment_bases(&dir)?;
    if bases.is_empty() {
        create_segment(&dir, 0)?;
        bases.push(0);
    }
    let mut segments = Vec::with_capacity(bases.len());
    for base in &bases {
        let path = segment_path(&dir, *base);
        let file = File::open(&path).map_err(|error| unavailable(&path, &error))?;
        segments.push(Segment {
            base: *base,
            file: Arc::new(file),
            path,
        });
    }
    let (base, path) = segments
        .last()
        .map(|last| (last.base, last.path.clone()))
        .unwrap_or_default();
    let (size_bytes, count) = recover(&path, seed)?;
    let file = OpenOptions::new()
        .append(true)
        .open(&path)
        .map_err(|error| unavailable(&path, &error))?;
    let shared = Partition {
        segments: RwLock::new(segments),
        end: AtomicI64::new(base + count),
        seed,
    };
    let shared = Arc::new(shared);
    Ok(PartitionWriter {
        dir,
        shared,
        file,
        path,
        size_bytes,
        segment_bytes,
        retention,
        broken: false,
    })
}

impl PartitionWriter {
    /// What readers hold.
    pub(super) fn shared(&self) -> &Arc<Partition> {
        &self.shared
    }

    /// Appends `frames`, which hold `count` records, and syncs. On an error nothing of them stays.
    pub(super) fn append(&mut self, frames: &[u8], count: usize) -> Result<(), StreamError> {
        if self.broken {
            let detail = "an earlier write could not be undone: restart ingest once the disk is well";
            return Err(StreamError::Unavailable(format!("{}: {detail}", self.path.display())));
        }
        if self.size_bytes >= self.segment_bytes {
            self.roll()?;
        }
        if let Err(error) = self.file.write_all(frames) {
            self.broken = self.file.set_len(self.size_bytes).is_err();
            return Err(unavailable(&self.path, &error));
        }
        if let Err(error) = self.file.sync_data() {
            // After a failed sync the kernel may have dropped the dirty pages: only a fresh open can tell what is there.
            self.broken = true;
            return Err(unavailable(&self.path, &error));
        }
        self.size_bytes += frames.len() as u64;
        self.shared.end.fetch_add(count as i64, Ordering::Release);
        Ok(())
    }

    fn roll(&mut self) -> Result<(), StreamError> {
        let base = self.shared.end();
        self.path = create_segment(&self.dir, base)?;
        let error = |error: std::io::Error| unavailable(&self.path, &error);
        self.file = OpenOptions::new().append(true).open(&self.path).map_err(error)?;
        let reading = File::open(&self.path).map_err(error)?;
        self.size_bytes = HEADER.len() as u64;
        let segment = Segment {
            base,
            file: Arc::new(reading),
            path: self.path.clone(),
        };
        self.shared
            .segments
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(segment);
        self.retain();
        Ok(())
    }

    /// Deletes the oldest segments that retention no longer covers. A reader that holds one reads it to its end.
    fn retain(&self) {
        let mut segments = self.shared.segments.write().unwrap_or_else(PoisonError::into_inner);
        let size = |segment: &Segment| segment.file.metadata().map_or(0, |data| data.len());
        let mut total: u64 = segments.iter().map(size).sum();
        while let [oldest, _, ..] = segments.as_slice() {
            let over_size = self.retention.bytes.is_some_and(|limit| total > limit);
            let age = oldest.file.metadata().and_then(|data| data.modified()).ok();
            let age = age
                .and_then(|written| SystemTime::now().duration_since(written).ok())
                .unwrap_or_default();
            if !over_size && self.retention.age.is_none_or(|limit| age <= limit) {
                return;
            }
            total = total.saturating_sub(size(oldest));
            if let Err(error) = std::fs::remove_file(&oldest.path) {
                tracing::warn!(path = %oldest.path.display(), %error, "an expired segment can't be removed");
                return;
            }
            segments.remove(0);
        }
    }
}

fn segment_path(dir: &Path, base: i64) -> PathBuf {
    dir.join(format!("{base:020}.log"))
}

fn segment_bases(dir: &Path) -> Result<Vec<i64>, StreamError> {
    let mut bases = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| unavailable(dir, &error))? {
        let name = entry.map_err(|error| unavailable(dir, &error))?.file_name();
        let base = name
            .to_str()
            .and_then(|name| name.strip_suffix(".log"))
            .and_then(|base| base.parse::<i64>().ok());
        bases.extend(base);
    }
    bases.sort_unstable();
    Ok(bases)
}

/// Creates an empty segment so that a crash leaves either none or a whole one: written aside, then renamed.
fn create_segment(dir: &Path, base: i64) -> Result<PathBuf, StreamError> {
    let path = segment_path(dir, base);
    super::write_durably(&path, &HEADER)?;
    Ok(path)
}

/// Cuts the torn tail off the newest segment: its size and number of records after that.
fn recover(path: &Path, seed: u32) -> Result<(u64, i64), StreamError> {
    let bytes = std::fs::read(path).map_err(|error| unavailable(path, &error))?;
    let corrupt = |byte: usize| StreamError::Corrupt {
        path: path.display().to_string(),
        byte: byte as u64,
    };
    if !bytes.starts_with(&HEADER) {
        return Err(corrupt(0));
    }
    let (mut at, mut count) = (HEADER.len(), 0);
    while let Ok(frame) = frame::decode(seed, bytes.get(at..).unwrap_or_default()) {
        at += frame.size;
        count += 1;
    }
    let torn = bytes.get(at..).unwrap_or_default();
    if later_append(seed, torn) {
        return Err(corrupt(at));
    }
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|error| unavailable(path, &error))?;
    if !torn.is_empty() {
        tracing::warn!(path = %path.display(), bytes = torn.len(), "cut off the torn tail of an unfinished append");
        file.set_len(at as u64).map_err(|error| unavailable(path, &error))?;
    }
    // Records that were whole but not acknowledged are kept, and from now on may be read: make them durable.
    file.sync_all().map_err(|error| unavailable(path, &error))?;
    Ok((at as u64, count))
}

/// Whether `torn` holds the start of a later append, which proves that the bytes before it had been acknowledged.
fn later_append(seed: u32, torn: &[u8]) -> bool {
    (1..torn.len()).any(|at| frame::decode(seed, &torn[at..]).is_ok_and(|frame| frame.first))
}

/// A place in a partition to read on from.
#[derive(Debug)]
pub(super) struct Cursor {
    segment: Segment,
    at: u64,
    offset: i64,
}

/// How much [`Cursor::read`] reads at once.
const READ_BYTES: usize = 256 << 10;

impl Cursor {
    /// At `offset` or, when retention took it, at the oldest record.
    pub(super) fn seek(partition: &Partition, offset: i64) -> Result<Self, StreamError> {
        let segment = partition
            .segment_of(offset)
            .ok_or_else(|| StreamError::Unavailable("the partition has no segments".to_owned()))?;
        let mut cursor = Self {
            at: HEADER.len() as u64,
            offset: segment.base,
            segment,
        };
        while cursor.offset < offset && cursor.offset < partition.end() {
            let stop = offset;
            cursor.read(partition, stop, &mut |_, _| {})?;
        }
        Ok(cursor)
    }

    /// Where it stands.
    pub(super) fn offset(&self) -> i64 {
        self.offset
    }

    /// Visits the records from here, as many as one read brings, below `stop` and the partition's end.
    pub(super) fn read(
        &mut self,
        partition: &Partition,
        stop: i64,
        visit: &mut impl FnMut(i64, &frame::Frame<'_>),
    ) -> Result<(), StreamError> {
        let stop = stop.min(partition.end());
        let mut buffer = Vec::new();
        let mut wanted = READ_BYTES;
        while self.offset < stop {
            self.fill(&mut buffer, wanted)?;
            if buffer.is_empty() {
                self.next_segment(partition)?;
                continue;
            }
            let mut rest = buffer.as_slice();
            let needed = loop {
                if self.offset >= stop {
                    return Ok(());
                }
                match frame::decode(partition.seed(), rest) {
                    Ok(frame) => {
                        visit(self.offset, &frame);
                        rest = &rest[frame.size..];
                        self.at += frame.size as u64;
                        self.offset += 1;
                    }
                    Err(FrameError::Short(needed)) => break needed,
                    Err(FrameError::Invalid) => return Err(self.corrupt()),
                }
            };
            if rest.len() < buffer.len() {
                return Ok(());
            }
            // Not one whole frame: it is larger than the buffer, or the file ends within it.
            if buffer.len() < wanted {
                return Err(self.corrupt());
            }
            wanted = needed;
        }
        Ok(())
    }

    fn fill(&self, buffer: &mut Vec<u8>, wanted: usize) -> Result<(), StreamError> {
        buffer.resize(wanted, 0);
        let mut filled = 0;
        while filled < wanted {
            let read = self
                .segment
                .file
                .read_at(&mut buffer[filled..], self.at + filled as u64);
            match read.map_err(|error| unavailable(&self.segment.path, &error))? {
                0 => break,
                count => filled += count,
            }
        }
        buffer.truncate(filled);
        Ok(())
    }

    fn next_segment(&mut self, partition: &Partition) -> Result<(), StreamError> {
        let next = partition
            .segment_after(self.segment.base)
            .ok_or_else(|| self.corrupt())?;
        // Retention may have taken segments between: the records there are gone, reading goes on behind them.
        if next.base < self.offset {
            return Err(self.corrupt());
        }
        *self = Self {
            at: HEADER.len() as u64,
            offset: next.base,
            segment: next,
        };
        Ok(())
    }

    fn corrupt(&self) -> StreamError {
        StreamError::Corrupt {
            path: self.segment.path.display().to_string(),
            byte: self.at,
        }
    }
}
