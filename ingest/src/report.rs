//! What the workers of a group tell each other: each appends its sources' status to a topic every few seconds, and
//! reads the others'. So any worker can answer for all, without knowing where the others are.
//!
//! The topic forgets after ten minutes, and what was heard counts for [`FRESH`] only: a worker that is gone is silent.

use crate::deliver::Backoff;
use crate::source::scan::Keep;
use crate::source::{NewRecord, Stream, StreamError};
use bytes::Bytes;
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_ingest_api::wire::SourceStatus;
use ondol_vocabulary::EventTime;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How often a worker reports.
pub const EVERY: Duration = Duration::from_secs(2);
/// How long a report counts.
pub const FRESH: Duration = Duration::from_secs(10);
/// How long the topic keeps reports.
const KEPT: Duration = Duration::from_secs(600);
/// How long one report may take to be written.
const WRITE: Duration = Duration::from_secs(2);
/// Most workers that are listened to.
const MAX_WORKERS: usize = 1_000;

/// The reports of a group's workers.
pub struct Reports {
    stream: Arc<dyn Stream>,
    topic: String,
    /// This worker's, told apart from another of the same name.
    id: String,
    worker: String,
    created: AtomicBool,
    others: Mutex<HashMap<String, (Instant, Report)>>,
}

/// One worker's report, as a message of the topic.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Report {
    id: String,
    worker: String,
    /// Its own part of each source.
    sources: Vec<SourceStatus>,
}

impl Reports {
    /// Of the worker called `worker`.
    pub fn new(stream: Arc<dyn Stream>, worker: String) -> Arc<Self> {
        Arc::new(Self {
            topic: format!("{}.workers", stream.namespace()),
            stream,
            id: format!("{:032x}", rand::random::<u128>()),
            worker,
            created: AtomicBool::new(false),
            others: Mutex::default(),
        })
    }

    /// This worker's name.
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// Whether there can be other workers.
    pub fn has_others(&self) -> bool {
        self.stream.is_shared()
    }

    /// Tells the others how this worker's `sources` stand; nothing when it stops.
    ///
    /// # Errors
    /// When the stream does not take it in time.
    pub async fn publish(&self, sources: Vec<SourceStatus>, at: EventTime) -> Result<(), StreamError> {
        let report = Report {
            id: self.id.clone(),
            worker: self.worker.clone(),
            sources,
        };
        let value = serde_json::to_vec(&report)
            .map_err(|error| StreamError::Unavailable(format!("a report can't be written as JSON: {error}")))?;
        let record = NewRecord {
            key: Some(Bytes::from(self.id.clone())),
            timestamp: at,
            value: Some(Bytes::from(value)),
            ..NewRecord::default()
        };
        let write = async {
            if !self.created.load(Ordering::Relaxed) {
                self.stream.create_own(&self.topic, Keep::For(KEPT)).await?;
                self.created.store(true, Ordering::Relaxed);
            }
            self.stream.append(&self.topic, vec![record]).await.map(drop)
        };
        let late = |_| StreamError::Unavailable(format!("topic `{}` did not take a report in {WRITE:?}", self.topic));
        tokio::time::timeout(WRITE, write).await.map_err(late)?
    }

    /// Listens to the others for ever.
    pub async fn follow(&self) {
        let mut backoff = Backoff::new();
        loop {
            if let Err(error) = self.follow_until_error(&mut backoff).await {
                tracing::debug!(topic = self.topic, %error, "other workers' reports can't be read");
            }
            backoff.wait().await;
        }
    }

    /// Returns when there is no such topic yet.
    async fn follow_until_error(&self, backoff: &mut Backoff) -> Result<(), StreamError> {
        let Some(description) = self.stream.describe(&self.topic).await? else {
            return Ok(());
        };
        let from = description.partitions.iter().map(|extent| PartitionPosition {
            partition: extent.partition,
            next_offset: extent.end,
        });
        let mut scan = self.stream.scan(&self.topic, from.collect()).await?;
        loop {
            let chunk = scan.next(Duration::from_secs(1)).await?;
            *backoff = Backoff::new();
            for record in chunk.records {
                match serde_json::from_slice::<Report>(&record.value.unwrap_or_default()) {
                    Ok(report) if report.id != self.id => self.hear(report),
                    Ok(_) => {}
                    Err(error) => tracing::debug!(%error, "another worker's report can't be read"),
                }
            }
        }
    }

    fn hear(&self, report: Report) {
        let mut others = self.lock();
        others.retain(|_, (heard, _)| heard.elapsed() < FRESH);
        if others.len() < MAX_WORKERS {
            others.insert(report.id.clone(), (Instant::now(), report));
        }
    }

    /// What the other workers last told of `source`, newest first.
    pub fn others(&self, source: &str) -> Vec<SourceStatus> {
        let others = self.lock();
        let mut fresh: Vec<_> = others.values().filter(|(heard, _)| heard.elapsed() < FRESH).collect();
        fresh.sort_by_key(|(heard, _)| std::cmp::Reverse(*heard));
        let sources = fresh.into_iter().flat_map(|(_, report)| &report.sources);
        sources.filter(|status| status.source == source).cloned().collect()
    }

    // Nothing panics while the lock is held.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Report)>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The machine's name and the process's number.
pub fn default_worker() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "worker" } else { host.trim() };
    format!("{host}/{}", std::process::id())
}
