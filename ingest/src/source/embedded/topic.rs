//! One topic: its metadata, its partitions, and the thread that commits appends to them.
//!
//! Group commit: the thread takes every append that waits, writes them partition by partition, syncs each touched
//! partition once, and only then answers. Records without a key all go to one partition per group, another one each
//! time, so that many small appends share one sync.

use super::partition::{self, Partition, PartitionWriter};
use super::{EmbeddedOptions, Lock, frame, unavailable, write_durably};
use crate::source::{NewRecord, StreamError};
use ondol_vocabulary::SourcePosition;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot, watch};

/// Appends that may wait for the commit thread; beyond it callers are refused.
const QUEUE: usize = 256;
/// A group takes no further append once it holds this much.
const GROUP_BYTES: usize = 8 << 20;
const METADATA: &str = "topic.json";

/// A topic that is open.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) generation: Arc<str>,
    pub(super) partitions: Vec<Arc<Partition>>,
    /// Changes with every commit: readers at the end wait on it.
    pub(super) committed: watch::Receiver<u64>,
    queue: Option<mpsc::Sender<Append>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Metadata {
    format: u32,
    generation: String,
    partitions: u32,
}

struct Append {
    records: Vec<NewRecord>,
    reply: oneshot::Sender<Result<Vec<SourcePosition>, StreamError>>,
}

impl Topic {
    /// Opens the topic in `dir`, or creates it. `lock` keeps other processes out while the thread lives.
    pub(super) fn open(
        name: &str,
        dir: &Path,
        options: &EmbeddedOptions,
        lock: &Arc<Lock>,
    ) -> Result<Self, StreamError> {
        let metadata = load_or_create(dir, options)?;
        let seed = frame::seed(&metadata.generation);
        let writers = (0..metadata.partitions)
            .map(|index| {
                partition::open(
                    dir.join(index.to_string()),
                    seed,
                    options.segment_bytes,
                    options.retention,
                )
            })
            .collect::<Result<Vec<_>, _>>()?;
        let partitions = writers.iter().map(|writer| Arc::clone(writer.shared())).collect();
        let (queue, appends) = mpsc::channel(QUEUE);
        let (announce, committed) = watch::channel(0);
        let committer = Committer {
            writers,
            announce,
            turn: 0,
            seed,
            _lock: Arc::clone(lock),
        };
        let thread = std::thread::Builder::new()
            .name("ondol-log".to_owned())
            .spawn(move || committer.run(appends))
            .map_err(|error| StreamError::Unavailable(format!("the log's thread can't start: {error}")))?;
        Ok(Self {
            name: name.to_owned(),
            generation: metadata.generation.into(),
            partitions,
            committed,
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Appends `records`; returns once they are synced.
    pub(super) async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<SourcePosition>, StreamError> {
        records.iter().try_for_each(frame::check_size)?;
        let (reply, answer) = oneshot::channel();
        let stopped = || StreamError::Unavailable(format!("the log of topic `{}` has stopped", self.name));
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        match queue.try_send(Append { records, reply }) {
            Ok(()) => answer.await.map_err(|_| stopped())?,
            Err(mpsc::error::TrySendError::Full(_)) => Err(StreamError::Overloaded(format!(
                "{QUEUE} appends to topic `{}` are waiting for the disk: try again shortly",
                self.name
            ))),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(stopped()),
        }
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        self.queue = None;
        // The thread ends after the group it is committing: a sync, no longer.
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(topic = self.name, "the log's thread panicked");
        }
    }
}

fn load_or_create(dir: &Path, options: &EmbeddedOptions) -> Result<Metadata, StreamError> {
    let path = dir.join(METADATA);
    match std::fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice::<Metadata>(&bytes) {
            Ok(metadata) if metadata.format == 1 && metadata.partitions > 0 => Ok(metadata),
            _ => Err(StreamError::Corrupt {
                path: path.display().to_string(),
                byte: 0,
            }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(dir).map_err(|error| unavailable(dir, &error))?;
            let generation = random_id()?;
            let metadata = Metadata {
                format: 1,
                generation,
                partitions: options.partitions.max(1),
            };
            let text =
                serde_json::to_vec_pretty(&metadata).map_err(|error| StreamError::Unavailable(error.to_string()))?;
            write_durably(&path, &text)?;
            Ok(metadata)
        }
        Err(error) => Err(unavailable(&path, &error)),
    }
}

/// 128 random bits from the operating system, in hex.
fn random_id() -> Result<String, StreamError> {
    use std::io::Read;
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| unavailable(path, &error))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

struct Committer {
    writers: Vec<PartitionWriter>,
    announce: watch::Sender<u64>,
    turn: usize,
    seed: u32,
    _lock: Arc<Lock>,
}

/// What a group writes to one partition.
#[derive(Default)]
struct Batch {
    frames: Vec<u8>,
    count: usize,
}

impl Committer {
    fn run(mut self, mut appends: mpsc::Receiver<Append>) {
        while let Some(first) = appends.blocking_recv() {
            let mut size = weight(&first);
            let mut group = vec![first];
            while size < GROUP_BYTES {
                let Ok(append) = appends.try_recv() else { break };
                size += weight(&append);
                group.push(append);
            }
            self.commit(group);
        }
    }

    fn commit(&mut self, group: Vec<Append>) {
        self.turn = (self.turn + 1) % self.writers.len().max(1);
        let mut batches: Vec<Batch> = self.writers.iter().map(|_| Batch::default()).collect();
        let placed: Vec<_> = group
            .iter()
            .map(|append| self.place(&append.records, &mut batches))
            .collect();
        let outcomes: Vec<_> = self
            .writers
            .iter_mut()
            .zip(&batches)
            .map(|(writer, batch)| write(writer, batch))
            .collect();
        self.announce.send_modify(|commits| *commits += 1);
        for (append, positions) in group.into_iter().zip(placed) {
            let failed = positions
                .iter()
                .find_map(|position| outcomes.get(position.partition as usize)?.as_ref().err());
            // The caller may have gone; its records stay.
            let _gone = append
                .reply
                .send(failed.map_or(Ok(positions), |error| Err(error.clone())));
        }
    }

    /// Encodes `records` into the batches of their partitions: the last position in each.
    fn place(&self, records: &[NewRecord], batches: &mut [Batch]) -> Vec<SourcePosition> {
        let mut last: Vec<Option<i64>> = vec![None; batches.len()];
        for record in records {
            let index = match &record.key {
                Some(key) => (xxhash_rust::xxh3::xxh3_64(key) % batches.len() as u64) as usize,
                None => self.turn,
            };
            let (Some(batch), Some(writer)) = (batches.get_mut(index), self.writers.get(index)) else {
                continue;
            };
            frame::encode(self.seed, batch.count == 0, record, &mut batch.frames);
            last[index] = Some(writer.shared().end() + batch.count as i64);
            batch.count += 1;
        }
        let position = |(partition, offset): (usize, Option<i64>)| {
            Some(SourcePosition {
                partition: partition as i32,
                offset: offset?,
            })
        };
        last.into_iter().enumerate().filter_map(position).collect()
    }
}

fn write(writer: &mut PartitionWriter, batch: &Batch) -> Result<(), StreamError> {
    if batch.count == 0 {
        return Ok(());
    }
    writer
        .append(&batch.frames, batch.count)
        .inspect_err(|error| tracing::error!(%error, "append failed"))
}

fn weight(append: &Append) -> usize {
    append.records.iter().map(|record| record.size_bytes() + 64).sum()
}
