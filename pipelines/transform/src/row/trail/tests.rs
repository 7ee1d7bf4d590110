//! Trails by themselves, against what the whole list of events says.

use super::cardinality::{FEW, MAX_RANK, Mark, hash};
use super::{Cardinality, Newest};
use crate::row::event::Position;
use crate::row::scalar::ScalarRef;
use ondol_vocabulary::SourcePosition;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn position(time: i64, offset: i64) -> Position {
    Position {
        time,
        source: SourcePosition { partition: 0, offset },
    }
}

fn counted(values: impl IntoIterator<Item = i64>) -> u64 {
    let mut seen = Cardinality::default();
    values.into_iter().for_each(|value| seen.add(0, ScalarRef::Int(value)));
    seen.count(i64::MIN, std::iter::empty())
}

/// The greatest rank of each register, by reading all hashes.
fn registers(hashes: &BTreeSet<u64>) -> BTreeMap<u64, u32> {
    let mut registers = BTreeMap::new();
    for hash in hashes {
        let rank = (hash << 12 | 1 << 11).leading_zeros() + 1;
        let held = registers.entry(hash >> 52).or_insert(rank);
        *held = rank.max(*held);
    }
    registers
}

#[test]
fn hashes_of_values_stay_as_they_are() {
    // Stored rows hold them.
    let text = [hash(ScalarRef::Text("")), hash(ScalarRef::Text("온돌"))];
    let numbers = [
        hash(ScalarRef::Int(-1)),
        hash(ScalarRef::float(0.5)),
        hash(ScalarRef::float(-f64::NAN)),
    ];
    let flags = [hash(ScalarRef::Bool(false)), hash(ScalarRef::Bool(true))];
    let found: Vec<String> = [&text[..], &numbers, &flags]
        .concat()
        .iter()
        .map(|hash| format!("{hash:016x}"))
        .collect();
    let golden = [
        "2d06800538d394c2",
        "01fabfc33b260473",
        "5111c7e47d784413",
        "5da9c77a7c72de31",
        "0aa61dcfa381c167",
        "c44bdff4074eecdb",
        "e12ef9d2eb86ceeb",
    ];
    assert_eq!(found, golden);
}

#[test]
fn few_distinct_values_are_counted_exactly() {
    for count in 0..FEW as i64 {
        assert_eq!(counted((0..count * 3).map(|value| value % count.max(1))), count as u64);
    }
}

#[test]
fn many_distinct_values_are_estimated_within_the_stated_error() {
    let mut squares = 0.0;
    let mut trials = 0;
    for count in [128, 200, 500, 1_000, 3_000, 10_000, 30_000, 100_000] {
        for seed in 0..8 {
            let found = counted((0..count).map(|value| value * 1_000_003 + seed)) as f64;
            let error = found / count as f64 - 1.0;
            assert!(error.abs() < 0.065, "{found} of {count}: beyond four standard errors");
            squares += error * error;
            trials += 1;
        }
    }
    let standard_error = f64::sqrt(squares / f64::from(trials));
    assert!(standard_error < 0.018, "{standard_error}");
}

#[test]
fn a_value_that_recurs_is_kept_where_it_occurred_last() {
    let mut newest = Newest::default();
    for (time, text) in [(1, "a"), (5, "b"), (3, "a"), (9, "c"), (7, "b"), (4, "b")] {
        newest.add_distinct(2, position(time, 0), ScalarRef::Text(text));
    }
    let held: Vec<_> = newest.iter().map(|(at, value)| (at.time, value)).collect();
    assert_eq!(held, [(9, ScalarRef::Text("c")), (7, ScalarRef::Text("b"))]);
}

#[derive(Clone, Debug)]
struct Seen {
    tile: i64,
    value: i64,
}

fn any_seen() -> impl Strategy<Value = (Vec<Seen>, Vec<Seen>)> {
    // Enough distinct values, in enough tiles, that some are dropped, evicted and seen again.
    let seen = (0i64..8, 0i64..500).prop_map(|(tile, value)| Seen { tile, value });
    prop::collection::vec(seen, 0..700).prop_flat_map(|seen| (Just(seen.clone()), Just(seen).prop_shuffle()))
}

