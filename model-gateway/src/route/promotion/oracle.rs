//! The gates against the slow and obvious way: every run and every pair kept, and each limit held against all of them.

use super::{must_go, unmet};
use crate::route::measurements::Measurements;
use crate::route::traffic::{Traffic, TrafficPart};
use crate::shadow::compare::{Comparison, Pair, pair};
use ondol_model_gateway_api::wire::Limits;
use ondol_vocabulary::EventTime;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const CHAMPION: u32 = 3;
const TRIED: u32 = 4;

/// A run of the tried version: on which replica, how long in milliseconds, whether it succeeded.
type Run = (bool, u32, bool);

/// What a shadow did with a request.
#[derive(Clone, Debug)]
enum Shadowed {
    Scored(f64, f64),
    Labelled(bool),
    Failed,
    Skipped,
}

/// Times that no eighth brings over the next limit.
fn milliseconds() -> impl Strategy<Value = u32> {
    prop_oneof![8 => Just(1), 2 => Just(4), 1 => Just(16), 1 => Just(64)]
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    vec((any::<bool>(), milliseconds(), prop::bool::weighted(0.9)), 0..140)
}

fn shadowed() -> impl Strategy<Value = Shadowed> {
    // Eighths add up exactly in any order.
    let score = || prop_oneof![20 => (0_u8..=8).prop_map(|eighths| f64::from(eighths) / 8.0), 1 => Just(f64::INFINITY)];
    prop_oneof![
        12 => (score(), score()).prop_map(|(served, shadow)| Shadowed::Scored(served, shadow)),
        2 => any::<bool>().prop_map(Shadowed::Labelled),
        1 => Just(Shadowed::Failed),
        1 => Just(Shadowed::Skipped),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let rate = || option::of(prop_oneof![Just(0.0), Just(0.05), Just(0.125), Just(0.5), Just(1.0)]);
    let p99 = option::of(prop_oneof![Just(2.0), Just(8.0), Just(32.0), Just(128.0)]);
    (option::of(0_u64..120), rate(), p99, rate(), rate(), any::<bool>()).prop_map(
        |(min_requests, max_error_rate, max_p99_ms, max_flip_rate, max_mean_difference, withdraw_canary)| Limits {
            min_requests,
            max_error_rate,
            max_p99_ms,
            max_flip_rate,
            max_mean_difference,
            withdraw_canary,
        },
    )
}

/// As another replica reads it from the database.
fn stored<T: Serialize + DeserializeOwned>(part: &T) -> T {
    serde_json::from_str(&serde_json::to_string(part).unwrap()).unwrap()
}

fn live_part(runs: &[Run]) -> TrafficPart {
    let mut whole = TrafficPart::default();
    for replica in [false, true] {
        let traffic = Traffic::new(1, EventTime::from_micros(0));
        for (_, took, succeeded) in runs.iter().filter(|(where_, ..)| *where_ == replica) {
            traffic.record(1, Duration::from_millis(u64::from(*took)), *succeeded);
        }
        whole.merge(&stored(&traffic.part()));
    }
    whole
}

fn of_pair(served: f64, shadow: f64, flip_at: Option<f64>) -> Pair {
    let number = |score: f64| {
        if score.is_finite() {
            json!(score)
        } else {
            json!("Infinity")
        }
    };
    pair(&number(served), &number(shadow), flip_at)
}

fn shadow_part(pairs: &[(Shadowed, u32)], flip_at: Option<f64>) -> Comparison {
    let mut whole = Comparison::default();
    for half in pairs.chunks(pairs.len().div_ceil(2).max(1)) {
        let mut part = Comparison::default();
        for (what, took) in half {
            match what {
                Shadowed::Scored(served, shadow) => part.add(of_pair(*served, *shadow, flip_at)),
                Shadowed::Labelled(same) => {
                    part.add(pair(&json!("a"), &Value::from(if *same { "a" } else { "b" }), None));
                }
                Shadowed::Failed => part.errors += 1,
                Shadowed::Skipped => {
                    part.skipped += 1;
                    continue;
                }
            }
            part.latency_us.add(f64::from(*took) * 1e3);
        }
        whole.merge(&stored(&part));
    }
    whole
}

/// The least time that 99 of 100 runs did not exceed.
fn p99(times: impl Iterator<Item = u32>) -> f64 {
    let mut times: Vec<u32> = times.collect();
    times.sort_unstable();
    let rank = (times.len() * 99).div_ceil(100);
    times.get(rank.saturating_sub(1)).copied().map_or(0.0, f64::from)
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Which limits the runs break as a canary.
fn broken_live(limits: &Limits, runs: &[Run]) -> BTreeSet<&'static str> {
    let mut broken = BTreeSet::new();
    let failed = runs.iter().filter(|(.., succeeded)| !succeeded).count();
    if limits
        .max_error_rate
        .is_some_and(|limit| share(failed, runs.len()) > limit)
    {
        broken.insert("max_error_rate");
    }
    if limits
        .max_p99_ms
        .is_some_and(|limit| p99(runs.iter().map(|(_, took, _)| *took)) > limit)
    {
        broken.insert("max_p99_ms");
    }
    broken
}

/// Which limits all that was measured breaks.
fn broken(limits: &Limits, runs: &[Run], pairs: &[(Shadowed, u32)], flip_at: Option<f64>) -> BTreeSet<&'static str> {
    let mut broken = broken_live(limits, runs);
    let tried = pairs.iter().filter(|(what, _)| !matches!(what, Shadowed::Skipped));
    let tried: Vec<_> = tried.collect();
    let failed = tried
        .iter()
        .filter(|(what, _)| matches!(what, Shadowed::Failed))
        .count();
    if limits
        .max_error_rate
        .is_some_and(|limit| share(failed, tried.len()) > limit)
    {
        broken.insert("max_error_rate");
    }
    if limits
        .max_p99_ms
        .is_some_and(|limit| p99(tried.iter().map(|(_, took)| *took)) > limit)
    {
        broken.insert("max_p99_ms");
    }
    // Scores are decisions where somebody said at which score a decision turns; labels always are.
    let turned = tried.iter().filter_map(|(what, _)| match what {
        Shadowed::Scored(served, shadow) => flip_at.map(|at| (*served >= at) != (*shadow >= at)),
        Shadowed::Labelled(same) => Some(!same),
        Shadowed::Failed | Shadowed::Skipped => None,
    });
    let turned: Vec<bool> = turned.collect();
    let flips = turned.iter().filter(|turned| **turned).count();
    if limits
        .max_flip_rate
        .is_some_and(|limit| turned.is_empty() || share(flips, turned.len()) > limit)
    {
        broken.insert("max_flip_rate");
    }
    // Of two infinities nobody knows the difference.
    let differences = tried.iter().filter_map(|(what, _)| match what {
        Shadowed::Scored(served, shadow) => Some((served - shadow).abs()).filter(|difference| !difference.is_nan()),
        Shadowed::Labelled(_) | Shadowed::Failed | Shadowed::Skipped => None,
    });
    let differences: Vec<f64> = differences.collect();
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    if limits
        .max_mean_difference
        .is_some_and(|limit| differences.is_empty() || mean > limit)
    {
        broken.insert("max_mean_difference");
    }
    let has_limits = limits.max_error_rate.is_some()
        || limits.max_p99_ms.is_some()
        || limits.max_flip_rate.is_some()
        || limits.max_mean_difference.is_some();
    let wanted = limits
        .min_requests
        .map_or(usize::from(has_limits), |wanted| wanted as usize);
    if runs.len().max(tried.len()) < wanted {
        broken.insert("min_requests");
    }
    broken
}

