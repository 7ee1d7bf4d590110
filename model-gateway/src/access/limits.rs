//! Rate limits: a bucket of tokens for every tenant and model, on each replica for itself.

use super::config::{AccessConfig, RateConfig};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// Buckets at most. Beyond them, those that are full again are forgotten; if none is, models share a tenant's bucket.
const BUCKETS: usize = 10_000;
/// How often full buckets are looked for at most: with as many tenants at work, each look is work under the lock.
const SWEEP_MICROS: i64 = 1_000_000;
/// The model in whose name a tenant's buckets are shared.
const SHARED: &str = "*";

/// A bucket of tokens.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at_micros: i64,
}

/// Every bucket.
#[derive(Debug)]
pub struct Limits {
    rate: RateConfig,
    tenants: BTreeMap<String, RateConfig>,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    by_name: HashMap<(String, String), Bucket>,
    swept_at: Option<i64>,
}

impl Limits {
    /// Full buckets, as `config` says.
    pub fn new(config: &AccessConfig) -> Self {
        Self {
            rate: config.rate,
            tenants: config.tenants.clone(),
            buckets: Mutex::default(),
        }
    }

    /// Takes a token of `tenant` for `model` at `now`.
    ///
    /// # Errors
    /// In how many seconds there is one again.
    pub fn take(&self, tenant: &str, model: &str, now_micros: i64) -> Result<(), u64> {
        let rate = self.rate_of(tenant);
        if rate.requests_per_s <= 0.0 {
            return Ok(());
        }
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { by_name, swept_at } = &mut *buckets;
        let mut name = (tenant.to_owned(), model.to_owned());
        if by_name.len() >= BUCKETS && !by_name.contains_key(&name) {
            if swept_at.is_none_or(|swept_at| now_micros.abs_diff(swept_at) >= SWEEP_MICROS.unsigned_abs()) {
                *swept_at = Some(now_micros);
                by_name.retain(|(tenant, _), bucket| {
                    let rate = self.rate_of(tenant);
                    bucket.filled(rate, now_micros) < rate.capacity()
                });
            }
            if by_name.len() >= BUCKETS {
                name.1 = SHARED.to_owned();
            }
        }
        let bucket = by_name.entry(name).or_insert(Bucket {
            tokens: rate.capacity(),
            at_micros: now_micros,
        });
        bucket.take(rate, now_micros)
    }

    /// What `tenant` may ask.
    pub fn rate_of(&self, tenant: &str) -> RateConfig {
        self.tenants.get(tenant).copied().unwrap_or(self.rate)
    }
}

impl Bucket {
    fn filled(&self, rate: RateConfig, now_micros: i64) -> f64 {
        // A clock that steps back fills nothing.
        let elapsed_s = now_micros.saturating_sub(self.at_micros).max(0) as f64 / 1e6;
        (self.tokens + elapsed_s * rate.requests_per_s).min(rate.capacity())
    }

    fn take(&mut self, rate: RateConfig, now_micros: i64) -> Result<(), u64> {
        self.tokens = self.filled(rate, now_micros);
        self.at_micros = now_micros;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let seconds = ((1.0 - self.tokens) / rate.requests_per_s).ceil();
        Err((seconds as u64).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(requests_per_s: f64, burst: f64) -> Limits {
        let rate = RateConfig { requests_per_s, burst };
        Limits::new(&AccessConfig {
            rate,
            tenants: BTreeMap::from([("large".to_owned(), RateConfig::default())]),
            ..AccessConfig::default()
        })
    }

    #[test]
    fn a_burst_is_served_then_the_rate_holds() {
        let limits = limits(2.0, 5.0);
        let take = |at_ms: i64| limits.take("bank", "fraud", at_ms * 1_000);
        for _ in 0..5 {
            assert_eq!(take(0), Ok(()));
        }
        assert_eq!(take(0), Err(1));
        assert_eq!(take(400), Err(1));
        assert_eq!(take(500), Ok(()));
        assert_eq!(take(500), Err(1));
        assert_eq!(take(0), Err(1), "a clock that steps back fills nothing");
        for _ in 0..5 {
            assert_eq!(take(60_000), Ok(()), "never more than the burst");
        }
        assert_eq!(take(60_000), Err(1));
    }

    #[test]
    fn tenants_and_models_have_buckets_of_their_own() {
        let limits = limits(0.1, 1.0);
        assert_eq!(limits.take("bank", "fraud", 0), Ok(()));
        assert_eq!(limits.take("bank", "fraud", 0), Err(10));
        assert_eq!(limits.take("bank", "churn", 0), Ok(()));
        assert_eq!(limits.take("shop", "fraud", 0), Ok(()));
        for _ in 0..1_000 {
            assert_eq!(limits.take("large", "fraud", 0), Ok(()), "unlimited by name");
        }
    }

    #[test]
    fn made_up_models_do_not_fill_the_memory() {
        let limits = limits(1.0, 1.0);
        for number in 0..BUCKETS + 10 {
            let _ = limits.take("bank", &format!("model-{number}"), 0);
        }
        assert!(limits.buckets.lock().unwrap().by_name.len() <= BUCKETS + 1);
        assert_eq!(limits.take("bank", "another", 0), Err(1), "they share one bucket then");
        assert_eq!(
            limits.take("bank", "another", 2_000_000),
            Ok(()),
            "full buckets are forgotten"
        );
        assert!(limits.buckets.lock().unwrap().by_name.len() < 10);
    }
}
