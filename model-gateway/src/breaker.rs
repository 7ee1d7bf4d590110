//! A circuit breaker: calls that keep failing are not made for a while, then tried one by one.
//!
//! *Closed*: calls go through; it opens when so many fail in a row, or too many of the last [`RECENT`]. *Open*: calls are
//! refused for a time, which doubles each time the trial after it fails. *Half-open*: a few calls go through; all must
//! succeed to close it, one that fails opens it again. A call that ends without a verdict (its caller gave up) counts as
//! neither, and makes room for another trial. Time is given by the caller.

use crate::runtime::upstream::spec::BreakerSpec;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Calls by which the rate of failures is judged.
const RECENT: u32 = 20;

/// A circuit breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    spec: BreakerSpec,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// Counts changes of state: the verdict of a call that began before the last one no longer counts.
    epoch: u64,
}

#[derive(Debug)]
enum State {
    Closed {
        in_a_row: u32,
        /// The last outcomes, newest lowest; 1 is a failure.
        recent: u32,
        seen: u32,
    },
    Open {
        until: Instant,
        lasting: Duration,
    },
    HalfOpen {
        under_way: u32,
        succeeded: u32,
        lasting: Duration,
    },
}

const CLOSED: State = State::Closed {
    in_a_row: 0,
    recent: 0,
    seen: 0,
};

/// Leave to make a call. Dropped without a verdict, it counts as neither.
#[derive(Debug)]
pub(crate) struct Pass {
    breaker: Arc<Breaker>,
    epoch: u64,
    spent: bool,
}

impl Breaker {
    pub(crate) fn new(spec: BreakerSpec) -> Arc<Self> {
        let inner = Inner {
            state: CLOSED,
            epoch: 0,
        };
        Arc::new(Self {
            spec,
            inner: Mutex::new(inner),
        })
    }

    /// Leave to make a call now, or how long there is none.
    pub(crate) fn admit(self: &Arc<Self>, now: Instant) -> Result<Pass, Duration> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Open { until, lasting } = inner.state {
            if now < until {
                return Err(until - now);
            }
            inner.become_state(State::HalfOpen {
                under_way: 0,
                succeeded: 0,
                lasting,
            });
        }
        if let State::HalfOpen {
            under_way, succeeded, ..
        } = &mut inner.state
        {
            if *under_way + *succeeded >= self.spec.probes {
                return Err(Duration::from_millis(self.spec.open_ms));
            }
            *under_way += 1;
        }
        Ok(Pass {
            breaker: Arc::clone(self),
            epoch: inner.epoch,
            spent: false,
        })
    }

    /// Whether calls are refused.
    pub(crate) fn is_open(&self) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(inner.state, State::Closed { .. })
    }

    fn judge(&self, epoch: u64, verdict: Option<bool>, now: Instant) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.epoch != epoch {
            return;
        }
        let next = match (&mut inner.state, verdict) {
            (State::Closed { in_a_row, recent, seen }, Some(ok)) => {
                *in_a_row = if ok { 0 } else { *in_a_row + 1 };
                *recent = ((*recent << 1) | u32::from(!ok)) & ((1 << RECENT) - 1);
                *seen = (*seen + 1).min(RECENT);
                let too_many = *seen == RECENT && recent.count_ones() * 100 >= self.spec.failure_percent * RECENT;
                let open = !ok && (*in_a_row >= self.spec.failures || too_many);
                open.then(|| self.opened(now, Duration::from_millis(self.spec.open_ms)))
            }
            (
                State::HalfOpen {
                    under_way, succeeded, ..
                },
                Some(true),
            ) => {
                *under_way = under_way.saturating_sub(1);
                *succeeded += 1;
                (*succeeded >= self.spec.probes).then_some(CLOSED)
            }
            (State::HalfOpen { lasting, .. }, Some(false)) => {
                let longer = (*lasting * 2).min(Duration::from_millis(self.spec.max_open_ms));
                Some(self.opened(now, longer))
            }
            (State::HalfOpen { under_way, .. }, None) => {
                *under_way = under_way.saturating_sub(1);
                None
            }
            (State::Closed { .. } | State::Open { .. }, _) => None,
        };
        if let Some(next) = next {
            inner.become_state(next);
        }
    }

    fn opened(&self, now: Instant, lasting: Duration) -> State {
        State::Open {
            until: now + lasting,
            lasting,
        }
    }
}

impl Inner {
    fn become_state(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }
}

impl Pass {
    /// The call succeeded, or failed by no fault of the upstream.
    pub(crate) fn succeeded(self, now: Instant) {
        self.end(Some(true), now);
    }

    /// The call failed.
    pub(crate) fn failed(self, now: Instant) {
        self.end(Some(false), now);
    }

    fn end(mut self, verdict: Option<bool>, now: Instant) {
        self.spent = true;
        self.breaker.judge(self.epoch, verdict, now);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.spent {
            self.breaker.judge(self.epoch, None, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Arc<Breaker> {
        Breaker::new(BreakerSpec {
            failures: 3,
            open_ms: 100,
            max_open_ms: 300,
            ..BreakerSpec::default()
        })
    }

    fn call(breaker: &Arc<Breaker>, ok: bool, now: Instant) {
        let pass = breaker.admit(now).unwrap();
        if ok { pass.succeeded(now) } else { pass.failed(now) }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_trial_that_succeeds_closes_it() {
        let (breaker, now) = (breaker(), Instant::now());
        for ok in [false, false, true, false, false] {
            call(&breaker, ok, now);
        }
        assert!(!breaker.is_open());
        call(&breaker, false, now);
        assert_eq!(breaker.admit(now).unwrap_err(), ms(100));
        let now = now + ms(100);
        let trial = breaker.admit(now).unwrap();
        assert!(breaker.admit(now).is_err(), "one trial at a time");
        trial.succeeded(now);
        assert!(!breaker.is_open());
        call(&breaker, true, now);
    }

    #[test]
    fn each_failed_trial_doubles_the_time_up_to_a_bound() {
        let (breaker, mut now) = (breaker(), Instant::now());
        for _ in 0..3 {
            call(&breaker, false, now);
        }
        for lasting in [100, 200, 300, 300] {
            assert_eq!(breaker.admit(now).unwrap_err(), ms(lasting));
            now += ms(lasting);
            call(&breaker, false, now);
        }
    }

    #[test]
    fn an_upstream_that_flaps_opens_it_by_its_rate() {
        let (breaker, now) = (breaker(), Instant::now());
        for place in 0..19 {
            call(&breaker, place % 2 == 0, now);
        }
        assert!(!breaker.is_open());
        call(&breaker, false, now);
        assert!(breaker.is_open());
    }

    #[test]
    fn a_trial_without_a_verdict_makes_room_for_another() {
        let (breaker, now) = (breaker(), Instant::now());
        for _ in 0..3 {
            call(&breaker, false, now);
        }
        let now = now + ms(100);
        drop(breaker.admit(now).unwrap());
        breaker.admit(now).unwrap().succeeded(now);
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_call_from_before_it_opened_says_nothing_of_after() {
        let (breaker, now) = (breaker(), Instant::now());
        let late = breaker.admit(now).unwrap();
        for _ in 0..3 {
            call(&breaker, false, now);
        }
        late.succeeded(now);
        assert!(breaker.is_open());
    }
}
