//! The service: follows the registry, keeps a pipeline per stream source, answers the contract.

use crate::config::{IngestConfig, Limits, StreamConfig};
use crate::dead_letter;
use crate::decode::formats::Formats;
use crate::deliver::{Backoff, Surroundings};
use crate::meter;
use crate::pipeline::Pipeline;
use crate::plan::SourcePlan;
use crate::progress::{Part, Progress};
use crate::snapshot_file;
use crate::source::embedded::{EmbeddedOptions, EmbeddedStream, Retention};
use crate::source::kafka::KafkaStream;
use crate::source::{NewRecord, Stream, StreamError};
use async_trait::async_trait;
use bytes::Bytes;
use ondol_feature_store_api::FeatureStore;
use ondol_ingest_api::wire::{DeadLetterPage, DeadLetterQuery, PushReceipt, PushRequest, SourceStatus};
use ondol_ingest_api::{Ingest, IngestError};
use ondol_runtime::{Clock, Health, ReadyHandle, Shutdown};
use ondol_vocabulary::{EventTime, Snapshot};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long one question for a newer snapshot waits.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(30);
/// How often lag is measured.
const LAG_EVERY: Duration = Duration::from_secs(10);
/// How long a status request waits for the topics' ends.
const ENDS_WAIT: Duration = Duration::from_secs(3);
/// Most dead letters that one request lists.
const MAX_DEAD_LETTERS: u32 = 1_000;

/// The ingest service.
pub struct IngestService {
    stream: Arc<dyn Stream>,
    formats: Formats,
    store: Arc<dyn FeatureStore>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    snapshot_file: Option<PathBuf>,
    shutdown: Shutdown,
    sources: Mutex<Sources>,
}

#[derive(Default)]
struct Sources {
    /// Whether definitions have been seen at all.
    known: bool,
    running: BTreeMap<String, Running>,
}

