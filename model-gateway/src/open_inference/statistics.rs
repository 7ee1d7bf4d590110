//! What a version has done since the gateway started, in the words of the protocol's statistics extension.
//!
//! Both ways of asking a model are counted, by entity key and by raw tensors. `compute_input` is what comes before the
//! model (parsing, the lookup of features, tensors), `compute_infer` the model, `compute_output` what comes behind it.
//! A request's wait for a session is part of `compute_infer`; requests are refused rather than queued, so `queue` is 0.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The counters of one version. Relaxed: each is right, they need not be of one moment.
#[derive(Debug, Default)]
pub struct VersionStatistics {
    last_inference_ms: AtomicU64,
    rows: AtomicU64,
    success: Counter,
    fail: Counter,
    compute_input: Counter,
    compute_infer: Counter,
    compute_output: Counter,
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
    /// From the request to the model's tensors.
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
        self.success.add(stages.input + stages.infer + stages.output);
        self.compute_input.add(stages.input);
        self.compute_infer.add(stages.infer);
        self.compute_output.add(stages.output);
    }

    /// A request failed after `duration`.
    pub fn failed(&self, duration: Duration) {
        self.fail.add(duration);
    }

    /// The counters under the version's name.
    pub fn read(&self, name: &str, version: &str) -> ModelStatistics {
        let success = self.success.read();
        ModelStatistics {
            name: name.to_owned(),
            version: version.to_owned(),
            last_inference: self.last_inference_ms.load(Ordering::Relaxed),
            inference_count: self.rows.load(Ordering::Relaxed),
            execution_count: success.count,
            inference_stats: InferStatistics {
                success,
                fail: self.fail.read(),
                queue: StatisticDuration {
                    count: success.count,
                    ns: 0,
                },
                compute_input: self.compute_input.read(),
                compute_infer: self.compute_infer.read(),
                compute_output: self.compute_output.read(),
                cache_hit: StatisticDuration::default(),
                cache_miss: StatisticDuration::default(),
            },
            batch_stats: [],
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
    /// By size of batch: not kept, but clients look for it.
    pub batch_stats: [(); 0],
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

    #[test]
    fn rows_and_requests_are_counted_apart() {
        let statistics = VersionStatistics::default();
        let stages = Stages {
            input: Duration::from_nanos(1),
            infer: Duration::from_nanos(20),
            output: Duration::from_nanos(300),
        };
        statistics.succeeded(3, stages);
        statistics.succeeded(1, stages);
        statistics.failed(Duration::from_nanos(7));
        let read = statistics.read("fraud", "4");
        assert_eq!((read.inference_count, read.execution_count), (4, 2));
        let stats = read.inference_stats;
        assert_eq!((stats.success.ns, stats.compute_infer.ns, stats.fail.ns), (642, 40, 7));
        assert!(read.last_inference > 1_700_000_000_000);
    }
}
