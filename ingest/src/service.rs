//! The service: follows the registry, keeps a pipeline per stream source, and tells how they stand.
//! [`operations`](crate::operations) answers the contract.

use crate::config::{IngestConfig, Limits, StartAt, StreamConfig};
use crate::control::Control;
use crate::decode::formats::Formats;
use crate::deliver::{Backoff, Surroundings};
use crate::directive::Directives;
use crate::meter;
use crate::operations::Ledgers;
use crate::pipeline::Pipeline;
use crate::plan::SourcePlan;
use crate::progress::{Part, Progress};
use crate::report::{self, Reports};
use crate::schema_registry::SchemaRegistry;
use crate::snapshot_file;
use crate::source::embedded::{EmbeddedOptions, EmbeddedStream, Retention};
use crate::source::kafka::KafkaStream;
use crate::source::scan::PartitionExtent;
use crate::source::{Stream, StreamError};
use crate::status;
use ondol_feature_store_api::FeatureStore;
use ondol_ingest_api::IngestError;
use ondol_ingest_api::wire::SourceStatus;
use ondol_runtime::{Clock, Health, ReadyHandle, Shutdown};
use ondol_vocabulary::{EventTime, Snapshot};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long one question for a newer snapshot waits.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(30);
/// How often lag and what is fetched are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(10);

/// The ingest service.
pub struct IngestService {
    pub(crate) stream: Arc<dyn Stream>,
    formats: Formats,
    pub(crate) store: Arc<dyn FeatureStore>,
    clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    start: BTreeMap<String, StartAt>,
    pub(crate) control: Arc<Control>,
    directives: watch::Receiver<Arc<Directives>>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) ledgers: Ledgers,
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

/// A source that is read, for a moment.
pub(crate) struct View {
    pub(crate) source: String,
    pub(crate) topic: String,
    pub(crate) progress: Arc<Progress>,
    pub(crate) plan: Arc<SourcePlan>,
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
        Self::start_on(stream, config, store, clock, shutdown, health)
    }

    /// As [`Self::start`], on a stream that is open already.
    ///
    /// # Errors
    /// When the schema registry's settings are not valid.
    pub fn start_on(
        stream: Arc<dyn Stream>,
        config: &IngestConfig,
        store: Arc<dyn FeatureStore>,
        clock: Arc<dyn Clock>,
        shutdown: &Shutdown,
        health: &Health,
    ) -> Result<Arc<Self>, StreamError> {
        meter::describe();
        let control = Control::new(Arc::clone(&stream));
        let worker = config.worker.clone().unwrap_or_else(report::default_worker);
        let reports = Reports::new(Arc::clone(&stream), worker);
        let service = Arc::new(Self {
            start: config.start.clone(),
            directives: control.directives(),
            control,
            reports,
            ledgers: Ledgers::default(),
            stream,
            formats: formats(config)?,
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
        shutdown.spawn("ingest-measure", Arc::clone(&service).measure());
        service.spawn_until_stopped("ingest-control", {
            let control = Arc::clone(&service.control);
            async move { control.follow().await }
        });
        if service.reports.has_others() {
            shutdown.spawn("ingest-report", Arc::clone(&service).report());
            service.spawn_until_stopped("ingest-hear", {
                let reports = Arc::clone(&service.reports);
                async move { reports.follow().await }
            });
        }
        Ok(service)
    }

    fn spawn_until_stopped(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.shutdown.token();
        self.shutdown.spawn(name, async move {
            let _stopped = stop.run_until_cancelled(work).await;
        });
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
                    } else {
                        // A store that is stopping answers at once, with nothing new: a stop of ours must be seen.
                        tokio::task::yield_now().await;
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
            control: Arc::clone(&self.control),
            start: self.start.get(&plan.name).cloned().unwrap_or_default(),
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

    /// Brings the metrics that are measured rather than counted up to date.
    async fn measure(self: Arc<Self>) {
        let stop = self.shutdown.token();
        while stop
            .run_until_cancelled(tokio::time::sleep(MEASURE_EVERY))
            .await
            .is_some()
        {
            for view in self.views() {
                let description = status::description(self.stream.as_ref(), &view.topic).await;
                let extents = description
                    .map(|description| description.partitions)
                    .unwrap_or_default();
                meter::status(&self.own(&view, &extents).await);
            }
            self.ledgers.forget_idle();
        }
    }

    /// Tells the other workers how this one's part stands.
    async fn report(self: Arc<Self>) {
        let stop = self.shutdown.token();
        while stop
            .run_until_cancelled(tokio::time::sleep(report::EVERY))
            .await
            .is_some()
        {
            let mut sources = Vec::new();
            for view in self.views() {
                sources.push(self.own(&view, &[]).await);
            }
            if let Err(error) = self.reports.publish(sources, self.now()).await {
                tracing::debug!(%error, "this worker's report can't be written");
            }
        }
        if let Err(error) = self.reports.publish(Vec::new(), self.now()).await {
            tracing::debug!(%error, "this worker's last report can't be written");
        }
    }

    /// This worker's part of a source.
    pub(crate) async fn own(&self, view: &View, extents: &[PartitionExtent]) -> SourceStatus {
        let names = (view.source.as_str(), view.topic.as_str(), self.reports.worker());
        let mut own = status::own(self.stream.as_ref(), &view.progress, names, extents, self.now()).await;
        own.paused = self.directives.borrow().of(&view.source).paused.clone();
        own.error = own.error.or_else(|| self.control.trouble());
        status::sum_up(&mut own);
        own
    }

    /// The sources that are read now.
    pub(crate) fn views(&self) -> Vec<View> {
        let sources = self.lock();
        let view = |(name, running): (&String, &Running)| View {
            source: name.clone(),
            topic: running.topic.clone(),
            progress: Arc::clone(&running.progress),
            plan: Arc::clone(&running.plan.borrow()),
        };
        sources.running.iter().map(view).collect()
    }

    /// The source called `source`.
    ///
    /// # Errors
    /// When there is none, with the nearest name.
    pub(crate) fn view(&self, source: &str) -> Result<View, IngestError> {
        let views = self.views();
        let mut names = views.iter().map(|view| view.source.as_str());
        let suggestion = names.find(|name| is_near(source, name)).map(str::to_owned);
        if let Some(view) = views.into_iter().find(|view| view.source == source) {
            return Ok(view);
        }
        if !self.lock().known {
            let detail = "the definitions have not been read yet: try again shortly".to_owned();
            return Err(IngestError::Unavailable { detail });
        }
        Err(IngestError::UnknownSource {
            name: source.to_owned(),
            suggestion,
        })
    }

    /// The present.
    pub(crate) fn now(&self) -> EventTime {
        EventTime::from_micros(self.clock.now_micros())
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

fn formats(config: &IngestConfig) -> Result<Formats, StreamError> {
    let registry = SchemaRegistry::new(&config.schema_registry, Handle::current()).map_err(StreamError::Config)?;
    Ok(Formats::new(registry.map(Arc::new)))
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
