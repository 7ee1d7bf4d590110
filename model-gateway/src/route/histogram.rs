//! Counts by size, from which quantiles are read: eight buckets for every doubling, so that a quantile is at most an
//! eighth too large. Histograms of several replicas add up.
//!
//! A bucket's number is the exponent and the first three bits of the fraction of the value as a float, so finding it
//! costs a shift. Values below 2^-30 count as 0, values from 2^34 on as the last bucket.

use ondol_model_gateway_api::wire::Quantiles;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of a float behind the first three of its fraction.
const SHIFT: u32 = 49;
/// The bucket before the first: that of 2^-30, less one, since bucket 0 is for zero.
const BASE: u64 = ((1023 - 30) << 3) - 1;
/// How many there are: 64 doublings and zero.
const BUCKETS: usize = 64 * 8 + 1;

/// Counts that many threads add to without a lock.
#[derive(Debug)]
pub struct LiveHistogram(Box<[AtomicU64]>);

/// Counts as they stood at a moment, by bucket; only buckets that are not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(BTreeMap<u16, u64>);

fn bucket(value: f64) -> usize {
    if value.is_nan() || value <= 0.0 {
        return 0;
    }
    let place = (value.to_bits() >> SHIFT).saturating_sub(BASE);
    usize::try_from(place).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The least value above the bucket.
fn upper(bucket: u16) -> f64 {
    if bucket == 0 {
        return 0.0;
    }
    f64::from_bits((u64::from(bucket) + 1 + BASE) << SHIFT)
}

impl Default for LiveHistogram {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl LiveHistogram {
    /// Counts `value` `times` times.
    pub fn add(&self, value: f64, times: u64) {
        if let Some(count) = self.0.get(bucket(value)) {
            count.fetch_add(times, Ordering::Relaxed);
        }
    }

    /// As it stands.
    pub fn snapshot(&self) -> Histogram {
        let counts = self.0.iter().enumerate().filter_map(|(bucket, count)| {
            let count = count.load(Ordering::Relaxed);
            (count > 0).then_some((u16::try_from(bucket).unwrap_or(u16::MAX), count))
        });
        Histogram(counts.collect())
    }
}

impl Histogram {
    /// Counts `value` once.
    pub fn add(&mut self, value: f64) {
        let bucket = u16::try_from(bucket(value)).unwrap_or(u16::MAX);
        *self.0.entry(bucket).or_default() += 1;
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            *self.0.entry(*bucket).or_default() += count;
        }
    }

    /// The value below which at least `share` of what was counted lies, an eighth too large at most; 0 of nothing.
    pub fn quantile(&self, share: f64) -> f64 {
        let total: u64 = self.0.values().sum();
        let rank = (total as f64 * share).ceil();
        let mut seen = 0;
        for (bucket, count) in &self.0 {
            seen += count;
            if seen as f64 >= rank {
                return upper(*bucket);
            }
        }
        0.0
    }

    /// The usual quantiles, each times `scale`.
    pub fn quantiles(&self, scale: f64) -> Quantiles {
        Quantiles {
            p50: self.quantile(0.5) * scale,
            p90: self.quantile(0.9) * scale,
            p99: self.quantile(0.99) * scale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_quantile_is_right_or_an_eighth_too_large(values in proptest::collection::vec(1e-6_f64..1e9, 1..200), share in 0.01_f64..1.0) {
            let live = LiveHistogram::default();
            for value in &values {
                live.add(*value, 1);
            }
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let rank = ((values.len() as f64 * share).ceil() as usize).max(1);
            let exact = sorted[rank - 1];
            let found = live.snapshot().quantile(share);
            prop_assert!(found >= exact && found <= exact * 1.125 + f64::EPSILON, "{found} for {exact}");
        }

        #[test]
        fn parts_add_up(values in proptest::collection::vec(0.0_f64..10.0, 0..100), cut in 0_usize..100) {
            let (mut left, mut right, mut whole) = (Histogram::default(), Histogram::default(), Histogram::default());
            for (place, value) in values.iter().enumerate() {
                whole.add(*value);
                if place < cut { left.add(*value) } else { right.add(*value) }
            }
            left.merge(&right);
            prop_assert_eq!(left, whole);
        }
    }

    #[test]
    fn nothing_and_zero_are_zero_and_what_is_huge_is_counted() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0.0);
        histogram.add(0.0);
        histogram.add(f64::NAN);
        assert_eq!(histogram.quantile(0.99), 0.0);
        histogram.add(f64::INFINITY);
        histogram.add(f64::MAX);
        assert!(histogram.quantile(0.99) > 1e10);
        let text = serde_json::to_string(&histogram).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), histogram);
    }
}
