//! The present, injected: a test that moves the clock replays a failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the present.
pub trait Clock: Send + Sync + 'static {
    /// Microseconds since the Unix epoch, UTC. May repeat and, when the machine's clock is set, step back.
    fn now_micros(&self) -> i64;
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_micros(&self) -> i64 {
        // A clock before 1970 or after the year 294,000 is saturated rather than refused: no caller could do better.
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(elapsed) => i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
        }
    }
}

/// A clock that stands still until it is moved. Clones share the same present.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// Stands at `micros` since the epoch.
    pub fn at(micros: i64) -> Self {
        Self(Arc::new(AtomicI64::new(micros)))
    }

    /// Moves to `micros` since the epoch, forwards or back.
    pub fn set(&self, micros: i64) {
        self.0.store(micros, Ordering::SeqCst);
    }

    /// Moves by `micros`.
    pub fn advance(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_micros(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now_micros(&self) -> i64 {
        (**self).now_micros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_manual_clock_share_the_present() {
        let clock = ManualClock::at(10);
        let other = clock.clone();
        clock.advance(5);
        assert_eq!(other.now_micros(), 15);
        other.set(-3);
        assert_eq!(clock.now_micros(), -3);
    }

    #[test]
    fn the_system_clock_is_in_this_century() {
        let year_2020 = 1_577_836_800_000_000;
        assert!(SystemClock.now_micros() > year_2020);
    }
}
