//! How fast a stage goes lately, and when it ends at that speed.

use crate::progress::Seen;
use std::time::Duration;

/// The past that counts: a change of speed shows within about this time.
const MEMORY: Duration = Duration::from_secs(5);
/// Before this much of a stage has passed, its speed says nothing.
const WARM_UP: Duration = Duration::from_millis(500);

/// The speed of a stage: an exponential moving average over time.
#[derive(Debug, Default)]
pub(crate) struct Speed {
    stage: String,
    began: Duration,
    last: Duration,
    rows: u64,
    rows_per_second: Option<f64>,
}

impl Speed {
    /// Takes a look into account that was taken `at`, counted from any fixed moment.
    pub(crate) fn observe(&mut self, at: Duration, seen: &Seen) {
        if self.stage != seen.stage || seen.rows_done < self.rows {
            *self = Self {
                stage: seen.stage.clone(),
                began: at,
                last: at,
                rows: seen.rows_done,
                rows_per_second: None,
            };
            return;
        }
        let passed = at.saturating_sub(self.last);
        if at.saturating_sub(self.began) < WARM_UP || passed.is_zero() {
            return;
        }
        let now = (seen.rows_done - self.rows) as f64 / passed.as_secs_f64();
        let weight = 1.0 - (-passed.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        self.rows_per_second = Some(
            self.rows_per_second
                .map_or(now, |before| before + weight * (now - before)),
        );
        self.last = at;
        self.rows = seen.rows_done;
    }

    /// Rows a second, once known.
    pub(crate) fn rows_per_second(&self) -> Option<u64> {
        self.rows_per_second.map(|rate| rate.round() as u64)
    }

    /// Seconds until the stage's rows are done, once known.
    pub(crate) fn eta_seconds(&self, seen: &Seen) -> Option<u64> {
        let left = seen.rows_total?.saturating_sub(seen.rows_done);
        let rate = self.rows_per_second.filter(|rate| *rate >= 0.5)?;
        Some((left as f64 / rate).ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(stage: &str, rows_done: u64) -> Seen {
        Seen {
            stage: stage.to_owned(),
            rows_done,
            rows_total: Some(1_000),
        }
    }

    #[test]
    fn an_even_pace_is_told_and_so_is_its_end() {
        let mut speed = Speed::default();
        for tick in 0..=20u64 {
            speed.observe(Duration::from_millis(100 * tick), &seen("reading", 10 * tick));
        }
        assert_eq!(speed.rows_per_second(), Some(100));
        assert_eq!(speed.eta_seconds(&seen("reading", 200)), Some(8));
    }

    #[test]
    fn a_new_stage_starts_without_a_speed() {
        let mut speed = Speed::default();
        for tick in 0..=20u64 {
            speed.observe(Duration::from_millis(100 * tick), &seen("reading", 10 * tick));
        }
        speed.observe(Duration::from_secs(3), &seen("writing", 0));
        assert_eq!(
            (speed.rows_per_second(), speed.eta_seconds(&seen("writing", 0))),
            (None, None)
        );
    }

    #[test]
    fn a_stage_that_stands_still_has_no_end() {
        let mut speed = Speed::default();
        for second in 0..100u64 {
            speed.observe(
                Duration::from_secs(second),
                &seen("reading", if second < 2 { 10 * second } else { 20 }),
            );
        }
        assert_eq!(
            (speed.rows_per_second(), speed.eta_seconds(&seen("reading", 20))),
            (Some(0), None)
        );
    }
}
