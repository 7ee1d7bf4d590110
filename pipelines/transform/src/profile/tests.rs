//! Profiles against an oracle that holds every value, and against themselves in other splits.

use super::*;
use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn of(data_type: DataType, columns: &[ArrayRef]) -> ColumnProfile {
    let mut profile = ColumnProfile::new(data_type);
    columns.iter().for_each(|column| profile.add(column).unwrap());
    profile
}

fn bytes(profile: &ColumnProfile) -> Vec<u8> {
    let mut bytes = Vec::new();
    profile.encode(&mut bytes);
    bytes
}

/// Cuts a column at `cuts`, profiles the pieces and merges them from the last to the first.
fn merged(data_type: DataType, column: &ArrayRef, cuts: &[usize]) -> ColumnProfile {
    let mut bounds: Vec<usize> = cuts.iter().map(|cut| cut % (column.len() + 1)).collect();
    bounds.extend([0, column.len()]);
    bounds.sort_unstable();
    let mut merged = ColumnProfile::new(data_type);
    for piece in bounds.windows(2).rev() {
        merged.merge(&of(data_type, &[column.slice(piece[0], piece[1] - piece[0])]));
    }
    merged
}

fn check_any_split_is_one_pass(data_type: DataType, column: &ArrayRef, cuts: &[usize]) {
    let whole = of(data_type, &[Arc::clone(column)]);
    let parts = merged(data_type, column, cuts);
    assert_eq!(parts, whole);
    assert_eq!(bytes(&parts), bytes(&whole));
    let mut sealed = whole;
    sealed.seal();
    let stored = bytes(&sealed);
    let (read, rest) = ColumnProfile::decode(data_type, &stored).unwrap();
    assert_eq!((&read, rest.len()), (&sealed, 0));
    assert_eq!(bytes(&read), stored);
}

/// An outline tells what a whole profile does of what it tells at all.
fn check_outline(data_type: DataType, column: &ArrayRef, cuts: &[usize]) {
    let whole = of(data_type, &[Arc::clone(column)]);
    let mut outline = ColumnProfile::outline(data_type);
    let mut from = 0;
    for cut in cuts.iter().map(|cut| cut % (column.len() + 1)).chain([column.len()]) {
        if cut >= from {
            outline.add(&column.slice(from, cut - from)).unwrap();
            from = cut;
        }
    }
    let told = |profile: &ColumnProfile| {
        let counts = (
            profile.count(),
            profile.nulls(),
            profile.nans(),
            profile.trues(),
            profile.distinct(),
        );
        (counts, profile.mean().map(f64::to_bits))
    };
    assert_eq!(told(&outline), told(&whole));
    let extremes = |profile: &ColumnProfile| format!("{:?} {:?}", profile.min(), profile.max());
    if data_type == DataType::String {
        assert_eq!(extremes(&outline), "None None");
    } else {
        assert_eq!(extremes(&outline), extremes(&whole));
    }
    assert_eq!((outline.stddev(), outline.quantile(500_000)), (None, None));
    assert_eq!((outline.frequent(3), outline.histogram(3)), (None, vec![]));
}

fn near(found: f64, exact: f64) -> bool {
    found == exact || (found - exact).abs() <= exact.abs() * 1e-9 || (found.is_nan() && exact.is_nan())
}

fn any_float() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        1 => Just(None),
        1 => any::<u64>().prop_map(|bits| Some(f64::from_bits(bits))),
        6 => (-1000i32..1000).prop_map(|value| Some(f64::from(value) / 8.0)),
    ]
}

