//! One shadow at work: its queue, its task, and what it came to.

use crate::definitions::Definitions;
use crate::fault::{of_runtime, unavailable};
use crate::models::{Models, Version};
use crate::predict::Scored;
use crate::replay;
use crate::shadow::compare::{Comparison, pair};
use crate::shadow::raw::RawServed;
use crate::shadow::vector::ShadowVector;
use arrow::array::RecordBatch;
use metrics::{counter, histogram};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_runtime::{Clock, Shutdown};
use ondol_vocabulary::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

/// Starts shadows.
#[derive(Clone)]
pub struct Runner {
    /// Owns their tasks.
    pub shutdown: Shutdown,
    /// The definitions in force.
    pub definitions: Definitions,
    /// Loads their models; weak, since the models hold the shadows.
    pub models: Weak<Models>,
    /// Says since when they measure.
    pub clock: Arc<dyn Clock>,
    /// Requests waiting for one shadow at most.
    pub queue: usize,
    /// How long one run may take.
    pub deadline: Duration,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

/// A shadow of a model.
#[derive(Debug)]
pub struct Track {
    /// The shadow.
    pub version: Arc<Version>,
    /// The routing's revision since which it is measured.
    pub epoch: u64,
    /// The score at which a decision turns.
    pub flip_at: Option<f64>,
    sample_percent: f64,
    seen: AtomicU64,
    room: Arc<Semaphore>,
    queue: mpsc::UnboundedSender<Waiting>,
    measured: Arc<Measured>,
}

/// A served batch that waits. Its permit is its room in the queue.
#[derive(Debug)]
struct Waiting {
    call: Call,
    _room: OwnedSemaphorePermit,
}

/// A call that was answered.
#[derive(Debug)]
enum Call {
    /// By entity key: its features were looked up.
    Scored(Arc<Scored>),
    /// With the vector itself.
    Raw(Arc<RawServed>),
}

impl Call {
    fn version(&self) -> &Version {
        match self {
            Self::Scored(scored) => scored.version(),
            Self::Raw(raw) => &raw.version,
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::Scored(scored) => scored.rows(),
            Self::Raw(raw) => raw.rows,
        }
    }