/// One source's pipeline.
struct Running {
    topic: String,
    plan: watch::Sender<Arc<SourcePlan>>,
    progress: Arc<Progress>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl IngestService {
    /// Opens the stream and starts following the registry of `store`. Tasks belong to `shutdown`; readiness is reported
    /// as `definitions`, once the first snapshot has been applied. Call within a tokio runtime.
    ///
    /// # Errors
    /// When the stream can't be opened, or its settings contradict themselves.
    pub fn start(
        config: &IngestConfig,
        store: Arc<dyn FeatureStore>,
        clock: Arc<dyn Clock>,
        shutdown: &Shutdown,
        health: &Health,
    ) -> Result<Arc<Self>, StreamError> {
        let stream = open_stream(&config.stream)?;
        Ok(Self::start_on(stream, config, store, clock, shutdown, health))
    }

    /// As [`Self::start`], on a stream that is open already.
    pub fn start_on(
        stream: Arc<dyn Stream>,
        config: &IngestConfig,
        store: Arc<dyn FeatureStore>,
        clock: Arc<dyn Clock>,
        shutdown: &Shutdown,
        health: &Health,
    ) -> Arc<Self> {
        meter::describe();
        let service = Arc::new(Self {
            stream,
            formats: Formats::default(),
            store,
            clock,
            limits: config.limits.clone(),
            snapshot_file: config.snapshot_file.clone(),
            shutdown: shutdown.clone(),
            sources: Mutex::default(),
        });
        let ready = health.register("definitions");
        ready.not_ready("waiting for the feature store's definitions");
        shutdown.spawn("ingest-follow", Arc::clone(&service).follow(ready));
        shutdown.spawn("ingest-lag", Arc::clone(&service).measure_lag());
        service
    }

    async fn follow(self: Arc<Self>, ready: ReadyHandle) {
        let stop = self.shutdown.token();
        let _stopped = stop.run_until_cancelled(self.follow_for_ever(&ready)).await;
    }

    async fn follow_for_ever(&self, ready: &ReadyHandle) {
        let mut version = None;
        if let Some(snapshot) = self.snapshot_file.as_deref().and_then(snapshot_file::load) {
            self.apply(&snapshot).await;
            ready.ready();
        }
        let mut backoff = Backoff::new();
        loop {
            let snapshot = match version {
                None => self.store.snapshot().await,
                Some(version) => self.store.next_snapshot(version, SNAPSHOT_WAIT).await,
            };
            match snapshot {
                Ok(snapshot) => {
                    backoff = Backoff::new();
                    if version != Some(snapshot.version) {
                        version = Some(snapshot.version);
                        self.apply(&snapshot).await;
                        self.keep(&snapshot);
                        ready.ready();
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the definitions can't be read: going on with those known");
                    backoff.wait().await;
                }
            }
        }
    }

    fn keep(&self, snapshot: &Snapshot) {
        if let Some(path) = &self.snapshot_file
            && let Err(error) = snapshot_file::save(path, snapshot)
        {
            tracing::warn!(path = %path.display(), %error, "the definitions can't be kept");
        }
    }

    /// Makes the pipelines those of `snapshot`: starts new ones, hands changed plans to running ones, stops the rest.
    async fn apply(&self, snapshot: &Snapshot) {
        let mut plans = BTreeMap::new();
        for source in &snapshot.sources {
            match SourcePlan::compile(snapshot, source, &self.formats) {
                Ok(Some(plan)) => drop(plans.insert(plan.name.clone(), Arc::new(plan))),
                Ok(None) => {}
                Err(error) => tracing::error!(error, "a source is not read"),
            }
        }
        let stopping: Vec<Running> = {
            let mut sources = self.lock();
            let gone =
                |name: &String, running: &mut Running| plans.get(name).is_none_or(|plan| plan.topic != running.topic);
            sources
                .running
                .extract_if(.., gone)
                .map(|(_, running)| running)
                .collect()
        };
        for running in stopping {
            running.stop.cancel();
            // A panic of the task was logged by its owner.
            let _ended = running.task.await;
        }
        let mut sources = self.lock();
        sources.known = true;
        for (name, plan) in plans {
            match sources.running.get(&name) {
                Some(running) => {
                    running.plan.send_if_modified(|known| {
                        let changed = *known != plan;
                        *known = Arc::clone(&plan);
                        changed
                    });
                }
                None => drop(sources.running.insert(name, self.run(plan))),
            }
        }
        tracing::info!(
            version = snapshot.version,
            sources = sources.running.len(),
            "definitions applied"
        );
    }

    fn run(&self, plan: Arc<SourcePlan>) -> Running {
        let progress = Arc::new(Progress::default());
        let around = Arc::new(Surroundings {
            source: plan.name.clone(),
            topic: plan.topic.clone(),
            store: Arc::clone(&self.store),
            stream: Arc::clone(&self.stream),
            clock: Arc::clone(&self.clock),
            limits: self.limits.clone(),
            progress: Arc::clone(&progress),
        });
        let topic = plan.topic.clone();
        let stop = self.shutdown.token().child_token();
        let (sender, receiver) = watch::channel(plan);
        let task = self
            .shutdown
            .spawn("ingest-source", read_source(around, receiver, stop.clone()));
        Running {
            topic,
            plan: sender,
            progress,
            stop,
            task,
        }
    }

    async fn measure_lag(self: Arc<Self>) {
        let stop = self.shutdown.token();
        while stop.run_until_cancelled(tokio::time::sleep(LAG_EVERY)).await.is_some() {
            for (source, topic, progress) in self.running() {
                let ends = tokio::time::timeout(ENDS_WAIT, self.stream.ends(&topic)).await;
                let Ok(Ok(ends)) = ends else { continue };
                for reached in progress.delivered_positions() {
                    if let Some(end) = ends.iter().find(|end| end.partition == reached.partition) {
                        meter::lag(
                            &source,
                            reached.partition,
                            end.next_offset.saturating_sub(reached.next_offset),
                        );
                    }
                }
            }
        }
    }

    fn running(&self) -> Vec<(String, String, Arc<Progress>)> {
        let sources = self.lock();
        let entry =
            |(name, running): (&String, &Running)| (name.clone(), running.topic.clone(), Arc::clone(&running.progress));
        sources.running.iter().map(entry).collect()
    }

    fn topic(&self, source: &str) -> Result<String, IngestError> {
        let sources = self.lock();
        if let Some(running) = sources.running.get(source) {
            return Ok(running.topic.clone());
        }
        if !sources.known {
            let detail = "the definitions have not been read yet: try again shortly".to_owned();
            return Err(IngestError::Unavailable { detail });
        }
        let suggestion = sources
            .running
            .keys()
            .filter(|name| is_near(source, name))
            .min()
            .cloned();
        Err(IngestError::UnknownSource {
            name: source.to_owned(),
            suggestion,
        })
    }

    // Nothing panics while the lock is held, and no await happens under it.
    fn lock(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a source until `stop`, opening the stream again after errors that may pass.
async fn read_source(around: Arc<Surroundings>, plan: watch::Receiver<Arc<SourcePlan>>, stop: CancellationToken) {
    let mut backoff = Backoff::new();
    loop {
        let reader = match stop
            .run_until_cancelled(around.stream.reader(&around.topic, &around.source))
            .await
        {
            None => return,
            Some(reader) => reader,
        };
        let ended = match reader {
            Ok(reader) => {
                Pipeline::new(Arc::clone(&around), plan.clone(), reader)
                    .run(stop.clone())
                    .await
            }
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => return,
            Err(error @ (StreamError::Unavailable(_) | StreamError::Overloaded(_))) => {
                around.progress.trouble(Part::Stream, error.to_string());
                if stop.run_until_cancelled(backoff.wait()).await.is_none() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(source_name = around.source, %error, "the source is stopped");
                around.progress.trouble(Part::Source, error.to_string());
                return;
            }
        }
    }
}

fn open_stream(config: &StreamConfig) -> Result<Arc<dyn Stream>, StreamError> {
    Ok(match config {
        StreamConfig::Embedded(config) => {
            let options = EmbeddedOptions {
                partitions: config.partitions,
                segment_bytes: config.segment_bytes,
                retention: Retention {
                    bytes: config.retention_bytes,
                    age: config
                        .retention_hours
                        .map(|hours| Duration::from_secs(hours.saturating_mul(3600))),
                },
            };
            Arc::new(EmbeddedStream::open(&config.dir, options)?)
        }
        StreamConfig::Kafka(config) => Arc::new(KafkaStream::new(config)?),
    })
}

/// Whether two names differ by little: the same letters but for case and at most two places.
fn is_near(name: &str, candidate: &str) -> bool {
    let (name, candidate) = (name.to_lowercase(), candidate.to_lowercase());
    let length = name.chars().count().abs_diff(candidate.chars().count());
    let same = name.chars().zip(candidate.chars()).take_while(|(a, b)| a == b).count()
        + name
            .chars()
            .rev()
            .zip(candidate.chars().rev())
            .take_while(|(a, b)| a == b)
            .count();
    length <= 2 && same + 2 >= name.chars().count().max(candidate.chars().count())
}

#[async_trait]
impl Ingest for IngestService {
    async fn push(&self, source: &str, request: PushRequest) -> Result<PushReceipt, IngestError> {
        let topic = self.topic(source)?;
        let timestamp = EventTime::from_micros(self.clock.now_micros());
        let record = |event: Box<serde_json::value::RawValue>| NewRecord {
            timestamp,
            value: Some(Bytes::from(Box::<str>::from(event).into_string())),
            ..NewRecord::default()
        };
        let records: Vec<NewRecord> = request.events.into_iter().map(record).collect();
        if records.is_empty() {
            let detail = "`events` is empty: send at least one event".to_owned();
            return Err(IngestError::InvalidRequest { detail });
        }
        let positions = self.stream.append(&topic, records).await.map_err(ingest_error)?;
        Ok(PushReceipt { positions })
    }

    async fn status(&self) -> Result<Vec<SourceStatus>, IngestError> {
        let status = self.running().into_iter().map(|(source, topic, progress)| async move {
            let ends = tokio::time::timeout(ENDS_WAIT, self.stream.ends(&topic)).await;
            // Unknown ends are no reason to hide the rest.
            let ends = ends.unwrap_or(Ok(Vec::new())).unwrap_or_default();
            progress.status(&source, &topic, &ends)
        });
        Ok(futures::future::join_all(status).await)
    }

    async fn dead_letters(&self, source: &str, query: DeadLetterQuery) -> Result<DeadLetterPage, IngestError> {
        if query.limit > MAX_DEAD_LETTERS {
            let detail = format!("`limit` is {}: ask for at most {MAX_DEAD_LETTERS}", query.limit);
            return Err(IngestError::InvalidRequest { detail });
        }
        let topic = self.topic(source)?;
        let letters = dead_letter::list(self.stream.as_ref(), source, &topic, query.limit as usize)
            .await
            .map_err(ingest_error)?;
        let entry = |letter| ondol_ingest_api::wire::DeadLetterEntry {
            letter,
            state: Default::default(),
            state_since: None,
            fixed_base64: None,
        };
        Ok(DeadLetterPage {
            letters: letters.into_iter().map(entry).collect(),
            next: None,
        })
    }
}

fn ingest_error(error: StreamError) -> IngestError {
    match error {
        StreamError::Overloaded(detail) => IngestError::Overloaded { detail },
        StreamError::Unavailable(detail) => IngestError::Unavailable { detail },
        error @ (StreamError::TooLarge { .. } | StreamError::TopicName(_)) => IngestError::InvalidRequest {
            detail: error.to_string(),
        },
        error @ (StreamError::Config(_) | StreamError::Recreated { .. } | StreamError::Corrupt { .. }) => {
            IngestError::Internal {
                detail: error.to_string(),
            }
        }
    }
}
