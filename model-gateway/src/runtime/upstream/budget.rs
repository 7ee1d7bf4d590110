//! A budget of extra calls: retries and hedges together stay within a tenth of the calls, so that an upstream in trouble
//! is not asked twice as much.

use std::sync::atomic::{AtomicI64, Ordering};

/// What one extra call costs, in units of which each call brings one.
const COST: i64 = 10;
/// Extra calls that may be saved up: what a quiet moment allows at once.
const SAVED: i64 = 10;

/// A token bucket that calls fill and extra calls drain.
#[derive(Debug)]
pub(super) struct Budget(AtomicI64);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicI64::new(SAVED * COST))
    }
}

impl Budget {
    /// A call is made.
    pub(super) fn earn(&self) {
        self.change(|units| Some((units + 1).min(SAVED * COST)));
    }

    /// Whether an extra call may be made.
    pub(super) fn spend(&self) -> bool {
        self.change(|units| (units >= COST).then(|| units - COST))
    }

    fn change(&self, how: impl Fn(i64) -> Option<i64>) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, how).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_calls_stay_within_a_tenth_and_what_was_saved() {
        let budget = Budget::default();
        let calls = 1_000;
        let extra = (0..calls)
            .filter(|_| {
                budget.earn();
                budget.spend()
            })
            .count();
        assert!((100..=110).contains(&extra), "{extra}");
    }
}
