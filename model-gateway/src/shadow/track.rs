//! One shadow at work: its queue, its task, and what it came to.

use crate::definitions::Definitions;
use crate::fault::{of_runtime, unavailable};
use crate::models::{Models, Version};
use crate::predict::Scored;
use crate::shadow::compare::{Comparison, pair};
use crate::shadow::vector::ShadowVector;
use metrics::{counter, histogram};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_runtime::{Clock, Shutdown};
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
    scored: Arc<Scored>,
    _room: OwnedSemaphorePermit,
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
        let served = scored.version().record.registered.model.version;
        // A rule or a split may send requests to the very version: there is nothing to compare.
        if served == self.number() || !self.is_sampled() {
            return;
        }
        let rows = scored.rows();
        let room = u32::try_from(rows).ok();
        let room = room.and_then(|rows| Arc::clone(&self.room).try_acquire_many_owned(rows).ok());
        let sent = room.is_some_and(|room| {
            let scored = Arc::clone(scored);
            self.queue.send(Waiting { scored, _room: room }).is_ok()
        });
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
            self.score(&next.scored).await;
        }
    }

    async fn score(&mut self, scored: &Scored) {
        let (rows, served) = (scored.rows(), scored.version().record.registered.model.version);
        let vector = match self.vector(scored, served) {
            Ok(vector) => vector,
            Err(reason) => {
                count(&self.version, "skipped", rows);
                self.measured.change(served, |comparison| {
                    comparison.skipped += rows as u64;
                    comparison.skipped_because = Some(reason);
                });
                return;
            }
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
                    .map(|(row, prediction)| pair(scored.prediction(row), prediction, self.flip_at))
                    .collect();
                self.publish(&pairs);
                self.measured.change(served, |comparison| {
                    comparison.latency_us.add(took_us);
                    for pair in pairs {
                        comparison.add(pair);
                    }
                });
            }
            Err(error) => {
                tracing::debug!(model = %self.version.record.registered.model, %error, "a shadow failed");
                count(&self.version, "error", rows);
                self.measured.change(served, |comparison| {
                    comparison.latency_us.add(took_us);
                    comparison.errors += rows as u64;
                });
            }
        }
    }

    fn vector(&mut self, scored: &Scored, served: u32) -> Result<arrow::array::RecordBatch, String> {
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

    async fn predictions(
        &self,
        rows: usize,
        vector: &arrow::array::RecordBatch,
    ) -> Result<Vec<serde_json::Value>, ModelGatewayError> {
        let models = self
            .runner
            .models
            .upgrade()
            .ok_or_else(|| unavailable("the gateway is shutting down"))?;
        let deadline = Instant::now() + self.runner.deadline;
        let run = async {
            let scorer = models.scorer(&self.version).await?;
            let tensors = scorer.layout.tensors(vector)?;
            let outputs = scorer.runtime.run(rows, tensors, deadline).await;
            let outputs = outputs.map_err(|error| of_runtime(&error))?;
            scorer.score.predictions(&outputs, rows)
        };
        tokio::time::timeout_at(deadline, run)
            .await
            .unwrap_or_else(|_| Err(unavailable("the shadow took too long")))
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
