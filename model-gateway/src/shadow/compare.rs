//! Two predictions for the same request: how far apart they are, and whether they decide differently.

use crate::route::histogram::Histogram;
use crate::route::traffic::rate;
use ondol_model_gateway_api::wire::ShadowReport;
use ondol_vocabulary::EventTime;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What one pair comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The absolute difference of the scores; none of labels.
    pub difference: Option<f64>,
    /// Whether the decision turned; none of scores that nobody said where a decision turns.
    pub flipped: Option<bool>,
}

/// Compares what `served` with what the `shadow` says. Numbers differ by their distance and flip when they lie on
/// different sides of `flip_at` (which itself counts as above); lists of scores differ by the largest distance of a
/// class and flip when another class comes first; anything else has no distance and flips when it is not the same.
pub fn pair(served: &Value, shadow: &Value, flip_at: Option<f64>) -> Pair {
    match (number(served), number(shadow)) {
        (Some(a), Some(b)) => Pair {
            difference: Some((a - b).abs()),
            flipped: flip_at.map(|at| (a >= at) != (b >= at)),
        },
        _ => match (scores(served), scores(shadow)) {
            (Some(a), Some(b)) if a.len() == b.len() => Pair {
                difference: Some(a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)),
                flipped: Some(first(&a) != first(&b)),
            },
            _ => Pair {
                difference: None,
                flipped: Some(served != shadow),
            },
        },
    }
}

/// A score; the infinities are texts.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn scores(value: &Value) -> Option<Vec<f64>> {
    value.as_array()?.iter().map(number).collect()
}

/// The place of the greatest score, the first of equals.
fn first(scores: &[f64]) -> Option<usize> {
    let best = |best: Option<(usize, f64)>, (place, score): (usize, &f64)| match best {
        Some((_, highest)) if highest >= *score => best,
        _ => Some((place, *score)),
    };
    scores.iter().enumerate().fold(None, best).map(|(place, _)| place)
}

/// What many pairs come to, in parts that add up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Since when, in microseconds.
    pub since: i64,
    /// Requests both scored.
    pub compared: u64,
    /// Requests the shadow failed on.
    pub errors: u64,
    /// Requests that found the queue full.
    pub dropped: u64,
    /// Requests whose vector the shadow could not have.
    pub skipped: u64,
    /// Why the last of them.
    pub skipped_because: Option<String>,
    /// Pairs that have a difference.
    pub measured: u64,
    /// The sum of the differences.
    pub sum: f64,
    /// The largest one.
    pub max: f64,
    /// All of them by size.
    pub difference: Histogram,
    /// Pairs that are decisions.
    #[serde(default)]
    pub decided: u64,
    /// Decisions that turned.
    pub flips: u64,
    /// Time of a run, in microseconds, once a run.
    pub latency_us: Histogram,
}

impl Comparison {
    /// Counts `pair`.
    pub fn add(&mut self, pair: Pair) {
        self.compared += 1;
        self.decided += u64::from(pair.flipped.is_some());
        self.flips += u64::from(pair.flipped == Some(true));
        // An infinite difference is no part of a mean; it is the maximum all the same, as the largest number that JSON
        // has, in which parts are stored.
        if let Some(difference) = pair.difference.filter(|difference| !difference.is_nan()) {
            self.max = self.max.max(difference.min(f64::MAX));
            self.difference.add(difference);
            if difference.is_finite() {
                self.measured += 1;
                self.sum += difference;
            }
        }
    }

    /// Adds what another replica measured.
    pub fn merge(&mut self, other: &Self) {
        self.since = match self.since {
            0 => other.since,
            since => since.min(other.since),
        };
        self.compared += other.compared;
        self.errors += other.errors;
        self.dropped += other.dropped;
        self.skipped += other.skipped;
        if other.skipped_because.is_some() {
            self.skipped_because.clone_from(&other.skipped_because);
        }
        self.measured += other.measured;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
        self.difference.merge(&other.difference);
        self.decided += other.decided;
        self.flips += other.flips;
        self.latency_us.merge(&other.latency_us);
    }

    /// How many decisions turned, as a share of 1; none where no pair is a decision.
    pub fn flip_rate(&self) -> Option<f64> {
        (self.decided > 0).then(|| rate(self.flips, self.decided))
    }

    /// The mean of the differences, infinite where one of them is; none where no pair has a difference.
    pub fn mean_difference(&self) -> Option<f64> {
        if self.max == f64::MAX {
            return Some(f64::INFINITY);
        }
        (self.measured > 0).then(|| self.sum / self.measured as f64)
    }

    /// In the contract's words.
    pub fn report(&self, served: u32, shadow: u32, flip_at: Option<f64>) -> ShadowReport {
        let mean = if self.measured == 0 {
            0.0
        } else {
            self.sum / self.measured as f64
        };
        ShadowReport {
            served,
            shadow,
            since: EventTime::from_micros(self.since),
            compared: self.compared,
            errors: self.errors,
            error_rate: rate(self.errors, self.errors + self.compared),
            dropped: self.dropped,
            skipped: self.skipped,
            skipped_because: self.skipped_because.clone(),
            mean_difference: mean,
            max_difference: self.max,
            difference: self.difference.quantiles(1.0),
            flip_at,
            flips: self.flips,
            flip_rate: self.flip_rate().unwrap_or_default(),
            latency_ms: self.latency_us.quantiles(1e-3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(served: &Value, shadow: &Value, difference: Option<f64>, flipped: bool) {
        assert_eq!(
            pair(served, shadow, Some(0.5)),
            Pair {
                difference,
                flipped: Some(flipped)
            },
            "{served} {shadow}"
        );
    }

    #[test]
    fn scores_flip_when_they_lie_on_different_sides() {
        check(&json!(0.75), &json!(0.5), Some(0.25), false);
        check(&json!(0.5), &json!(0.25), Some(0.25), true);
        check(&json!("Infinity"), &json!(0.0), Some(f64::INFINITY), true);
        assert_eq!(pair(&json!(0.5), &json!(0.25), None).flipped, None);
    }

    #[test]
    fn classes_flip_when_another_comes_first() {
        check(&json!([0.5, 0.25, 0.25]), &json!([0.25, 0.25, 0.5]), Some(0.25), true);
        check(&json!([0.5, 0.5]), &json!([1.0, 0.0]), Some(0.5), false);
    }

    #[test]
    fn labels_flip_when_they_are_not_the_same() {
        check(&json!("fraud"), &json!("fraud"), None, false);
        check(&json!("fraud"), &json!("fine"), None, true);
        check(&json!(null), &json!(0.5), None, true);
        check(&json!([0.5]), &json!([0.5, 0.5]), None, true);
    }

    #[test]
    fn parts_add_up_to_one_report() {
        let (mut left, mut right) = (Comparison::default(), Comparison::default());
        left.add(pair(&json!(0.5), &json!(0.25), Some(0.5)));
        right.add(pair(&json!(1.0), &json!(1.0), Some(0.5)));
        right.errors = 2;
        left.merge(&right);
        let report = left.report(3, 4, Some(0.5));
        assert_eq!((report.compared, report.flips, report.errors), (2, 1, 2));
        assert_eq!((report.mean_difference, report.max_difference), (0.125, 0.25));
        assert_eq!((report.flip_rate, report.error_rate), (0.5, 0.5));
    }
}
