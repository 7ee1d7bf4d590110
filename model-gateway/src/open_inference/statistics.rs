//! What a version has done since the gateway started, in the words of the protocol's statistics extension.
//!
//! Both ways of asking a model are counted, by entity key and by raw tensors. `queue` is the wait for a place among the
//! model's requests, `compute_input` what comes before the model (parsing, the lookup of features, tensors),
//! `compute_infer` the model (with the wait for a session, or for others to be merged with), `compute_output` what comes
//! behind it (predictions, the decision's record where an answer waits for it).
//!
//! `batch_stats` is by the rows of a request, for the first [`SIZES`] sizes that are met: requests that are merged into one
//! run count each by itself, as they do in `execution_count`.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many sizes of requests are told apart.
const SIZES: usize = 64;

/// The counters of one version. Relaxed: each is right, they need not be of one moment.
#[derive(Debug, Default)]
pub struct VersionStatistics {
    last_inference_ms: AtomicU64,
    rows: AtomicU64,
    success: Counter,
    fail: Counter,
    queue: Counter,
    compute: Compute,
    /// By rows, ascending. Written when a size is met for the first time.
    by_size: RwLock<Vec<(usize, Arc<Compute>)>>,
}

/// Counters of the stages of a run.
#[derive(Debug, Default)]
struct Compute {
    input: Counter,
    infer: Counter,
    output: Counter,
}

impl Compute {
    fn add(&self, stages: Stages) {
        self.input.add(stages.input);
        self.infer.add(stages.infer);
        self.output.add(stages.output);
    }
}

/// How often, and how long together.
#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    ns: AtomicU64,
}

impl Counter {
    fn add(&self, duration: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.ns.fetch_add(ns, Ordering::Relaxed);
    }

    fn read(&self) -> StatisticDuration {
        StatisticDuration {
            count: self.count.load(Ordering::Relaxed),
            ns: self.ns.load(Ordering::Relaxed),
        }
    }
}

/// How long the stages of a request took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stages {
    /// The wait for a place.
    pub queue: Duration,
    /// From there to the model's tensors.
    pub input: Duration,
    /// The model.
    pub infer: Duration,
    /// From the model's tensors to the answer.
    pub output: Duration,
}

impl VersionStatistics {
    /// A request of `rows` rows was answered.
    pub fn succeeded(&self, rows: usize, stages: Stages) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.last_inference_ms.fetch_max(now_ms, Ordering::Relaxed);
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.success
            .add(stages.queue + stages.input + stages.infer + stages.output);
        self.queue.add(stages.queue);
        self.compute.add(stages);
        if let Some(of_size) = self.of_size(rows) {
            of_size.add(stages);
        }
    }

    /// The counters of requests of `rows` rows, unless there are too many sizes.
    fn of_size(&self, rows: usize) -> Option<Arc<Compute>> {
        let find = |sizes: &Vec<(usize, Arc<Compute>)>| sizes.binary_search_by_key(&rows, |(size, _)| *size);
        {
            let sizes = self.by_size.read().unwrap_or_else(PoisonError::into_inner);
            match find(&sizes) {
                Ok(place) => return sizes.get(place).map(|(_, compute)| Arc::clone(compute)),
                Err(_) if sizes.len() >= SIZES => return None,
                Err(_) => {}
            }
        }
        let mut sizes = self.by_size.write().unwrap_or_else(PoisonError::into_inner);
        match find(&sizes) {
            Ok(place) => sizes.get(place).map(|(_, compute)| Arc::clone(compute)),
            Err(_) if sizes.len() >= SIZES => None,
            Err(place) => {
                let compute = Arc::<Compute>::default();
                sizes.insert(place, (rows, Arc::clone(&compute)));
                Some(compute)
            }
        }
    }

    /// A request failed after `duration`.
    pub fn failed(&self, duration: Duration) {
        self.fail.add(duration);
    }

    /// When it last answered, in milliseconds since 1970; 0: never.
    pub fn last_inference_ms(&self) -> u64 {
        self.last_inference_ms.load(Ordering::Relaxed)
    }

    /// The counters under the version's name.
    pub fn read(&self, name: &str, version: &str) -> ModelStatistics {
        let success = self.success.read();
        let sizes = self.by_size.read().unwrap_or_else(PoisonError::into_inner);
        let of_size = |(size, compute): &(usize, Arc<Compute>)| BatchStatistics {
            batch_size: *size as u64,
            compute_input: compute.input.read(),
            compute_infer: compute.infer.read(),
            compute_output: compute.output.read(),
        };
        ModelStatistics {
            name: name.to_owned(),
            version: version.to_owned(),
            last_inference: self.last_inference_ms(),
            inference_count: self.rows.load(Ordering::Relaxed),
            execution_count: success.count,
            inference_stats: InferStatistics {
                success,
                fail: self.fail.read(),
                queue: self.queue.read(),
                compute_input: self.compute.input.read(),
                compute_infer: self.compute.infer.read(),
                compute_output: self.compute.output.read(),
                cache_hit: StatisticDuration::default(),
                cache_miss: StatisticDuration::default(),
            },
            batch_stats: sizes.iter().map(of_size).collect(),
        }
    }
}