proptest! {
    #[test]
    fn any_split_of_floats_is_one_pass(
        values in prop::collection::vec(any_float(), 0..400),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let column: ArrayRef = Arc::new(Float64Array::from(values));
        check_any_split_is_one_pass(DataType::F64, &column, &cuts);
        check_outline(DataType::F64, &column, &cuts);
    }

    #[test]
    fn any_split_of_integers_is_one_pass(
        values in prop::collection::vec(prop::option::weighted(0.9, any::<i64>()), 0..400),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let column: ArrayRef = Arc::new(Int64Array::from(values.clone()));
        check_any_split_is_one_pass(DataType::I64, &column, &cuts);
        check_outline(DataType::I64, &column, &cuts);
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"));
        check_any_split_is_one_pass(DataType::Timestamp, &times, &cuts);
        check_outline(DataType::Timestamp, &times, &cuts);
    }

    #[test]
    fn any_split_of_texts_and_bools_is_one_pass(
        values in prop::collection::vec(prop::option::weighted(0.9, 0u8..200), 0..600),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let texts: StringArray = values.iter().map(|value| value.map(|value| format!("{}-{value}", "x".repeat(usize::from(value))))).collect();
        let texts: ArrayRef = Arc::new(texts);
        check_any_split_is_one_pass(DataType::String, &texts, &cuts);
        check_outline(DataType::String, &texts, &cuts);
        let bools: BooleanArray = values.iter().map(|value| value.map(|value| value > 99)).collect();
        let bools: ArrayRef = Arc::new(bools);
        check_any_split_is_one_pass(DataType::Bool, &bools, &cuts);
        check_outline(DataType::Bool, &bools, &cuts);
    }

    #[test]
    fn a_profile_agrees_with_the_list_of_values(values in prop::collection::vec(prop::option::weighted(0.9, -1000i32..1000), 0..300)) {
        let present: Vec<f64> = values.iter().flatten().map(|value| f64::from(*value) / 8.0).collect();
        let column: ArrayRef = Arc::new(values.iter().map(|value| value.map(|value| f64::from(value) / 8.0)).collect::<Float64Array>());
        let profile = of(DataType::F64, &[column]);
        prop_assert_eq!((profile.count(), profile.nulls()), (present.len() as u64, (values.len() - present.len()) as u64));
        let mut sorted = present.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let value = |value: Option<&f64>| value.map(|value| Value::F64(*value));
        prop_assert_eq!(profile.min(), value(sorted.first()));
        prop_assert_eq!(profile.max(), value(sorted.last()));
        let n = present.len() as f64;
        let mean = present.iter().sum::<f64>() / n;
        prop_assert_eq!(profile.mean(), (n > 0.0).then_some(mean));
        let spread = (present.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / (n - 1.0)).sqrt();
        let close = match profile.stddev() {
            Some(found) => near(found, spread),
            None => n < 2.0,
        };
        prop_assert!(close);
        for quantile in [0, 250_000, 500_000, 990_000, 1_000_000] {
            let exact = sorted.get((present.len().saturating_sub(1)) * quantile / 1_000_000).copied();
            let found = profile.quantile(u32::try_from(quantile).unwrap());
            let close = match (found, exact) {
                (Some(found), Some(exact)) => (found - exact).abs() <= exact.abs() * 0.01,
                (found, exact) => found == exact,
            };
            prop_assert!(close);
        }
        let distinct: BTreeSet<u64> = present.iter().map(|value| value.to_bits()).collect();
        let (counted, exact) = profile.distinct();
        prop_assert_eq!(exact, distinct.len() <= 128);
        let error = if exact { 0 } else { 30 };
        prop_assert!(counted.abs_diff(distinct.len() as u64) <= error);
        let histogram = profile.histogram(10);
        prop_assert_eq!(histogram.iter().map(|bin| bin.count).sum::<u64>(), present.len() as u64);
        prop_assert!(histogram.windows(2).all(|bins| bins[0].to == bins[1].from));
    }

    #[test]
    fn sealed_parts_bound_how_often_a_text_occurs_in_any_order(
        parts in prop::collection::vec(prop::collection::vec(0u16..400, 0..500), 1..5),
        rotation in 0usize..5,
    ) {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        let mut sealed = Vec::new();
        for part in &parts {
            // Low numbers are frequent.
            let texts: Vec<String> = part.iter().map(|value| format!("t{}", u32::from(*value) * u32::from(*value) / 400)).collect();
            texts.iter().for_each(|text| *counts.entry(text.clone()).or_default() += 1);
            let column: ArrayRef = Arc::new(texts.iter().map(Some).collect::<StringArray>());
            let mut profile = of(DataType::String, &[column]);
            profile.seal();
            sealed.push(profile);
        }
        let merge = |sealed: &[ColumnProfile]| {
            let mut all = ColumnProfile::new(DataType::String);
            sealed.iter().for_each(|part| all.merge(part));
            all
        };
        let all = merge(&sealed);
        sealed.rotate_left(rotation % parts.len());
        prop_assert_eq!(&merge(&sealed), &all);
        for found in all.frequent(1_000).unwrap() {
            let exact = counts[&found.text];
            prop_assert!((found.at_least..=found.at_most).contains(&exact), "{found:?} is {exact}");
        }
    }
}

#[test]
fn frequent_texts_stand_in_the_order_of_their_counts() {
    let column: ArrayRef = Arc::new(StringArray::from(vec!["b", "a", "b", "c", "a", "b"]));
    let found = of(DataType::String, &[column]).frequent(2).unwrap();
    let found: Vec<(&str, u64, u64)> = found.iter().map(|f| (f.text.as_str(), f.at_least, f.at_most)).collect();
    assert_eq!(found, [("b", 3, 3), ("a", 2, 2)]);
}

#[test]
fn of_too_many_texts_none_is_known_to_be_frequent() {
    let column: ArrayRef = Arc::new(
        (0..=frequent::MOST)
            .map(|text| Some(text.to_string()))
            .collect::<StringArray>(),
    );
    let profile = of(DataType::String, &[Arc::clone(&column)]);
    assert_eq!(profile.frequent(1), None);
    assert_eq!(merged(DataType::String, &column, &[7_000, 14_000]), profile);
    let (distinct, exact) = profile.distinct();
    assert!(!exact && distinct.abs_diff(20_001) < 1_000, "{distinct}");
}

#[test]
fn nan_and_infinities_are_counted_and_kept_out_of_the_histogram() {
    let column: ArrayRef = Arc::new(Float64Array::from(vec![
        f64::NAN,
        f64::INFINITY,
        1.0,
        2.0,
        f64::NEG_INFINITY,
    ]));
    let profile = of(DataType::F64, &[column]);
    assert_eq!((profile.nans(), profile.count()), (1, 5));
    assert_eq!(profile.min(), Some(Value::F64(f64::NEG_INFINITY)));
    assert_eq!(profile.max(), Some(Value::F64(f64::INFINITY)));
    assert!(profile.mean().is_some_and(f64::is_nan) && profile.stddev().is_some_and(f64::is_nan));
    assert_eq!(profile.histogram(2).iter().map(|bin| bin.count).sum::<u64>(), 2);
}

#[test]
fn a_stored_profile_is_read_by_every_later_version() {
    let golden = "010102000001000000000000f83f0000000000000440";
    let column: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.5), None, Some(2.5)]));
    let stored: String = bytes(&of(DataType::F64, &[column]))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!(stored.starts_with(golden), "{stored}");
}

#[test]
fn a_column_of_another_type_is_refused() {
    let error = ColumnProfile::new(DataType::F64)
        .add(&Int64Array::from(vec![1]))
        .unwrap_err();
    assert_eq!(error.to_string(), "a profile of f64 can't take Int64");
}