fn named(lines: &[String]) -> BTreeSet<&'static str> {
    let names = [
        "min_requests",
        "max_error_rate",
        "max_p99_ms",
        "max_flip_rate",
        "max_mean_difference",
    ];
    // What a line is about is the limit that it names first.
    let place = |line: &str, name: &str| line.find(&format!("`{name}`"));
    let about = |line: &String| {
        let named = names.into_iter().filter(|name| place(line, name).is_some());
        named.min_by_key(|name| place(line, name)).unwrap()
    };
    lines.iter().map(about).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_version_is_promoted_only_when_everything_that_was_measured_keeps_every_limit(
        limits in limits(),
        runs in runs(),
        pairs in vec((shadowed(), milliseconds()), 0..60),
        flip_at in option::of(Just(0.5)),
    ) {
        let live = BTreeMap::from([(TRIED, live_part(&runs))]);
        let shadows = BTreeMap::from([((CHAMPION, TRIED), shadow_part(&pairs, flip_at))]);
        let measured = Measurements::of(live, shadows);
        let lines = unmet(&limits, &measured, CHAMPION, TRIED);
        prop_assert_eq!(named(&lines), broken(&limits, &runs, &pairs, flip_at), "{:?}", lines);
        // What was measured beside another champion says nothing.
        let lines = unmet(&limits, &measured, CHAMPION + 2, TRIED);
        prop_assert_eq!(named(&lines), broken(&limits, &runs, &[], flip_at), "{:?}", lines);
    }

    #[test]
    fn a_canary_is_withdrawn_when_enough_of_its_runs_break_a_limit(limits in limits(), runs in runs()) {
        let measured = Measurements::of(BTreeMap::from([(TRIED, live_part(&runs))]), BTreeMap::new());
        let enough = runs.len() as u64 >= limits.min_requests.unwrap_or(100);
        let expected = limits.withdraw_canary && enough && !broken_live(&limits, &runs).is_empty();
        prop_assert_eq!(must_go(&limits, &measured, TRIED).is_some(), expected);
    }
}

#[test]
fn scores_without_end_are_never_promoted_and_another_replica_reads_them() {
    let mut comparison = Comparison::default();
    for _ in 0..5 {
        comparison.add(of_pair(f64::INFINITY, 0.5, None));
    }
    let comparison = stored(&comparison);
    let measured = Measurements::of(BTreeMap::new(), BTreeMap::from([((CHAMPION, TRIED), comparison)]));
    let limits = Limits {
        max_mean_difference: Some(1e9),
        ..Limits::default()
    };
    let lines = unmet(&limits, &measured, CHAMPION, TRIED);
    assert_eq!(
        lines,
        ["inf was measured as a shadow, `max_mean_difference` is 1000000000"]
    );
}