    fn prediction(&self, row: usize) -> &serde_json::Value {
        match self {
            Self::Scored(scored) => scored.prediction(row),
            Self::Raw(raw) => raw.predictions.get(row).unwrap_or(&serde_json::Value::Null),
        }
    }
}

/// What the shadow is run on.
enum Vector {
    /// Columns of the definition's types.
    Typed(RecordBatch),
    /// Values by entry and row, as a caller sent them.
    Sent(Vec<Vec<Value>>),
}

/// Why there is nothing to compare.
enum Miss {
    /// What was sent is no vector of the shadow's.
    Unfit(String),
    Failed(ModelGatewayError),
}

/// What a shadow came to, by the version that served.
#[derive(Debug)]
struct Measured {
    since: i64,
    by_served: Mutex<BTreeMap<u32, Comparison>>,
}

impl Measured {
    fn change(&self, served: u32, change: impl FnOnce(&mut Comparison)) {
        let mut all = self.lock();
        let comparison = all.entry(served).or_default();
        comparison.since = self.since;
        change(comparison);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Comparison>> {
        self.by_served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runner {
    /// Starts `version` as a shadow. Its task ends when the track is dropped, or at the shutdown.
    pub fn start(&self, version: Arc<Version>, epoch: u64, flip_at: Option<f64>, sample_percent: f64) -> Arc<Track> {
        // Unbounded by itself: the semaphore bounds what is in it.
        let (queue, waiting) = mpsc::unbounded_channel();
        let measured = Arc::new(Measured {
            since: self.clock.now_micros(),
            by_served: Mutex::default(),
        });
        let task = Task {
            runner: self.clone(),
            version: Arc::clone(&version),
            flip_at,
            measured: Arc::clone(&measured),
            vectors: BTreeMap::new(),
        };
        let token = self.shutdown.token();
        self.shutdown.spawn("gateway-shadow", async move {
            token.run_until_cancelled(task.run(waiting)).await;
        });
        Arc::new(Track {
            version,
            epoch,
            flip_at,
            sample_percent,
            seen: AtomicU64::new(0),
            room: Arc::new(Semaphore::new(self.queue.clamp(1, Semaphore::MAX_PERMITS))),
            queue,
            measured,
        })
    }
}

impl Track {
    /// Whether it is what this would start.
    pub fn is(&self, version: u32, epoch: u64, flip_at: Option<f64>, sample_percent: f64) -> bool {
        self.number() == version
            && self.epoch == epoch
            && self.flip_at == flip_at
            && self.sample_percent.to_bits() == sample_percent.to_bits()
    }

    /// The shadow's version.
    pub fn number(&self) -> u32 {
        self.version.record.registered.model.version
    }

    /// Hands over what was served, or drops it when there is no room. Returns at once.
    pub fn offer(&self, scored: &Arc<Scored>) {
        self.take(|| Call::Scored(Arc::clone(scored)), scored.version(), scored.rows());
    }

    /// The same of a call that brought its own vector.
    pub(crate) fn offer_raw(&self, raw: &Arc<RawServed>) {
        self.take(|| Call::Raw(Arc::clone(raw)), &raw.version, raw.rows);
    }

    /// Whether it compares itself with `version`: a rule or a split may send requests to the very same.
    pub(crate) fn is_beside(&self, version: &Version) -> bool {
        version.record.registered.model.version != self.number()
    }

    fn take(&self, call: impl FnOnce() -> Call, version: &Version, rows: usize) {
        if !self.is_beside(version) || !self.is_sampled() {
            return;
        }
        let served = version.record.registered.model.version;
        let room = u32::try_from(rows).ok();
        let room = room.and_then(|rows| Arc::clone(&self.room).try_acquire_many_owned(rows).ok());
        let waiting = room.map(|room| Waiting {
            call: call(),
            _room: room,
        });
        let sent = waiting.is_some_and(|waiting| self.queue.send(waiting).is_ok());
        if !sent {
            count(&self.version, "dropped", rows);
            self.measured
                .change(served, |comparison| comparison.dropped += rows as u64);
        }
    }

    /// What it came to, by the version that served.
    pub fn comparisons(&self) -> BTreeMap<u32, Comparison> {
        self.measured.lock().clone()
    }

    /// Takes `sample_percent` of the calls, evenly spread.
    fn is_sampled(&self) -> bool {
        if self.sample_percent >= 100.0 {
            return true;
        }
        let taken = |calls: u64| (calls as f64 * self.sample_percent / 100.0).floor();
        let before = self.seen.fetch_add(1, Ordering::Relaxed);
        taken(before + 1) > taken(before)
    }
}

/// A shadow's task.
struct Task {
    runner: Runner,
    version: Arc<Version>,
    flip_at: Option<f64>,
    measured: Arc<Measured>,
    /// How its vector is had from that of each version that serves, under the snapshot of that number.
    vectors: BTreeMap<u32, (u64, ShadowVector)>,
}

impl Task {
    async fn run(mut self, mut waiting: mpsc::UnboundedReceiver<Waiting>) {
        while let Some(next) = waiting.recv().await {
            self.score(&next.call).await;
        }
    }

    async fn score(&mut self, call: &Call) {
        let (rows, served) = (call.rows(), call.version().record.registered.model.version);
        let vector = match call {
            Call::Scored(scored) => self.vector(scored, served).map(Vector::Typed),
            Call::Raw(raw) => raw.vector(&self.version.record.definition).map(Vector::Sent),
        };
        let vector = match vector {
            Ok(vector) => vector,
            Err(reason) => return self.skip(served, rows, reason),
        };
        let begun = Instant::now();
        let predictions = self.predictions(rows, &vector).await;
        let took_us = begun.elapsed().as_secs_f64() * 1e6;
        match predictions {
            Ok(predictions) => {
                count(&self.version, "compared", rows);
                let pairs: Vec<_> = predictions
                    .iter()
                    .enumerate()
                    .map(|(row, prediction)| pair(call.prediction(row), prediction, self.flip_at))
                    .collect();
                self.publish(&pairs);
                self.measured.change(served, |comparison| {
                    comparison.latency_us.add(took_us);
                    for pair in pairs {
                        comparison.add(pair);
                    }
                });
            }
            Err(Miss::Unfit(reason)) => self.skip(served, rows, reason),
            Err(Miss::Failed(error)) => {
                tracing::debug!(model = %self.version.record.registered.model, %error, "a shadow failed");
                count(&self.version, "error", rows);
                self.measured.change(served, |comparison| {
                    comparison.latency_us.add(took_us);
                    comparison.errors += rows as u64;
                });
            }
        }
    }

    /// Counts rows whose vector the shadow could not have.
    fn skip(&self, served: u32, rows: usize, reason: String) {
        count(&self.version, "skipped", rows);
        self.measured.change(served, |comparison| {
            comparison.skipped += rows as u64;
            comparison.skipped_because = Some(reason);
        });
    }

    fn vector(&mut self, scored: &Scored, served: u32) -> Result<RecordBatch, String> {
        let snapshot = self.runner.definitions.current();
        let (planned, _) = self
            .vectors
            .get(&served)
            .map_or((0, None), |(version, vector)| (*version, Some(vector)));
        if planned != snapshot.version || !self.vectors.contains_key(&served) {
            let definition = &scored.version().record.definition;
            let vector = ShadowVector::plan(definition, &self.version.record.definition, &snapshot);
            self.vectors.insert(served, (snapshot.version, vector));
        }
        match self.vectors.get(&served) {
            Some((_, vector)) => vector.of(scored.served(), scored.input_batch()),
            None => Err("its vector is not planned".to_owned()),
        }
    }

    async fn predictions(&self, rows: usize, vector: &Vector) -> Result<Vec<serde_json::Value>, Miss> {
        let late = |detail| Miss::Failed(unavailable(detail));
        let models = self.runner.models.upgrade();
        let models = models.ok_or_else(|| late("the gateway is shutting down"))?;
        let deadline = Instant::now() + self.runner.deadline;
        let run = async {
            let scorer = models.scorer(&self.version).await.map_err(Miss::Failed)?;
            let tensors = match vector {
                Vector::Typed(vector) => scorer.layout.tensors(vector).map_err(Miss::Failed)?,
                Vector::Sent(columns) => {
                    let definition = &self.version.record.definition;
                    let tensors = replay::tensors(&scorer.layout, definition, columns, rows);
                    // The error would quote what was sent.
                    tensors.map_err(|_| Miss::Unfit("the caller sent values that its columns can't hold".to_owned()))?
                }
            };
            let outputs = scorer.runtime.run(rows, tensors, deadline).await;
            let outputs = outputs.map_err(|error| Miss::Failed(of_runtime(&error)))?;
            scorer.score.predictions(&outputs, rows).map_err(Miss::Failed)
        };
        tokio::time::timeout_at(deadline, run)
            .await
            .unwrap_or_else(|_| Err(late("the shadow took too long")))
    }

    fn publish(&self, pairs: &[crate::shadow::compare::Pair]) {
        let labels = labels(&self.version);
        let differences = histogram!("ondol_gateway_shadow_difference", &labels);
        for difference in pairs.iter().filter_map(|pair| pair.difference) {
            differences.record(difference);
        }
        let flips = pairs.iter().filter(|pair| pair.flipped == Some(true)).count();
        counter!("ondol_gateway_shadow_flips_total", &labels).increment(flips as u64);
    }
}

fn labels(version: &Version) -> [(&'static str, String); 2] {
    let model = &version.record.registered.model;
    [("model", model.name.clone()), ("version", model.version.to_string())]
}

fn count(version: &Version, outcome: &'static str, rows: usize) {
    let [model, number] = labels(version);
    let labels = [model, number, ("outcome", outcome.to_owned())];
    counter!("ondol_gateway_shadow_requests_total", &labels).increment(rows as u64);
}
