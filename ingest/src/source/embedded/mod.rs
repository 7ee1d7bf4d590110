//! A thin durable log of our own: the stream of `ondol dev`. One process owns a directory.
//!
//! ```text
//! {dir}/lock                                   held while a process has the log open
//! {dir}/{topic}/topic.json                     format, generation, number of partitions
//! {dir}/{topic}/{partition}/{base offset}.log  segments: see `frame`
//! ```
//!
//! An append costs one write and one `fdatasync` per touched partition and group of waiting appends; reading costs one
//! positioned read per 256 KiB. There is no index: a seek reads its segment from the start (64 MiB at most by default).

mod frame;
mod partition;
mod reader;
mod scan;
mod topic;

use super::scan::{Keep, PartitionExtent, Scan, TopicDescription};
use super::{NewRecord, Reader, Stream, StreamError, check_topic_name};
use async_trait::async_trait;
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_vocabulary::{EventTime, SourcePosition};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use topic::Topic;

pub(crate) use frame::reencoded;

/// How a log stores.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedOptions {
    /// Partitions of a topic that is created; existing topics keep theirs.
    pub partitions: u32,
    /// A segment is closed once it is this large.
    pub segment_bytes: u64,
    /// What is deleted.
    pub retention: Retention,
}

/// When closed segments are deleted; the default keeps everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// Delete the oldest while a partition holds more than this.
    pub bytes: Option<u64>,
    /// Delete those last written longer ago than this.
    pub age: Option<Duration>,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            partitions: 4,
            segment_bytes: 64 << 20,
            retention: Retention::default(),
        }
    }
}

/// The embedded log.
#[derive(Debug)]
pub struct EmbeddedStream {
    dir: PathBuf,
    options: EmbeddedOptions,
    topics: Mutex<HashMap<String, Arc<Topic>>>,
    lock: Arc<Lock>,
}

/// Keeps other processes out of the directory.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child that was just forked may hold a copy until it executes its program.
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the embedded stream's lock can't be released before the process ends");
        }
    }
}

impl EmbeddedStream {
    /// Opens the log in `dir`, which is created when missing.
    ///
    /// # Errors
    /// When another process has it open, or the directory can't be used.
    pub fn open(dir: impl Into<PathBuf>, options: EmbeddedOptions) -> Result<Self, StreamError> {
        let dir = dir.into();
        std::fs::create_dir_all(&dir).map_err(|error| unavailable(&dir, &error))?;
        let path = dir.join("lock");
        let lock = File::create(&path).map_err(|error| unavailable(&path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let detail = "another process has the embedded stream open: stop it, or use Kafka between processes";
                return Err(StreamError::Unavailable(format!("{}: {detail}", dir.display())));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(unavailable(&path, &error)),
        }
        Ok(Self {
            dir,
            options,
            topics: Mutex::default(),
            lock: Arc::new(Lock(lock)),
        })
    }

    /// The topic called `name`, created when missing. Opening does file I/O, once per topic and process.
    fn topic(&self, name: &str) -> Result<Arc<Topic>, StreamError> {
        check_topic_name(name)?;
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = topics.get(name) {
            return Ok(Arc::clone(topic));
        }
        let topic = Arc::new(Topic::open(name, &self.dir.join(name), &self.options, &self.lock)?);
        topics.insert(name.to_owned(), Arc::clone(&topic));
        Ok(topic)
    }

    fn existing(&self, name: &str) -> Result<Option<Arc<Topic>>, StreamError> {
        check_topic_name(name)?;
        if self.dir.join(name).is_dir() {
            self.topic(name).map(Some)
        } else {
            Ok(None)
        }
    }
}

#[async_trait]
impl Stream for EmbeddedStream {
    async fn reader(&self, topic: &str, _reader: &str) -> Result<Box<dyn Reader>, StreamError> {
        Ok(Box::new(reader::EmbeddedReader::new(self.topic(topic)?)))
    }

    async fn append(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<SourcePosition>, StreamError> {
        self.topic(topic)?.append(records).await
    }

    async fn describe(&self, topic: &str) -> Result<Option<TopicDescription>, StreamError> {
        let Some(topic) = self.existing(topic)? else {
            return Ok(None);
        };
        let extent = |(index, partition): (usize, &Arc<partition::Partition>)| PartitionExtent {
            partition: index as i32,
            begin: partition.begin(),
            end: partition.end(),
        };
        Ok(Some(TopicDescription {
            generation: Arc::clone(&topic.generation),
            partitions: topic.partitions.iter().enumerate().map(extent).collect(),
        }))
    }

    async fn offsets_at(&self, topic: &str, time: EventTime) -> Result<Vec<PartitionPosition>, StreamError> {
        let Some(topic) = self.existing(topic)? else {
            return Ok(Vec::new());
        };
        let find = move || {
            let place = |(index, partition): (usize, &Arc<partition::Partition>)| {
                let next_offset = scan::offset_at(partition, time)?;
                Ok(PartitionPosition {
                    partition: index as i32,
                    next_offset,
                })
            };
            topic.partitions.iter().enumerate().map(place).collect()
        };
        tokio::task::spawn_blocking(find)
            .await
            .map_err(|error| StreamError::Unavailable(format!("reading was stopped: {error}")))?
    }

    async fn scan(&self, topic: &str, from: Vec<PartitionPosition>) -> Result<Box<dyn Scan>, StreamError> {
        Ok(Box::new(scan::EmbeddedScan::new(self.topic(topic)?, from)))
    }

    /// Keeps everything: only one process writes these topics, and writes little.
    async fn create_own(&self, topic: &str, _keep: Keep) -> Result<(), StreamError> {
        self.topic(topic).map(drop)
    }

    fn namespace(&self) -> &str {
        "ondol-ingest"
    }

    fn is_shared(&self) -> bool {
        false
    }
}

/// Writes `path` so that after a crash it is either absent or whole: beside it, synced, renamed, directory synced.
fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), StreamError> {
    let aside = path.with_extension("new");
    let write = || {
        std::fs::write(&aside, bytes)?;
        File::open(&aside)?.sync_all()?;
        std::fs::rename(&aside, path)?;
        // Both the file's name and its directory's own name must survive.
        let parent = path.parent().unwrap_or(path);
        File::open(parent)?.sync_all()?;
        parent.parent().map_or(Ok(()), |above| File::open(above)?.sync_all())
    };
    write().map_err(|error: std::io::Error| unavailable(path, &error))
}

fn unavailable(path: &Path, error: &std::io::Error) -> StreamError {
    StreamError::Unavailable(format!("{}: {error}", path.display()))
}