/// The statistics of models.
#[derive(Debug, Serialize)]
pub struct Statistics {
    /// One entry a version.
    pub model_stats: Vec<ModelStatistics>,
}

/// The statistics of one version.
#[derive(Debug, Serialize)]
pub struct ModelStatistics {
    /// The model's name.
    pub name: String,
    /// The version.
    pub version: String,
    /// When it last answered, in milliseconds since 1970; 0: never.
    pub last_inference: u64,
    /// Rows it answered.
    pub inference_count: u64,
    /// Requests it answered.
    pub execution_count: u64,
    /// How long they took.
    pub inference_stats: InferStatistics,
    /// By the rows of a request.
    pub batch_stats: Vec<BatchStatistics>,
}

/// How long requests of one size took, by stage.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs, reason = "the protocol's own words; see the module")]
pub struct BatchStatistics {
    pub batch_size: u64,
    pub compute_input: StatisticDuration,
    pub compute_infer: StatisticDuration,
    pub compute_output: StatisticDuration,
}

/// How long requests took, by stage.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the protocol's own words; see the module")]
pub struct InferStatistics {
    pub success: StatisticDuration,
    pub fail: StatisticDuration,
    pub queue: StatisticDuration,
    pub compute_input: StatisticDuration,
    pub compute_infer: StatisticDuration,
    pub compute_output: StatisticDuration,
    pub cache_hit: StatisticDuration,
    pub cache_miss: StatisticDuration,
}

/// How often, and how long together.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StatisticDuration {
    /// How often.
    pub count: u64,
    /// Nanoseconds together.
    pub ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages() -> Stages {
        Stages {
            queue: Duration::from_nanos(4_000),
            input: Duration::from_nanos(1),
            infer: Duration::from_nanos(20),
            output: Duration::from_nanos(300),
        }
    }

    #[test]
    fn rows_and_requests_are_counted_apart() {
        let statistics = VersionStatistics::default();
        statistics.succeeded(3, stages());
        statistics.succeeded(1, stages());
        statistics.failed(Duration::from_nanos(7));
        let read = statistics.read("fraud", "4");
        assert_eq!((read.inference_count, read.execution_count), (4, 2));
        let stats = read.inference_stats;
        assert_eq!(
            (stats.success.ns, stats.compute_infer.ns, stats.fail.ns),
            (8_642, 40, 7)
        );
        assert_eq!((stats.queue.count, stats.queue.ns), (2, 8_000));
        assert!(read.last_inference > 1_700_000_000_000);
    }

    #[test]
    fn sizes_are_told_apart_as_far_as_there_is_room() {
        let statistics = VersionStatistics::default();
        for rows in (0..100).rev() {
            statistics.succeeded(rows, stages());
        }
        statistics.succeeded(99, stages());
        let read = statistics.read("fraud", "4");
        let sizes: Vec<u64> = read.batch_stats.iter().map(|batch| batch.batch_size).collect();
        assert_eq!(sizes, (36..100).collect::<Vec<u64>>());
        let last = read.batch_stats[SIZES - 1];
        assert_eq!((last.compute_infer.count, last.compute_infer.ns), (2, 40));
    }
}
