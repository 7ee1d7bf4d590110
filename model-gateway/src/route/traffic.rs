//! What is measured of a version as it serves: requests, failures of the model, and how long its runs take. Requests of
//! all threads add to it without a lock.

use crate::route::histogram::{Histogram, LiveHistogram};
use ondol_model_gateway_api::wire::LiveReport;
use ondol_vocabulary::EventTime;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One version's measurements since an epoch.
#[derive(Debug)]
pub struct Traffic {
    /// The routing's revision since which it is measured: see [`crate::route::epochs`].
    pub epoch: u64,
    /// When this replica began.
    pub since: EventTime,
    requests: AtomicU64,
    errors: AtomicU64,
    latency_us: LiveHistogram,
}

/// The same as a part that adds up with those of other replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficPart {
    /// Since when, in microseconds.
    pub since: i64,
    /// Requests scored or failed on.
    pub requests: u64,
    /// Requests failed on.
    pub errors: u64,
    /// Time of a run, in microseconds.
    pub latency_us: Histogram,
}

impl Traffic {
    /// Nothing measured yet.
    pub fn new(epoch: u64, since: EventTime) -> Self {
        Self {
            epoch,
            since,
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            latency_us: LiveHistogram::default(),
        }
    }

    /// Counts a run of `rows` requests.
    pub fn record(&self, rows: usize, took: Duration, succeeded: bool) {
        let rows = rows as u64;
        self.requests.fetch_add(rows, Ordering::Relaxed);
        if !succeeded {
            self.errors.fetch_add(rows, Ordering::Relaxed);
        }
        self.latency_us.add(took.as_secs_f64() * 1e6, rows);
    }

    /// As it stands.
    pub fn part(&self) -> TrafficPart {
        TrafficPart {
            since: self.since.micros(),
            requests: self.requests.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            latency_us: self.latency_us.snapshot(),
        }
    }
}

impl TrafficPart {
    /// Adds what another replica measured.
    pub fn merge(&mut self, other: &Self) {
        if other.requests == 0 {
            return;
        }
        self.since = if self.requests == 0 {
            other.since
        } else {
            self.since.min(other.since)
        };
        self.requests += other.requests;
        self.errors += other.errors;
        self.latency_us.merge(&other.latency_us);
    }

    /// In the contract's words.
    pub fn report(&self, version: u32) -> LiveReport {
        LiveReport {
            version,
            since: EventTime::from_micros(self.since),
            requests: self.requests,
            errors: self.errors,
            error_rate: rate(self.errors, self.requests),
            latency_ms: self.latency_us.quantiles(1e-3),
        }
    }
}

/// `part` of `whole` as a share of 1; of nothing, nothing.
pub fn rate(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
