//! Many values: where sketches stop being exact, and must be near, in any order and any split.

use crate::aggregations::agrees;
use crate::events::{Event, MINUTE};
use crate::oracle::{Value, answers};
use crate::properties::{absorb, bytes, check, engine, key, read, trained};
use crate::views::{View, aggregate, with_parameters};
use ondol_vocabulary::{Aggregation, Window};
use proptest::prelude::*;

const TAILS: [u32; 5] = [10_000, 250_000, 500_000, 990_000, 1_000_000];

/// A source of numbers that a seed decides (Steele, Lea, Flood, *Fast splittable pseudorandom number generators*, 2014).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// `count` events of one entity over three hours, of which as many as `distinct` integers occur.
fn crowd(seed: u64, count: usize, distinct: u64) -> Vec<Event> {
    let mut numbers = Numbers(seed);
    let event = |offset| {
        // Whole minutes often, so that many events share a tile and a time.
        let time = match numbers.below(3) {
            0 => numbers.below(180 * MINUTE as u64) as i64,
            _ => numbers.below(180) as i64 * MINUTE,
        };
        let late = numbers.below(20) as i64 * MINUTE;
        let fraction = numbers.fraction();
        let amount = match numbers.below(4) {
            0 => fraction * 100.0,
            1 => (fraction * 40.0 - 20.0).exp(),
            2 => -(fraction * 600.0 - 300.0).exp(),
            _ => numbers.below(50) as f64,
        };
        Event {
            ingested_at: time + late,
            n: Some(numbers.below(distinct) as i64),
            text: Some(format!("value {}", numbers.below(distinct))),
            ..Event::at(time, offset, amount)
        }
    };
    (0..count as i64).map(event).collect()
}

fn shuffled(events: &[Event], seed: u64) -> Vec<Event> {
    let mut numbers = Numbers(seed);
    let mut events = events.to_vec();
    for at in (1..events.len()).rev() {
        events.swap(at, numbers.below(at as u64 + 1) as usize);
    }
    events
}

fn sketches() -> View {
    let windows = [(180, 60), (60, 15), (45, 1), (7, 5)].map(|(width, hop)| Window {
        width_us: width * MINUTE,
        hop_us: hop * MINUTE,
    });
    let windows = windows.into_iter().map(Some).chain([None]);
    let features = windows.flat_map(|window| {
        [
            aggregate(Aggregation::CountDistinct, Some("n"), window),
            aggregate(Aggregation::CountDistinct, Some("text"), window),
            with_parameters(Aggregation::Quantiles, Some("amount"), &TAILS, window),
            with_parameters(Aggregation::LastDistinct, Some("n"), &[50], window),
            with_parameters(Aggregation::TopK, Some("amount"), &[50], window),
        ]
    });
    View::of(features.collect())
}

/// Few cases: each is of thousands of events.
fn cases() -> ProptestConfig {
    let cases = std::env::var("ONDOL_ORACLE_CASES").map_or(2_500, |cases| cases.parse().unwrap());
    ProptestConfig {
        cases: cases / 100,
        max_shrink_iters: 64,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn crowds_are_sketched_within_the_bound_whatever_their_order(
        seed in any::<u64>(),
        count in 1usize..3_000,
        distinct in prop::sample::select(vec![100u64, 127, 128, 129, 200, 1_000, 1_000_000]),
        cuts in prop::collection::vec(0usize..3_000, 0..5),
        moments in prop::collection::vec(-5i64..250, 1..4),
    ) {
        let view = sketches();
        let engine = engine(&view);
        let events = crowd(seed, count, distinct);
        let one = absorb(&engine, &events, &[]);
        let other = absorb(&engine, &shuffled(&events, seed), &cuts);
        prop_assert_eq!(bytes(&engine, &one[&key("a")]), bytes(&engine, &other[&key("a")]));
        let mut moments: Vec<i64> = moments.into_iter().map(|minute| minute * MINUTE).collect();
        moments.sort_unstable();
        for (moment, trained) in moments.iter().zip(trained(&engine, &events, "a", &moments)) {
            let expected = answers(&view, &events, "a", *moment, false);
            let found = read(&engine, other.get(&key("a")), *moment);
            check(&view, &found, &expected, &format!("online at {moment}"))?;
            let expected = answers(&view, &events, "a", *moment, true);
            check(&view, &trained, &expected, &format!("training at {moment}"))?;
            // What had arrived by then, in yet another order and split, is the very same sketch.
            let arrived: Vec<Event> = shuffled(&events, !seed)
                .into_iter()
                .filter(|event| event.ingested_at <= *moment)
                .collect();
            let served = absorb(&engine, &arrived, &cuts);
            let row = served.get(&key("a"));
            if row.and_then(ondol_transform::Row::newest).is_none_or(|newest| newest.micros() < *moment) {
                prop_assert_eq!(read(&engine, row, *moment), trained, "served at {}", moment);
            }
        }
    }
}

/// The standard error of the counts, over many crowds: what `docs/definitions.md` says it is.
#[test]
fn the_standard_error_of_distinct_counts_is_as_documented() {
    let view = View::of(vec![aggregate(Aggregation::CountDistinct, Some("n"), None)]);
    let engine = engine(&view);
    let mut squares = 0.0;
    const CROWDS: u64 = 200;
    for seed in 0..CROWDS {
        let events = crowd(seed, 3_000, u64::MAX >> 1);
        let expected = answers(&view, &events, "a", i64::MAX, false).remove(0).value;
        let found = read(&engine, absorb(&engine, &events, &[]).get(&key("a")), i64::MAX).remove(0);
        assert!(agrees(Aggregation::CountDistinct, &found.value, &expected));
        let (Value::Integer(found), Value::Integer(expected)) = (found.value, expected) else {
            panic!("counts are integers")
        };
        squares += ((found - expected) as f64 / expected as f64).powi(2);
    }
    let error = (squares / CROWDS as f64).sqrt();
    // Four times the standard error of the estimate itself.
    assert!((0.002..0.0195).contains(&error), "{error}");
}