/// As a row does it: the newest tile decides what is kept.
fn absorbed(seen: &[Seen], width: i64) -> Cardinality {
    let mut held = Cardinality::default();
    let mut newest = i64::MIN;
    for Seen { tile, value } in seen {
        newest = newest.max(*tile);
        held.evict(newest - width);
        if *tile >= newest - width {
            held.add(*tile, ScalarRef::Int(*value));
        }
    }
    held
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(256), ..ProptestConfig::default() })]

    #[test]
    fn distinct_values_of_every_window_are_those_of_its_events((seen, shuffled) in any_seen(), width in 0i64..9) {
        let held = absorbed(&seen, width);
        prop_assert_eq!(&held, &absorbed(&shuffled, width));
        let stored = Cardinality::from_parts(held.newest().collect(), held.marks().to_vec());
        prop_assert_eq!(stored, Some(held.clone()));
        let newest = seen.iter().map(|seen| seen.tile).max().unwrap_or_default();
        for first in newest - width..=newest + 1 {
            let hashes: BTreeSet<u64> = seen
                .iter()
                .filter(|seen| seen.tile >= first)
                .map(|seen| hash(ScalarRef::Int(seen.value)))
                .collect();
            let found = held.count(first, std::iter::empty());
            if hashes.len() < FEW {
                prop_assert_eq!(found, hashes.len() as u64);
            } else {
                // Of the same registers there is one estimate: that of a sketch that saw nothing else.
                let mut alone = Cardinality::default();
                hashes.iter().for_each(|hash| alone.add_hash((0, *hash)));
                prop_assert_eq!(found, alone.count(0, std::iter::empty()));
                let mut read: BTreeMap<u64, u32> = BTreeMap::new();
                let newest = held.newest().map(|(tile, hash)| (tile, hash >> 52, (hash << 12 | 1 << 11).leading_zeros() + 1));
                let marks = held.marks().iter().map(|mark| (mark.tile, u64::from(mark.register), u32::from(mark.rank)));
                for (_, register, rank) in newest.chain(marks).filter(|(tile, ..)| *tile >= first) {
                    let held = read.entry(register).or_insert(rank);
                    *held = rank.max(*held);
                }
                prop_assert_eq!(read, registers(&hashes));
            }
            // Part of the events may still be ahead of the row.
            let (early, late) = seen.split_at(seen.len() / 2);
            let late = late.iter().map(|seen| (seen.tile, hash(ScalarRef::Int(seen.value))));
            prop_assert_eq!(absorbed(early, 100).count(first, late), absorbed(&seen, 100).count(first, std::iter::empty()));
        }
    }

    #[test]
    fn newest_values_are_those_of_the_events(
        events in prop::collection::vec((0i64..30, 0i64..3, 0i64..9), 0..60),
        most in 1usize..12,
    ) {
        let (mut newest, mut distinct) = (Newest::default(), Newest::default());
        for (time, offset, value) in &events {
            newest.add(most, position(*time, *offset), ScalarRef::Int(*value));
            distinct.add_distinct(most, position(*time, *offset), ScalarRef::Int(*value));
        }
        let mut sorted = events;
        sorted.sort_unstable_by(|one, another| another.cmp(one));
        let values = |newest: &Newest| newest.iter().map(|(_, value)| format!("{value:?}")).collect::<Vec<_>>();
        let expected = |events: &[(i64, i64, i64)]| {
            let newest = events.iter().take(most);
            newest.map(|(.., value)| format!("Int({value})")).collect::<Vec<_>>()
        };
        prop_assert_eq!(values(&newest), expected(&sorted));
        let mut met = BTreeSet::new();
        sorted.retain(|(.., value)| met.insert(*value));
        prop_assert_eq!(values(&distinct), expected(&sorted));
    }
}

#[test]
fn a_mark_of_no_further_bits_has_the_greatest_rank() {
    let mut seen = Cardinality::default();
    // The hash of no bits is the least of its tile: the first to be dropped.
    (0..=FEW as u64).for_each(|hash| seen.add_hash((0, hash << 52)));
    let mark = Mark {
        register: 0,
        tile: 0,
        rank: MAX_RANK,
    };
    assert_eq!(seen.marks(), [mark]);
}
